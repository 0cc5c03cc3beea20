/* The TreeLSTM's cell as one node (Tai, Socher and Manning 2015): a tree node's state from its
 * input x and the h and c of its n children.
 *   i, o = logistic(b + W x + U s),  u = tanh(b + W x + U s),  f_j = logistic(bf + Wf x + ...),
 *   c = i u + sum_j f_j c_j,  h = o tanh c
 * There are two kinds. Child-sum, for any n: s = sum_j h_j, and f_j sees its own child, Uf h_j,
 * with Uf (h, h). N-ary, for a fixed n: s is all h_j below one another, and so do the f_j see it,
 * below one another, too: Uf s, with Uf (n h, n h).
 *
 * inputs: W (3h, k), U (3h, h or n h), b (3h) in the order i, o, u; Wf (h, k), Uf, bf (h); x (k) if
 *         there is one; h_1 ... h_n, c_1 ... c_n (h)
 * ints:   n, whether there is x, whether it is N-ary; a leaf has n = 0 and no use for U, Wf, Uf and
 *         bf
 * output: h, then c, each (h) x batch and dense, so that `output_view` nodes can name them */
#include <string.h>

#include "product.h"

enum { W, U, B, WF, UF, BF, FIRST };

typedef struct sizes {
    /* k = 0: no x. The last three are places of inputs */
    int h, k, n, n_ary, batch, x, first_h, first_c;
    int s; /* size of what U sees */
    size_t hb, nhb;
} sizes;
static sizes tree_sizes(const dn_dim *b, const dn_dim *x, const int *ints, int batch) {
    sizes z = {.h = b->size / 3,
               .k = ints[1] ? x->size : 0,
               .n = ints[0],
               .n_ary = ints[2],
               .batch = batch,
               .x = FIRST};
    z.first_h = FIRST + (ints[1] ? 1 : 0);
    z.first_c = z.first_h + z.n;
    z.s = z.n_ary ? z.n * z.h : z.h;
    z.hb = (size_t)z.h * (size_t)batch;
    z.nhb = (size_t)z.n * z.hb;
    return z;
}

/* What is kept for backward: x where its columns are not dense, the children's h with those of one
 * batch element side by side, the sum of h if that is what U sees, activated gates, and tanh c. */
typedef struct kept { dn_real *x, *h, *sum, *gates, *f, *tanh_c; } kept;
static kept kept_of(const dn_call *c, const sizes *z) {
    kept s = {.x = c->saved};
    s.h = s.x + (size_t)z->k * (size_t)z->batch;
    s.sum = s.h + z->nhb;
    s.gates = s.sum + z->hb;
    s.f = s.gates + 3 * z->hb;
    s.tanh_c = s.f + z->nhb;
    return s;
}
static sizes tree_call_sizes(const dn_call *c) {
    return tree_sizes(c->x[B].dim, c->ints[1] ? c->x[FIRST].dim : NULL, c->ints, c->dim->batch);
}

static int is_matrix(const dn_dim *d, int rows, int64_t cols) {
    return d->nd <= 2 && dn__rows_of(d) == rows && d->size == rows * cols;
}

DN_OP(tree_lstm, -1,
      DN_BATCHES | DN_SEVERAL_OUTPUTS | DN_DEDUPLICATES_ROWS |
          DN_BROADCAST(1 << W | 1 << U | 1 << B | 1 << WF | 1 << UF | 1 << BF),
      "(h, c) = the TreeLSTM's state from x and the children's h_j and c_j")
