/* The LSTM cell after its matrix products: gates, cell and output of a column in one pass, and
 * back. */
#include "kernels.h"
#include "math.h"
#include "parallel.h"

/* A column is worked through in blocks, so that an input that is not there can be read from a short
 * row of zeros and an output that is not wanted can go to scratch: one loop instead of one for each
 * combination. */
enum { BLOCK = 256 };
static const dn_real zeros[BLOCK];

DN_MULTIVERSION DN_NOT_INLINE static void cell(int n, dn_real forget_bias, dn_real *i, dn_real *f,
                                               dn_real *o, dn_real *g, const dn_real *c_prev,
                                               dn_real *c, dn_real *tanh_c, dn_real *h) {
    DN_SIMD for (int j = 0; j < n; j++) {
        dn_real i_ = dn__logistic_of(i[j]), f_ = dn__logistic_of(f[j] + forget_bias);
        dn_real o_ = dn__logistic_of(o[j]), g_ = dn__tanh_of(g[j]);
        dn_real c_ = f_ * c_prev[j] + i_ * g_, t_ = dn__tanh_of(c_);
        i[j] = i_;
        f[j] = f_;
        o[j] = o_;
        g[j] = g_;
        c[j] = c_;
        tanh_c[j] = t_;
        h[j] = o_ * t_;
    }
}

/* Columns of a cell, which several threads may share: a value of a cell costs this many
 * nanoseconds. */
static const double CELL_WORK = sizeof(dn_real) == 4 ? 2 : 40, CELL_GRAD_WORK = 1;
typedef struct cells {
    int h, c_prev_stride;
    dn_real forget_bias, *gates, *c, *new_tanh_c, *h_out, *dc, *dgates, *dc_prev;
    const dn_real *old_gates, *c_prev, *tanh_c, *dh;
} cells;

static void cell_columns(const void *context, size_t from, size_t count) {
    const cells *s = context;
    const int h = s->h;
    for (size_t b = from; b < from + count; b++) {
        dn_real *i = s->gates + (size_t)4 * h * b, *f = i + h, *o = f + h, *g = o + h;
        const dn_real *cp = s->c_prev ? s->c_prev + (size_t)s->c_prev_stride * b : NULL;
        for (int j = 0; j < h; j += BLOCK) {
            int n = h - j < BLOCK ? h - j : BLOCK;
            size_t at = (size_t)h * b + j;
            cell(n, s->forget_bias, i + j, f + j, o + j, g + j, cp ? cp + j : zeros, s->c + at,
                 s->new_tanh_c + at, s->h_out + at);
        }
    }
}

void dn__lstm_cell(int h, int batch, dn_real forget_bias, dn_real *gates, const dn_real *c_prev,
                   int c_prev_stride, dn_real *c, dn_real *tanh_c, dn_real *h_out) {
    const cells s = {.h = h,
                     .c_prev_stride = c_prev_stride,
                     .forget_bias = forget_bias,
                     .gates = gates,
                     .c = c,
                     .new_tanh_c = tanh_c,
                     .h_out = h_out,
                     .c_prev = c_prev};
    dn__parallel_ranges((size_t)batch, CELL_WORK * h, 1, cell_columns, &s);
}

DN_MULTIVERSION DN_NOT_INLINE static void cell_grad(int n, int h, const dn_real *gates,
                                                    const dn_real *c_prev, const dn_real *tanh_c,
                                                    const dn_real *dh, dn_real *dc, dn_real *dgates,
                                                    dn_real *dc_prev) {
    const dn_real *i = gates, *f = i + h, *o = f + h, *g = o + h;
    dn_real *di = dgates, *df = di + h, *d_o = df + h, *dg = d_o + h;
    DN_SIMD for (int j = 0; j < n; j++) {
        dn_real i_ = i[j], f_ = f[j], o_ = o[j], g_ = g[j], t_ = tanh_c[j];
        dn_real dc_ = dc[j] + dh[j] * o_ * (1 - t_ * t_); /* h = o tanh(c) */
        dc[j] = dc_;
        d_o[j] = dh[j] * t_ * (o_ * (1 - o_));
        di[j] = dc_ * g_ * (i_ * (1 - i_)); /* c = f c_prev + i g */
        df[j] = dc_ * c_prev[j] * (f_ * (1 - f_));
        dg[j] = dc_ * i_ * (1 - g_ * g_);
        dc_prev[j] += dc_ * f_;
    }
}

static void cell_grad_columns(const void *context, size_t from, size_t count) {
    const cells *s = context;
    const int h = s->h;
    dn_real scratch[BLOCK] = {0}; /* for a dc_prev that nobody wants */
    for (size_t b = from; b < from + count; b++) {
        const dn_real *cp = s->c_prev ? s->c_prev + (size_t)s->c_prev_stride * b : NULL;
        for (int j = 0; j < h; j += BLOCK) {
            int n = h - j < BLOCK ? h - j : BLOCK;
            size_t gate = (size_t)4 * h * b + j, at = (size_t)h * b + j;
            cell_grad(n, h, s->old_gates + gate, cp ? cp + j : zeros, s->tanh_c + at, s->dh + at,
                      s->dc + at, s->dgates + gate, s->dc_prev ? s->dc_prev + at : scratch);
        }
    }
}

