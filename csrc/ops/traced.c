/* The program of a traced function (csrc/program.h), run as one operation. In a group it
 * runs once for all members: each inner operation is one call with their batch elements side by
 * side. What depends on nothing that differs between the members is computed once for all of
 * them. */
#include <string.h>

#include "kernels/kernels.h"
#include "program.h"

DN_OP(traced, -1, DN_BATCHES | DN_SEVERAL_OUTPUTS | DN_DEDUPLICATES_ROWS | DN_TRACED,
      "y = f(x_1, x_2, ...), f a traced function: one output, or several")

static int traced_dims(dn_shape *s) {
    const dn_program *p = s->own;
    if (!p) return dn__fail(s, DN_ERROR_VALUE, "what it was called with cannot be changed.");
    s->y = p->dim;
    s->saved = p->saved;
    s->not_batchable = p->not_batchable;
    s->rng = p->rng;
    s->work = p->work;
    s->parts = p->n_outputs;
    return 0;
}

/* One run of a program, and one operation of it: what dn_call.inner leads to. */
typedef struct dn_traced_run {
    dn_call *outer;
    const dn_program *program;
    int members;
    dn_dim *dims;
    dn_real **values, **saved, **grads;
    uint8_t *wants;
    /* room for the inputs of one inner operation, and for those of one member */
    dn_in *in, *member_in;
    dn_dim *member_dims;
} dn_traced_run;
typedef struct dn_inner_call {
    dn_traced_run *run;
    int at, member; /* -1: all members */
} dn_inner_call;

/* ---- one inner operation as a call ---------------------------------------------------- */

static int inner_input_of(const dn_program *p, int at, int k) {
    return p->args[p->nodes[at].args + k];
}

static dn_in source_value(const dn_traced_run *run, int32_t source) {
    if (source < 0) return run->outer->x[-1 - source];
    const dn_dim *d = &run->dims[source];
    return (dn_in){d, run->values[source], d->batch == 1 ? 0 : (size_t)d->size};
}

/* Attributes of batch elements, once for each member where the members' elements lie side by side.
 * NULL: no memory. */
static const int *ints_of(dn_call *outer, const dn_inner *inner, const dn_program *p, int members,
                          int *n) {
    const int *ints = p->ints + inner->ints;
    const int each = inner->n_ints - inner->each;
    *n = inner->n_ints;
    if (members == 1 || !each) return ints;
    int *all = dn__scratch_ints(outer, (size_t)(inner->each + each * members));
    if (!all) return NULL;
    *n = inner->each + each * members;
    memcpy(all, ints, (size_t)inner->each * sizeof *all);
    for (int m = 0; m < members; m++)
        memcpy(all + inner->each + m * each, ints + inner->each, (size_t)each * sizeof *all);
    return all;
}

/* How many members the node's own batch elements are of. */
static int members_in(const dn_traced_run *run, int at) {
    const int traced = run->program->nodes[at].dim.batch;
    return traced && run->dims[at].batch != traced ? run->members : 1;
}

static const dn_gradient_routes INNER;

static int fill_call(dn_traced_run *run, dn_inner_call *ic, dn_call *c) {
    const dn_program *p = run->program;
    const dn_inner *inner = &p->nodes[ic->at];
    const dn_dim *dim = &run->dims[ic->at];
    for (int k = 0; k < inner->n_args; k++)
        run->in[k] = source_value(run, inner_input_of(p, ic->at, k));
    *c = (dn_call){.n = inner->n_args,
                   .x = run->in,
                   .dim = dim,
                   .total = dn__elements(dim),
                   .y = run->values[ic->at],
                   .saved = run->saved[ic->at],
                   .floats = p->floats + inner->floats,
                   .dy = run->grads ? run->grads[ic->at] : NULL,
                   .members = 1,
                   .workspace = run->outer->workspace,
                   .routes = &INNER,
                   .inner = ic};
    c->ints = ints_of(run->outer, inner, p, members_in(run, ic->at), &c->n_ints);
    return c->ints || !c->n_ints ? 0 : DN_ERROR_MEMORY;
}

