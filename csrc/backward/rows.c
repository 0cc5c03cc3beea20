/* Rows of tables as inputs of one call, see op.h: found, and their gradients added up by row. */
#include "kernels/kernels.h"
#include "kernels/rounded.h"
#include "backward_pass.h"

static const dn_node *row_input_of(const dn_tape *t, const dn_node *node, int k) {
    return &t->nodes[t->args[node->args + k]];
}

static int is_row(const dn_node *x, const dn_node *like) {
    return (x->op == dn_ops[DN_OP_lookup] || x->op == dn_ops[DN_OP_lookup_batch]) &&
           x->param == like->param && x->constant == like->constant;
}

/* The nodes that input k of a call stands for: one, or those that were gathered for a group. 0:
 * there is no list of them. */
static int sources_of(const dn_tape *t, int node, int group, int k, const int32_t **sources) {
    *sources = t->args + t->nodes[node].args + k;
    if (group < 0) return 1;
    const int gather = t->schedule->group_inputs[t->schedule->groups[group].inputs + k].gather;
    if (gather == DN_BROADCAST_INPUT) return 1;
    if (gather == DN_MIRRORED) return 0; /* rows of a table have no group or owner */
    *sources = t->schedule->sources + t->schedule->gathers[gather].first;
    return t->schedule->gathers[gather].n;
}

int dn__route_table_rows(const dn_call *c, int first, int n, int capacity, int *rows) {
    const dn_tape *t = c->tape;
    const dn_node *like = row_input_of(t, c->node, first);
    int count = c->x[first].dim->batch, at = 0;
    if (!is_row(like, like)) return 0;
    for (int k = first; k < first + n; k++) {
        const int32_t *sources;
        const int n_sources = sources_of(t, (int)(c->node - t->nodes), c->group, k, &sources);
        for (int m = 0; m < n_sources; m++) {
            const dn_node *x = &t->nodes[sources[m]];
            if (!is_row(x, like) || at + x->n_ints > capacity) return 0;
            for (int i = 0; i < x->n_ints; i++) rows[at++] = t->ints[x->ints + i];
        }
        if (at != count * (k - first + 1)) return 0;
    }
    return count;
}

/* ---- gradients ------------------------------------------------------------------------ */

void dn__add_to_row(dn_tape *t, dn_param *p, int row, const dn_real *dx) {
    dn_real *to = dn__lookup_row(p, row);
    if (to) dn__add((size_t)p->row_size, to, dx, to);
    else t->workspace.out_of_memory = 1;
}

/* Whether dx, the gradient of a row, is zeros of inputs that nobody reads (dn__is_unread). */
static int is_row_unread(const dn_call *c, int first, int n, int row, const dn_real *dx) {
    dn_tape *t = c->tape;
    const size_t size = (size_t)row_input_of(t, c->node, first)->param->row_size;
    if (!size || dx[0] != 0 || !dn__is_zero(size, dx)) return 0; /* nearly always */
    for (int k = first; k < first + n; k++) {
        const int32_t *sources;
        const int n_sources = sources_of(t, (int)(c->node - t->nodes), c->group, k, &sources);
        for (int m = 0; m < n_sources; m++) {
            const dn_node *x = &t->nodes[sources[m]];
            for (int i = 0; i < x->n_ints; i++)
                if (t->ints[x->ints + i] == row && !dn__is_unneeded(t, sources[m])) return 0;
        }
    }
    return 1;
}

void dn__route_rows_gradient(dn_call *c, int first, int n, int count, int n_rows, const int *rows,
                             const dn_real *dx, const dn_row_products *m) {
    dn_tape *t = c->tape;
    dn_param *p = row_input_of(t, c->node, first)->param;
    dn_deferred *deferred = dn__arena_take(&t->workspace.grads, sizeof *deferred);
    t->workspace.out_of_memory |= !deferred;
    for (int i = 0; i < n_rows && !t->workspace.out_of_memory; i++)
        if (!is_row_unread(c, first, n, rows[i], dx + i * p->row_size))
            dn__add_to_row(t, p, rows[i], dx + i * p->row_size);
    if (t->workspace.out_of_memory) return;
    *deferred = (dn_deferred){
        t->backward->deferred, (int)(c->node - t->nodes), c->group, first, n, count, *m};
    t->backward->deferred = deferred;
}

void dn__deferred_group(dn_call *c) {
    dn_tape *t = c->tape;
    dn_deferred *deferred = dn__arena_take(&t->workspace.grads, sizeof *deferred);
    if (!deferred) {
        t->workspace.out_of_memory = 1;
        return;
    }
    *deferred = (dn_deferred){.next = t->backward->deferred,
                              .node = (int)(c->node - t->nodes),
                              .group = c->group};
    t->backward->deferred = deferred;
}

void dn__deferred_add(const dn_tape *t, const dn_deferred *deferred, int i, dn_real *out) {
    const dn_row_products *m = &deferred->products;
    for (int k = 0; k < deferred->n; k++) {
        const int32_t *sources;
        const int n_sources =
            sources_of(t, deferred->node, deferred->group, deferred->first + k, &sources);
        for (int l = 0, at = deferred->count * k; l < n_sources;
             at += t->nodes[sources[l++]].n_ints) {
            const dn_node *x = &t->nodes[sources[l]];
            for (int b = 0; x == &t->nodes[i] && b < x->n_ints; b++)
                for (int j = 0; m->column[at + b] >= 0 && j < m->m; j++)
                    dn__product_dx(m->rows[j], m->k, 1, (dn_matrix){m->w[j], m->packed[j]},
                                   m->dy[j] + (size_t)m->column[at + b] * (size_t)m->rows[j],
                                   m->rows[j], 1, out + (size_t)b * (size_t)m->k, m->k);
        }
    }
}
