/* A rule applied to what has a gradient: ranges of chunks, and rows of tables. Neighbouring
 * parameters are one range (the padding between them is zero in every array and stays zero), so in
 * the plain case a chunk is one kernel call. */
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "params/rules.h"

/* of an update, in nanoseconds; what ranges are multiples of, for the sake of vector loops */
static const double WORK_PER_NUMBER = 0.5;
enum { RANGE_UNIT = 64 };
/* so many rows of a table before they are updated they are fetched, of each its first numbers */
enum { AHEAD = 3, FETCHED = 256 };
/* numbers of a table that are updated at once, where all its rows are: no more than a few pages */
enum { GATHERED = 2048 };
/* of a table's decay, before it is multiplied into the rows: keeps all digits */
static const double SMALLEST_FACTOR = 0.25;

/* What AdamW multiplies the values of a parameter by. */
dn_real dn__keep_of(const dn_trainer *t, const dn_param *p) {
    int shrinks = t->c[3] != 0 && !(p->id < t->n_excluded && t->excluded[p->id]);
    return (dn_real)(shrinks ? 1 - t->set.rate * t->c[3] : 1);
}

static void at(dn_real *const *moments, int n, int64_t offset, dn_real **out) {
    for (int k = 0; k < n; k++) out[k] = moments[k] + offset;
}

/* A rule over numbers or rows that several threads may share. */
typedef struct application {
    const dn_trainer *t;
    const dn_step *s;
    dn_real *values;
    const dn_real *source; /* where the values are now, to be copied; NULL: there */
    const dn_real *gradient;
    dn_real *const *moments;
    const int *rows;      /* of a table: those with a gradient, */
    const int *slot;      /* where in the gradient each row is, or negative, */
    const dn_real *zeros; /* and what stands for that of the others, one by one */
    int has_owners;
    size_t row_size;
} application;

static void apply_to_numbers(const void *context, size_t from, size_t n) {
    const application *a = context;
    dn_real *moments[DN_MOST_MOMENTS];
    at(a->moments, a->t->rule.moments, (int64_t)from, moments);
    if (a->source) memcpy(a->values + from, a->source + from, n * sizeof *a->values);
    a->t->rule.apply(a->t, a->s, n, a->values + from, a->gradient + from, moments);
}

/* Asks for numbers that will be written: asked for to be read, those that another rank's core has
 * read, too, would be waited for a second time. GCC asks for reading where it is not told that the
 * processor knows better; all of 64 bits do. */
static void fetch(const dn_real *x, size_t n) {
    for (size_t i = 0; i < n; i += DN_ARENA_ALIGN / sizeof *x)
#ifdef __x86_64__
        __asm__ volatile("prefetchw %0" : : "m"(x[i]));
#else
        __builtin_prefetch(x + i, 1, 3);
#endif
}

/* Rows lie anywhere, so that the processor does not foresee them. */
static void fetch_row(const application *a, size_t i) {
    if (a->has_owners && !dn__is_own_row(a->t->store, a->rows[i])) return;
    const int64_t offset = a->rows[i] * (int64_t)a->row_size;
    const size_t n = a->row_size < FETCHED ? a->row_size : FETCHED;
    fetch(a->values + offset, n);
    for (int k = 0; k < a->t->rule.moments; k++) fetch(a->moments[k] + offset, n);
}

/* n rows of a table, which follow one another as their gradients do */
static void apply_from_row(const application *a, int64_t row, size_t n, const dn_real *gradient) {
    const int64_t offset = row * (int64_t)a->row_size;
    dn_real *moments[DN_MOST_MOMENTS];
    at(a->moments, a->t->rule.moments, offset, moments);
    if (a->source)
        memcpy(a->values + offset, a->source + offset, n * a->row_size * sizeof *a->values);
    a->t->rule.apply(a->t, a->s, n * a->row_size, a->values + offset, gradient, moments);
}

static void apply_to_rows(const void *context, size_t from, size_t n) {
    const application *a = context;
    for (size_t i = from; i < from + n; i++) {
        if (i + AHEAD < from + n) fetch_row(a, i + AHEAD);
        if (a->has_owners && !dn__is_own_row(a->t->store, a->rows[i])) continue;
        apply_from_row(a, a->rows[i], 1, a->gradient + i * a->row_size);
    }
}

