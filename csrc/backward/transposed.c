/* Gradients of what matrices are multiplied by: dx = W' dy.
 *
 * By columns of W these are dot products, whose sums go across the lanes of vectors; by columns of
 * W' they are sums of outer products, as fast as y = W x. To transpose W takes as long as the
 * difference for some tens of columns: so it is done when that many have come to a matrix from
 * groups, which mostly have more to come, as levels of trees. */
#include "schedule/group.h"
#include "kernels/kernels.h"
#include "backward_pass.h"

enum { ENOUGH_COLUMNS = 32 };

void dn__route_product_dx(dn_call *c, int k, int m, int kk, int n, const dn_real *dy, dn_grad g) {
    dn__mm_dx(m, kk, n, c->x[k].v, m, dy, m, g.beta, g.dx, kk);
}

/* What is noted of matrix i; NULL: no memory. */
static dn_transposed *note_of(dn_tape *t, int i) {
    dn_backward_pass *b = t->backward;
    dn_seat *seat = &t->schedule->seats[i];
    if (seat->transposed < b->n_transposed && b->transposed[seat->transposed].node == i)
        return &b->transposed[seat->transposed];
    if (DN_GROW(b->transposed, b->transposed_capacity, (int64_t)b->n_transposed + 1)) return NULL;
    seat->transposed = b->n_transposed;
    b->transposed[b->n_transposed] = (dn_transposed){.node = i};
    return &b->transposed[b->n_transposed++];
}

/* W' of input k, to be used for n more columns; NULL: not yet, or there is no memory. */
static const dn_real *transpose_of(dn_call *c, int k, int m, int kk, int n) {
    dn_tape *t = c->tape;
    dn_transposed *note = note_of(t, dn__input(t, (int)(c->node - t->nodes), k));
    if (!note) {
        t->workspace.out_of_memory = 1;
        return NULL;
    }
    if (note->columns < ENOUGH_COLUMNS) note->columns += n < ENOUGH_COLUMNS ? n : ENOUGH_COLUMNS;
    if (note->columns < ENOUGH_COLUMNS || note->v) return note->v;
    note->v = dn__arena_take(&t->workspace.grads, (size_t)m * (size_t)kk * sizeof *note->v);
    if (note->v) dn__transpose(m, kk, c->x[k].v, 0, note->v);
    else t->workspace.out_of_memory = 1;
    return note->v;
}

void dn__route_group_product_dx(dn_call *c, int k, int m, int kk, int n, const dn_real *dy,
                                dn_grad g) {
    const dn_group *group = &c->tape->schedule->groups[c->group];
    const dn_real *transposed = !group->batched_gemm && dn__is_better_transposed(m, kk, n)
                                    ? transpose_of(c, k, m, kk, n)
                                    : NULL;
    if (c->tape->workspace.out_of_memory) return;
    if (transposed) dn__mm(kk, m, n, transposed, kk, dy, m, g.beta, g.dx, kk);
    else dn__route_product_dx(c, k, m, kk, n, dy, g);
}