static int tree_lstm_dims(dn_shape *s) {
    int batch = dn__common_batch(s), n = s->ints[0], has_x = s->ints[1];
    if (batch < 0) return batch;
    if (n < 0 || n > (1 << 20) || s->n != FIRST + (has_x ? 1 : 0) + 2 * n || (!n && !has_x))
        return dn__fail(
            s, DN_ERROR_VALUE,
            "takes W, U, b, Wf, Uf, bf, then x or children or both; got %d inputs for %d children.",
            s->n, n);
    int h = s->x[B]->size / 3, k = dn__columns_of(s->x[WF]), states = s->ints[2] ? n : 1;
    int64_t seen = (int64_t)states * h;
    if (h < 1 || s->x[B]->size != 3 * (int64_t)h || s->x[BF]->size != h ||
        !is_matrix(s->x[W], 3 * h, k) || !is_matrix(s->x[WF], h, k) ||
        (n && (seen > INT32_MAX || !is_matrix(s->x[U], 3 * h, seen) ||
               !is_matrix(s->x[UF], (int)seen, seen))))
        return dn__fail(s, DN_ERROR_VALUE,
                        "weights must be W (3h, k), U (3h, %d h), b (3h), Wf (h, k), Uf (%d h, %d "
                        "h), bf (h); got %s, %s, %s, %s, %s, %s.",
                        states, states, states, DIMS(s->x[W]), DIMS(s->x[U]), DIMS(s->x[B]),
                        DIMS(s->x[WF]), DIMS(s->x[UF]), DIMS(s->x[BF]));
    for (int i = W; i <= BF; i++)
        if (s->x[i]->batch != 1)
            return dn__fail(s, DN_ERROR_VALUE, "weights must not be batched; got input %d = %s.", i,
                            DIMS(s->x[i]));
    if (has_x && s->x[FIRST]->size != k)
        return dn__fail(s, DN_ERROR_VALUE, "this network's inputs have dim (%d,); got x = %s.", k,
                        DIMS(s->x[FIRST]));
    for (int i = FIRST + (has_x ? 1 : 0); i < s->n; i++)
        if (s->x[i]->size != h)
            return dn__fail(s, DN_ERROR_VALUE, "the children's states must be (%d,); got %s.", h,
                            DIMS(s->x[i]));
    s->parts = 2;
    s->saved = (size_t)batch * ((size_t)(has_x ? k : 0) + (size_t)h * (5 + 2 * (size_t)n));
    return dn__set_dims(s, 1, (int[]){2 * h}, batch);
}

/* n inputs from `first` on, those of one batch element side by side */
static void gather_children(const dn_call *c, int first, int n, int size, int batch, dn_real *to) {
    for (int b = 0; b < batch; b++)
        for (int j = 0; j < n; j++, to += size)
            memcpy(to, c->x[first + j].v + (size_t)b * c->x[first + j].stride,
                   (size_t)size * sizeof *to);
}
/* the other way round: adds to the gradients of these inputs */
static void hand_out(dn_call *c, int first, int n, int size, int batch, const dn_real *from) {
    for (int j = 0; j < n; j++) {
        dn_batch_grad to = dn__dx_by_element(c, first + j, batch);
        while (dn__next_element(&to))
            dn__axpy((size_t)size, 1, from + (to.b * (size_t)n + (size_t)j) * (size_t)size, to.beta,
                     to.dx);
    }
}
static void repeat(size_t n, int times, const dn_real *x, dn_real *y) {
    for (int i = 0; i < times; i++) memcpy(y + (size_t)i * n, x, n * sizeof *y);
}

/* Whether an input has a column for each batch element. */
static int is_dense(const dn_call *c, int k, int batch) { return batch == 1 || c->x[k].stride; }
static const dn_real *dense_x(const dn_call *c, const sizes *z, const kept *s) {
    return z->k && is_dense(c, z->x, z->batch) ? c->x[z->x].v : s->x;
}

/* The c of the children, where they are. NULL: no memory. */
static dn_columns *children_of(dn_call *c, const sizes *z) {
    dn_columns *children = dn__scratch_of(c, (size_t)z->n, sizeof *children);
    for (int j = 0; children && j < z->n; j++)
        children[j] = (dn_columns){c->x[z->first_c + j].v, c->x[z->first_c + j].stride};
    return children;
}

