/* Windows that move over an image (height, width, channels) or over the columns of a matrix:
 * convolution, pooling, sums of neighbours. */
#include <string.h>

#include "kernels/kernels.h"
#include "op.h"

/* ---- windows over a plane ------------------------------------------------------------- */

/* In each of two dims: output o sees the inputs o stride - before ... o stride - before + window -
 * 1; what lies outside of the plane does not count. */
typedef struct windows { int in[2], out[2], window[2], stride[2], before[2]; } windows;

/* VALID: only whole windows. SAME: ceil(in / stride) outputs, with as much padding on both sides as
 * they need, the odd one behind. */
static void place_windows(windows *w, int is_valid) {
    for (int i = 0; i < 2; i++) {
        int n = is_valid ? w->in[i] - w->window[i] + 1 : w->in[i];
        /* one output, and no overflow */
        if (w->stride[i] > w->in[i]) w->stride[i] = w->in[i] ? w->in[i] : 1;
        w->out[i] = n / w->stride[i] + (n % w->stride[i] > 0);
        int64_t padding = ((int64_t)w->out[i] - 1) * w->stride[i] + w->window[i] - w->in[i];
        w->before[i] = is_valid || padding < 0 ? 0 : (int)(padding / 2);
    }
}
static int check_windows(dn_shape *s, const windows *w, int is_valid, const char *what) {
    for (int i = 0; i < 2; i++) {
        if (w->stride[i] < 1)
            return dn__fail(s, DN_ERROR_VALUE, "strides must be 1 or more; got stride = [%d, %d].",
                            w->stride[0], w->stride[1]);
        if (w->window[i] < 1)
            return dn__fail(s, DN_ERROR_VALUE, "the %s must be 1 or more in each dim; got %d x %d.",
                            what, w->window[0], w->window[1]);
        if (is_valid && w->window[i] > w->in[i])
            return dn__fail(s, DN_ERROR_VALUE,
                            "the %s must not be larger than x; got %d x %d for x = %s. Use "
                            "is_valid=False to pad x.",
                            what, w->window[0], w->window[1], DIMS(s->x[0]));
    }
    return 0;
}
static int check_image(dn_shape *s) {
    if (s->x[0]->nd == 2 || s->x[0]->nd == 3) return 0;
    return dn__fail(s, DN_ERROR_VALUE,
                    "x must have dims (height, width) or (height, width, channels); got x = %s.",
                    DIMS(s->x[0]));
}

/* ---- conv2d: ints = stride in height and width, is_valid ------------------------------ */

/* A matrix product: y (positions x Co) = columns (positions x K) f (K x Co), K = Hf Wf Ci. Column k
 * of `columns` is the plane of one channel, shifted: long runs of memory. Positions are worked off
 * in tiles whose columns fit into the cache. */
typedef struct conv {
    windows w;
    /* as_is: x itself is the columns */
    int in_size, positions, channels, k, out_channels, tile, as_is;
} conv;
enum { TILE_NUMBERS = 1 << 18, LEAST_TILE = 256 }; /* half and double of it are slower */

