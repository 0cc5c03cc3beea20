/* The order in which DyNet's agenda computes nodes, for the sake of the generator that they draw
 * from. Only here are operations known by their names: those that DyNet treats by themselves. */
#include "agenda.h"

int dn__dynet_batches(const dn_op *op) { return op == dn_ops[DN_OP_dropout]; }

/* Beside what cannot be batched the matrices of products. */
int dn__dynet_broadcasts(const dn_op *op) {
    const int broadcast = op->flags >> DN_BROADCAST_SHIFT;
    return op == dn_ops[DN_OP_matmul]             ? broadcast | 1
           : op == dn_ops[DN_OP_affine_transform] ? broadcast | 0xAB
                                                  : broadcast;
}

int dn__dynet_samples(const dn_tape *t, int first, int last) {
    for (int i = first; t->workspace.rng.generator && i <= last; i++)
        if (t->nodes[i].op->flags & DN_RANDOM) return 1;
    return 0;
}

/* DyNet has one signature for nodes of all sizes of these operations, so that their depths make one
 * average. */
static int of_all_sizes(const dn_tape *t, const dn_node *node) {
    const dn_op *op = node->op;
    if (op == dn_ops[DN_OP_cmult] || op == dn_ops[DN_OP_add] || op == dn_ops[DN_OP_sum] ||
        op == dn_ops[DN_OP_dropout])
        return 1;
    return op->inputs == 1 && !node->n_ints && !node->n_floats &&
           dn__equal_sizes(&node->dim, &t->nodes[t->args[node->args]].dim);
}
static int one_in_dynet(const dn_tape *t, const dn_node *a, const dn_node *b) {
    return a->op == b->op && a->n_args == b->n_args &&
           (a->op != dn_ops[DN_OP_dropout] || t->floats[a->floats] == t->floats[b->floats]);
}
void dn__dynet_averages(dn_agenda *s) {
    const dn_tape *t = s->t;
    for (int i = 0; i < s->n_signatures; i++) {
        dn_signature *g = &s->signatures[i];
        const dn_node *node = &t->nodes[g->node];
        int64_t depths = 0, count = 0;
        int same = i; /* the first that is one with it */
        for (int k = 0; of_all_sizes(t, node) && k < s->n_signatures; k++) {
            const dn_signature *other = &s->signatures[k];
            if (!one_in_dynet(t, node, &t->nodes[other->node])) continue;
            if (k < same) same = k;
            depths += other->depths;
            count += other->count;
        }
        if (count) g->average = (double)depths / (double)count;
        const int product =
            node->op == dn_ops[DN_OP_matmul] || node->op == dn_ops[DN_OP_affine_transform];
        g->tie = product ? (int64_t)s->n * s->n + i : (int64_t)(s->n - 1 - same) * s->n + i;
    }
}

static int is_later(const dn_moment *a, const dn_moment *b) {
    if (a->phase != b->phase) return a->phase > b->phase;
    if (a->step != b->step) return a->step > b->step;
    if (a->weights != b->weights) return a->weights > b->weights;
    return a->turn > b->turn;
}

dn_moment dn__dynet_moment(const dn_agenda *s, int i) {
    const dn_tape *t = s->t;
    const dn_node *node = &t->nodes[s->first + i];
    dn_moment last = {0};
    for (int k = 0; k < node->n_args; k++) {
        const int x = t->args[node->args + k] - s->first;
        if (x >= 0 && is_later(&s->when[x], &last)) last = s->when[x];
    }
    const int at = node->op == dn_ops[DN_OP_output_view] ? t->args[node->args] - s->first : -1;
    if (at < 0 || !(t->nodes[s->first + at].op->flags & DN_VARIABLE_LENGTH)) return last;
    const dn_node *owner = &t->nodes[s->first + at];
    const int64_t block = (int64_t)owner->dim.size / owner->parts * owner->dim.batch;
    const int n = t->ints[owner->ints], step = block ? (int)(t->ints[node->ints] / block) : 0,
              weights = t->args[owner->args];
    int before = 0; /* steps of the sequence that this one goes on from */
    for (int k = 0; k < owner->n_args; k++) {
        const int x = t->args[owner->args + k] - s->first;
        if (x >= 0 && s->when[x].weights == weights + 1 && s->when[x].step > before)
            before = s->when[x].step;
    }
    const int phase = s->sign[at] < 0 ? s->depth[at] : (int)s->signatures[s->sign[at]].average;
    return (dn_moment){phase + 1, before + (step < n ? step : n - 1) + 1, weights + 1,
                       s->turns[at]};
}

void dn__dynet_insert(dn_agenda *s, int *first, int *last, int i) {
    if (!s->when || !is_later(&s->when[*last], &s->when[i])) {
        s->next_ready[*last] = i;
        *last = i;
        return;
    }
    int *at = first;
    while (!is_later(&s->when[*at], &s->when[i])) at = &s->next_ready[*at];
    s->next_ready[i] = *at;
    *at = i;
}

int dn__dynet_note(dn_agenda *s) {
    const dn_tape *t = s->t;
    int sequences = 0;
    for (int i = 0; !sequences && i < s->n; i++)
        sequences = t->nodes[s->first + i].op->flags & DN_VARIABLE_LENGTH;
    if (!sequences) return 0;
    s->when = dn__plan_zeroed(s->t, (size_t)s->n, sizeof *s->when);
    s->turns = dn__plan_zeroed(s->t, (size_t)s->n, sizeof *s->turns);
    return s->when && s->turns ? 0 : DN_ERROR_MEMORY;
}