static void tree_lstm_forward(dn_call *c) {
    const sizes z = tree_call_sizes(c);
    const kept s = kept_of(c, &z);
    const int h = z.h, batch = z.batch, columns = z.n * batch;
    const size_t size = (size_t)h;
    const dn_columns *children = children_of(c, &z);
    dn_columns bf = {c->x[BF].v, 0};
    if (!children) return;
    const dn_real *x = dense_x(c, &z, &s);
    if (x == s.x && z.k) gather_children(c, z.x, 1, z.k, batch, s.x);
    if (z.k) dn__product(3 * h, z.k, batch, weight(c, W, 0), x, z.k, 0, s.gates, 3 * h);
    if (z.n) {
        gather_children(c, z.first_h, z.n, h, batch, s.h);
        if (!z.n_ary)
            for (int b = 0; b < batch; b++)
                dn__sum_columns(h, z.n, s.h + (size_t)b * (size_t)z.n * size, 0,
                                s.sum + (size_t)b * size);
        dn__product(3 * h, z.s, batch, weight(c, U, 0), z.n_ary ? s.h : s.sum, z.s, z.k ? 1 : 0,
                    s.gates, 3 * h);
        const dn_matrix uf = weight(c, UF, 0);
        if (z.n_ary) dn__product(z.s, z.s, batch, uf, s.h, z.s, 0, s.f, z.s);
        else dn__product(h, h, columns, uf, s.h, h, 0, s.f, h);
        if (z.k) { /* bf + Wf x, the same for all children */
            dn_real *fx = dn__scratch(c, z.hb);
            if (!fx) return;
            repeat(size, batch, c->x[BF].v, fx);
            dn__product(h, z.k, batch, weight(c, WF, 0), x, z.k, 1, fx, h);
            bf = (dn_columns){fx, size};
        }
    }
    dn__tree_lstm_cell(h, z.n, batch, c->x[B].v, bf, children, s.gates, s.f, c->y + z.hb, s.tanh_c,
                       c->y);
}

/* W' dy, of which a child's place is a part, from `all`, where it was computed for all places
 * because the packed W' has no parts, or by itself. */
static void product_of_place(const sizes *z, int rows, dn_matrix w, const dn_real *all, int j,
                             const dn_real *dy, dn_real beta, dn_real *to) {
    const size_t h = (size_t)z->h, from = (size_t)j * h;
    if (!all) {
        dn__mm_dx(rows, z->h, z->batch, w.v + from * (size_t)rows, rows, dy, rows, beta, to, z->h);
        return;
    }
    for (size_t b = 0; b < (size_t)z->batch; b++)
        dn__axpy(h, 1, all + b * (size_t)z->s + from, beta, to + b * h);
}
/* Scratch memory with W' dy for all places, or NULL. */
static dn_real *product_of_all(dn_call *c, const sizes *z, int rows, dn_matrix w,
                               const dn_real *dy) {
    dn_real *all = w.bf16 ? dn__scratch(c, z->nhb) : NULL;
    if (all) dn__product_dx(rows, z->s, z->batch, w, dy, rows, 0, all, z->s);
    return all;
}

/* dh_j = U_j' dgates + Uf_j' df, with the columns of U and Uf that see child j. dh: scratch
 * memory. */
static void send_to_places(dn_call *c, const sizes *z, const dn_real *dgates, const dn_real *df,
                           dn_real *dh) {
    const int h = z->h, batch = z->batch;
    const dn_matrix u = weight(c, U, 1), uf = weight(c, UF, 1);
    const dn_real *by_u = product_of_all(c, z, 3 * h, u, dgates),
                  *by_uf = product_of_all(c, z, z->s, uf, df);
    for (int j = 0; j < z->n; j++) {
        const int is_place = is_dense(c, z->first_h + j, batch);
        const dn_grad g = dn__dx(c, z->first_h + j);
        if (!g.dx) continue;
        dn_real *to = is_place ? g.dx : dh;
        product_of_place(z, 3 * h, u, by_u, j, dgates, is_place ? g.beta : 0, to);
        product_of_place(z, z->s, uf, by_uf, j, df, 1, to);
        if (!is_place) dn__sum_columns(h, batch, dh, g.beta, g.dx);
    }
}

