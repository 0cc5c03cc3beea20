/* Backward of groups: gradients of inputs that were collected go back to where those came from. */
#include <string.h>

#include "schedule/group.h"
#include "kernels/kernels.h"
#include "schedule/deduplicate.h"
#include "backward_pass.h"

/* Rows that were looked up after the representative of batched products was made have been passed
 * by the backward pass, which goes in the order of the nodes there: bring their gradient home
 * here. */
static void add_to_row(dn_tape *t, int x, dn_real *dx) {
    dn_call c;
    dn__prepare_call(t, &t->nodes[x], &c);
    c.dy = dx;
    c.node->op->backward(&c);
}

/* Groups whose members' gradients all come from this gather, each once and before any other, get
 * them written, without zeros to add them to. This counts what it brings to each group; more than
 * there is: not so. */
static void count_brought(dn_tape *t, int at) {
    const dn_gather *gather = &t->schedule->gathers[at];
    const int32_t *sources = t->schedule->sources + gather->first;
    const dn_node *first = &t->nodes[sources[0]];
    const dn_group *of_first = dn__group_of(t, first);
    /* mostly all others are like the first one */
    if (of_first && (of_first->grads || of_first->n > gather->n)) return;
    for (int m = 0; m < gather->n; m++) {
        const dn_node *node = &t->nodes[sources[m]];
        dn__ask_for(t, sources, m, gather->n, 2);
        if (!dn__grouped(t, node) || !dn__node_wants(t, node)) continue;
        dn_seat *seat = dn__seat(t, node);
        dn_group *g = &t->schedule->groups[seat->group];
        if (g->gather != at) g->brought = g->grads ? g->total + 1 : 0;
        g->gather = at;
        g->brought += seat->is_source ? g->total + 1 : dn__elements(&node->dim);
        seat->is_source = 1;
    }
    for (int m = 0; m < gather->n; m++) t->schedule->seats[sources[m]].is_source = 0;
}

/* The gradient slot of node x, a source of this gather. */
static dn_grad slot_of(dn_tape *t, int x, int at) {
    const dn_node *node = &t->nodes[x];
    dn_group *g = dn__group_of(t, node);
    if (!g || g->gather != at || g->brought != g->total) return dn__gradient_slot(t, x);
    if (!g->grads && !dn__group_new_grads(t, g)) return (dn_grad){0};
    return (dn_grad){g->grads + (node->value - g->value), 0};
}

/* Brings the gradients of a gather home. */
static void scatter(dn_tape *t, int at, const dn_group *g) {
    dn_gather *gather = &t->schedule->gathers[at];
    const int representative = t->schedule->members[g->first];
    dn_real *dx = gather->grad;
    gather->grad = NULL;
    if (!gather->deduplicated) count_brought(t, at);
    for (int m = 0; m < gather->n && !t->workspace.out_of_memory; m++) {
        dn__ask_for(t, t->schedule->sources + gather->first, m, gather->n, 2);
        const int x = t->schedule->sources[gather->first + m];
        dn_node *node = &t->nodes[x];
        const size_t n = dn__elements(&node->dim);
        if (dn__node_wants(t, node)) {
            if (gather->deduplicated) {
                if (!dn__deduplicated_unread(t, g, x, dx)) add_to_row(t, x, dx);
            } else if (!node->grad && !dn__grouped(t, node) &&
                       node->op != dn_ops[DN_OP_parameter] &&
                       node->op != dn_ops[DN_OP_output_view]) {
                node->grad = dx; /* nobody else needs this memory any more */
            } else {
                dn_grad slot = slot_of(t, x, at);
                if (slot.dx) dn__axpy(n, 1, dx, slot.beta, slot.dx);
                else t->workspace.out_of_memory = 1;
            }
            if (g->batched_gemm == DN_IN_NODE_ORDER && x > representative && node->param &&
                !dn__is_unread(t, x, dx))
                add_to_row(t, x, dx);
        }
        dx += n;
    }
}

static void backward_of_all(dn_tape *t, int group) {
    const dn_group *g = &t->schedule->groups[group];
    dn_call c;
    dn_dim y_dim;
    if (dn__group_prepare(t, group, &c, &y_dim)) {
        t->workspace.out_of_memory = 1;
        return;
    }
    c.dy = g->grads;
    if (g->deduplicated) dn__deduplicated_backward(t, group, &c);
    else c.node->op->backward(&c);
}