/* The same for one member of a group: of an operation that draws. */
static void fill_member(dn_traced_run *run, const dn_call *all, int member, dn_call *c) {
    const dn_program *p = run->program;
    dn_in *in = run->member_in;
    dn_dim *dims = run->member_dims;
    const int at = all->inner->at;
    const dn_inner *inner = &p->nodes[at];
    *c = *all;
    c->x = in;
    c->dim = &inner->dim;
    c->total = dn__elements(&inner->dim);
    c->y += (size_t)member * c->total;
    c->dy = all->dy ? all->dy + (size_t)member * c->total : NULL;
    c->saved += (size_t)member * inner->saved;
    c->ints = p->ints + inner->ints;
    c->n_ints = inner->n_ints;
    for (int k = 0; k < c->n; k++) {
        in[k] = all->x[k];
        dims[k] = *in[k].dim;
        if (!in[k].stride) continue;
        dims[k].batch /= run->members;
        in[k].dim = &dims[k];
        in[k].v += (size_t)member * (size_t)dims[k].batch * in[k].stride;
        if (dims[k].batch == 1) in[k].stride = 0;
    }
}

/* ---- where everything lies ------------------------------------------------------------ */

static int begin_run(dn_traced_run *run, dn_call *c) {
    const dn_program *p = c->own;
    const size_t n = (size_t)p->n_nodes, most = (size_t)p->most_inputs;
    *run = (dn_traced_run){.outer = c, .program = p, .members = c->members};
    run->dims = dn__scratch_of(c, n, sizeof *run->dims);
    run->values = dn__scratch_of(c, n, sizeof *run->values);
    run->saved = dn__scratch_of(c, n, sizeof *run->saved);
    run->in = dn__scratch_of(c, 2 * most, sizeof *run->in);
    run->member_dims = dn__scratch_of(c, most, sizeof *run->member_dims);
    if (!run->dims || !run->values || !run->saved || !run->in || !run->member_dims)
        return DN_ERROR_MEMORY;
    run->member_in = run->in + most;
    return 0;
}

/* The dims of an inner node in this run. */
static void find_dim(dn_traced_run *run, int at) {
    const dn_program *p = run->program;
    const dn_inner *inner = &p->nodes[at];
    dn_dim *d = &run->dims[at];
    *d = inner->dim;
    if (run->members == 1) return;
    if (inner->rng) { /* each member draws for itself, also where they have the same input */
        d->batch *= run->members;
        return;
    }
    int batch = 1;
    for (int k = 0; k < inner->n_args; k++) {
        const int32_t source = inner_input_of(p, at, k);
        const int of_input =
            source < 0 ? run->outer->x[-1 - source].dim->batch : run->dims[source].batch;
        if (of_input != 1) batch = of_input;
    }
    d->batch = batch;
}

static size_t offset_of(const dn_traced_run *run, size_t at) { return at * (size_t)run->members; }

/* Where an inner node's value lies or, if it is a view, is to be found. */
static void find_value(dn_traced_run *run, dn_inner_call *ic) {
    const dn_program *p = run->program;
    const dn_inner *inner = &p->nodes[ic->at];
    const int at = ic->at;
    if (inner->op == dn_ops[DN_OP_input]) {
        run->values[at] = inner->data;
    } else if (inner->op == dn_ops[DN_OP_output_view]) {
        const int owner = inner_input_of(p, at, 0);
        const dn_inner *whole = &p->nodes[owner];
        const size_t block = (size_t)(whole->dim.size / whole->parts);
        const size_t offset = (size_t)p->ints[inner->ints],
                     traced = block * (size_t)whole->dim.batch;
        run->values[at] =
            run->values[owner] +
            (traced ? offset / traced * block * (size_t)run->dims[owner].batch + offset % traced
                    : 0);
    } else if (inner->op->flags & DN_VIEW) {
        dn_call c;
        if (fill_call(run, ic, &c)) return;
        inner->op->forward(&c);
        run->values[at] = c.y;
    } else {
        const int complete = run->dims[at].batch == inner->dim.batch * run->members;
        run->values[at] = inner->output >= 0 && complete
                              ? run->outer->y + offset_of(run, p->outputs[inner->output].at)
                              : run->outer->saved + offset_of(run, inner->value_at);
        run->saved[at] = run->outer->saved + offset_of(run, inner->saved_at);
    }
}

