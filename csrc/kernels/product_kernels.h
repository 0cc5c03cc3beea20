/* What computes matrix products, for matrix.c: the fastest kernel for each shape. Each element is
 * the same bits wherever a product is cut, but for BLAS's. */
#pragma once
#include "kernels.h"

/* y = W x + beta y, dx = W' dy + beta dx, or dW = dy x' + beta dW; beta is 0 or 1. */
typedef void product_fn(int m, int k, int n, const dn_real *a, int lda, const dn_real *b, int ldb,
                        dn_real beta, dn_real *c, int ldc);

product_fn *dn__mm_kernel(int m, int k, int n);
product_fn *dn__dx_kernel(int m, int k, int n);
product_fn *dn__dw_kernel(int m, int k, int n, int lddw);

int dn__has_blas(void);
product_fn dn__blas_mm, dn__blas_dx, dn__blas_dw;
product_fn dn__transposed_dx; /* by outer products: its tiles have other sizes */
