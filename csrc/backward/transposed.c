/* Gradients of what matrices are multiplied by: dx = W' dy.
 *
 * By columns of W these are dot products, whose sums go across the lanes of vectors; by columns of
 * W' they are sums of outer products, as fast as y = W x. To transpose W takes as long as the
 * difference for some tens of columns: so it is done when that many have come to a matrix from
 * groups, which mostly have more to come, as levels of trees. */
#include "schedule/group.h"
#include "kernels/rounded.h"
#include "backward_pass.h"

enum { ENOUGH_COLUMNS = 32 };

void dn__route_operand_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy,
                                dn_grad g) {
    const dn_matrix w = {c->x[k].v, dn__packed(c, k, 1)};
    dn__product_dx(m, kk, n, w, dy, m, g.beta, g.dx, kk);
}

/* What is noted of matrix i; NULL: there is no room. */
static dn_transposed *note_of(dn_backward_pass *b, int i) {
    int k = 0;
    while (k < b->n_transposed && b->transposed[k].node != i) k++;
    if (k == DN_MOST_TRANSPOSED) return NULL;
    if (k == b->n_transposed) b->transposed[b->n_transposed++] = (dn_transposed){.node = i};
    return &b->transposed[k];
}

/* W' of input k, to be used for n more columns; NULL: not yet. */
static const dn_real *transpose_of(dn_call *c, int k, int m, int kk, int n) {
    dn_tape *t = c->tape;
    dn_transposed *note = note_of(t->backward, dn__input(t, (int)(c->node - t->nodes), k));
    if (!note) return NULL;
    if (note->columns < ENOUGH_COLUMNS) note->columns += n < ENOUGH_COLUMNS ? n : ENOUGH_COLUMNS;
    if (note->columns < ENOUGH_COLUMNS || note->v) return note->v;
    note->v = dn__arena_take(&t->workspace.grads, (size_t)m * (size_t)kk * sizeof *note->v);
    if (note->v) dn__transpose(m, kk, c->x[k].v, 0, note->v);
    else t->workspace.out_of_memory = 1;
    return note->v;
}

void dn__route_group_operand_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy,
                                      dn_grad g) {
    const dn_group *group = &c->tape->schedule->groups[c->group];
    const dn_real *transposed =
        !group->batched_gemm && !dn__rounds(c, k) && dn__is_better_transposed(m, kk, n)
            ? transpose_of(c, k, m, kk, n)
            : NULL;
    if (c->tape->workspace.out_of_memory) return;
    if (transposed) dn__mm(kk, m, n, transposed, kk, dy, m, g.beta, g.dx, kk);
    else dn__route_operand_gradient(c, k, m, kk, n, dy, g);
}