/* ---- forward -------------------------------------------------------------------------- */

/* `pass`, forward or backward, of an inner node: once for all members, or one by one where each has
 * draws of its own. */
static void for_members(dn_traced_run *run, dn_inner_call *ic, void (*pass)(dn_call *),
                        dn_call *c) {
    if (!run->program->nodes[ic->at].rng || run->members == 1) {
        pass(c);
        return;
    }
    for (ic->member = 0; ic->member < run->members; ic->member++) {
        dn_call one;
        fill_member(run, c, ic->member, &one);
        pass(&one);
    }
    ic->member = -1;
}

static void compute_inner(dn_traced_run *run, dn_inner_call *ic) {
    const dn_inner *inner = &run->program->nodes[ic->at];
    if (inner->op->flags & DN_VIEW) return;
    dn_call c;
    if (fill_call(run, ic, &c)) return;
    for_members(run, ic, inner->op->forward, &c);
}

/* y of an output: what was not computed into it. */
static void copy_output(const dn_traced_run *run, const dn_traced_output *output) {
    const dn_in x = source_value(run, output->source);
    dn_real *y = run->outer->y + offset_of(run, output->at);
    if (x.v == y) return;
    const size_t n = dn__elements(x.dim), all = dn__elements(&output->dim) * (size_t)run->members;
    for (size_t from = 0; n && from < all; from += n) memcpy(y + from, x.v, n * sizeof *y);
}

static void traced_forward(dn_call *c) {
    dn_traced_run run;
    if (begin_run(&run, c)) return;
    const dn_program *p = run.program;
    dn_inner_call ic = {&run, 0, -1};
    const dn_arena_mark mark = dn__arena_mark(&c->workspace->scratch);
    for (ic.at = 0; ic.at < p->n_nodes && !c->workspace->out_of_memory; ic.at++) {
        find_dim(&run, ic.at);
        find_value(&run, &ic);
        compute_inner(&run, &ic);
        dn__arena_reset(&c->workspace->scratch, mark);
    }
    for (int k = 0; k < p->n_outputs && !c->workspace->out_of_memory; k++)
        copy_output(&run, &p->outputs[k]);
}

/* ---- backward ------------------------------------------------------------------------- */

/* The place of the gradient of an inner node. */
static dn_grad inner_gradient_slot(dn_traced_run *run, int at) {
    const dn_program *p = run->program;
    const dn_inner *inner = &p->nodes[at];
    if (inner->op == dn_ops[DN_OP_output_view]) {
        const int owner = inner_input_of(p, at, 0);
        dn_grad whole = inner_gradient_slot(run, owner);
        if (whole.dx && whole.beta == 0) dn__fill(dn__elements(&run->dims[owner]), 0, whole.dx);
        /* noted for inner_beside_loss */
        run->grads[at] = whole.dx ? whole.dx + (run->values[at] - run->values[owner]) : NULL;
        return (dn_grad){run->grads[at], 1};
    }
    if (run->grads[at]) return (dn_grad){run->grads[at], 1};
    run->grads[at] = dn__backward_memory(run->outer, dn__elements(&run->dims[at]));
    return (dn_grad){run->grads[at], 0};
}

static dn_grad source_slot(dn_traced_run *run, int32_t source) {
    if (source < 0) return dn__dx(run->outer, -1 - source);
    return run->wants[source] ? inner_gradient_slot(run, source) : (dn_grad){0};
}

static int inner_wants(const dn_call *c, int k) {
    const dn_traced_run *run = c->inner->run;
    const int32_t source = inner_input_of(run->program, c->inner->at, k);
    return source < 0 ? dn__wants(run->outer, -1 - source) : run->wants[source];
}

static dn_grad inner_dx(dn_call *c, int k) {
    dn_traced_run *run = c->inner->run;
    const int32_t source = inner_input_of(run->program, c->inner->at, k);
    const dn_dim *dim = source_value(run, source).dim;
    dn_grad g = source_slot(run, source);
    /* not all of it is written now */
    if (g.dx && g.beta == 0 && (c->inner->member >= 0 || !c->total)) {
        dn__fill(dn__elements(dim), 0, g.dx);
        g.beta = 1;
    }
    if (g.dx && c->inner->member >= 0 && dim->batch != 1)
        g.dx += (size_t)c->inner->member * (dn__elements(dim) / (size_t)run->members);
    return g;
}

