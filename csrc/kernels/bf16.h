/* Products of matrices whose operands are rounded to bfloat16 (round to nearest, ties to even) and
 * whose sums are float. By the processor: AMX, AVX512-BF16, or plain C. One column of a result
 * depends on its own column of x alone, not on how many there are: the same bits in any batch. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../dn_real.h"

#ifndef DN_DOUBLE
typedef uint16_t dn_bf16;

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