static conv conv_of(const dn_dim *x, const dn_dim *f, const int *ints) {
    conv v;
    for (int i = 0; i < 2; i++) {
        v.w.in[i] = x->d[i];
        v.w.window[i] = dn__size_at(f, i);
        v.w.stride[i] = ints[i];
    }
    place_windows(&v.w, ints[2]);
    v.in_size = v.w.in[0] * v.w.in[1];
    v.positions = v.w.out[0] * v.w.out[1];
    v.channels = dn__size_at(x, 2);
    v.k = v.w.window[0] * v.w.window[1] * v.channels;
    v.out_channels = dn__size_at(f, 3);
    v.tile = v.k ? TILE_NUMBERS / v.k : TILE_NUMBERS;
    if (v.tile < LEAST_TILE) v.tile = LEAST_TILE;
    if (v.tile > v.positions) v.tile = v.positions;
    v.as_is = v.w.window[0] == 1 && v.w.window[1] == 1 && v.w.stride[0] == 1 && v.w.stride[1] == 1;
    return v;
}
static int conv_dims(dn_shape *s) {
    const dn_dim *x = s->x[0], *f = s->x[1];
    int error = check_image(s);
    if (error) return error;
    if (f->nd > 4 || dn__size_at(f, 2) != dn__size_at(x, 2))
        return dn__fail(
            s, DN_ERROR_VALUE,
            "f must have dims (height, width, channels of x, output channels); got x = %s, f = %s.",
            DIMS(x), DIMS(f));
    windows w = {{x->d[0], x->d[1]},
                 {0},
                 {dn__size_at(f, 0), dn__size_at(f, 1)},
                 {s->ints[0], s->ints[1]},
                 {0}};
    if ((error = check_windows(s, &w, s->ints[2], "filter"))) return error;
    place_windows(&w, s->ints[2]);
    if (s->n == 3 &&
        (s->x[2]->size != dn__size_at(f, 3) || dn__size_at(s->x[2], 0) != s->x[2]->size))
        return dn__fail(s, DN_ERROR_VALUE,
                        "the bias must have one number per output channel; got f = %s, b = %s.",
                        DIMS(f), DIMS(s->x[2]));
    int batch = dn__common_batch(s);
    return batch < 0 ? batch
                     : dn__set_dims(s, 3, (int[]){w.out[0], w.out[1], dn__size_at(f, 3)}, batch);
}

/* A tile: heights h ... h + rows - 1 of widths w ... w + cols - 1, positions that follow one
 * another; either all heights, or one width. */
typedef struct tile { int h, w, rows, cols; } tile;
static tile tile_at(const conv *v, int p) {
    int height = v->w.out[0], width = v->w.out[1];
    tile t = {p % height, p / height, height, 1};
    if (v->tile < height) t.rows = v->tile < height - t.h ? v->tile : height - t.h;
    else t.cols = v->tile / height < width - t.w ? v->tile / height : width - t.w;
    return t;
}
/* The outputs of a tile in one dim, from ... from + n - 1, that see an input inside of the plane,
 * `shift` behind their stride: first ... last - 1, counted from `from`. */
static void inside(int in, int stride, int shift, int from, int n, int *first, int *last) {
    int64_t low = (shift >= 0 ? 0 : ((int64_t)stride - shift - 1) / stride) - from;
    int64_t high = (shift >= in ? 0 : ((int64_t)in - shift + stride - 1) / stride) - from;
    *first = low < 0 ? 0 : low > n ? n : (int)low;
    *last = high > n ? n : high < *first ? *first : (int)high;
}
/* One column of a tile: the part inside of the plane, h0 ... h1 - 1 of w0 ... w1 - 1, begins at
 * `at` in the plane. */
