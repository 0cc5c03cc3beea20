#include "group.h"

#include <string.h>

#include "kernels/kernels.h"

static int input_of(const dn_tape *t, int i, int k) { return t->args[t->nodes[i].args + k]; }

static int is_same(const dn_tape *t, int leader, int k) {
    int x = input_of(t, leader, k);
    if (t->nodes[x].dim.batch != 1) return 0;
    for (int j = t->nodes[leader].next_member; j >= 0; j = t->nodes[j].next_member)
        if (input_of(t, j, k) != x) return 0;
    return 1;
}

/* Which inputs are shared. One is always collected: from it the op learns how many batch elements there are. */
static uint8_t *find_shared(dn_tape *t, int leader) {
    const dn_node *node = &t->nodes[leader];
    uint8_t *shared = dn__arena_take(&t->scratch, (size_t)node->n_args);
    int collected = 0, last = -1;
    for (int k = 0; shared && k < node->n_args; k++) {
        shared[k] = (uint8_t)is_same(t, leader, k);
        collected |= !shared[k];
        if (k >= 8 || !(node->op->flags >> DN_SHARED_SHIFT & 1 << k)) last = k;
    }
    if (shared && !collected && last >= 0) shared[last] = 0;
    return shared;
}

/* Input k of all members side by side: where they are, if they lie so, else a copy from `arena`. */
static const dn_real *side_by_side(dn_tape *t, int leader, int k, dn_arena *arena) {
    const dn_real *first = t->nodes[input_of(t, leader, k)].value, *expected = first;
    size_t total = 0;
    int apart = 0;
    for (int j = leader; j >= 0; j = t->nodes[j].next_member) {
        const dn_node *x = &t->nodes[input_of(t, j, k)];
        size_t n = dn__elements(&x->dim);
        apart |= x->value != expected;
        expected += n;
        total += n;
    }
    if (!apart) return first;
    dn_real *copy = dn__arena_take(arena, total * sizeof *copy), *to = copy;
    for (int j = leader; copy && j >= 0; j = t->nodes[j].next_member) {
        const dn_node *x = &t->nodes[input_of(t, j, k)];
        size_t n = dn__elements(&x->dim);
        memcpy(to, x->value, n * sizeof *to);
        to += n;
    }
    return copy;
}

/* Attributes that belong to batch elements are joined like these; others are the same in all members. */
static const int *joined_ints(dn_tape *t, int leader, int *count) {
    const dn_node *node = &t->nodes[leader];
    *count = node->n_ints;
    if (!(node->op->flags & (DN_INTS_EACH | DN_INTS_AFTER_FIRST))) return t->ints + node->ints;
    int first = (node->op->flags & DN_INTS_AFTER_FIRST) != 0, total = first;
    for (int j = leader; j >= 0; j = t->nodes[j].next_member) total += t->nodes[j].n_ints - first;
    int *all = dn__arena_take(&t->scratch, (size_t)total * sizeof *all), *to = all;
    if (!all) return NULL;
    if (first) *to++ = t->ints[node->ints];
    for (int j = leader; j >= 0; j = t->nodes[j].next_member) {
        int n = t->nodes[j].n_ints - first;
        memcpy(to, t->ints + t->nodes[j].ints + first, (size_t)n * sizeof *to);
        to += n;
    }
    *count = total;
    return all;
}

/* The call that stands for all members: the leader's, with the batch counts added up. */
static int prepare(dn_tape *t, int leader, const uint8_t *shared, dn_call *c, dn_dim *y_dim, dn_arena *copies) {
    dn_node *node = &t->nodes[leader];
    dn__prepare_call(t, node, c);
    int batch = 0;
    for (int j = leader; j >= 0; j = t->nodes[j].next_member) batch += t->nodes[j].dim.batch;
    dn_dim *x_dims = dn__arena_take(&t->scratch, (size_t)node->n_args * sizeof *x_dims);
    c->ints = joined_ints(t, leader, &c->n_ints);
    if (!x_dims || (!c->ints && c->n_ints)) return DN_ERROR_MEMORY;
    *y_dim = node->dim;
    y_dim->batch = batch;
    c->dim = y_dim;
    c->total = dn__elements(y_dim);
    for (int k = 0; k < node->n_args; k++) {
        if (shared[k]) continue;
        const dn_real *x = side_by_side(t, leader, k, copies);
        if (!x) return DN_ERROR_MEMORY;
        x_dims[k] = *t->in[k].dim;
        x_dims[k].batch = batch;
        t->in[k] = (dn_in){&x_dims[k], x, batch == 1 ? 0 : (size_t)x_dims[k].size};
    }
    return 0;
}

