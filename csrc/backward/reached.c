/* What the loss depends on: nodes, and single outputs of nodes that have several. */
#include "schedule/group.h"
#include "kernels/kernels.h"
#include "backward_pass.h"

/* Of a node whose outputs are read by `output_view` nodes, the loss depends on those outputs, and
 * on the inputs that they are computed from. t->backward->views has a number for each node:
 * BESIDE; WHOLE, also the end of a list; of such a node the last of its views that the loss depends
 * on, of a view the one before it. */
enum { BESIDE = -1, WHOLE = 0 };

static int is_view(const dn_node *node) { return node->op == dn_ops[DN_OP_output_view]; }

/* The output that a view stands for. */
static int output_of(const dn_tape *t, int view) {
    const dn_node *owner = &t->nodes[dn__input(t, view, 0)];
    const size_t at = (size_t)t->ints[t->nodes[view].ints];
    int k = owner->parts - 1;
    while (k > 0 && dn__block(t, owner, k).at > at) k--;
    return k;
}

int dn__is_sequence(const dn_node *node) {
    return node->op->flags & DN_VARIABLE_LENGTH && node->parts > 1;
}

/* Of a network over a list of inputs: the inputs from which on, and up to which, its views are
 * computed. */
static void find_needed_steps(const dn_tape *t, int i, int *from, int *to) {
    const dn_node *node = &t->nodes[i];
    const int steps = t->ints[node->ints],
              reversed = t->ints[node->ints + 1] & DN_SEQUENCE_REVERSED;
    const int first = node->n_args - steps;
    int least = steps, most = -1;
    for (int view = t->backward->views[i]; view > 0; view = t->backward->views[view]) {
        const int step = output_of(t, view) % steps;
        if (step < least) least = step;
        if (step > most) most = step;
    }
    *from = reversed ? first + least : first;
    *to = reversed ? first + steps : first + most + 1;
}

/* Whether one of the views of node i, a traced function, is computed from its input k. */
static int needs_input(const dn_tape *t, int i, int k) {
    const dn_program *p = dn__own(t, &t->nodes[i]);
    for (int view = t->backward->views[i]; view > 0; view = t->backward->views[view])
        if (dn__leads(p, dn__input_source(k), output_of(t, view))) return 1;
    return 0;
}

static void reach_view(dn_tape *t, int view) {
    int32_t *views = t->backward->views;
    const int owner = dn__input(t, view, 0);
    if (views[owner] == WHOLE || !dn__node_wants(t, &t->nodes[owner])) return;
    views[view] = views[owner] == BESIDE ? WHOLE : views[owner];
    views[owner] = view;
}

static void reach_inputs(dn_tape *t, int i) {
    const dn_node *node = &t->nodes[i];
    int32_t *views = t->backward->views;
    const int partly = views[i] != WHOLE,
              sequence = partly && dn__is_sequence(node) &&
                         (t->ints[node->ints + 1] & DN_SEQUENCE_FORMS) == DN_SEQUENCE_LIST;
    const int traced = partly && node->op->flags & DN_TRACED;
    int from = 0, to = node->n_args;
    if (sequence) find_needed_steps(t, i, &from, &to);
    const int begin = sequence ? node->n_args - t->ints[node->ints] : 0;
    for (int k = 0; k < node->n_args; k++) {
        const int x = dn__input(t, i, k);
        if (k >= begin && (k < from || k >= to)) continue;
        if (views[x] == WHOLE || !dn__node_wants(t, &t->nodes[x])) continue;
        if (!traced || needs_input(t, i, k)) views[x] = WHOLE;
    }
}

/* Whether views are known; without memory the backward fails. */
static int knows_views(dn_tape *t) {
    if (t->backward->views) return 1;
    const int last = t->backward->last_loss;
    int32_t *views = dn__arena_take(&t->workspace.grads, ((size_t)last + 1) * sizeof *views);
    if (!(t->backward->views = views)) {
        t->workspace.out_of_memory = 1;
        return 0;
    }
    for (int i = 0; i < last; i++) views[i] = BESIDE;
    views[last] = WHOLE;
    for (int i = last; i >= 0; i--) {
        if (views[i] == BESIDE || t->nodes[i].op->flags & DN_NO_GRAD) continue;
        if (is_view(&t->nodes[i])) reach_view(t, i);
        else reach_inputs(t, i);
    }
    return 1;
}

int dn__is_unneeded(dn_tape *t, int i) {
    return i > t->backward->last_loss || !knows_views(t) || t->backward->views[i] == BESIDE;
}

int dn__is_unread(dn_tape *t, int i, const dn_real *dx) {
    const size_t n = dn__elements(&t->nodes[i].dim);
    if (!n || dx[0] != 0 || !dn__is_zero(n, dx)) return 0; /* nearly always */
    return dn__is_unneeded(t, i);
}

int dn__is_output_beside_loss(dn_tape *t, int i, int output) {
    if (i > t->backward->last_loss || !knows_views(t)) return 1;
    int view = t->backward->views[i];
    if (view == WHOLE) return 0;
    while (view > 0 && output_of(t, view) != output) view = t->backward->views[view];
    return view <= 0;
}

int dn__route_beside_loss(const dn_call *c, int output) {
    return dn__is_output_beside_loss(c->tape, (int)(c->node - c->tape->nodes), output);
}

int dn__route_group_beside_loss(const dn_call *c, int output) {
    const dn_group *g = &c->tape->schedule->groups[c->group];
    if (g->as) return 0; /* outputs of the call are not those of a member */
    for (int m = 0; m < g->n; m++)
        if (!dn__is_output_beside_loss(c->tape, dn__members_of(c->tape, g)[m], output)) return 0;
    return 1;
}
