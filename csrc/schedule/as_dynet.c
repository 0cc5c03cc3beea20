/* The order in which DyNet's agenda computes nodes, for the sake of the generator that they draw
 * from. Only here are operations known by their names: those that DyNet treats by themselves. */
#include <math.h>

#include "agenda.h"

/* What DyNet computes by itself. */
static const int alone[] = {DN_OP_argmax,
                            DN_OP_average,
                            DN_OP_binary_log_loss,
                            DN_OP_bmax,
                            DN_OP_bmin,
                            DN_OP_cdiv,
                            DN_OP_circ_conv,
                            DN_OP_circ_corr,
                            DN_OP_constrained_softmax,
                            DN_OP_contract3d_1d,
                            DN_OP_cumsum,
                            DN_OP_dot_product,
                            DN_OP_emax,
                            DN_OP_filter1d_narrow,
                            DN_OP_fold_rows,
                            DN_OP_hinge,
                            DN_OP_hinge_dim,
                            DN_OP_huber_distance,
                            DN_OP_kmax_pooling,
                            DN_OP_kmh_ngram,
                            DN_OP_l1_distance,
                            DN_OP_l2_norm,
                            DN_OP_log_softmax,
                            DN_OP_logsumexp,
                            DN_OP_logsumexp_dim,
                            DN_OP_max_dim,
                            DN_OP_maxpooling2d,
                            DN_OP_mean_dim,
                            DN_OP_mean_elems,
                            DN_OP_min_dim,
                            DN_OP_moment_dim,
                            DN_OP_pairwise_rank_loss,
                            DN_OP_pick,
                            DN_OP_poisson_loss,
                            DN_OP_pow,
                            DN_OP_restricted_log_softmax,
                            DN_OP_select,
                            DN_OP_slice,
                            DN_OP_sparsemax,
                            DN_OP_squared_norm,
                            DN_OP_std_dim,
                            DN_OP_sum_dim,
                            DN_OP_sum_elems,
                            DN_OP_weight_norm};

/* of two by an operator; esum() is another one, there too */
static int is_sum(const dn_op *op) {
    return op == dn_ops[DN_OP_add] || op == dn_ops[DN_OP_subtract];
}
static int is_number_by_number(const dn_op *op) {
    return is_sum(op) || op == dn_ops[DN_OP_sum] || op == dn_ops[DN_OP_cmult];
}

static int is_convolution(const dn_op *op) {
    return op == dn_ops[DN_OP_conv2d] || op == dn_ops[DN_OP_conv2d_bias];
}

/* n - x; of -x and of products with a number, -0.0 is added */
static int is_number_minus(const dn_tape *t, const dn_node *node) {
    if (node->op != dn_ops[DN_OP_scale_shift]) return 0;
    const double *floats = t->floats + node->floats;
    return floats[0] == -1 && (floats[1] != 0 || !signbit(floats[1]));
}

int dn__dynet_batches(const dn_tape *t, const dn_node *node) {
    const dn_op *op = node->op;
    if (op->flags & DN_RANDOM) return op == dn_ops[DN_OP_dropout];
    if (!(op->flags & DN_BATCHES) || op->flags & (DN_VIEW | DN_LEAF)) return 0;
    if (op == dn_ops[DN_OP_matmul] || is_convolution(op)) return node->dim.batch == 1;
    if (is_number_minus(t, node)) return 0;
    for (size_t i = 0; i < sizeof alone / sizeof *alone; i++)
        if (op == dn_ops[alone[i]]) return 0;
    for (int k = 0; is_number_by_number(op) && k < node->n_args; k++) {
        const dn_dim *x = &t->nodes[t->args[node->args + k]].dim;
        if (x->batch != node->dim.batch || !dn__equal_sizes(x, &node->dim)) return 0;
    }
    return 1;
}

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
    if (is_number_by_number(op) || op == dn_ops[DN_OP_dropout]) return 1;
    return op->inputs == 1 && !node->n_ints &&
           dn__equal_sizes(&node->dim, &t->nodes[t->args[node->args]].dim);
}
/* It has one for vectors that are joined as a vector and as columns, too: only what is joined
 * counts, without its batch. */