static void inner_weight_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy,
                                  const dn_real *x) {
    dn_traced_run *run = c->inner->run;
    const int32_t source = inner_input_of(run->program, c->inner->at, k);
    if (source < 0) {
        dn__weight_gradient(run->outer, -1 - source, m, kk, n, dy, x);
        return;
    }
    dn_grad g = inner_gradient_slot(run, source);
    if (g.dx) dn__mm_dw(m, kk, n, dy, m, x, kk, g.beta, g.dx, m);
}

static int inner_defers_weight(const dn_call *c, int k) {
    const dn_traced_run *run = c->inner->run;
    const int32_t source = inner_input_of(run->program, c->inner->at, k);
    return source < 0 && dn__defers_weight(run->outer, -1 - source);
}

static void inner_operand_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy,
                                   dn_grad g) {
    dn_traced_run *run = c->inner->run;
    const int32_t source = inner_input_of(run->program, c->inner->at, k);
    if (source < 0) dn__operand_gradient(run->outer, -1 - source, m, kk, n, dy, g);
    else dn__mm_dx(m, kk, n, c->x[k].v, m, dy, m, g.beta, g.dx, kk);
}

static void inner_input_done(dn_call *c, int k) { (void)c, (void)k; }

static uint32_t inner_ordinal(const dn_call *c, int member) {
    const dn_traced_run *run = c->inner->run;
    (void)member;
    return run->outer->routes->ordinal(run->outer, c->inner->member < 0 ? 0 : c->inner->member) +
           (uint32_t)run->program->nodes[c->inner->at].rng;
}

/* Inner operations see no tables: rows are captured, and gathered by the traced function's node. */
static int inner_table_rows(const dn_call *c, int first, int n, int capacity, int *rows) {
    (void)c, (void)first, (void)n, (void)capacity, (void)rows;
    return 0;
}

static int inner_wants_each(const dn_call *c) { return dn__wants_each(c->inner->run->outer); }

/* Of captured parameters; what the program makes of them is not rounded, as elsewhere. */
static int inner_rounds(const dn_call *c, int k) {
    const dn_traced_run *run = c->inner->run;
    const int32_t source = inner_input_of(run->program, c->inner->at, k);
    return source < 0 && dn__rounds(run->outer, -1 - source);
}
static const uint16_t *inner_packed(dn_call *c, int k, int transposed) {
    const dn_traced_run *run = c->inner->run;
    const int32_t source = inner_input_of(run->program, c->inner->at, k);
    return source < 0 ? dn__packed(run->outer, -1 - source, transposed) : NULL;
}

/* Of a node with several outputs: whether nothing has come to one of them. */
static int inner_beside_loss(const dn_call *c, int output) {
    const dn_traced_run *run = c->inner->run;
    const dn_program *p = run->program;
    const int owner = c->inner->at;
    const size_t block =
        (size_t)(p->nodes[owner].dim.size / p->nodes[owner].parts * p->nodes[owner].dim.batch);
    for (int k = 0; k < p->n_outputs; k++)
        if (p->outputs[k].source == owner) return 0;
    for (int at = owner + 1; at < p->n_nodes; at++) {
        const int is_view = p->nodes[at].op == dn_ops[DN_OP_output_view];
        for (int k = 0; k < p->nodes[at].n_args; k++)
            if (inner_input_of(p, at, k) == owner &&
                (!is_view || (run->grads[at] && block &&
                              (size_t)p->ints[p->nodes[at].ints] / block == (size_t)output)))
                return 0;
    }
    return 1;
}

/* What is not here is never asked for: there are no rows, operations written in Python cannot be
 * traced, and nothing is put off. */
