/* Nodes without inputs: what users feed, parameters, rows of tables; and `output_view`, which names
 * one output of a node with several. These operations are the tape's own: no other knows how nodes
 * are kept. */
#include <string.h>

#include "kernels/kernels.h"
#include "schedule/group.h"
#include "backward/backward_pass.h"

/* A parameter or row is read: its store's version is noted for the check before backward. */
static void use_store(dn_tape *t, dn_store *store) {
    if (t->workspace.out_of_memory) return; /* nothing was read */
    for (int i = 0; i < t->n.stores; i++)
        if (t->stores[i].store == store && t->stores[i].version < 0) {
            t->stores[i].version = __atomic_load_n(&store->version, __ATOMIC_RELAXED);
            t->stores[i].latest = t->stores[i].version;
            t->stores[i].reader = t->schedule->evaluated;
            t->stores[i].from_latest = 0;
        }
}

DN_OP(input, 0, DN_LEAF | DN_VIEW | DN_NO_GRAD, "y = the data given")
static int input_dims(dn_shape *s) {
    return dn__set_dims(s, s->n_ints - 1, s->ints + 1, s->ints[0]);
}
static void input_forward(dn_call *c) { c->y = (dn_real *)c->own; }
static void input_backward(dn_call *c) { (void)c; }

DN_OP(parameter, 0, DN_LEAF | DN_VIEW,
      "y = the parameter's values; a table's rows are its last dim")
static int parameter_dims(dn_shape *s) {
    s->y = *s->x[0];
    return 0;
}
/* n numbers of a table times its factor: the memory itself, or a scaled copy */
static dn_real *table_values(dn_call *c, const dn_param *p, int64_t from, int64_t n) {
    if (p->factor == 1) return p->table + from;
    dn_real *copy = dn__memory(c->tape, DN_VALUES, (size_t)n * sizeof *copy);
    if (copy) dn__axpy((size_t)n, (dn_real)p->factor, p->table + from, 0, copy);
    else c->tape->workspace.out_of_memory = 1;
    return copy;
}
static void parameter_forward(dn_call *c) {
    dn_param *p = c->node->param;
    c->y = p->rows ? table_values(c, p, 0, dn_param_size(p)) : dn_param_values(p);
    use_store(c->tape, p->store);
}
/* the backward pass itself brings the gradient home */
static void parameter_backward(dn_call *c) { (void)c; }

/* The dims of one row, and the range of the indices. */
static int row_dims(dn_shape *s, int batch) {
    const dn_dim *table = s->x[0];
    int rows = table->d[table->nd - 1];
    for (int i = 0; i < s->n_ints; i++)
        if (s->ints[i] < 0 || s->ints[i] >= rows)
            return dn__fail(s, dn__bad_index(s->ints[i]),
                            "index %d is outside the table. Indices run from 0 to %d.", s->ints[i],
                            rows - 1);
    return dn__set_dims(s, table->nd - 1, table->d, batch);
}
/* d(row) += dy, for each batch element's row */
static void rows_backward(dn_call *c) {
    dn_param *p = c->node->param;
    if (c->node->constant || !dn__param_gathers(p)) return;
    for (int i = 0; i < c->n_ints && !c->workspace->out_of_memory; i++)
        dn__add_to_row(c->tape, p, c->ints[i], c->dy + i * p->row_size);
}

DN_OP(lookup, 0, DN_LEAF | DN_VIEW, "y = row i of the table")
static int lookup_dims(dn_shape *s) { return row_dims(s, 1); }
static void lookup_forward(dn_call *c) {
    dn_param *p = c->node->param;
    c->y = table_values(c, p, c->ints[0] * p->row_size, p->row_size);
    use_store(c->tape, p->store);
}
static void lookup_backward(dn_call *c) { rows_backward(c); }

DN_OP(lookup_batch, 0, DN_LEAF, "batch element j of y = row i_j of the table")
static int lookup_batch_dims(dn_shape *s) { return row_dims(s, s->n_ints); }
static void lookup_batch_forward(dn_call *c) {
    dn_param *p = c->node->param;
    for (int i = 0; i < c->n_ints; i++)
        memcpy(c->y + i * p->row_size, p->table + c->ints[i] * p->row_size,
               (size_t)p->row_size * sizeof *c->y);
    if (p->factor != 1) dn__axpy(c->total, (dn_real)p->factor, c->y, 0, c->y);
    use_store(c->tape, p->store);
}
static void lookup_batch_backward(dn_call *c) { rows_backward(c); }

/* ints: offset in the owner's memory in numbers, batch, sizes... */
DN_OP(output_view, 1, DN_VIEW,
      "y = one output of a node that has several; shares its value and gradient")
static int output_view_dims(dn_shape *s) {
    int error = dn__set_dims(s, s->n_ints - 2, s->ints + 2, s->ints[1]);
    if (error) return error;
    if (s->ints[0] < 0 ||
        s->ints[0] + (int64_t)s->y.size * s->y.batch > (int64_t)s->x[0]->size * s->x[0]->batch)
        return dn__fail(s, DN_ERROR_VALUE, "lies outside its owner, %s.", DIMS(s->x[0]));
    return 0;
}
static void output_view_forward(dn_call *c) {
    const dn_node *owner = &c->tape->nodes[c->tape->args[c->node->args]];
    c->y = dn__output_view_address(c->tape, owner, c->ints[0], 0);
}
static void output_view_backward(dn_call *c) { (void)c; } /* its gradient is the owner's memory */

DN_OP(fill, 0, DN_LEAF | DN_NO_GRAD, "y_i = a")
static int fill_dims(dn_shape *s) {
    return dn__set_dims(s, s->n_ints - 1, s->ints + 1, s->ints[0]);
}
static void fill_forward(dn_call *c) { dn__fill(c->total, (dn_real)c->floats[0], c->y); }
static void fill_backward(dn_call *c) { (void)c; }
