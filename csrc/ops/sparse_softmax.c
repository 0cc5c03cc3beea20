/* Maps onto the simplex that give exact zeros, or that obey bounds. */
#include <math.h>

#include "kernels/kernels.h"
#include "along_axis.h"

DN_OP(sparsemax, 1, DN_BATCHES, "y = max(0, x - t) along dim d, t such that y sums to 1")
/* a second int: the dim was not given */
static int sparsemax_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    if (s->n_ints > 1 && x->nd > 1 && x->size != x->d[0])
        return dn__fail(s, DN_ERROR_VALUE,
                        "x must be a vector where d is not given; got x = %s. Name the dim: "
                        "sparsemax(x, 0).",
                        DIMS(x));
    return dn__along_dims(s);
}
static void sparsemax_line(const dn_real *x, int n, dn_real *y) {
    if (n) dn__sparsemax((size_t)n, x, y);
}
/* dx = dy - mean of dy, both over y > 0 */
static void sparsemax_line_grad(const dn_real *y, const dn_real *dy, int n, dn_real beta,
                                dn_real *dx) {
    dn__sparsemax_grad((size_t)n, y, dy, beta, dx);
}
static const dn_along sparsemax = {.f = sparsemax_line, .grad = sparsemax_line_grad};
static void sparsemax_forward(dn_call *c) { dn__along_forward(c, &sparsemax); }
static void sparsemax_backward(dn_call *c) { dn__along_backward(c, &sparsemax); }

/* Martins and Kreutzer 2017: the distribution nearest to softmax(x) that keeps below the bounds.
 * What would be above its bound gets it; the others share the rest as softmax does, which may lift
 * more of them to their bounds. `saved`: e_i / sum e_j of the others, -1 at a bound. */
DN_OP(constrained_softmax, 2, DN_BATCHES,
      "y_i = min(x_1i, s exp x_0i), s such that y sums to 1; y = x_1 where that sums to less")
static int constrained_softmax_dims(dn_shape *s) {
    const dn_dim *x = s->x[0], *u = s->x[1];
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    if (x->nd < 1 || x->size != x->d[0] || !dn__same_sizes(x, u))
        return dn__fail(
            s, DN_ERROR_VALUE,
            "x and the bounds must be vectors of the same size; got x = %s, bounds = %s.", DIMS(x),
            DIMS(u));
    s->saved = (size_t)x->size * (size_t)batch;
    return dn__set_dims(s, x->nd, x->d, batch);
}
static void constrain(size_t n, const dn_real *x, const dn_real *u, dn_real *y, dn_real *weight) {
    double mass = 1; /* what those at their bounds leave */
    int lifted = 1;
    dn__fill(n, 0, weight);
    while (lifted) {
        double max = -INFINITY, sum = 0;
        lifted = 0;
        for (size_t i = 0; i < n; i++)
            if (weight[i] >= 0 && x[i] > max) max = x[i];
        for (size_t i = 0; i < n; i++)
            if (weight[i] >= 0) sum += weight[i] = (dn_real)exp((double)x[i] - max);
        for (size_t i = 0; i < n; i++)
            if (weight[i] >= 0) weight[i] = (dn_real)(weight[i] / sum);
        double rest = mass;
        for (size_t i = 0; i < n; i++) {
            if (weight[i] < 0) continue;
            y[i] = (dn_real)(weight[i] * (rest > 0 ? rest : 0));
            if (!(y[i] > u[i])) continue;
            y[i] = u[i];
            mass -= u[i];
            weight[i] = -1;
            lifted = 1;
        }
    }
}
static void constrained_softmax_forward(dn_call *c) {
    size_t n = (size_t)c->dim->size;
    for (int b = 0; b < c->dim->batch; b++)
        constrain(n, c->x[0].v + (size_t)b * c->x[0].stride, c->x[1].v + (size_t)b * c->x[1].stride,
                  c->y + (size_t)b * n, c->saved + (size_t)b * n);
}
/* m = sum of weight dy over those below their bounds:  dx = y (dy - m) for them, du = dy - m for
 * the others */
static void constrained_softmax_backward(dn_call *c) {
    size_t n = (size_t)c->dim->size;
    for (int k = 0; k < 2; k++) {
        dn_batch_grad to = dn__dx_by_element(c, k, c->dim->batch);
        while (dn__next_zeroed(&to)) {
            const dn_real *y = c->y + to.b * n, *dy = c->dy + to.b * n,
                          *weight = c->saved + to.b * n;
            double sum = 0;
            for (size_t i = 0; i < n; i++)
                if (weight[i] > 0) sum += (double)weight[i] * (double)dy[i];
            const dn_real m = (dn_real)sum;
            for (size_t i = 0; i < n; i++) {
                int bound = weight[i] < 0;
                if (bound == k) to.dx[i] += (bound ? 1 : y[i]) * (dy[i] - m);
            }
        }
    }
}
