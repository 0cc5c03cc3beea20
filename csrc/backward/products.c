/* Products that give the gradient of one matrix are collected, and done as one when every use of it
 * has passed. */
#include <string.h>

#include "kernels/rounded.h"
#include "backward_pass.h"
#include "profile.h"

/* ---- collected products --------------------------------------------------------------- */

void dn__route_weight_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy,
                               const dn_real *x) {
    dn_tape *t = c->tape;
    dn_node *w = &t->nodes[t->args[c->node->args + k]];
    if (DN_GROW(t->backward->products, t->backward->products_capacity,
                (int64_t)t->backward->n_products + 1)) {
        t->workspace.out_of_memory = 1;
        return;
    }
    t->backward->products[t->backward->n_products] = (dn_product){w->products, m, kk, n, dy, x};
    w->products = t->backward->n_products++;
    dn_group *g = dn__group_of(t, w);
    if (g) g->weights = 1;
}

/* numbers: larger copies are made anew for each matrix, in memory that is in the cache */
enum { MOST_KEPT = 1 << 17 };

static int product_rows(const dn_product *p, int of_x) { return of_x ? p->k : p->m; }

/* Whether two lists of products have the same columns. */
static int equal_columns(const dn_tape *t, int a, int b, int of_x) {
    if (product_rows(&t->backward->products[a], of_x) !=
        product_rows(&t->backward->products[b], of_x))
        return 0;
    for (; a >= 0 && b >= 0; a = t->backward->products[a].next, b = t->backward->products[b].next) {
        const dn_product *p = &t->backward->products[a], *q = &t->backward->products[b];
        if (p->n != q->n || (of_x ? p->x != q->x : p->dy != q->dy)) return 0;
    }
    return a < 0 && b < 0;
}

/* A copy of the columns of a list that was made before, or NULL. */
static const dn_real *find_columns(dn_tape *t, int first, int wide, int of_x) {
    for (dn_kept_columns *c = t->backward->columns; c < t->backward->columns + DN_KEPT_COLUMNS;
         c++) {
        if (c->first < 0 || c->wide != wide || c->of_x != of_x ||
            !equal_columns(t, c->first, first, of_x))
            continue;
        c->used = ++t->backward->columns_used;
        return c->all;
    }
    return NULL;
}

/* Memory for n numbers, kept as the columns of a list in place of those that were not used for
 * longest. */
static dn_real *new_columns(dn_tape *t, int first, int wide, int of_x, size_t n) {
    if (n > MOST_KEPT) return dn__arena_take(&t->workspace.scratch, n * sizeof(dn_real));
    dn_kept_columns *c = t->backward->columns;
    for (int i = 1; i < DN_KEPT_COLUMNS; i++)
        if (t->backward->columns[i].used < c->used) c = &t->backward->columns[i];
    dn__arena_reset(&c->memory, (dn_arena_mark){0});
    c->all = dn__arena_take(&c->memory, n * sizeof *c->all);
    c->first = c->all ? first : -1;
    c->wide = wide;
    c->of_x = of_x;
    c->used = ++t->backward->columns_used;
    return c->all;
}

/* The columns of a list's products with fewer than `wide` columns side by side, in the order of
 * their nodes: where they are, if they lie so, else a copy. The list runs from the last node to the
 * first. */
static const dn_real *gather(dn_tape *t, int first, int wide, int columns, int of_x) {
    const int rows = product_rows(&t->backward->products[first], of_x);
    const dn_real *from = NULL, *expected = NULL;
    int j = first;
    for (; j >= 0; j = t->backward->products[j].next) {
        const dn_product *p = &t->backward->products[j];
        if (p->n >= wide) continue;
        from = of_x ? p->x : p->dy;
        if (expected && from + (size_t)p->n * (size_t)rows != expected) break;
        expected = from;
    }
    if (j < 0) return from;
    const dn_real *known = find_columns(t, first, wide, of_x);
    if (known) return known;
    dn_real *all = new_columns(t, first, wide, of_x, (size_t)columns * (size_t)rows),
            *to = all + (size_t)columns * (size_t)rows;
    for (j = first; all && j >= 0; j = t->backward->products[j].next) {
        const dn_product *p = &t->backward->products[j];
        if (p->n >= wide) continue;
        size_t n = (size_t)p->n * (size_t)rows;
        to -= n;
        memcpy(to, of_x ? p->x : p->dy, n * sizeof *to);
    }
    return all;
}

static void note_in_profile(const dn_tape *t, int first, int64_t begin) {
    const dn_product *of = &t->backward->products[first];
    int columns = 0, nodes = 0;
    for (int j = first; j >= 0; j = t->backward->products[j].next, nodes++)
        columns += t->backward->products[j].n;
    dn__profile_close_weights(begin, of->m, of->k, columns, nodes);
}