/* ---- members beside the loss --------------------------------------------------------------
 * A member on which the loss does not depend has zeros as its gradient. Its derivatives may be
 * infinite, and zero times infinity is NaN, which would go into the gradients of what it shares
 * with the other members. A group that has such a member is therefore done member by member, and
 * those beside the loss are left out, as they are where nothing is batched. The same holds for
 * single outputs of members. */

/* Where a block of a member's value begins when it is by itself, and how many numbers it has. */
static size_t block_of(const dn_tape *t, const dn_node *member, int part, size_t *n) {
    const dn_block b = dn__block(t, member, part);
    *n = b.size * (size_t)member->dim.batch;
    return b.at;
}

static int has_zeros(const dn_tape *t, const dn_node *member, int part) {
    size_t n;
    const size_t at = block_of(t, member, part, &n);
    return !n || dn__is_zero(n, dn__output_view_address(t, member, (int)at, 1));
}

static int has_zeros_alone(const dn_tape *t, const dn_node *member) {
    int part = 0;
    while (part < member->parts && has_zeros(t, member, part)) part++;
    return part == member->parts;
}

static int has_finite(const dn_tape *t, const dn_node *member, int part) {
    size_t n;
    const size_t at = block_of(t, member, part, &n);
    return !n || dn__is_finite(n, dn__output_view_address(t, member, (int)at, 0));
}

/* Whether the loss does not depend on an output of a traced function, and nothing has come to what
 * is computed from it. */
static int is_output_beside_loss(dn_tape *t, int i, int output) {
    const dn_node *member = &t->nodes[i];
    const dn_program *p = dn__own(t, member);
    if (!has_zeros(t, member, output)) return 0; /* nearly always */
    for (int k = 0; k < member->parts; k++)
        if (dn__leads(p, p->outputs[output].source, k) && !has_zeros(t, member, k)) return 0;
    return dn__is_output_beside_loss(t, i, output);
}

/* Whether the loss depends on an output of some members, but not on that of others. */
static int differs_in_outputs(dn_tape *t, const dn_group *g) {
    const dn_node *node = dn__representative_of(t, g);
    if (!dn__blocks(t, node)) return 0;
    for (int output = 0; output < node->parts; output++) {
        int beside = 0;
        for (int m = 0; m < g->n; m++)
            beside += is_output_beside_loss(t, dn__members_of(t, g)[m], output);
        if (beside && beside < g->n) return 1;
    }
    return 0;
}

/* Whether nothing has come to any output of a step of a network over several. */
static int is_zero_step(const dn_tape *t, const dn_node *node, int step) {
    const int steps = t->ints[node->ints];
    for (int part = step; part < node->parts; part += steps)
        if (!has_zeros(t, node, part)) return 0;
    return 1;
}

static int is_finite_step(const dn_tape *t, const dn_node *node, int step) {
    const int steps = t->ints[node->ints];
    const dn_node *x = &t->nodes[t->args[node->args + node->n_args - steps + step]];
    for (int part = step; part < node->parts; part += steps)
        if (!has_finite(t, node, part)) return 0;
    return dn__is_finite(dn__elements(&x->dim), x->value);
}

/* Whether a network over several steps has numbers that are not finite behind the last step that
 * the loss depends on. Other such steps are harmless, and frequent. */
static int has_bad_steps(dn_tape *t, int i) {
    const dn_node *node = &t->nodes[i];
    const int steps = t->ints[node->ints];
    int bad = -1;
    for (int s = steps - 1; s >= 0 && is_zero_step(t, node, s); s--)
        if (!is_finite_step(t, node, s)) bad = s;
    for (int s = steps - 1; bad >= 0 && s >= 0; s--) {
        for (int part = s; part < node->parts; part += steps)
            if (!dn__is_output_beside_loss(t, i, part)) return 0;
        if (!is_finite_step(t, node, s)) return 1;
    }
    return 0;
}

/* The gradient of a member into memory where it is by itself, or from there to those of the
 * others. */
static void copy_member_gradient(dn_tape *t, const dn_node *member, dn_real *alone, int to_alone) {
    for (int part = 0; part < member->parts; part++) {
        size_t n;
        const size_t at = block_of(t, member, part, &n);
        if (!n) continue;
        dn_real *joined = dn__output_view_address(t, member, (int)at, 1);
        memcpy(to_alone ? alone + at : joined, to_alone ? joined : alone + at, n * sizeof *alone);
    }
}

/* The call of one member by itself, with its gradient; `saved`: what its draws left. NULL in y: no
 * memory. All of it outlives the call, as products that are put off read it. */