typedef struct shifted {
    int h0, h1, w0, w1;
    size_t at;
} shifted;
static shifted shifted_by(const conv *v, const tile *t, int kh, int kw) {
    const windows *w = &v->w;
    shifted s;
    inside(w->in[0], w->stride[0], kh - w->before[0], t->h, t->rows, &s.h0, &s.h1);
    inside(w->in[1], w->stride[1], kw - w->before[1], t->w, t->cols, &s.w0, &s.w1);
    s.at = 0;
    if (s.h1 > s.h0 && s.w1 > s.w0)
        s.at = (size_t)((t->w + s.w0) * w->stride[1] + kw - w->before[1]) * (size_t)w->in[0] +
               (size_t)((t->h + s.h0) * w->stride[0] + kh - w->before[0]);
    else s.h1 = s.h0, s.w1 = s.w0;
    return s;
}
static void make_columns(const conv *v, const tile *t, const dn_real *x, dn_real *columns) {
    size_t rows = (size_t)t->rows, step = (size_t)v->w.in[0] * (size_t)v->w.stride[1],
           stride = (size_t)v->w.stride[0];
    for (int ci = 0; ci < v->channels; ci++, x += v->in_size)
        for (int kw = 0; kw < v->w.window[1]; kw++)
            for (int kh = 0; kh < v->w.window[0]; kh++, columns += rows * (size_t)t->cols) {
                shifted s = shifted_by(v, t, kh, kw);
                size_t h0 = (size_t)s.h0, h1 = (size_t)s.h1, w0 = (size_t)s.w0, w1 = (size_t)s.w1;
                memset(columns, 0, w0 * rows * sizeof *columns);
                memset(columns + w1 * rows, 0, ((size_t)t->cols - w1) * rows * sizeof *columns);
                for (size_t w = w0; w < w1 && h1 - h0 < rows; w++) {
                    for (size_t h = 0; h < h0; h++) columns[w * rows + h] = 0;
                    for (size_t h = h1; h < rows; h++) columns[w * rows + h] = 0;
                }
                if (stride == 1)
                    dn__copy_blocks(h1 - h0, w1 - w0, x + s.at, step, columns + w0 * rows + h0,
                                    rows);
                else
                    for (size_t w = w0; w < w1; w++)
                        dn__copy_blocks(1, h1 - h0, x + s.at + (w - w0) * step, stride,
                                        columns + w * rows + h0, 1);
            }
}
/* the reverse: dx += dcolumns */
static void add_columns(const conv *v, const tile *t, const dn_real *dcolumns, dn_real *dx) {
    size_t rows = (size_t)t->rows, step = (size_t)v->w.in[0] * (size_t)v->w.stride[1],
           stride = (size_t)v->w.stride[0];
    for (int ci = 0; ci < v->channels; ci++, dx += v->in_size)
        for (int kw = 0; kw < v->w.window[1]; kw++)
            for (int kh = 0; kh < v->w.window[0]; kh++, dcolumns += rows * (size_t)t->cols) {
                shifted s = shifted_by(v, t, kh, kw);
                size_t h0 = (size_t)s.h0, h1 = (size_t)s.h1, w0 = (size_t)s.w0, w1 = (size_t)s.w1;
                if (stride == 1)
                    dn__add_blocks(h1 - h0, w1 - w0, dcolumns + w0 * rows + h0, rows, 1, dx + s.at,
                                   step);
                else
                    for (size_t w = w0; w < w1; w++)
                        dn__add_blocks(1, h1 - h0, dcolumns + w * rows + h0, 1, 1,
                                       dx + s.at + (w - w0) * step, stride);
            }
}

/* y = columns f + beta y */
static void conv_forward(dn_call *c, dn_real beta) {
    conv v = conv_of(c->x[0].dim, c->x[1].dim, c->ints);
    dn_real *columns = v.as_is ? NULL : dn__scratch(c, (size_t)v.tile * (size_t)v.k);
    if (!v.as_is && !columns) return;
    for (size_t b = 0; b < (size_t)c->dim->batch; b++) {
        const dn_real *x = c->x[0].v + b * c->x[0].stride, *f = c->x[1].v + b * c->x[1].stride;
        dn_real *y = c->y + b * (size_t)c->dim->size;
        for (int p = 0, n; p < v.positions; p += n) {
            tile t = tile_at(&v, p);
            n = t.rows * t.cols;
            if (!v.as_is) make_columns(&v, &t, x, columns);
            dn__mm(n, v.k, v.out_channels, v.as_is ? x + p : columns, v.as_is ? v.in_size : n, f,
                   v.k, beta, y + p, v.positions);
        }
    }
}
/* df = columns' dy;  dcolumns = dy f' */
static void conv_filter_grad(dn_call *c, const conv *v, dn_real *columns) {
    dn_batch_grad to = dn__dx_by_element(c, 1, c->dim->batch);
    while (dn__next_element(&to)) {
        const dn_real *x = c->x[0].v + to.b * c->x[0].stride,
                      *dy = c->dy + to.b * (size_t)c->dim->size;
        for (int p = 0, n; p < v->positions; p += n) {
            tile t = tile_at(v, p);
            n = t.rows * t.cols;
            if (!v->as_is) make_columns(v, &t, x, columns);
            dn__mm_dx(n, v->k, v->out_channels, v->as_is ? x + p : columns,
                      v->as_is ? v->in_size : n, dy + p, v->positions, p ? 1 : to.beta, to.dx,
                      v->k);
        }
    }
}
static void conv_input_grad(dn_call *c, const conv *v, dn_real *columns) {
    dn_batch_grad to = dn__dx_by_element(c, 0, c->dim->batch);
    while (dn__next_zeroed(&to)) {
        const dn_real *f = c->x[1].v + to.b * c->x[1].stride,
                      *dy = c->dy + to.b * (size_t)c->dim->size;
        for (int p = 0, n; p < v->positions; p += n) {
            tile t = tile_at(v, p);
            n = t.rows * t.cols;
            if (v->as_is) {
                dn__mm_dw(n, v->k, v->out_channels, dy + p, v->positions, f, v->k, 1, to.dx + p,
                          v->in_size);
            } else {
                dn__mm_dw(n, v->k, v->out_channels, dy + p, v->positions, f, v->k, 0, columns, n);
                add_columns(v, &t, columns, to.dx);
            }
        }
    }
}
static void conv_backward(dn_call *c) {
    const conv v = conv_of(c->x[0].dim, c->x[1].dim, c->ints);
    dn_real *columns = v.as_is ? NULL : dn__scratch(c, (size_t)v.tile * (size_t)v.k);
    if (!v.as_is && !columns) return;
    conv_filter_grad(c, &v, columns);
    conv_input_grad(c, &v, columns);
}

