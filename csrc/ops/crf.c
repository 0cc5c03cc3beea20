/* The linear-chain conditional random field (Lafferty, McCallum and Pereira 2001): a score for each
 * sequence of tags,
 *   score(v) = start_v1 + sum_t E_(v_t, t) + sum_(t > 1) A_(v_(t-1), v_t) + stop_vL,
 * and log Z, the log sum exp of the scores of all sequences. Everything is done with logarithms, so
 * that scores of any size do no harm. */
#include <math.h>

#include "kernels/kernels.h"
#include "op.h"

/* inputs: A (k, k), from row to column; start (k); stop (k); the emissions E (k, steps).
 * ints: `steps` tags for each batch element, -1 beyond the end of a sequence that is shorter; none
 * at all: every sequence is whole. */
enum { A, START, STOP, E };
enum { SHARED = DN_BROADCAST(1 << A | 1 << START | 1 << STOP) };

static int chain_dims(dn_shape *s) {
    const dn_dim *a = s->x[A], *e = s->x[E];
    int k = dn__rows_of(e), steps = dn__columns_of(e);
    for (int i = A; i <= STOP; i++)
        if (s->x[i]->batch != 1)
            return dn__fail(s, DN_ERROR_VALUE,
                            "transitions must not be batched; got input %d = %s.", i,
                            DIMS(s->x[i]));
    if (e->nd > 2 || a->nd > 2 || k < 1 || a->size != (int64_t)k * k || dn__rows_of(a) != k ||
        s->x[START]->size != k || s->x[STOP]->size != k)
        return dn__fail(s, DN_ERROR_VALUE,
                        "emissions must be (tags, steps), transitions (tags, tags), start and stop "
                        "(tags,); got %s, %s, %s, %s.",
                        DIMS(e), DIMS(a), DIMS(s->x[START]), DIMS(s->x[STOP]));
    if (steps < 1)
        return dn__fail(s, DN_ERROR_VALUE, "a sequence must have a step; got emissions = %s.",
                        DIMS(e));
    if (s->n_ints && s->n_ints != (int64_t)steps * e->batch)
        return dn__fail(s, DN_ERROR_VALUE,
                        "takes one tag for each step of each batch element; got %d tags for %s.",
                        s->n_ints, DIMS(e));
    for (int i = 0; i < s->n_ints; i++) {
        if (s->ints[i] < -1 || s->ints[i] >= k)
            return dn__fail(s, DN_ERROR_VALUE,
                            "tag %d is outside of the %d tags. They run from 0 to %d.", s->ints[i],
                            k, k - 1);
        if (s->ints[i] >= 0 ? i % steps && s->ints[i - 1] < 0 : i % steps == 0)
            return dn__fail(s, DN_ERROR_VALUE,
                            "a sequence must have a step, and -1 only after its end; got %d at "
                            "step %d of batch element %d.",
                            s->ints[i], i % steps, i / steps);
    }
    return 0;
}

/* One batch element: its emissions and tags, and how many steps it has. */
typedef struct chain {
    int k, steps, length;
    const dn_real *a, *start, *stop, *e;
    const int *tags;
} chain;
static chain chain_of(const dn_call *c, int b) {
    const dn_in *x = c->x;
    chain z = {.steps = dn__columns_of(x[E].dim),
               .a = x[A].v,
               .start = x[START].v,
               .stop = x[STOP].v,
               .e = x[E].v + (size_t)b * x[E].stride};
    z.k = x[E].dim->size / z.steps;
    z.length = z.steps;
    if (c->n_ints) {
        z.tags = c->ints + (size_t)b * (size_t)z.steps;
        while (z.tags[z.length - 1] < 0) z.length--;
    }
    return z;
}
static const dn_real *emission(const chain *z, int t) { return z->e + (size_t)t * (size_t)z->k; }
/* A from every tag to this one */
static const dn_real *into(const chain *z, int tag) { return z->a + (size_t)tag * (size_t)z->k; }

/* ---- log Z and the score -------------------------------------------------------------- */

/* saved, for each step: alpha_t, the log sum exp of the scores of all ways to each tag, up to a
 * number that is the same for all tags; and, of k numbers each, the max and log_sum of the sums
 * that it came from. */
typedef struct step { dn_real *alpha, *max, *log_sum; } step;
static step step_of(dn_real *saved, const chain *z, int b, int t) {
    size_t k = (size_t)z->k;
    dn_real *at = saved + 3 * k * ((size_t)b * (size_t)z->steps + (size_t)t);
    return (step){at, at + k, at + 2 * k};
}

/* y = x less its greatest number, which is returned; less nothing if that is no number to reckon
 * with */
static dn_real level(size_t k, const dn_real *x, dn_real *y) {
    dn_real max = dn__max(k, x);
    if (!isfinite(max)) max = 0;
    dn__affine(k, 1, -max, x, y);
    return max;
}

/* The columns of A, and stop behind them, each less its greatest number, which stands in `top`:
 * beside large numbers the digits of alpha would be lost. */