static const dn_gradient_routes INNER = {
    .wants = inner_wants,
    .dx = inner_dx,
    .weight_gradient = inner_weight_gradient,
    .defers_weight = inner_defers_weight,
    .operand_gradient = inner_operand_gradient,
    .input_done = inner_input_done,
    .ordinal = inner_ordinal,
    .table_rows = inner_table_rows,
    .wants_each = inner_wants_each,
    .rounds = inner_rounds,
    .packed = inner_packed,
    .beside_loss = inner_beside_loss,
};

/* What came to an output goes to what it was computed from: a sum over the members where that is
 * one for all of them. */
static void add_output(dn_traced_run *run, const dn_traced_output *output) {
    const int32_t source = output->source;
    const dn_real *dy = run->outer->dy + offset_of(run, output->at);
    const size_t n = dn__elements(source_value(run, source).dim),
                 all = dn__elements(&output->dim) * (size_t)run->members;
    if (!n) return;
    if (source >= 0 && run->wants[source] && !run->program->nodes[source].consumed && n == all &&
        !run->grads[source] && run->program->nodes[source].op != dn_ops[DN_OP_output_view]) {
        run->grads[source] = (dn_real *)dy; /* only read from now on */
        return;
    }
    dn_grad g = source_slot(run, source);
    for (size_t from = 0; g.dx && from < all; from += n, g.beta = 1)
        dn__axpy(n, 1, dy + from, g.beta, g.dx);
}

static int has_come(const dn_traced_run *run, int k) {
    const dn_traced_output *output = &run->program->outputs[k];
    const size_t n = dn__elements(&output->dim) * (size_t)run->members;
    return !dn__is_zero(n, run->outer->dy + offset_of(run, output->at));
}

/* Whether nothing has come to an output on which the loss does not depend, nor to one that is
 * computed from it. */
static int is_output_unread(const dn_traced_run *run, int output) {
    const dn_program *p = run->program;
    if (p->n_outputs == 1 || has_come(run, output)) return 0;
    for (int k = 0; k < p->n_outputs; k++)
        if (dn__leads(p, p->outputs[output].source, k) && has_come(run, k)) return 0;
    return dn__beside_loss(run->outer, output);
}

static void find_wanted(dn_traced_run *run) {
    const dn_program *p = run->program;
    for (int at = 0; at < p->n_nodes; at++) {
        const dn_inner *inner = &p->nodes[at];
        run->wants[at] = 0;
        run->grads[at] = NULL;
        if (inner->op->flags & DN_NO_GRAD) continue;
        for (int k = 0; k < inner->n_args; k++) {
            const int32_t source = inner_input_of(p, at, k);
            run->wants[at] |=
                source < 0 ? dn__wants(run->outer, -1 - source) != 0 : run->wants[source];
        }
    }
}

static void propagate(dn_traced_run *run, dn_inner_call *ic) {
    const dn_inner *inner = &run->program->nodes[ic->at];
    if (!run->grads[ic->at] || !run->wants[ic->at] || inner->op == dn_ops[DN_OP_output_view])
        return;
    dn_call c;
    if (fill_call(run, ic, &c)) return;
    for_members(run, ic, inner->op->backward, &c);
}

static void traced_backward(dn_call *c) {
    dn_traced_run run;
    if (begin_run(&run, c)) return;
    const dn_program *p = run.program;
    run.wants = dn__scratch_of(c, (size_t)p->n_nodes, sizeof *run.wants);
    run.grads = dn__scratch_of(c, (size_t)p->n_nodes, sizeof *run.grads);
    if (!run.wants || !run.grads) return;
    find_wanted(&run);
    dn_inner_call ic = {&run, 0, -1};
    for (ic.at = 0; ic.at < p->n_nodes && !c->workspace->out_of_memory; ic.at++) {
        find_dim(&run, ic.at);
        find_value(&run, &ic);
    }
    for (int k = 0; k < p->n_outputs && !c->workspace->out_of_memory; k++)
        if (!is_output_unread(&run, k)) add_output(&run, &p->outputs[k]);
    const dn_arena_mark mark = dn__arena_mark(&c->workspace->scratch);
    for (ic.at = p->n_nodes - 1; ic.at >= 0 && !c->workspace->out_of_memory; ic.at--) {
        propagate(&run, &ic);
        dn__arena_reset(&c->workspace->scratch, mark);
    }
}