DN_OP(conv2d, 2, DN_BATCHES | DN_BROADCAST(1 << 1),
      "y[h, w, o] = sum over i, j, c of x[h s + i, w s + j, c] f[i, j, c, o]")
static int conv2d_dims(dn_shape *s) { return conv_dims(s); }
static void conv2d_forward(dn_call *c) { conv_forward(c, 0); }
static void conv2d_backward(dn_call *c) { conv_backward(c); }

DN_OP(conv2d_bias, 3, DN_BATCHES | DN_BROADCAST(1 << 1 | 1 << 2),
      "y[h, w, o] = b[o] + sum over i, j, c of x[h s + i, w s + j, c] f[i, j, c, o]")
static int conv2d_bias_dims(dn_shape *s) { return conv_dims(s); }
static void conv2d_bias_forward(dn_call *c) {
    size_t channels = (size_t)c->x[2].dim->size,
           positions = (size_t)c->dim->d[0] * (size_t)c->dim->d[1];
    for (size_t b = 0; b < (size_t)c->dim->batch; b++)
        for (size_t o = 0; o < channels; o++)
            dn__fill(positions, c->x[2].v[b * c->x[2].stride + o],
                     c->y + (b * channels + o) * positions);
    conv_forward(c, 1);
}
/* db[o] = sum over the positions of dy */
static void conv2d_bias_backward(dn_call *c) {
    size_t channels = (size_t)c->x[2].dim->size,
           positions = (size_t)c->dim->d[0] * (size_t)c->dim->d[1];
    dn_batch_grad to = dn__dx_by_element(c, 2, c->dim->batch);
    while (dn__next_zeroed(&to))
        for (size_t o = 0; o < channels; o++)
            to.dx[o] += dn__sum(positions, c->dy + (to.b * channels + o) * positions);
    conv_backward(c);
}

/* ---- maxpooling2d: ints = window and stride in height and width, is_valid. saved: the place of
 * each maximum in its plane, as int32_t */

DN_OP(maxpooling2d, 1, DN_BATCHES,
      "y[h, w, c] = max over i, j of x[h s + i, w s + j, c]; of equal ones the first")