static int join_alike(const dn_tape *t, const dn_node *a, const dn_node *b) {
    for (int k = 0; k < a->n_args; k++)
        if (!dn__equal_sizes(&t->nodes[t->args[a->args + k]].dim,
                             &t->nodes[t->args[b->args + k]].dim))
            return 0;
    return 1;
}
static int one_in_dynet(const dn_tape *t, const dn_node *a, const dn_node *b) {
    if (a->n_args != b->n_args || (a->op != b->op && !(is_sum(a->op) && is_sum(b->op)))) return 0;
    if (a->op == dn_ops[DN_OP_concatenate]) return join_alike(t, a, b);
    return of_all_sizes(t, a) && dn__equal_floats(t, a, b);
}
void dn__dynet_averages(dn_agenda *s) {
    const dn_tape *t = s->t;
    for (int i = 0; i < s->n_signatures; i++) {
        dn_signature *g = &s->signatures[i];
        const dn_node *node = &t->nodes[g->node];
        int64_t depths = 0, count = 0;
        const int joins = of_all_sizes(t, node) || node->op == dn_ops[DN_OP_concatenate];
        int same = i; /* the first that is one with it */
        for (int k = 0; joins && k < s->n_signatures; k++) {
            const dn_signature *other = &s->signatures[k];
            if (!one_in_dynet(t, node, &t->nodes[other->node])) continue;
            if (k < same) same = k;
            depths += other->depths;
            count += other->count;
        }
        if (count) g->average = (double)depths / (double)count;
        g->one = same;
        const int last = node->op == dn_ops[DN_OP_matmul] || node->op == dn_ops[DN_OP_transpose] ||
                         node->op == dn_ops[DN_OP_affine_transform] || is_convolution(node->op);
        g->tie = last ? (int64_t)s->n * s->n + i : (int64_t)(s->n - 1 - same) * s->n + i;
    }
}

/* ---- leaves: DyNet computes them, too, and what waits for them is ready in that order ------ */

static int is_matrix_row(const dn_op *op) {
    return op == dn_ops[DN_OP_lookup] || op == dn_ops[DN_OP_lookup_batch];
}
int dn__dynet_leaf_alone(const dn_agenda *s, int i) {
    const dn_op *op = s->t->nodes[s->first + i].op;
    return op != dn_ops[DN_OP_input] && !is_matrix_row(op);
}

/* Rows of one table are one signature, numbers are, and so are all other inputs. */
static int is_number(const dn_node *x) { return x->dim.nd == 1 && dn__elements(&x->dim) == 1; }
static int leaves_alike(const dn_node *a, const dn_node *b) {
    if (is_matrix_row(a->op) != is_matrix_row(b->op)) return 0;
    return is_matrix_row(a->op) ? a->param == b->param : is_number(a) == is_number(b);
}

int dn__dynet_leaves(dn_agenda *s) {
    const dn_tape *t = s->t;
    const size_t n = (size_t)s->leaves;
    int32_t *leaves = dn__plan_take(s->t, n, sizeof *leaves),
            *kind = dn__plan_take(s->t, n, sizeof *kind),
            *first = dn__plan_take(s->t, n, sizeof *first), /* leaf of each kind */
                *end = dn__plan_zeroed(s->t, n, sizeof *end);
    s->batched_leaves = dn__plan_take(s->t, n, sizeof *s->batched_leaves);
    if (!leaves || !kind || !first || !end || !s->batched_leaves) return DN_ERROR_MEMORY;
    int found = 0, kinds = 0;
    for (int i = 0; i < s->n; i++) {
        if (s->sign[i] != DN_LEAF_NODE || dn__dynet_leaf_alone(s, i)) continue;
        int k = kinds - 1; /* mostly like one of the last */
        while (k >= 0 && !leaves_alike(&t->nodes[s->first + first[k]], &t->nodes[s->first + i]))
            k--;
        if (k < 0) first[k = kinds++] = i;
        leaves[found] = i, kind[found++] = k, end[k]++;
    }
    for (int k = 1; k < kinds; k++) end[k] += end[k - 1];
    for (int i = 0; i < found; i++) s->batched_leaves[--end[kind[i]]] = leaves[i];
    s->n_batched_leaves = found;
    return 0;
}

int dn__dynet_leaf_batch(const dn_agenda *s) {
    const dn_node *nodes = s->t->nodes + s->first;
    const int32_t *last = s->batched_leaves + s->n_batched_leaves - 1;
    int n = 1;
    while (n < s->n_batched_leaves && leaves_alike(&nodes[*last], &nodes[*(last - n)])) n++;
    return n;
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