enum { ALIGN_NUMBERS = 16 };

int dn__group_forward(dn_tape *t, int leader) {
    dn_node *node = &t->nodes[leader];
    dn_call c;
    dn_dim y_dim;
    const uint8_t *shared = find_shared(t, leader);
    if (!shared || prepare(t, leader, shared, &c, &y_dim, &t->scratch)) return dn__no_memory(t);
    size_t saved = 0, y_size = (c.total + ALIGN_NUMBERS - 1) & ~(size_t)(ALIGN_NUMBERS - 1);
    for (int j = leader; j >= 0; j = t->nodes[j].next_member) saved += t->nodes[j].saved;
    dn_real *y = dn__arena_take(&t->values, (y_size + saved) * sizeof *y);
    if (!y) return dn__no_memory(t);
    c.y = y;
    c.saved = node->saved_memory = y + y_size;
    int column = 0;
    for (int j = leader; j >= 0; j = t->nodes[j].next_member) {
        dn_node *member = &t->nodes[j];
        member->leader = leader;
        member->grouped = t->values_made;
        member->failed = 0;
        member->column = column;
        member->value = y + (size_t)column * (size_t)member->dim.size;
        column += member->dim.batch;
    }
    node->group_batch = column;
    node->op->forward(&c);
    dn__arena_reset(&t->scratch, (dn_arena_mark){0});
    if (!t->out_of_memory) return 0;
    t->out_of_memory = 0;
    return dn__no_memory(t);
}

dn_real *dn__part_address(dn_tape *t, const dn_node *owner, int offset, int gradient) {
    if (!dn__grouped(t, owner)) return (gradient ? owner->grad : owner->value) + offset;
    /* The owner's blocks are (size x batch); the group's are (size x group_batch), and this member's part begins at its column. */
    const dn_node *leader = &t->nodes[owner->leader];
    dn_real *base = gradient ? leader->group_grads : leader->value;
    size_t batch = (size_t)owner->dim.batch, size = (size_t)(owner->dim.size / owner->parts), block = batch ? (size_t)offset / (size * batch) : 0;
    return base + block * size * (size_t)leader->group_batch + size * (size_t)owner->column;
}

dn_real *dn__group_grad(dn_tape *t, int i) {
    const dn_node *node = &t->nodes[i];
    dn_node *leader = &t->nodes[node->leader];
    if (!leader->group_grads) {
        size_t n = (size_t)leader->group_batch * (size_t)leader->dim.size;
        leader->group_grads = dn__arena_take(&t->grads, n * sizeof(dn_real));
        if (leader->group_grads && leader->op->flags & DN_PARTS) dn__fill(n, 0, leader->group_grads);
    }
    return leader->group_grads ? leader->group_grads + (node->value - leader->value) : NULL;
}

