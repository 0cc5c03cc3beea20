/* Products with a matrix that may be rounded to bfloat16: here alone the two kinds part. */
#pragma once

#include "bf16.h"
#include "kernels.h"

#ifndef DN_DOUBLE
/* As dn__bf16_mm and dn__bf16_mm_dw, by as many threads as there may be (parallel.h). */
void dn__rounded_mm(int m, int k, int n, const dn_bf16 *packed, const dn_real *x, int ldx,
                    dn_real beta, dn_real *y, int ldy);
void dn__rounded_dw(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x, int ldx,
                    dn_real beta, dn_real *dw, int lddw);
#endif

/* y = W x + beta y */
static inline void dn__product(int m, int k, int n, dn_matrix w, const dn_real *x, int ldx,
                               dn_real beta, dn_real *y, int ldy) {
#ifndef DN_DOUBLE
    if (w.bf16) {
        if (n) dn__rounded_mm(m, k, n, w.bf16, x, ldx, beta, y, ldy);
        return;
    }
#endif
    dn__mm(m, k, n, w.v, m, x, ldx, beta, y, ldy);
}

/* dx = W' dy + beta dx */
static inline void dn__product_dx(int m, int k, int n, dn_matrix w, const dn_real *dy, int lddy,
                                  dn_real beta, dn_real *dx, int lddx) {
#ifndef DN_DOUBLE
    if (w.bf16) {
        if (n) dn__rounded_mm(k, m, n, w.bf16, dy, lddy, beta, dx, lddx);
        return;
    }
#endif
    dn__mm_dx(m, k, n, w.v, m, dy, lddy, beta, dx, lddx);
}

/* `part` columns of dW = dy x' + beta dW, as dn__mm_dw_part; `rounds`: dy and x are rounded */
static inline void dn__product_dw_part(int m, int k, int part, int n, int rounds, const dn_real *dy,
                                       int lddy, const dn_real *x, int ldx, dn_real beta,
                                       dn_real *dw, int lddw) {
#ifndef DN_DOUBLE
    if (rounds && n) {
        dn__rounded_dw(m, part, n, dy, lddy, x, ldx, beta, dw, lddw);
        return;
    }
#else
    (void)rounds;
#endif
    dn__mm_dw_part(m, k, part, n, dy, lddy, x, ldx, beta, dw, lddw);
}
/* dW = dy x' + beta dW */
static inline void dn__product_dw(int m, int k, int n, int rounds, const dn_real *dy, int lddy,
                                  const dn_real *x, int ldx, dn_real beta, dn_real *dw, int lddw) {
    dn__product_dw_part(m, k, k, n, rounds, dy, lddy, x, ldx, beta, dw, lddw);
}
