#include "join.h"

#include <string.h>

#include "kernels/kernels.h"

enum { MOST_COLUMNS = 256 }; /* of one product: more would only take memory */

static int last_input(const dn_tape *t, const dn_node *node) { return t->args[node->args + node->n_args - 1]; }

void dn__join_made(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    if (node->n_args < 2) return;
    int w = t->args[node->args + node->n_args - 2];
    dn_node *matrix = &t->nodes[w];
    if (matrix->last_user >= 0 && matrix->last_user < i) {
        dn_node *last = &t->nodes[matrix->last_user];
        /* after a revert, another node may have its index */
        if (last->op == node->op && last->n_args == node->n_args && t->args[last->args + last->n_args - 2] == w) last->next_user = i;
    }
    matrix->last_user = i;
}

/* Whether node j can be computed with the leader: equal but for the last input, which is computed and of equal dims. */
static int fits(const dn_tape *t, const dn_node *leader, int j) {
    const dn_node *node = &t->nodes[j];
    if (node->op != leader->op || node->n_args != leader->n_args || last_input(t, node) >= t->evaluated) return 0;
    const dn_dim *x = &t->nodes[last_input(t, leader)].dim, *other = &t->nodes[last_input(t, node)].dim;
    return !memcmp(t->args + node->args, t->args + leader->args, (size_t)(leader->n_args - 1) * sizeof *t->args) && x->nd == other->nd &&
           x->batch == other->batch && !memcmp(x->d, other->d, (size_t)x->nd * sizeof *x->d);
}

static int shared_are_unbatched(const dn_tape *t, const dn_node *node) {
    for (int k = 0; k < node->n_args - 1; k++)
        if (t->nodes[t->args[node->args + k]].dim.batch != 1) return 0;
    return 1;
}

/* The last inputs of all members side by side: where they are, if they lie so, else a copy from `arena`. */
static const dn_real *side_by_side(dn_tape *t, int leader, int members, size_t n, dn_arena *arena) {
    const dn_real *first = t->nodes[last_input(t, &t->nodes[leader])].value, *expected = first;
    int j = leader;
    while (j >= 0 && t->nodes[last_input(t, &t->nodes[j])].value == expected) {
        expected += n;
        j = t->nodes[j].next_member;
    }
    if (j < 0) return first;
    dn_real *copy = dn__arena_take(arena, (size_t)members * n * sizeof *copy);
    if (!copy) return NULL;
    dn_real *to = copy;
    for (j = leader; j >= 0; j = t->nodes[j].next_member, to += n) memcpy(to, t->nodes[last_input(t, &t->nodes[j])].value, n * sizeof *to);
    return copy;
}

/* The call that stands for all members: the leader's, with the batch counts added up. */
typedef struct joined_call { dn_call c; dn_dim x_dim, y_dim; } joined_call;
static void prepare(dn_tape *t, int leader, int members, const dn_real *x, joined_call *j) {
    dn_node *node = &t->nodes[leader];
    int last = node->n_args - 1;
    dn__prepare_call(t, node, &j->c);
    j->x_dim = *t->in[last].dim;
    j->x_dim.batch *= members;
    j->y_dim = node->dim;
    j->y_dim.batch *= members;
    t->in[last] = (dn_in){&j->x_dim, x, j->x_dim.batch == 1 ? 0 : (size_t)j->x_dim.size};
    j->c.dim = &j->y_dim;
    j->c.total = dn__elements(&j->y_dim);
}

int dn__join_forward(dn_tape *t, int i, int last) {
    dn_node *node = &t->nodes[i];
    node->leader = node->next_member = -1;
    size_t x_size = dn__elements(&t->nodes[last_input(t, node)].dim), y_size = dn__elements(&node->dim);
    if (node->next_user < 0 || node->next_user > last || !x_size || !y_size || !shared_are_unbatched(t, node)) return 0;
    int members = 1, tail = i, most = MOST_COLUMNS / node->dim.batch;
    for (int j = node->next_user, before = i; j > before && j <= last && members < most; before = j, j = t->nodes[j].next_user) {
        if (!fits(t, node, j)) continue;
        t->nodes[tail].next_member = j;
        t->nodes[j].next_member = -1;
        tail = j;
        members++;
    }
    if (members == 1) return 0;
    const dn_real *x = side_by_side(t, i, members, x_size, &t->scratch);
    dn_real *y = dn__arena_take(&t->values, (size_t)members * y_size * sizeof *y);
    if (!x || !y) return dn__no_memory(t);
    for (int j = i; j >= 0; j = t->nodes[j].next_member) {
        t->nodes[j].leader = i;
        t->nodes[j].joined = t->values_made;
        t->nodes[j].value = y;
        y += y_size;
    }
    joined_call call;
    prepare(t, i, members, x, &call);
    node->op->forward(&call.c);
    dn__arena_reset(&t->scratch, (dn_arena_mark){0});
    return 1;
}

static int count(const dn_tape *t, int leader) {
    int members = 0;
    for (int j = leader; j >= 0; j = t->nodes[j].next_member) members++;
    return members;
}

dn_real *dn__join_grad(dn_tape *t, int i) {
    const dn_node *node = &t->nodes[i];
    if (!dn__join_computed(t, node)) return NULL;
    size_t n = dn__elements(&node->dim);
    dn_node *leader = &t->nodes[node->leader];
    if (!leader->joined_grads) leader->joined_grads = dn__arena_take(&t->grads, (size_t)count(t, node->leader) * n * sizeof(dn_real));
    /* members' gradients lie as their values do */
    return leader->joined_grads ? leader->joined_grads + (node->value - leader->value) : NULL;
}

int dn__join_backward(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    if (!dn__join_computed(t, node)) return 0;
    if (node->leader != i || !node->joined_grads) return 1;
    int members = count(t, i), wanted = 0;
    size_t n = dn__elements(&node->dim), x_size = dn__elements(&t->nodes[last_input(t, node)].dim);
    for (int j = i; j >= 0; j = t->nodes[j].next_member) {
        if (!t->nodes[j].grad) dn__fill(n, 0, dn__join_grad(t, j));
        wanted |= dn__node_wants(t, &t->nodes[last_input(t, &t->nodes[j])]);
    }
    /* both outlive the call: the weight's gradient is put off */
    const dn_real *x = side_by_side(t, i, members, x_size, &t->grads);
    dn_real *dx = wanted ? dn__arena_take(&t->grads, (size_t)members * x_size * sizeof *dx) : NULL;
    if (!x || (wanted && !dx)) {
        t->out_of_memory = 1;
        return 1;
    }
    joined_call call;
    prepare(t, i, members, x, &call);
    call.c.dy = node->joined_grads;
    call.c.joined_dx = dx;
    node->op->backward(&call.c);
    for (int j = i; dx && j >= 0; j = t->nodes[j].next_member, dx += x_size) {
        int k = last_input(t, &t->nodes[j]);
        if (!dn__node_wants(t, &t->nodes[k])) continue;
        dn_grad g = dn__place(t, k);
        if (g.dx) dn__axpy(x_size, 1, dx, g.beta, g.dx);
    }
    return 1;
}