/* All rows, those without a gradient with zero. */
static void apply_to_each_row(const void *context, size_t from, size_t n) {
    const application *a = context;
    for (size_t i = from; i < from + n; i++) {
        if (a->has_owners && !dn__is_own_row(a->t->store, (int64_t)i)) continue;
        const int slot = a->slot[i];
        apply_from_row(a, (int64_t)i, 1,
                       slot < 0 ? a->zeros : a->gradient + (size_t)slot * a->row_size);
    }
}

/* The same several rows at a time, as short ones are not worth a call each. */
static void apply_to_gathered_rows(const void *context, size_t from, size_t n) {
    const application *a = context;
    const size_t size = a->row_size, most = GATHERED / size;
    dn_real gathered[GATHERED] = {0};
    for (size_t end = from + n; from < end; from += n) {
        int filled = 0;
        n = end - from < most ? end - from : most;
        for (size_t i = 0; i < n; i++) {
            const int slot = a->slot[from + i];
            if (slot < 0) continue;
            memcpy(gathered + i * size, a->gradient + (size_t)slot * size, size * sizeof *gathered);
            filled = 1;
        }
        apply_from_row(a, (int64_t)from, n, gathered);
        if (filled) memset(gathered, 0, n * size * sizeof *gathered);
    }
}

void dn__apply_to_range(dn_trainer *t, const dn_step *s, const dn_range *r) {
    if (r->chunk < 0) return;
    const dn_chunk *c = &t->store->chunks[r->chunk];
    const dn_moments *of = &t->chunk_moments[r->chunk];
    const int owned = t->store->owned;
    dn_real *moments[DN_MOST_MOMENTS];
    dn_step step = *s;
    step.keep = r->keep;
    at(of->at, t->rule.moments, r->from, moments);
    const size_t n = (size_t)(r->to - r->from);
    const application a = {.t = t,
                           .s = &step,
                           .values = (owned ? of->updated : c->values) + r->from,
                           .source = owned ? c->values + r->from : NULL,
                           .gradient = c->grads + r->from,
                           .moments = moments};
    if (!t->rule.whole && dn__shared((double)n * WORK_PER_NUMBER))
        dn__parallel_ranges(n, WORK_PER_NUMBER, RANGE_UNIT, apply_to_numbers, &a);
    else apply_to_numbers(&a, 0, n);
}

/* A table's values are factor * storage, so that decay is one number: storage moves by the step
 * divided by the factor. */
void dn__apply_to_table(dn_trainer *t, const dn_step *s, dn_param *p) {
    dn_moments *of = &t->table_moments[p->id];
    const int owned = t->store->owned;
    dn_step in_storage = {.rate = s->rate,
                          .scale = s->scale,
                          .push = (dn_real)(1 / p->factor),
                          .keep = dn__keep_of(t, p),
                          .decay = 1};
    application a = {.t = t,
                     .s = &in_storage,
                     .values = owned ? of->updated : p->table,
                     .source = owned ? p->table : NULL,
                     .gradient = p->block,
                     .moments = of->at,
                     .rows = p->touched,
                     .slot = p->slot,
                     .has_owners = owned,
                     .row_size = (size_t)p->row_size};
    const double work = WORK_PER_NUMBER * (double)p->row_size;
    of->all_rows = !t->set.sparse && !(t->rule.skips_zeros && t->rule.skips_zeros(t, &in_storage));
    if (!of->all_rows) dn__parallel_ranges((size_t)p->n_touched, work, 1, apply_to_rows, &a);
    else if (a.has_owners || t->rule.whole || !p->row_size || 2 * p->row_size > GATHERED) {
        if (p->n_touched < p->rows) a.zeros = dn__lookup_spare_row(p);
        dn__parallel_ranges((size_t)p->rows, work, 1, apply_to_each_row, &a);
    } else dn__parallel_ranges((size_t)p->rows, work, 1, apply_to_gathered_rows, &a);
}

void dn__decay_table(const dn_trainer *t, dn_param *p) {
    p->factor *= t->set.decay;
    if (p->factor < SMALLEST_FACTOR) dn__param_materialise(p);
}

/* DyNet's decay, which spares nothing. */
void dn__decay_frozen(const dn_trainer *t, dn_param *p) {
    if (p->rows) {
        dn__decay_table(t, p);
        return;
    }
    dn_real *values = t->store->chunks[p->chunk].values + p->offset;
    dn__affine((size_t)p->row_size, (dn_real)t->set.decay, 0, values, values);
}