static void prepare_member(dn_tape *t, dn_node *member, dn_real *saved, dn_call *c) {
    dn__prepare_call(t, member, c);
    const int draws = (member->op->flags & DN_RANDOM) != 0;
    dn_real *dy = dn__backward_memory(c, c->total);
    c->y = member->value;
    if (draws) c->saved = saved;
    else if ((c->y = dn__backward_memory(c, dn__aligned(c->total) + member->saved)))
        c->saved = c->y + dn__aligned(c->total);
    if (!dy || t->workspace.out_of_memory) return;
    c->dy = dy;
    copy_member_gradient(t, member, dy, 1);
    if (!draws) member->op->forward(c);
}

/* ---- what becomes of zeros
 * Most members beside the loss are harmless: zeros come to their inputs. A call that adds to memory
 * of its own finds it out. */

typedef struct trial {
    dn_gradient_routes routes; /* of the call, which finds the rest by them */
    dn_real **dx;              /* of each input; NULL: not asked for */
    int *harmless;
} trial;
static const trial *trial_of(const dn_call *c) { return (const trial *)(const void *)c->routes; }

static dn_grad try_dx(dn_call *c, int k) {
    dn_real **dx = &trial_of(c)->dx[k];
    if (!dn__wants(c, k)) return (dn_grad){0};
    const size_t n = dn__elements(c->x[k].dim);
    if (!*dx && (*dx = dn__backward_memory(c, n))) dn__fill(n, 0, *dx);
    return (dn_grad){*dx, 1};
}

static void try_products(dn_call *c, int k, int m, int kk, int n, const dn_real *dy,
                         const dn_real *x) {
    (void)k;
    *trial_of(c)->harmless &=
        dn__is_zero((size_t)m * (size_t)n, dy) && dn__is_finite((size_t)kk * (size_t)n, x);
}

static void try_operand(dn_call *c, int k, int m, int kk, int n, const dn_real *dy, dn_grad g) {
    dn__mm_dx(m, kk, n, c->x[k].v, m, dy, m, g.beta, g.dx, kk);
}

static void try_rows(dn_call *c, int first, int n, int count, int n_rows, const int *rows,
                     const dn_real *dx, const dn_row_products *products) {
    (void)first, (void)n, (void)count, (void)rows;
    *trial_of(c)->harmless &= dn__is_zero((size_t)n_rows * (size_t)products->k, dx);
}

static void not_yet(dn_call *c, int k) { (void)c, (void)k; }

/* Whether the zeros that have come to a member come to its inputs as zeros. */
static int hands_on_zeros(dn_tape *t, int i, dn_real *saved) {
    dn_node *member = &t->nodes[i];
    const dn_arena_mark mark = dn__arena_mark(&t->workspace.grads);
    dn_call c;
    int harmless = 1;
    prepare_member(t, member, saved, &c);
    trial tried = {.routes = *c.routes, .harmless = &harmless};
    tried.dx = dn__arena_take(&t->workspace.grads, (size_t)member->n_args * sizeof *tried.dx);
    t->workspace.out_of_memory |= !tried.dx;
    for (int k = 0; tried.dx && k < member->n_args; k++) tried.dx[k] = NULL;
    tried.routes.dx = try_dx;
    tried.routes.weight_gradient = try_products;
    tried.routes.operand_gradient = try_operand;
    tried.routes.input_done = not_yet;
    tried.routes.rows_gradient = try_rows;
    tried.routes.put_off = NULL;
    c.routes = &tried.routes;
    if (!t->workspace.out_of_memory) member->op->backward(&c);
    for (int k = 0; harmless && !t->workspace.out_of_memory && k < member->n_args; k++)
        harmless = !tried.dx[k] || dn__is_zero(dn__elements(c.x[k].dim), tried.dx[k]);
    dn__arena_reset(&t->workspace.scratch, (dn_arena_mark){0});
    dn__arena_reset(&t->workspace.grads, mark);
    return harmless;
}

/* Whether a traced function with draws inside would make other ones if it were run once more. */
static int would_draw_anew(const dn_tape *t, const dn_node *node) {
    return node->rng && t->workspace.rng.generator;
}