typedef struct levelled { dn_real *columns, *top; } levelled;
static levelled level_transitions(dn_call *c) {
    size_t k = (size_t)c->x[START].dim->size;
    levelled l = {dn__scratch(c, k * (k + 1)), dn__scratch(c, k + 1)};
    for (size_t j = 0; l.columns && l.top && j <= k; j++)
        l.top[j] = level(k, j < k ? c->x[A].v + j * k : c->x[STOP].v, l.columns + j * k);
    return l;
}

/* alpha_1 = start + E_1;  alpha_t+1,j = E_j,t+1 + log sum_i exp(alpha_t,i + A_ij);  log Z = log sum
 * exp(alpha_L + stop) */
static double log_partition(const chain *z, const levelled *l, dn_real *saved, int b,
                            dn_real *sums) {
    size_t k = (size_t)z->k;
    step now = step_of(saved, z, b, 0);
    dn__add(k, z->start, emission(z, 0), sums);
    double taken_off = level(k, sums, now.alpha);
    for (int t = 1; t < z->length; t++) {
        step next = step_of(saved, z, b, t);
        for (size_t j = 0; j < k; j++) {
            dn__add(k, now.alpha, l->columns + j * k, sums);
            dn_lse lse = dn__logsumexp(k, sums);
            next.max[j] = lse.max;
            next.log_sum[j] = lse.log_sum;
        }
        dn__add(k, next.max, l->top, sums);
        dn__add(k, sums, emission(z, t), sums);
        taken_off += level(k, sums, next.alpha);
        dn__add(k, next.alpha, next.log_sum, next.alpha); /* last, being small */
        now = next;
    }
    dn__add(k, now.alpha, l->columns + k * k, sums);
    dn_lse lse = dn__logsumexp(k, sums);
    return taken_off + l->top[k] + (double)lse.max + (double)lse.log_sum;
}

static double score(const chain *z) {
    double sum = (double)z->start[z->tags[0]] + (double)z->stop[z->tags[z->length - 1]];
    for (int t = 0; t < z->length; t++) {
        sum += (double)emission(z, t)[z->tags[t]];
        if (t) sum += (double)into(z, z->tags[t])[z->tags[t - 1]];
    }
    return sum;
}

/* floats: a and b. The log likelihood of the tags is a = -1, b = 1; a = 0 needs no sum over
 * sequences, b = 0 asks only where they end. */
DN_OP(crf, 4, DN_BATCHES | DN_INTS_EACH | SHARED,
      "y = a log Z + b score(v): a linear-chain CRF with transitions x_0, start x_1, stop x_2, "
      "emissions x_3")
static int crf_dims(dn_shape *s) {
    int error = chain_dims(s);
    if (error) return error;
    if (s->floats[1] != 0 && !s->n_ints)
        return dn__fail(s, DN_ERROR_VALUE, "the score needs tags; got none.");
    if (s->floats[0] != 0) s->saved = 3 * dn__elements(s->x[E]);
    return dn__set_dims(s, 1, (int[]){1}, s->x[E]->batch);
}
static void crf_forward(dn_call *c) {
    double a = c->floats[0], b = c->floats[1];
    dn_real *sums = dn__scratch(c, (size_t)c->x[START].dim->size);
    levelled l = a != 0 ? level_transitions(c) : (levelled){0};
    if (!sums || (a != 0 && (!l.columns || !l.top))) return;
    for (int i = 0; i < c->dim->batch; i++) {
        chain z = chain_of(c, i);
        c->y[i] = (dn_real)((a != 0 ? a * log_partition(&z, &l, c->saved, i, sums) : 0) +
                            (b != 0 ? b * score(&z) : 0));
    }
}

/* Where the gradients are added; NULL: not wanted. */
typedef struct chain_grad { dn_real *a, *start, *stop, *e; } chain_grad;

/* Back through log_partition(): d, the gradient to alpha_t times 1 / dy, is the probability of each
 * tag at t. `work` has 4 k numbers. */
static void add_marginals(const chain *z, const levelled *l, dn_real *saved, int b, dn_real dy,
                          const chain_grad *g, dn_real *work) {
    size_t k = (size_t)z->k;
    dn_real *d = work, *before = work + k, *sums = work + 2 * k, *w = work + 3 * k;
    step now = step_of(saved, z, b, z->length - 1);
    dn__add(k, now.alpha, l->columns + k * k, d);
    dn_lse lse = dn__logsumexp(k, d);
    if (lse.max == -(dn_real)INFINITY) return; /* no sequence is possible: log Z is constant */
    dn__softmax_from_lse(k, d, lse, 1, 0, d);  /* log Z = log sum exp(alpha_L + stop) */
    if (g->stop) dn__axpy(k, dy, d, 1, g->stop);
    for (int t = z->length - 1;; t--) {
        if (g->e) dn__axpy(k, dy, d, 1, g->e + (size_t)t * k);
        if (t == 0) break;
        step previous = step_of(saved, z, b, t - 1);
        dn__fill(k, 0, before);
        for (size_t j = 0; j < k; j++) {
            if (d[j] == 0) continue;
            /* alpha_t,j = E_jt + log sum_i exp(alpha_t-1,i + A_ij): w_i is the probability of i at
             * t - 1 and j at t */
            dn__add(k, previous.alpha, l->columns + j * k, sums);
            dn__softmax_from_lse(k, sums, (dn_lse){now.max[j], now.log_sum[j]}, d[j], 0, w);
            dn__add(k, before, w, before);
            if (g->a) dn__axpy(k, dy, w, 1, g->a + j * k);
        }
        dn_real *last = d;
        d = before;
        before = last;
        now = previous;
    }
    if (g->start) dn__axpy(k, dy, d, 1, g->start); /* alpha_1 = start + E_1 */
}

