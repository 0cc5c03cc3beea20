/* Products rounded to bfloat16, by several threads: parts of the result that bf16.h says can be
 * computed apart. */
#include "rounded.h"

#ifndef DN_DOUBLE
#include "parallel.h"

/* numbers multiplied in a nanosecond of one core, roughly */
#define PER_NANOSECOND 100.0
enum { UNIT = 4 * DN_BF16_ROWS };

typedef struct rounded_product {
    int m, k, n;
    const dn_bf16 *packed;
    const dn_real *a, *b;
    int lda, ldb, ldc;
    dn_real beta, *c;
} rounded_product;

static void some_rows(const void *context, size_t from, size_t count) {
    const rounded_product *p = context;
    dn__bf16_mm((int)count, p->k, p->n, p->packed + dn__bf16_packed((int)from, p->k), p->b, p->ldb,
                p->beta, p->c + from, p->ldc);
}
static void product_columns(const void *context, size_t from, size_t count) {
    const rounded_product *p = context;
    dn__bf16_mm(p->m, p->k, (int)count, p->packed, p->b + from * (size_t)p->ldb, p->ldb, p->beta,
                p->c + from * (size_t)p->ldc, p->ldc);
}
static void some_columns_of_dw(const void *context, size_t from, size_t count) {
    const rounded_product *p = context;
    dn__bf16_mm_dw(p->m, (int)count, p->n, p->a, p->lda, p->b + from, p->ldb, p->beta,
                   p->c + from * (size_t)p->ldc, p->ldc);
}

void dn__rounded_mm(int m, int k, int n, const dn_bf16 *packed, const dn_real *x, int ldx,
                    dn_real beta, dn_real *y, int ldy) {
    const rounded_product p = {.m = m,
                               .k = k,
                               .n = n,
                               .packed = packed,
                               .b = x,
                               .ldb = ldx,
                               .beta = beta,
                               .c = y,
                               .ldc = ldy};
    const double each = (double)k / PER_NANOSECOND;
    if (m >= n) dn__parallel_ranges((size_t)m, each * n, UNIT, some_rows, &p);
    else dn__parallel_ranges((size_t)n, each * m, UNIT, product_columns, &p);
}

void dn__rounded_dw(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x, int ldx,
                    dn_real beta, dn_real *dw, int lddw) {
    const rounded_product p = {.m = m,
                               .n = n,
                               .a = dy,
                               .lda = lddy,
                               .b = x,
                               .ldb = ldx,
                               .beta = beta,
                               .c = dw,
                               .ldc = lddw};
    const double each = (double)m * n / PER_NANOSECOND;
    dn__parallel_ranges((size_t)k, each, UNIT, some_columns_of_dw, &p);
}
#endif