static windows pool_windows(const dn_dim *x, const int *ints) {
    windows w = {{x->d[0], x->d[1]}, {0}, {ints[0], ints[1]}, {ints[2], ints[3]}, {0}};
    return w;
}
static int maxpooling2d_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int error = check_image(s);
    if (error) return error;
    windows w = pool_windows(x, s->ints);
    if ((error = check_windows(s, &w, s->ints[4], "window"))) return error;
    place_windows(&w, s->ints[4]);
    error = dn__set_dims(s, x->nd, (int[]){w.out[0], w.out[1], dn__size_at(x, 2)}, x->batch);
    s->saved = dn__elements(&s->y);
    return error;
}
/* the inputs [from, to) that output o sees */
static void clip_window(const windows *w, int dim, int o, int *from, int *to) {
    int start = o * w->stride[dim] - w->before[dim];
    *to = w->window[dim] < w->in[dim] - start ? start + w->window[dim] : w->in[dim];
    *from = start < 0 ? 0 : start;
}
/* How many outputs from this row on see whole windows, or one, which is cut. */
static int rows_at_once(const windows *w, int row) {
    const int start = row * w->stride[0] - w->before[0], room = w->in[0] - w->window[0] - start;
    if (start < 0 || room < 0) return 1;
    return room / w->stride[0] + 1 < w->out[0] - row ? room / w->stride[0] + 1 : w->out[0] - row;
}
static void maxpooling2d_forward(dn_call *c) {
    windows w = pool_windows(c->x[0].dim, c->ints);
    place_windows(&w, c->ints[4]);
    size_t in_size = (size_t)w.in[0] * (size_t)w.in[1],
           planes = (size_t)dn__size_at(c->dim, 2) * (size_t)c->dim->batch;
    int32_t *from = (int32_t *)c->saved; /* dn_real has at least as many bytes */
    dn_real *y = c->y;
    for (size_t plane = 0; plane < planes; plane++) {
        const dn_real *x = c->x[0].v + plane * in_size;
        for (int column = 0; column < w.out[1]; column++) {
            int w0, w1, h0, h1;
            clip_window(&w, 1, column, &w0, &w1);
            for (int row = 0, n; row < w.out[0]; row += n, y += n, from += n) {
                n = rows_at_once(&w, row);
                clip_window(&w, 0, row, &h0, &h1);
                const int at = w0 * w.in[0] + h0;
                dn__max_of_windows((size_t)n, (size_t)w.stride[0], h1 - h0, w1 - w0,
                                   (size_t)w.in[0], x + at, at, y, from);
            }
        }
    }
}
static void maxpooling2d_backward(dn_call *c) {
    size_t in_size = (size_t)c->x[0].dim->d[0] * (size_t)c->x[0].dim->d[1],
           out_size = (size_t)c->dim->d[0] * (size_t)c->dim->d[1];
    const int32_t *from = (const int32_t *)c->saved;
    dn_real *dx = dn__dx_zeroed(c, 0);
    for (size_t i = 0; dx && i < c->total; i++)
        dx[i / out_size * in_size + (size_t)from[i]] += c->dy[i];
}

/* ---- windows over the columns of a matrix --------------------------------------------- */

/* x is r x n, f is r x width (x filters): y[k, j] = <f_k, columns j ... j + width - 1 of x>, as
 * `width` products of matrices */
DN_OP(filter1d_narrow, 2, DN_BATCHES | DN_BROADCAST(1 << 1),
      "y[k, j] = sum over i, l of x[i, j + l] f[i, l, k]")
static int filter1d_narrow_dims(dn_shape *s) {
    const dn_dim *x = s->x[0], *f = s->x[1];
    if (x->nd != 2 || f->nd < 2 || f->nd > 3 || f->d[0] != x->d[0])
        return dn__fail(s, DN_ERROR_VALUE,
                        "takes x = (rows, columns) and f = (rows, width) or (rows, width, "
                        "filters); got x = %s, f = %s.",
                        DIMS(x), DIMS(f));
    if (f->d[1] < 1 || f->d[1] > x->d[1])
        return dn__fail(s, DN_ERROR_VALUE,
                        "the width of f must be from 1 to the columns of x; got x = %s, f = %s.",
                        DIMS(x), DIMS(f));
    int batch = dn__common_batch(s);
    return batch < 0 ? batch
                     : dn__set_dims(s, 2, (int[]){dn__size_at(f, 2), x->d[1] - f->d[1] + 1}, batch);
}
static void filter1d_narrow_forward(dn_call *c) {
    int rows = c->x[0].dim->d[0], width = c->x[1].dim->d[1], filters = c->dim->d[0],
        n = c->dim->d[1];
    for (size_t b = 0; b < (size_t)c->dim->batch; b++)
        for (int l = 0; l < width; l++)
            dn__mm_dx(rows, filters, n, c->x[1].v + b * c->x[1].stride + (size_t)l * (size_t)rows,
                      rows * width, c->x[0].v + b * c->x[0].stride + (size_t)l * (size_t)rows, rows,
                      l > 0, c->y + b * (size_t)c->dim->size, filters);
}
/* y = F_l' x_l summed over l:  dx_l += F_l dy,  dF_l += x_l dy' */
static void filter1d_narrow_backward(dn_call *c) {
    int rows = c->x[0].dim->d[0], width = c->x[1].dim->d[1], filters = c->dim->d[0],
        n = c->dim->d[1];
    dn_batch_grad to = dn__dx_by_element(c, 0, c->dim->batch);
    while (dn__next_zeroed(&to))
        for (int at = 0; at < rows * width; at += rows)
            dn__mm(rows, filters, n, c->x[1].v + to.b * c->x[1].stride + at, rows * width,
                   c->dy + to.b * (size_t)c->dim->size, filters, 1, to.dx + at, rows);
    to = dn__dx_by_element(c, 1, c->dim->batch);
    while (dn__next_zeroed(&to))
        for (int at = 0; at < rows * width; at += rows)
            dn__mm_dw(rows, filters, n, c->x[0].v + to.b * c->x[0].stride + at, rows,
                      c->dy + to.b * (size_t)c->dim->size, filters, 1, to.dx + at, rows * width);
}

