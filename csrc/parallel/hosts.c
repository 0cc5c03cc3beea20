/* Gradients on their way between ranks: out of a parameter and into it, summed, packed, merged by
 * rows. */
#include <string.h>

#include "kernels/kernels.h"
#include "params/params.h"

static void take_gradient(const dn_param *p, double factor, int64_t from, int64_t to,
                          dn_real *out) {
    size_t n = (size_t)(to - from);
    if (dn__param_is_empty(p) || factor == 0) dn__fill(n, 0, out);
    else dn__axpy(n, (dn_real)factor, p->store->chunks[p->chunk].grads + p->offset + from, 0, out);
}

void dn_params_take(int n, const dn_span_taken *spans, double factor, dn_real *out) {
    for (int i = 0; i < n; i++)
        take_gradient(spans[i].param, factor, spans[i].from, spans[i].to, out + spans[i].at);
}

void dn_params_put(int n, const dn_span_taken *spans, double factor, const dn_real *in) {
    for (int i = 0; i < n; i++) {
        dn_param *p = spans[i].param;
        DN_HOLD(p->store);
        dn_real beta, *g = dn__param_gradient(p, &beta);
        dn__axpy((size_t)p->row_size, (dn_real)factor, in + spans[i].at, 0, g);
    }
}

void dn_sum_arrays(int count, dn_real *const *x, int64_t n, dn_real *sum) {
    dn__sum_arrays(count, x, (size_t)n, sum);
}
void dn_bf16_encode(int64_t n, const dn_real *x, dn_real *residual, uint16_t *code) {
    dn__bf16_encode((size_t)n, x, residual, code);
}
void dn_bf16_decode(int64_t n, const uint16_t *code, dn_real *x) {
    dn__bf16_decode((size_t)n, code, x);
}

int64_t dn_merge_rows(int64_t width, int64_t n_a, const int *rows_a, const dn_real *a, int64_t n_b,
                      const int *rows_b, const dn_real *b, int *rows_out, dn_real *out) {
    int64_t i = 0, j = 0, n = 0;
    size_t bytes = (size_t)width * sizeof *out;
    for (; i < n_a || j < n_b; n++, out += width) {
        int from_a = i < n_a && (j == n_b || rows_a[i] <= rows_b[j]),
            from_b = j < n_b && (i == n_a || rows_b[j] <= rows_a[i]);
        rows_out[n] = from_a ? rows_a[i] : rows_b[j];
        if (from_a && from_b) dn__add((size_t)width, a + i * width, b + j * width, out);
        else memcpy(out, from_a ? a + i * width : b + j * width, bytes);
        i += from_a;
        j += from_b;
    }
    return n;
}