/* Whether the members' gradient places for input k are one piece of memory of one kind; then the op writes there itself. */
static dn_grad in_place(dn_tape *t, int leader, int k) {
    const dn_node *first = &t->nodes[input_of(t, leader, k)];
    if (!dn__grouped(t, first) || first->op->flags & DN_PARTS || first->op->flags & DN_VIEW) return (dn_grad){0};
    const dn_node *before = NULL;
    int fresh = first->grad == NULL;
    for (int j = leader; j >= 0; j = t->nodes[j].next_member) {
        const dn_node *x = &t->nodes[input_of(t, j, k)];
        if (x->leader != first->leader || !dn__grouped(t, x) || (x->grad == NULL) != fresh || !dn__node_wants(t, x)) return (dn_grad){0};
        if (before && x->column != before->column + before->dim.batch) return (dn_grad){0};
        before = x;
    }
    dn_grad g = {0};
    for (int j = leader; j >= 0; j = t->nodes[j].next_member) {
        dn_grad place = dn__place(t, input_of(t, j, k));
        if (!place.dx) return (dn_grad){0};
        if (!g.dx) g = place;
    }
    return g;
}

/* Rows that were looked up after the leader was made have been passed by a sweep in the order of the nodes: bring their gradient home here. */
static void add_to_row(dn_tape *t, int x, const dn_real *dx) {
    dn_call c;
    dn__prepare_call(t, &t->nodes[x], &c);
    c.dy = dx;
    c.node->op->backward(&c);
}

static void scatter(dn_tape *t, int leader, int k, const dn_real *dx) {
    for (int j = leader; j >= 0; j = t->nodes[j].next_member) {
        int x = input_of(t, j, k);
        size_t n = dn__elements(&t->nodes[x].dim);
        if (dn__node_wants(t, &t->nodes[x])) {
            dn_grad g = dn__place(t, x);
            if (g.dx) dn__axpy(n, 1, dx, g.beta, g.dx);
            if (!t->autobatch && x > leader && t->nodes[x].param) add_to_row(t, x, dx);
        }
        dx += n;
    }
}

static int any_wants(const dn_tape *t, int leader, int k) {
    for (int j = leader; j >= 0; j = t->nodes[j].next_member)
        if (dn__node_wants(t, &t->nodes[input_of(t, j, k)])) return 1;
    return 0;
}

void dn__group_backward(dn_tape *t, int leader) {
    dn_node *node = &t->nodes[leader];
    if (!node->group_grads) return;
    for (int j = leader; j >= 0 && !(node->op->flags & DN_PARTS); j = t->nodes[j].next_member)
        if (!t->nodes[j].grad) dn__fill(dn__elements(&t->nodes[j].dim), 0, dn__group_grad(t, j));
    if (node->op->flags & DN_NO_GRAD) return;
    dn_call c;
    dn_dim y_dim;
    dn_grad *places = dn__arena_take(&t->scratch, (size_t)node->n_args * sizeof *places);
    /* copies of inputs outlive the call: the gradient of a shared matrix is put off */
    const uint8_t *shared = find_shared(t, leader);
    if (!places || !shared || prepare(t, leader, shared, &c, &y_dim, &t->grads)) {
        t->out_of_memory = 1;
        return;
    }
    c.dy = node->group_grads;
    c.y = node->value;
    c.saved = node->saved_memory;
    uint8_t *direct = dn__arena_take(&t->scratch, (size_t)node->n_args);
    for (int k = 0; direct && k < node->n_args; k++) {
        places[k] = (dn_grad){0};
        direct[k] = 0;
        if (shared[k]) continue;
        places[k].beta = -1; /* collected; no gradient wanted while dx is NULL */
        if (!any_wants(t, leader, k)) continue;
        dn_grad g = in_place(t, leader, k);
        direct[k] = g.dx != NULL;
        if (!g.dx) g.dx = dn__arena_take(&t->scratch, dn__elements(t->in[k].dim) * sizeof *g.dx);
        if (!g.dx) direct = NULL;
        else places[k] = g;
    }
    if (!direct) {
        t->out_of_memory = 1;
        return;
    }
    c.places = places;
    node->op->backward(&c);
    for (int k = 0; k < node->n_args; k++) {
        if (!places[k].dx) continue;
        int taken = places[k].beta == DN_PLACE_TAKEN;
        if (!taken && direct[k] && places[k].beta == 0) dn__fill(dn__elements(t->in[k].dim), 0, places[k].dx);
        if (taken && !direct[k]) scatter(t, leader, k, places[k].dx);
    }
}
