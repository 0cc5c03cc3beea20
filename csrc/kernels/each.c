/* Elementwise functions by several threads. */
#include "each.h"

#include <string.h>

typedef struct each {
    dn_function *f;
    dn_function_grad *grad;
    const dn_real *x, *dy;
    dn_real beta, *to;
} each;
static void each_of(const void *context, size_t from, size_t n) {
    const each *e = context;
    if (e->f) e->f(n, e->x + from, e->to + from);
    else e->grad(n, e->x + from, e->dy + from, e->beta, e->to + from);
}
void dn__each_shared(dn_function *f, size_t n, const dn_real *x, dn_real *y) {
    const each e = {.f = f, .x = x, .to = y};
    dn__shared_ranges(n, DN_WORK_OF_EACH, DN_EACH_UNIT, each_of, &e);
}
void dn__each_grad_shared(dn_function_grad *f, size_t n, const dn_real *known, const dn_real *dy,
                          dn_real beta, dn_real *dx) {
    const each e = {.grad = f, .x = known, .dy = dy, .beta = beta, .to = dx};
    dn__shared_ranges(n, DN_WORK_OF_EACH, DN_EACH_UNIT, each_of, &e);
}

static void copy_range(size_t n, const dn_real *x, dn_real *y) { memcpy(y, x, n * sizeof *y); }
void dn__copy(size_t n, const dn_real *x, dn_real *y) { dn__each(copy_range, n, x, y); }