/* ints = the number of columns */
DN_OP(kmh_ngram, 1, DN_BATCHES, "y[:, j] = the sum of columns j ... j + v - 1 of x")
static int kmh_ngram_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int v = s->ints[0];
    if (x->nd < 2) return dn__fail(s, DN_ERROR_VALUE, "x must be a matrix; got x = %s.", DIMS(x));
    if (v < 1 || v > x->d[1])
        return dn__fail(s, DN_ERROR_VALUE,
                        "v must be from 1 to the columns of x; got v = %d, x = %s.", v, DIMS(x));
    int sizes[DN_MAX_DIMS];
    for (int i = 0; i < x->nd; i++) sizes[i] = x->d[i] - (i == 1 ? v - 1 : 0);
    return dn__set_dims(s, x->nd, sizes, x->batch);
}
static void kmh_ngram_forward(dn_call *c) {
    size_t rows = (size_t)c->dim->d[0], n = rows * (size_t)c->dim->d[1],
           n_x = rows * (size_t)c->x[0].dim->d[1];
    for (size_t o = 0; o * n < c->total; o++)
        for (size_t l = 0; l < (size_t)c->ints[0]; l++)
            dn__axpy(n, 1, c->x[0].v + o * n_x + l * rows, l > 0, c->y + o * n);
}
static void kmh_ngram_backward(dn_call *c) {
    size_t rows = (size_t)c->dim->d[0], n = rows * (size_t)c->dim->d[1],
           n_x = rows * (size_t)c->x[0].dim->d[1];
    dn_real *dx = dn__dx_zeroed(c, 0);
    for (size_t o = 0; dx && o * n < c->total; o++)
        for (size_t l = 0; l < (size_t)c->ints[0]; l++)
            dn__axpy(n, 1, c->dy + o * n, 1, dx + o * n_x + l * rows);
}

/* ints = the number of rows in a group */
DN_OP(fold_rows, 1, DN_BATCHES, "y[i, :] = the sum of rows i n ... i n + n - 1 of x")
static int fold_rows_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int n = s->ints[0], sizes[DN_MAX_DIMS] = {dn__size_at(x, 0), 1};
    if (n < 1 || sizes[0] % n)
        return dn__fail(s, DN_ERROR_VALUE,
                        "the rows of x must be a multiple of nrows; got nrows = %d, x = %s.", n,
                        DIMS(x));
    for (int i = 1; i < x->nd; i++) sizes[i] = x->d[i];
    sizes[0] /= n;
    return dn__set_dims(s, x->nd < 2 ? 2 : x->nd, sizes, x->batch);
}
static void fold_rows_forward(dn_call *c) {
    dn__sum_each_column((size_t)c->ints[0], c->total, c->x[0].v, 0, c->y);
}
static void fold_rows_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__spread_over_columns((size_t)c->ints[0], c->total, c->dy, g.beta, g.dx);
}
