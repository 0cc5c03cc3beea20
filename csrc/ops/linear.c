/* Linear algebra. */
#include <string.h>

#include "product.h"

/* dims of a (rows, cols) result; one column is a vector */
static int matrix_dims(dn_shape *s, int rows, int cols, int as_matrix, int batch) {
    return dn__set_dims(s, as_matrix ? 2 : 1, (int[]){rows, cols}, batch);
}

/* inputs i and i + 1 as matrices */
static void matrix_product(dn_call *c, int i, dn_real beta) {
    const dn_in *w = &c->x[i], *x = &c->x[i + 1];
    product_forward(c, i, dn__rows_of(w->dim), dn__columns_of(w->dim), dn__columns_of(x->dim),
                    beta);
}
static void matrix_product_backward(dn_call *c, int i) {
    const dn_in *w = &c->x[i], *x = &c->x[i + 1];
    product_backward(c, i, dn__rows_of(w->dim), dn__columns_of(w->dim), dn__columns_of(x->dim));
}

DN_OP(matmul, 2, DN_BATCHES | DN_BATCHED_GEMM | DN_DEDUPLICATES_ROWS,
      "y = a b, the matrix product; a vector is a column")
static int matmul_dims(dn_shape *s) {
    const dn_dim *a = s->x[0], *b = s->x[1];
    if (a->nd > 2 || b->nd > 2)
        return dn__fail(s, DN_ERROR_VALUE,
                        "both inputs must be matrices or vectors; got a = %s, b = %s.", DIMS(a),
                        DIMS(b));
    if (dn__columns_of(a) != dn__rows_of(b)) {
        const char *hint = "";
        if (dn__rows_of(a) == dn__rows_of(b))
            hint = a->nd == 1 && b->nd <= 1
                       ? " Did you mean transpose(a) * b, dot_product(a, b) or cmult(a, b)?"
                       : " Did you mean transpose(a) * b?";
        else if (dn__columns_of(a) == dn__columns_of(b)) hint = " Did you mean a * transpose(b)?";
        return dn__fail(s, DN_ERROR_VALUE,
                        "columns of a must equal rows of b; got a = %s, b = %s.%s", DIMS(a),
                        DIMS(b), hint);
    }
    int batch = dn__common_batch(s);
    return batch < 0 ? batch : matrix_dims(s, dn__rows_of(a), dn__columns_of(b), b->nd > 1, batch);
}
static void matmul_forward(dn_call *c) { matrix_product(c, 0, 0); }
static void matmul_backward(dn_call *c) { matrix_product_backward(c, 0); }

DN_OP(affine_transform, -1, DN_BATCHES | DN_BATCHED_GEMM | DN_DEDUPLICATES_ROWS,
      "y = b + W_1 x_1 + W_2 x_2 + ...; b is repeated over columns and batch")