void dn__lstm_cell_grad(int h, int batch, const dn_real *gates, const dn_real *c_prev,
                        int c_prev_stride, const dn_real *tanh_c, const dn_real *dh, dn_real *dc,
                        dn_real *dgates, dn_real *dc_prev) {
    const cells s = {.h = h,
                     .c_prev_stride = c_prev_stride,
                     .old_gates = gates,
                     .c_prev = c_prev,
                     .tanh_c = tanh_c,
                     .dh = dh,
                     .dc = dc,
                     .dgates = dgates,
                     .dc_prev = dc_prev};
    dn__parallel_ranges((size_t)batch, CELL_GRAD_WORK * h, 1, cell_grad_columns, &s);
}

/* ---- the TreeLSTM's cell -------------------------------------------------------------- */

DN_MULTIVERSION DN_NOT_INLINE static void tree_cell(int h, int n, size_t at, const dn_real *b,
                                                    const dn_real *bf, const dn_columns *children,
                                                    dn_real *gates, dn_real *f, dn_real *c,
                                                    dn_real *tanh_c, dn_real *h_out) {
    dn_real *i = gates, *o = i + h, *u = o + h;
    const dn_real *bi = b, *bo = bi + h, *bu = bo + h;
    DN_SIMD for (int j = 0; j < h; j++) {
        i[j] = dn__logistic_of(i[j] + bi[j]);
        o[j] = dn__logistic_of(o[j] + bo[j]);
        u[j] = dn__tanh_of(u[j] + bu[j]);
        c[j] = i[j] * u[j];
    }
    for (int k = 0; k < n; k++) {
        dn_real *f_k = f + (size_t)k * (size_t)h;
        const dn_real *c_k = children[k].x + at * children[k].stride;
        DN_SIMD for (int j = 0; j < h; j++) {
            f_k[j] = dn__logistic_of(f_k[j] + bf[j]);
            c[j] += f_k[j] * c_k[j];
        }
    }
    DN_SIMD for (int j = 0; j < h; j++) {
        tanh_c[j] = dn__tanh_of(c[j]);
        h_out[j] = o[j] * tanh_c[j];
    }
}

void dn__tree_lstm_cell(int h, int n, int batch, const dn_real *b, dn_columns bf,
                        const dn_columns *children, dn_real *gates, dn_real *f, dn_real *c,
                        dn_real *tanh_c, dn_real *h_out) {
    for (size_t e = 0; e < (size_t)batch; e++) {
        const size_t at = e * (size_t)h;
        tree_cell(h, n, e, b, bf.x + e * bf.stride, children, gates + 3 * at, f + at * (size_t)n,
                  c + at, tanh_c + at, h_out + at);
    }
}

DN_MULTIVERSION DN_NOT_INLINE static void
tree_cell_grad(int h, int n, size_t at, const dn_real *gates, const dn_real *f,
               const dn_columns *children, const dn_real *tanh_c, const dn_real *dh,
               const dn_real *dc, dn_real *dgates, dn_real *df,
               const dn_column_grads *dc_children) {
    const dn_real *i = gates, *o = i + h, *u = o + h;
    dn_real *di = dgates, *d_o = di + h, *du = d_o + h;
    for (int k = 0; k < n; k++) {
        const dn_real *f_k = f + (size_t)k * (size_t)h,
                      *c_k = children[k].x + at * children[k].stride;
        const dn_column_grads *to = &dc_children[k];
        dn_real *df_k = df + (size_t)k * (size_t)h,
                *dc_k = to->dx ? to->dx + at * to->stride : NULL;
        DN_SIMD for (int j = 0; j < h; j++) {
            dn_real dc_ = dc[j] + dh[j] * o[j] * (1 - tanh_c[j] * tanh_c[j]); /* h = o tanh(c) */
            /* c = ... + f_k c_k */
            df_k[j] = dc_ * c_k[j] * (f_k[j] * (1 - f_k[j]));
        }
        if (dc_k && to->beta == 0 && (to->stride || !at)) {
            DN_SIMD for (int j = 0; j < h; j++)
                dc_k[j] = (dc[j] + dh[j] * o[j] * (1 - tanh_c[j] * tanh_c[j])) * f_k[j];
        } else if (dc_k) {
            DN_SIMD for (int j = 0; j < h; j++)
                dc_k[j] += (dc[j] + dh[j] * o[j] * (1 - tanh_c[j] * tanh_c[j])) * f_k[j];
        }
    }
    DN_SIMD for (int j = 0; j < h; j++) {
        dn_real dc_ = dc[j] + dh[j] * o[j] * (1 - tanh_c[j] * tanh_c[j]);
        d_o[j] = dh[j] * tanh_c[j] * (o[j] * (1 - o[j]));
        di[j] = dc_ * u[j] * (i[j] * (1 - i[j])); /* c = i u + ... */
        du[j] = dc_ * i[j] * (1 - u[j] * u[j]);
    }
}

void dn__tree_lstm_cell_grad(int h, int n, int batch, const dn_real *gates, const dn_real *f,
                             const dn_columns *children, const dn_real *tanh_c, const dn_real *dh,
                             const dn_real *dc, dn_real *dgates, dn_real *df,
                             const dn_column_grads *dc_children) {
    for (size_t e = 0; e < (size_t)batch; e++) {
        const size_t at = e * (size_t)h, child = at * (size_t)n;
        tree_cell_grad(h, n, e, gates + 3 * at, f + child, children, tanh_c + at, dh + at, dc + at,
                       dgates + 3 * at, df + child, dc_children);
    }
}
