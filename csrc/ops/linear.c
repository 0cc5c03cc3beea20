/* Linear algebra. */
#include <string.h>

#include "../kernels/kernels.h"
#include "../op.h"

/* A vector is a column. */
static int rows_of(const dn_dim *d) { return d->nd > 0 ? d->d[0] : 1; }
static int cols_of(const dn_dim *d) { return d->nd > 1 ? d->d[1] : 1; }
/* dims of a (rows, cols) result; one column is a vector */
static int matrix_dims(dn_shape *s, int rows, int cols, int as_matrix, int batch) {
    return dn__set_dims(s, as_matrix ? 2 : 1, (int[]){rows, cols}, batch);
}

/* y = W x + beta y, batch element by batch element; an unbatched W sees the whole batch as more columns. */
static void product_forward(dn_call *c, const dn_in *w, const dn_in *x, dn_real beta) {
    int m = rows_of(w->dim), k = cols_of(w->dim), n = cols_of(x->dim), batch = c->dim->batch;
    size_t size = (size_t)m * (size_t)n;
    if (!w->stride && (x->stride || batch == 1)) {
        dn__mm(m, k, n * batch, w->v, m, x->v, k, beta, c->y, m);
        return;
    }
    for (int b = 0; b < batch; b++)
        dn__mm(m, k, n, w->v + (size_t)b * w->stride, m, x->v + (size_t)b * x->stride, k, beta, c->y + (size_t)b * size, m);
}

/* y = W x:  dW = dy x',  dx = W' dy. Inputs i (W) and i + 1 (x). */
static void product_backward(dn_call *c, int i) {
    const dn_in *w = &c->x[i], *x = &c->x[i + 1];
    int m = rows_of(w->dim), k = cols_of(w->dim), n = cols_of(x->dim), batch = c->dim->batch;
    size_t size = (size_t)m * (size_t)n;
    if (dn__wants(c, i)) {
        if (!w->stride && (x->stride || batch == 1)) {
            dn__weight_gradient(c, i, m, k, n * batch, c->dy, x->v);
        } else {
            dn_grad g = dn__dx(c, i);
            for (int b = 0; g.dx && b < batch; b++)
                dn__mm_dw(m, k, n, c->dy + (size_t)b * size, m, x->v + (size_t)b * x->stride, k, w->stride || !b ? g.beta : 1,
                          g.dx + (size_t)b * w->stride, m);
        }
    }
    dn_grad g = dn__dx(c, i + 1);
    if (!g.dx) return;
    if (!w->stride && (x->stride || batch == 1)) {
        dn__mm_dx(m, k, n * batch, w->v, m, c->dy, m, g.beta, g.dx, k);
        return;
    }
    for (int b = 0; b < batch; b++)
        dn__mm_dx(m, k, n, w->v + (size_t)b * w->stride, m, c->dy + (size_t)b * size, m, x->stride || !b ? g.beta : 1,
                  g.dx + (size_t)b * x->stride, k);
}

DN_OP(matmul, 2, DN_BATCHES | DN_SHARES | DN_JOINS, "y = a b, the matrix product; a vector is a column")
static int matmul_dims(dn_shape *s) {
    const dn_dim *a = s->x[0], *b = s->x[1];
    if (a->nd > 2 || b->nd > 2)
        return dn__fail(s, DN_ERROR_VALUE, "both inputs must be matrices or vectors; got a = %s, b = %s.", DIMS(a), DIMS(b));
    if (cols_of(a) != rows_of(b)) {
        const char *hint = a->nd == 1 && b->nd <= 1 && rows_of(a) == rows_of(b) ? " Did you mean transpose(a) * b, dot_product(a, b) or cmult(a, b)?"
                           : rows_of(a) == rows_of(b)                           ? " Did you mean transpose(a) * b?"
                           : cols_of(a) == cols_of(b)                           ? " Did you mean a * transpose(b)?"
                                                                                : "";
        return dn__fail(s, DN_ERROR_VALUE, "columns of a must equal rows of b; got a = %s, b = %s.%s", DIMS(a), DIMS(b), hint);
    }
    int batch = dn__common_batch(s);
    return batch < 0 ? batch : matrix_dims(s, rows_of(a), cols_of(b), b->nd > 1, batch);
}
static void matmul_forward(dn_call *c) { product_forward(c, &c->x[0], &c->x[1], 0); }
static void matmul_backward(dn_call *c) { product_backward(c, 0); }

DN_OP(affine_transform, -1, DN_BATCHES | DN_SHARES | DN_JOINS, "y = b + W_1 x_1 + W_2 x_2 + ...; b is repeated over columns and batch")
static int affine_transform_dims(dn_shape *s) {
    const dn_dim *b = s->x[0];
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    if (s->n % 2 == 0)
        return dn__fail(s, DN_ERROR_VALUE, "takes an odd number of expressions: b, W_1, x_1, W_2, x_2, ...; got %d.", s->n);
    if (s->n == 1) {
        s->y = *b;
        return 0;
    }
    int rows = rows_of(s->x[1]), cols = cols_of(s->x[2]);
    for (int i = 1; i < s->n; i += 2) {
        const dn_dim *w = s->x[i], *x = s->x[i + 1];
        if (w->nd > 2 || x->nd > 2 || cols_of(w) != rows_of(x))
            return dn__fail(s, DN_ERROR_VALUE, "columns of W_%d must equal rows of x_%d; got W_%d = %s, x_%d = %s.", i / 2 + 1, i / 2 + 1,
                            i / 2 + 1, DIMS(w), i / 2 + 1, DIMS(x));
        if (rows_of(w) != rows || cols_of(x) != cols)
            return dn__fail(s, DN_ERROR_VALUE, "all products must have the same dims; got (%d, %d) and W_%d x_%d = (%d, %d).", rows, cols,
                            i / 2 + 1, i / 2 + 1, rows_of(w), cols_of(x));
    }
    if (b->nd > 2 || rows_of(b) != rows || (cols_of(b) != cols && cols_of(b) != 1))
        return dn__fail(s, DN_ERROR_VALUE, "the bias must have the dims of the products or be one column of them; got b = %s, products (%d, %d).",
                        DIMS(b), rows, cols);
    return matrix_dims(s, rows, cols, cols > 1, batch);
}
static void affine_transform_forward(dn_call *c) {
    const dn_in *b = &c->x[0];
    size_t n = (size_t)b->dim->size;
    int repeat = n ? (int)((size_t)c->dim->size / n) : 0; /* columns that one bias column serves */
    for (int e = 0, at = 0; e < c->dim->batch; e++)
        for (int r = 0; r < repeat; r++, at++) memcpy(c->y + (size_t)at * n, b->v + (size_t)e * b->stride, n * sizeof *c->y);
    for (int i = 1; i < c->n; i += 2) product_forward(c, &c->x[i], &c->x[i + 1], 1);
}
static void affine_transform_backward(dn_call *c) {
    const dn_in *b = &c->x[0];
    int n = b->dim->size, repeat = n ? c->dim->size / n : 0;
    dn_grad g = dn__dx(c, 0);
    if (g.dx && b->stride)
        for (int e = 0; e < c->dim->batch; e++)
            dn__sum_columns(n, repeat, c->dy + (size_t)e * (size_t)c->dim->size, g.beta, g.dx + (size_t)e * b->stride);
    else if (g.dx)
        dn__sum_columns(n, repeat * c->dim->batch, c->dy, g.beta, g.dx);
    for (int i = 1; i < c->n; i += 2) product_backward(c, i);
}
