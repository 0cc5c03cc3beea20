/* Products of matrices whose operands are rounded to bfloat16 (to nearest, ties to even) and whose
 * sums are float. By the processor: AMX, AVX512-BF16, or plain C. Matrices, ld* and beta as in
 * kernels.h. A nan stays a nan, infinities stay, denormals count as zero and none are made. Each
 * number of a result is within (terms + 1) 2^-24 sum |a b| of the exact one, of rounded a and b.
 *
 * One column of y depends on its own column of x alone, not on how many there are: the same bits in
 * any batch. One number of dW depends on its row of dy and its row of x alone. So parts can be
 * computed apart from one another: any columns of y, any rows and columns of dW, and rows of y from
 * a multiple of DN_BF16_ROWS on, whose W begins at packed + dn__bf16_packed(row, k).
 *
 * What is packed is the same for all ways, and best read from a multiple of 64 bytes on. There is
 * nothing that can fail: without working memory blocks are smaller, and the bits the same. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../dn_real.h"

#ifndef DN_DOUBLE
typedef uint16_t dn_bf16;

enum { DN_BF16_ROWS = 16 };

/* How many dn_bf16 a packed m x k matrix takes. */
size_t dn__bf16_packed(int m, int k);
/* W, m x k, column-major: for y = W x; and W', k x m, of the same W: for dx = W' dy, which is
 * dn__bf16_mm(k, m, n, ...) */
void dn__bf16_pack(int m, int k, const dn_real *w, int ldw, dn_bf16 *packed);
void dn__bf16_pack_transposed(int m, int k, const dn_real *w, int ldw, dn_bf16 *packed);
/* y = W x + beta y; W packed, m x k. x is rounded on the way. */
void dn__bf16_mm(int m, int k, int n, const dn_bf16 *packed, const dn_real *x, int ldx,
                 dn_real beta, dn_real *y, int ldy);
/* dW = dy x' + beta dW; dy and x are rounded on the way */
void dn__bf16_mm_dw(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x, int ldx,
                    dn_real beta, dn_real *dw, int lddw);
/* "amx", "avx512" or "plain": which of them computes; and a choice for tests, 0: this processor
 * does not have it */
const char *dn__bf16_isa(void);
int dn__bf16_choose(const char *isa);
#endif
