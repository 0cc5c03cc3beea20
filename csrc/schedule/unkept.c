/* Large values in blocks of columns, and those that are not kept. The scores of a large vocabulary
 * are larger than all else of a graph, and mostly nobody reads them but one loss, which takes them
 * column by column (DN_BY_COLUMNS). Then they are never in memory as a whole: when the loss is
 * computed, so is a block of them, which the next one is written over, and once more in backward;
 * or backward's part of the work is done while the block is there (backward/blocks.c). If anybody
 * else asks for them, they are computed for good. */
#include "schedule.h"

enum {
    LEAST_NUMBERS = 1 << 23, /* a smaller value may be kept */
    LEAST_COLUMNS = 64,
    BLOCK = 256 /* columns */
};

int dn__block_columns(int batch) {
    const int many = (batch + BLOCK - 1) / BLOCK;
    return ((batch + many - 1) / many + 15) / 16 * 16;
}

void dn__narrow(const dn_call *all, int from, int n, dn_in *x, dn_dim *dims, dn_call *c) {
    const int batch = all->dim->batch, each = all->node->op->flags & DN_INTS_EACH ? 1 : 0;
    *c = *all;
    for (int k = 0; k < all->n; k++) {
        const dn_in *in = &all->x[k];
        dims[k] = *in->dim;
        if (in->stride) dims[k].batch = n;
        x[k] = (dn_in){&dims[k], in->v ? in->v + (size_t)from * in->stride : NULL, in->stride};
    }
    dims[all->n] = *all->dim;
    dims[all->n].batch = n;
    c->x = x;
    c->dim = &dims[all->n];
    c->total = (size_t)n * (size_t)all->dim->size;
    c->y = all->y ? all->y + (size_t)from * (size_t)all->dim->size : NULL;
    c->saved += (size_t)from * (all->node->saved / (size_t)batch);
    c->ints += each * from * (all->n_ints / batch);
    c->n_ints = each ? n * (all->n_ints / batch) : all->n_ints;
}

int dn__is_wide(const dn_node *node) {
    return node->op->flags & DN_BATCHED_GEMM && node->dim.batch >= LEAST_COLUMNS &&
           dn__elements(&node->dim) >= LEAST_NUMBERS;
}

void dn__forward_in_blocks(dn_call *c) {
    const int batch = c->dim->batch, most = dn__block_columns(batch);
    dn_in *x = dn__memory(c->tape, DN_SCRATCH, (size_t)c->n * sizeof *x);
    dn_dim *dims = dn__memory(c->tape, DN_SCRATCH, (size_t)(c->n + 1) * sizeof *dims);
    if (!x || !dims) c->workspace->out_of_memory = 1;
    for (int from = 0; from < batch && !c->workspace->out_of_memory; from += most) {
        dn_call part;
        dn__narrow(c, from, batch - from < most ? batch - from : most, x, dims, &part);
        c->node->op->forward(&part);
    }
}

/* ---- not kept ------------------------------------------------------------------------- */

/* The node that node i is an input of, if there is one alone, and once; else -1. */
static int only_user(const dn_tape *t, int i) {
    int user = -1;
    for (int j = i + 1; j < t->n.nodes; j++)
        for (int k = 0; k < t->nodes[j].n_args; k++) {
            if (dn__input(t, j, k) != i) continue;
            if (user >= 0) return -1;
            user = j;
        }
    return user;
}

/* Whether that node takes it column by column. */
static int is_by_columns(const dn_tape *t, int user, int i) {
    const dn_node *node = &t->nodes[user];
    return node->op->flags & DN_BY_COLUMNS && dn__input(t, user, 0) == i &&
           node->dim.batch == t->nodes[i].dim.batch;
}

int dn__leave_unkept(dn_tape *t, int i) {
    dn_schedule *s = t->schedule;
    if (s->immediate || s->any_failed || s->unkept.way >= DN_KEPT) return 0;
    const int user = only_user(t, i);
    if (user < 0 || !is_by_columns(t, user, i)) return 0;
    t->nodes[i].value = NULL;
    return s->unkept.any = 1;
}

int dn__keep_value(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    dn_schedule *s = t->schedule;
    if (!s->unkept.any || node->value || !dn__is_wide(node) || node->failed) return 0;
    for (int r = 0; r < t->n.stores; r++)
        if (t->stores[r].version >= 0 && !t->stores[r].store->as_dynet &&
            t->stores[r].version != __atomic_load_n(&t->stores[r].store->version, __ATOMIC_RELAXED))
            return dn__tape_fail(
                t, DN_ERROR_STATE,
                "%s: parameters have changed since this value was computed, and so large a value "
                "that a loss alone needs is not kept. Ask for it before the update, or compute it "
                "anew: value(recalculate=True).",
                node->op->name);
    s->unkept.way = DN_ASKED_FOR;
    dn_call c;
    dn__prepare_call(t, node, &c);
    const dn_arena_mark before = dn__memory_mark(t, DN_VALUES);
    c.y = dn__memory(t, DN_VALUES, dn__aligned(c.total) * sizeof *c.y);
    if (c.y) dn__forward_in_blocks(&c);
    const int failed = !c.y || t->workspace.out_of_memory;
    t->workspace.out_of_memory = 0;
    dn__memory_back_to(t, DN_SCRATCH, (dn_arena_mark){0});
    if (failed) {
        dn__memory_back_to(t, DN_VALUES, before);
        return dn__no_memory(t);
    }
    node->value = c.y;
    dn__lower_marks(t, i);
    return 0;
}

int dn__keep_inputs(dn_tape *t, int i, int *in_blocks) {
    const dn_node *node = &t->nodes[i];
    for (int k = 0; k < node->n_args; k++) {
        const int x = dn__input(t, i, k);
        if (t->nodes[x].value || !dn__is_wide(&t->nodes[x])) continue;
        if (in_blocks && !k && is_by_columns(t, i, x)) {
            *in_blocks = 1;
            continue;
        }
        const int error = dn__keep_value(t, x);
        if (error) return error;
    }
    return 0;
}

int dn__keep_all(dn_tape *t) {
    for (int i = 0; i < t->schedule->evaluated && t->schedule->unkept.any; i++) {
        const int error = dn__keep_value(t, i);
        if (error) return error;
    }
    return 0;
}