/* columns; columns; numbers of a matrix */
enum { WIDE = 64, PANEL = 8 * DN_DW_UNIT, LARGE = 1 << 20 };

/* From how many columns on a product is better done by itself than copied to others: then dW, which
 * it reads and writes once more, is no larger than its columns. */
static int wide_columns(int m, int k) {
    const int64_t both = (int64_t)m + k, columns = both ? (int64_t)m * k / both : 0;
    return columns < WIDE ? WIDE : columns > INT32_MAX ? INT32_MAX : (int)columns;
}

/* dW = sum of dy x' over a list of products: one product of all columns that lie side by side or
 * are few, and each that is wide by itself. Of a large parameter that somebody watches the first
 * columns are notified first. */
void dn__flush_products(dn_tape *t, int i) {
    const int64_t begin = DN_PROFILE_OPEN();
    const int first = t->nodes[i].products;
    dn_arena_mark mark = dn__arena_mark(&t->workspace.scratch);
    t->nodes[i].products = -1;
    const int m = t->backward->products[first].m, k = t->backward->products[first].k,
              wide = wide_columns(m, k), rounds = dn__rounds_node(t, &t->nodes[i]);
    int columns = 0;
    for (int j = first; j >= 0; j = t->backward->products[j].next) {
        const int n = t->backward->products[j].n;
        columns += n < wide ? n : 0;
    }
    const dn_real *dy = gather(t, first, wide, columns, 0), *x = gather(t, first, wide, columns, 1);
    /* after all that may fail: a place must be written to */
    dn_grad g = !columns || (dy && x) ? dn__gradient_slot(t, i) : (dn_grad){0};
    const int watched = t->backward->hook.last_use && (int64_t)m * k >= LARGE,
              panel = watched && dn__cuts_dw(m) ? PANEL : k;
    if (!g.dx) t->workspace.out_of_memory = 1;
    for (int from = 0, n; g.dx && from < k; from += n) {
        n = k - from - panel < DN_DW_UNIT ? k - from : panel; /* no short rest */
        dn_real *dw = g.dx + (size_t)from * (size_t)m, beta = g.beta;
        for (int j = first; j >= 0; j = t->backward->products[j].next) {
            const dn_product *p = &t->backward->products[j];
            if (p->n < wide) continue;
            dn__product_dw_part(m, k, n, p->n, rounds, p->dy, m, p->x + from, k, beta, dw, m);
            beta = 1;
        }
        if (columns || beta == 0)
            dn__product_dw_part(m, k, n, columns, rounds, dy, m, x + from, k, beta, dw, m);
        if (panel < k) dn__hook_notify(t, i, (int64_t)(from + n) * m);
    }
    if (__builtin_expect(begin >= 0, 0)) note_in_profile(t, first, begin);
    dn__arena_reset(&t->workspace.scratch, mark);
}

/* ---- parameters ----------------------------------------------------------------------- */

static void add_to_parameter(dn_tape *t, dn_node *node) {
    dn_param *p = node->param;
    if (!node->in_chunk && p->rows) { /* the whole table was an expression */
        for (int64_t row = 0; row < p->rows && !t->workspace.out_of_memory; row++) {
            dn_real *to = dn__lookup_row(p, row);
            if (to) dn__add((size_t)p->row_size, to, node->grad + row * p->row_size, to);
            else t->workspace.out_of_memory = 1;
        }
    } else if (!node->in_chunk) {
        dn_real beta, *to = dn__param_gradient(p, &beta);
        dn__axpy((size_t)p->row_size, 1, node->grad, beta, to);
    }
}

void dn__finish_parameter(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    if (node->products >= 0) dn__flush_products(t, i);
    if (node->grad && !t->workspace.out_of_memory && !node->constant &&
        dn__param_gathers(node->param))
        add_to_parameter(t, node);
    node->finished = 1;
}

/* Parameter node i has no further use: its gradient is completed, and its hook is notified,
 * once. */
static void finish(dn_tape *t, int i) {
    if (t->nodes[i].finished) return;
    dn__finish_parameter(t, i);
    if (t->workspace.out_of_memory) return;
    dn__hook_complete(t, i);
}

void dn__hook_passed(dn_tape *t) {
    for (int i = t->backward->hook.last_use[t->backward->position]; i >= 0;
         i = t->backward->hook.next[i])
        finish(t, i);
}

void dn__route_input_done(dn_call *c, int k) {
    dn_tape *t = c->tape;
    if (!t->backward->hook.last_use) return;
    int w = t->args[c->node->args + k], uses = 0;
    for (int i = 0; i < c->node->n_args; i++) uses += t->args[c->node->args + i] == w;
    if (uses > 1) return;
    for (int i = t->backward->hook.last_use[t->backward->position]; i >= 0;
         i = t->backward->hook.next[i])
        if (i == w) finish(t, i);
}