static int affine_transform_dims(dn_shape *s) {
    const dn_dim *b = s->x[0];
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    if (s->n % 2 == 0)
        return dn__fail(s, DN_ERROR_VALUE,
                        "takes an odd number of expressions: b, W_1, x_1, W_2, x_2, ...; got %d.",
                        s->n);
    if (s->n == 1) {
        s->y = *b;
        return 0;
    }
    int rows = dn__rows_of(s->x[1]), cols = dn__columns_of(s->x[2]);
    for (int i = 1; i < s->n; i += 2) {
        const dn_dim *w = s->x[i], *x = s->x[i + 1];
        if (w->nd > 2 || x->nd > 2 || dn__columns_of(w) != dn__rows_of(x))
            return dn__fail(s, DN_ERROR_VALUE,
                            "columns of W_%d must equal rows of x_%d; got W_%d = %s, x_%d = %s.%s",
                            i / 2 + 1, i / 2 + 1, i / 2 + 1, DIMS(w), i / 2 + 1, DIMS(x),
                            x->nd == 2 && w->nd <= 2 && dn__columns_of(w) == dn__columns_of(x)
                                ? " Did you mean W * transpose(x)?"
                                : "");
        if (dn__rows_of(w) != rows || dn__columns_of(x) != cols)
            return dn__fail(
                s, DN_ERROR_VALUE,
                "all products must have the same dims; got (%d, %d) and W_%d x_%d = (%d, %d).",
                rows, cols, i / 2 + 1, i / 2 + 1, dn__rows_of(w), dn__columns_of(x));
    }
    if (b->nd > 2 || dn__rows_of(b) != rows ||
        (dn__columns_of(b) != cols && dn__columns_of(b) != 1))
        return dn__fail(s, DN_ERROR_VALUE,
                        "the bias must have the dims of the products or be one column of them; got "
                        "b = %s, products (%d, %d). "
                        "Did you mean W * x + b, which repeats the products?",
                        DIMS(b), rows, cols);
    return matrix_dims(s, rows, cols, cols > 1, batch);
}
static void affine_transform_forward(dn_call *c) {
    const dn_in *b = &c->x[0];
    size_t n = (size_t)b->dim->size;
    int repeat = n ? (int)((size_t)c->dim->size / n) : 0; /* columns that one bias column serves */
    if (b->stride)
        for (size_t e = 0; e < (size_t)c->dim->batch; e++)
            dn__repeat((int)n, (size_t)repeat, b->v + e * b->stride, c->y + e * (size_t)repeat * n);
    else dn__repeat((int)n, (size_t)repeat * (size_t)c->dim->batch, b->v, c->y);
    for (int i = 1; i < c->n; i += 2) matrix_product(c, i, 1);
}
static void affine_transform_backward(dn_call *c) {
    const dn_in *b = &c->x[0];
    int n = b->dim->size, repeat = n ? c->dim->size / n : 0;
    dn_grad g = dn__dx(c, 0);
    if (g.dx && b->stride)
        for (int e = 0; e < c->dim->batch; e++)
            dn__sum_columns(n, repeat, c->dy + (size_t)e * (size_t)c->dim->size, g.beta,
                            g.dx + (size_t)e * b->stride);
    else if (g.dx) dn__sum_columns(n, repeat * c->dim->batch, c->dy, g.beta, g.dx);
    dn__input_done(c, 0);
    for (int i = 1; i < c->n; i += 2) matrix_product_backward(c, i);
}

/* ---- tensors of three dims ------------------------------------------------------------ */

/* x_0 is a matrix of (a b) rows and c columns. Inputs: x (a, b, c), y (c), and perhaps a bias (a,
 * b). */
DN_OP(contract3d_1d, -1, DN_BATCHES, "y_ij = sum_k x_0ijk x_1k (+ x_2ij)")
static int contract3d_1d_dims(dn_shape *s) {
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    if (s->n != 2 && s->n != 3)
        return dn__fail(s, DN_ERROR_VALUE, "takes x, y and perhaps b; got %d inputs.", s->n);
    const dn_dim *x = s->x[0], *y = s->x[1];
    if (x->nd != 3 || y->size != x->d[2] || dn__rows_of(y) != y->size)
        return dn__fail(s, DN_ERROR_VALUE,
                        "x must be (a, b, c) and y a vector (c,); got x = %s, y = %s.", DIMS(x),
                        DIMS(y));
    int error = dn__set_dims(s, 2, x->d, batch);
    if (!error && s->n == 3 && !dn__same_sizes(s->x[2], &s->y))
        return dn__fail(s, DN_ERROR_VALUE,
                        "the bias must have the first two dims of x; got x = %s, b = %s.", DIMS(x),
                        DIMS(s->x[2]));
    return error;
}
static void contract3d_1d_forward(dn_call *c) {
    size_t n = (size_t)c->dim->size;
    for (int b = 0; c->n == 3 && b < c->dim->batch; b++)
        memcpy(c->y + (size_t)b * n, c->x[2].v + (size_t)b * c->x[2].stride, n * sizeof *c->y);
    product_forward(c, 0, c->dim->size, c->x[0].dim->d[2], 1, c->n == 3);
}
static void contract3d_1d_backward(dn_call *c) {
    product_backward(c, 0, c->dim->size, c->x[0].dim->d[2], 1);
    if (c->n < 3) return;
    dn_grad g = dn__dx(c, 2);
    if (g.dx && c->x[2].stride) dn__axpy(c->total, 1, c->dy, g.beta, g.dx);
    else if (g.dx) dn__sum_columns(c->dim->size, c->dim->batch, c->dy, g.beta, g.dx);
}