/* Whether a member is beside the loss. That is looked up only for members that got nothing. */
static int has_members_beside_loss(dn_tape *t, const dn_group *g) {
    const int32_t *members = dn__members_of(t, g);
    if (would_draw_anew(t, dn__representative_of(t, g))) return 0;
    if (differs_in_outputs(t, g)) return 1;
    const int sequences = g->as != DN_AS_STEPS && dn__is_sequence(dn__representative_of(t, g));
    const size_t step = g->batch == g->n && !g->as
                            ? (size_t)(dn__representative_of(t, g)->dim.size) /
                                  (size_t)dn__representative_of(t, g)->parts
                            : 0;
    dn_real *saved = g->saved;
    for (int m = 0, before = 0; m < g->n; m++) {
        if (sequences && has_bad_steps(t, members[m])) return 1;
        if (step && g->grads[(size_t)m * step] != 0) continue; /* nearly always */
        while (before < m) saved += t->nodes[members[before++]].saved;
        /* whatever the last step of a chain is computed from is not beside the loss if that is
         * not */
        if (g->as == DN_AS_STEPS && m + 1 < g->n && !dn__begins_sequence(t, g, m + 1)) continue;
        if (has_zeros_alone(t, &t->nodes[members[m]]) && dn__is_unneeded(t, members[m]) &&
            !hands_on_zeros(t, members[m], saved))
            return 1;
    }
    return 0;
}

/* ---- member by member */

/* The row that is input k of joined member i and that the backward pass, which goes in the order of
 * the nodes there, has passed; else NULL. */
static dn_node *passed_row(const dn_tape *t, const dn_group *g, int i, int k) {
    const int x = dn__input(t, i, k);
    const int passed = g->batched_gemm == DN_IN_NODE_ORDER && x > t->schedule->members[g->first];
    return passed && t->nodes[x].param ? &t->nodes[x] : NULL;
}

/* Backward of one member by itself. Rows that the backward pass has passed get their gradient
 * here. */
static void member_backward(dn_tape *t, const dn_group *g, int i, dn_real *saved) {
    dn_node *member = &t->nodes[i];
    dn_call c;
    prepare_member(t, member, saved, &c);
    dn_real **before = dn__arena_take(&t->workspace.grads, (size_t)member->n_args * sizeof *before),
            **after;
    after = dn__arena_take(&t->workspace.grads, (size_t)member->n_args * sizeof *after);
    t->workspace.out_of_memory |= !before || !after;
    if (t->workspace.out_of_memory) return;
    dn_gradient_routes routes = *c.routes;
    routes.input_done = not_yet; /* other members add to it */
    c.routes = &routes;
    for (int k = 0; k < member->n_args; k++) {
        dn_node *x = passed_row(t, g, i, k);
        before[k] = x ? x->grad : NULL;
        if (x) x->grad = NULL;
    }
    member->op->backward(&c);
    copy_member_gradient(t, member, c.dy, 0);
    for (int k = 0; k < member->n_args; k++) { /* once where an input is the same row as another */
        dn_node *x = passed_row(t, g, i, k);
        after[k] = x ? x->grad : NULL;
        if (after[k] && !t->workspace.out_of_memory) add_to_row(t, dn__input(t, i, k), after[k]);
        if (x) x->grad = NULL;
    }
    for (int k = 0; k < member->n_args; k++) {
        if (!before[k] && !after[k]) continue;
        dn_node *x = passed_row(t, g, i, k);
        if (before[k] && after[k]) dn__axpy(dn__elements(&x->dim), 1, before[k], 1, after[k]);
        x->grad = after[k] ? after[k] : before[k];
    }
}

/* From the last one on: of a chain each adds to the gradient of the one before it. */
static void members_backward(dn_tape *t, const dn_group *g) {
    const int32_t *members = dn__members_of(t, g);
    dn_real *saved = g->saved;
    for (int m = 0; m < g->n; m++) saved += t->nodes[members[m]].saved;
    for (int m = g->n - 1; m >= 0 && !t->workspace.out_of_memory; m--) {
        const int i = members[m];
        saved -= t->nodes[i].saved;
        if (!dn__is_unneeded(t, i)) member_backward(t, g, i, saved);
        dn__arena_reset(&t->workspace.scratch, (dn_arena_mark){0});
    }
}

void dn__group_backward(dn_tape *t, int group) {
    const dn_group *g = &t->schedule->groups[group];
    const dn_node *node = dn__representative_of(t, g);
    const int in_blocks = g->put_off && !g->grads && dn__group_in_blocks(t, group);
    if (g->grads && !in_blocks && !(node->op->flags & DN_NO_GRAD)) {
        if (has_members_beside_loss(t, g)) members_backward(t, g);
        else backward_of_all(t, group);
    }
    /* also where nothing came to this group: later users of its gathers may have got something */
    const int n = dn__inputs_of(t, g);
    for (int k = 0; k < n; k++) {
        const int at = t->schedule->group_inputs[g->inputs + k].gather;
        if (at >= 0 && t->schedule->gathers[at].group == group && t->schedule->gathers[at].grad)
            scatter(t, at, g);
    }
}