/* dh_j = U' dgates + Uf' df_j */
static void send_to_all(dn_call *c, const sizes *z, const dn_real *dgates, const dn_real *df,
                        dn_real *dh) {
    const int h = z->h, batch = z->batch;
    dn_real *ds = dn__scratch(c, z->hb);
    if (!ds) return;
    dn__product_dx(3 * h, h, batch, weight(c, U, 1), dgates, 3 * h, 0, ds, h);
    for (int b = 0; b < batch; b++)
        repeat((size_t)h, z->n, ds + (size_t)b * (size_t)h,
               dh + (size_t)b * (size_t)z->n * (size_t)h);
    dn__product_dx(h, h, z->n * batch, weight(c, UF, 1), df, h, 1, dh, h);
    hand_out(c, z->first_h, z->n, h, batch, dh);
}

static void tree_lstm_backward(dn_call *c) {
    const sizes z = tree_call_sizes(c);
    const kept s = kept_of(c, &z);
    const int h = z.h, batch = z.batch, columns = z.n * batch;
    const dn_columns *children = children_of(c, &z);
    dn_column_grads *dc = dn__scratch_of(c, (size_t)z.n, sizeof *dc);
    dn_real *dgates = dn__backward_memory(c, 3 * z.hb), *df = dn__backward_memory(c, z.nhb),
            *dfx = dn__backward_memory(c, z.hb);
    dn_real *dh = dn__scratch(c, z.nhb), *dx = dn__scratch(c, (size_t)z.k * (size_t)batch);
    if (!children || !dc || !dgates || !df || !dfx || !dh || !dx) return;
    /* one child may be two: then column by column what the first stores is there when the second
     * adds */
    for (int j = 0; j < z.n; j++) {
        const dn_grad g = dn__dx(c, z.first_c + j);
        dc[j] = (dn_column_grads){g.dx, g.beta, children[j].stride};
    }
    dn__tree_lstm_cell_grad(h, z.n, batch, s.gates, s.f, children, s.tanh_c, c->dy, c->dy + z.hb,
                            dgates, df, dc);

    /* gates = b + W x + U s */
    const dn_real *x = dense_x(c, &z, &s);
    if (z.k && dn__wants(c, W)) dn__weight_gradient(c, W, 3 * h, z.k, batch, dgates, x);
    if (z.n && dn__wants(c, U))
        dn__weight_gradient(c, U, 3 * h, z.s, batch, dgates, z.n_ary ? s.h : s.sum);
    dn_grad g = dn__dx(c, B);
    if (g.dx) dn__sum_columns(3 * h, batch, dgates, g.beta, g.dx);
    if (z.k) dn__product_dx(3 * h, z.k, batch, weight(c, W, 1), dgates, 3 * h, 0, dx, z.k);
    if (z.n) {
        /* f_j = bf + Wf x + Uf h_j, or Uf s */
        for (int b = 0; b < batch; b++)
            dn__sum_columns(h, z.n, df + (size_t)b * (size_t)z.n * (size_t)h, 0,
                            dfx + (size_t)b * (size_t)h);
        if (z.k && dn__wants(c, WF)) dn__weight_gradient(c, WF, h, z.k, batch, dfx, x);
        if (dn__wants(c, UF)) {
            if (z.n_ary) dn__weight_gradient(c, UF, z.s, z.s, batch, df, s.h);
            else dn__weight_gradient(c, UF, h, h, columns, df, s.h);
        }
        g = dn__dx(c, BF);
        if (g.dx) dn__sum_columns(h, batch, dfx, g.beta, g.dx);
        if (z.k) dn__product_dx(h, z.k, batch, weight(c, WF, 1), dfx, h, 1, dx, z.k);
        if (z.n_ary) send_to_places(c, &z, dgates, df, dh);
        else send_to_all(c, &z, dgates, df, dh);
    }
    if (z.k) hand_out(c, z.x, 1, z.k, batch, dx);
}
