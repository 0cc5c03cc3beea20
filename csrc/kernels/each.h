/* Elementwise functions of one input: y = f(x) and dx = f(known, dy) + beta dx, by several threads
 * where there are many numbers. */
#pragma once

#include "kernels.h"
#include "parallel.h"

typedef void dn_function(size_t n, const dn_real *x, dn_real *y);
typedef void dn_function_grad(size_t n, const dn_real *known, const dn_real *dy, dn_real beta,
                              dn_real *dx);
void dn__each_shared(dn_function *f, size_t n, const dn_real *x, dn_real *y);
void dn__each_grad_shared(dn_function_grad *f, size_t n, const dn_real *known, const dn_real *dy,
                          dn_real beta, dn_real *dx);

/* What ranges are multiples of, so that vector loops end where they would in the whole; log goes in
 * blocks of as many. */
enum { DN_EACH_UNIT = 1024 };
/* nanoseconds of a number of a cheap one */
static const double DN_WORK_OF_EACH = sizeof(dn_real) == 4 ? 0.3 : 2;
static inline void dn__each(dn_function *f, size_t n, const dn_real *x, dn_real *y) {
    if (dn__shared((double)n * DN_WORK_OF_EACH)) dn__each_shared(f, n, x, y);
    else f(n, x, y);
}
static inline void dn__each_grad(dn_function_grad *f, size_t n, const dn_real *known,
                                 const dn_real *dy, dn_real beta, dn_real *dx) {
    if (dn__shared((double)n * DN_WORK_OF_EACH)) dn__each_grad_shared(f, n, known, dy, beta, dx);
    else f(n, known, dy, beta, dx);
}
/* y = x */
void dn__copy(size_t n, const dn_real *x, dn_real *y);
