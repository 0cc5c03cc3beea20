/* What operations have in common: errors, dims, memory, the table of all of them. */
#include "op.h"

#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/kernels.h"
#include "rng.h"

#define DN_OP_DECLARE(name) extern dn_op dn_op_##name;
#define DN_OP_ITEM DN_OP_DECLARE
#include "op_list.h"
#undef DN_OP_ITEM
#define DN_OP_ADDRESS(name) &dn_op_##name,
const dn_op *const dn_ops[DN_OP_COUNT] = {
#define DN_OP_ITEM DN_OP_ADDRESS
#include "op_list.h"
#undef DN_OP_ITEM
};

const char *dn_op_name(int op) { return op >= 0 && op < DN_OP_COUNT ? dn_ops[op]->name : NULL; }
const char *dn_op_formula(int op) {
    return op >= 0 && op < DN_OP_COUNT ? dn_ops[op]->formula : NULL;
}
int dn_op_flags(int op) { return op >= 0 && op < DN_OP_COUNT ? dn_ops[op]->flags : 0; }
int dn_op_inputs(int op) { return op >= 0 && op < DN_OP_COUNT ? dn_ops[op]->inputs : 0; }

/* ---- dims ----------------------------------------------------------------------------- */

int dn__fail(dn_shape *s, int error, const char *format, ...) {
    int n = snprintf(s->message, DN_MESSAGE, "%s: ", s->op);
    /* numbers as programs write them, also where the locale has a comma in them */
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    locale_t before = plain ? uselocale(plain) : (locale_t)0;
    va_list args;
    va_start(args, format);
    vsnprintf(s->message + n, DN_MESSAGE - (size_t)n, format, args);
    va_end(args);
    if (plain) {
        uselocale(before);
        freelocale(plain);
    }
    return error;
}

int dn__digits_of(double x) {
    enum { FEWEST = 6, MOST = 17 };
    int digits = FEWEST;
    char text[32];
    for (; digits < MOST && x == x; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    return digits;
}

dn_text dn__dims_text(const dn_dim *d) {
    dn_text text;
    int n = snprintf(text.s, sizeof text.s, "(");
    for (int i = 0; i < d->nd; i++)
        n += snprintf(text.s + n, sizeof text.s - (size_t)n, i ? ", %d" : "%d", d->d[i]);
    n += snprintf(text.s + n, sizeof text.s - (size_t)n, d->nd == 1 ? ",)" : ")");
    if (d->batch != 1) snprintf(text.s + n, sizeof text.s - (size_t)n, " x %d", d->batch);
    return text;
}

int dn__set_dims(dn_shape *s, int nd, const int *d, int batch) {
    int64_t size = 1;
    if (nd < 0 || nd > DN_MAX_DIMS)
        return dn__fail(s, DN_ERROR_VALUE, "at most %d dims; got %d.", DN_MAX_DIMS, nd);
    if (batch < 0)
        return dn__fail(s, DN_ERROR_VALUE, "the batch size must not be negative; got %d.", batch);
    s->y.nd = nd;
    s->y.batch = batch;
    for (int i = 0; i < nd; i++) {
        if (d[i] < 0)
            return dn__fail(s, DN_ERROR_VALUE, "dims must not be negative; got %d as dim %d.", d[i],
                            i);
        s->y.d[i] = d[i];
        size *= d[i];
        if (size > INT32_MAX) break;
    }
    if (size > INT32_MAX || size * (batch ? batch : 1) > INT32_MAX)
        return dn__fail(s, DN_ERROR_VALUE, "the result would have more than %d elements.",
                        INT32_MAX);
    s->y.size = (int)size;
    return 0;
}

int dn__common_batch(dn_shape *s) {
    int batch = 1;
    for (int i = 0; i < s->n; i++) {
        if (s->x[i]->batch == 1 || s->x[i]->batch == batch) continue;
        if (batch != 1)
            return dn__fail(s, DN_ERROR_VALUE, "batch sizes must be equal or 1; got %d and %d.",
                            batch, s->x[i]->batch);
        batch = s->x[i]->batch;
    }
    return batch;
}

int dn__same_sizes(const dn_dim *a, const dn_dim *b) {
    int n = a->nd > b->nd ? a->nd : b->nd;
    for (int i = 0; i < n; i++)
        if (dn__size_at(a, i) != dn__size_at(b, i)) return 0;
    return 1;
}

int dn__alike_dims(dn_shape *s) {
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    for (int i = 1; i < s->n; i++)
        if (!dn__same_sizes(s->x[0], s->x[i]))
            return dn__fail(s, DN_ERROR_VALUE,
                            "all inputs must have the same dims; got x_0 = %s, x_%d = %s.",
                            DIMS(s->x[0]), i, DIMS(s->x[i]));
    return dn__set_dims(s, s->x[0]->nd, s->x[0]->d, batch);
}

/* ---- calls ---------------------------------------------------------------------------- */

static void *take_workspace(dn_call *c, dn_arena *arena, size_t bytes) {
    void *p = dn__arena_take(arena, bytes);
    if (!p) c->workspace->out_of_memory = 1;
    return p;
}

void *dn__scratch_of(dn_call *c, size_t n, size_t bytes) {
    return take_workspace(c, &c->workspace->scratch, n * bytes);
}
dn_real *dn__scratch(dn_call *c, size_t n) { return dn__scratch_of(c, n, sizeof(dn_real)); }
double *dn__wide_zeros(dn_call *c, size_t n) {
    double *sum = dn__scratch_of(c, n, sizeof *sum);
    for (size_t i = 0; sum && i < n; i++) sum[i] = 0;
    return sum;
}
dn_real *dn__backward_memory(dn_call *c, size_t n) {
    return take_workspace(c, &c->workspace->grads, n * sizeof(dn_real));
}

dn_real *dn__dx_zeroed(dn_call *c, int k) {
    dn_grad g = dn__dx(c, k);
    if (g.dx && g.beta == 0) dn__fill(dn__elements(c->x[k].dim), 0, g.dx);
    return g.dx;
}

void dn__dx_prepare(dn_call *c, int k, dn_batch_grad *to) {
    if (!c->total) { /* nothing is added */
        if (to->beta == 0) dn__fill(dn__elements(c->x[k].dim), 0, to->dx);
        to->count = 0;
        return;
    }
    to->whole = (dn_grad){to->dx, to->beta};
    to->dx = dn__scratch(c, to->n);
    to->sum = dn__wide_zeros(c, to->n);
    if (!to->dx || !to->sum) *to = (dn_batch_grad){.b = to->b};
}
static void add_part(dn_batch_grad *to) {
    if (to->in_part) dn__wide_add(to->n, 1, to->dx, to->sum);
    to->in_part = 0;
}
void dn__dx_next_part(dn_batch_grad *to) {
    if (to->in_part == DN_MANY) add_part(to);
    to->beta = to->in_part++ ? 1 : 0;
}
int dn__next_zeroed(dn_batch_grad *to) {
    const int goes_on = dn__next_element(to);
    if (goes_on && to->beta == 0) dn__fill(to->n, 0, to->dx);
    return goes_on;
}
void dn__dx_add_parts(dn_batch_grad *to) {
    add_part(to);
    dn__wide_sum(to->n, to->sum, to->whole.beta, to->whole.dx);
}

void dn__draw_key(const dn_call *c, struct dn_rng_key *out) {
    *out = (struct dn_rng_key){.seed = c->workspace->rng.seed,
                               .stream = c->workspace->rng.stream,
                               .counter = c->workspace->rng.counter,
                               .node = c->routes->ordinal(c, 0)};
}