static void add_counts(const chain *z, dn_real dy, const chain_grad *g) {
    size_t k = (size_t)z->k;
    if (g->start) g->start[z->tags[0]] += dy;
    if (g->stop) g->stop[z->tags[z->length - 1]] += dy;
    for (int t = 0; t < z->length; t++) {
        if (g->e) g->e[(size_t)t * k + (size_t)z->tags[t]] += dy;
        if (g->a && t) g->a[(size_t)z->tags[t] * k + (size_t)z->tags[t - 1]] += dy;
    }
}

/* d log Z = the probabilities of tags and pairs of tags, d score = their counts */
static void crf_backward(dn_call *c) {
    size_t k = (size_t)c->x[START].dim->size;
    dn_real *work = dn__scratch(c, 4 * k);
    levelled l = level_transitions(c);
    if (!work || !l.columns || !l.top) return;
    dn_batch_grad to[E + 1];
    for (int x = 0; x <= E; x++) to[x] = dn__dx_by_element(c, x, c->dim->batch);
    for (int i = 0;; i++) {
        dn_real *dx[E + 1];
        for (int x = 0; x <= E; x++) dx[x] = dn__next_zeroed(&to[x]) ? to[x].dx : NULL;
        if (i == c->dim->batch) break;
        const chain z = chain_of(c, i);
        const chain_grad g = {dx[A], dx[START], dx[STOP], dx[E]};
        if (c->floats[0] != 0)
            add_marginals(&z, &l, c->saved, i, (dn_real)c->floats[0] * c->dy[i], &g, work);
        if (c->floats[1] != 0) add_counts(&z, (dn_real)c->floats[1] * c->dy[i], &g);
    }
}

/* ---- the best sequence ---------------------------------------------------------------- */

/* Viterbi 1967. Of equal scores the lowest tag wins. */
DN_OP(crf_viterbi, 4, DN_BATCHES | DN_INTS_EACH | DN_NO_GRAD | SHARED,
      "y_t = the tag at step t of the sequence that a linear-chain CRF scores highest, -1 beyond "
      "the end; inputs as of crf")
static int crf_viterbi_dims(dn_shape *s) {
    int error = chain_dims(s);
    return error ? error : dn__set_dims(s, 1, (int[]){dn__columns_of(s->x[E])}, s->x[E]->batch);
}

/* the index of the greatest number; of nan, any */
static int best_of(int k, const dn_real *x) {
    int best = 0;
    for (int i = 1; i < k; i++)
        if (x[i] > x[best]) best = i;
    return best;
}
static void best_path(const chain *z, dn_real *now, dn_real *next, dn_real *sums, int *from,
                      dn_real *y) {
    size_t k = (size_t)z->k;
    dn__add(k, z->start, emission(z, 0), now);
    level(k, now, now);
    for (int t = 1; t < z->length; t++) {
        for (int j = 0; j < z->k; j++) {
            dn__add(k, now, into(z, j), sums);
            int i = from[(size_t)t * k + (size_t)j] = best_of(z->k, sums);
            next[j] = sums[i] + emission(z, t)[j];
        }
        level(k, next, next);
        dn_real *before = now;
        now = next;
        next = before;
    }
    dn__add(k, now, z->stop, sums);
    for (int t = z->steps - 1, tag = best_of(z->k, sums); t >= 0; t--) {
        if (t >= z->length) y[t] = -1;
        else {
            y[t] = (dn_real)tag;
            if (t) tag = from[(size_t)t * k + (size_t)tag];
        }
    }
}
static void crf_viterbi_forward(dn_call *c) {
    size_t k = (size_t)c->x[START].dim->size, steps = (size_t)c->dim->size;
    dn_real *now = dn__scratch(c, k), *next = dn__scratch(c, k), *sums = dn__scratch(c, k);
    int *from = dn__scratch_ints(c, k * steps);
    if (!now || !next || !sums || !from) return;
    for (int i = 0; i < c->dim->batch; i++) {
        chain z = chain_of(c, i);
        best_path(&z, now, next, sums, from, c->y + (size_t)i * steps);
    }
}
static void crf_viterbi_backward(dn_call *c) { (void)c; }
