/* Parameter updates: one pass over parameter, gradient and moments; out of cache they are bound by memory, so a second
 * pass (for the norm, for zeroing the gradient) would cost as much again. */
#include "kernels.h"
#include "math.h"

DN_MULTIVERSION void dn__update_sgd(size_t n, dn_real rate, dn_real scale, dn_real decay, dn_real *p,
                                    const dn_real *g) {
    dn_real step = rate * scale;
    DN_SIMD for (size_t i = 0; i < n; i++) p[i] = decay * (p[i] - step * g[i]);
}

DN_MULTIVERSION void dn__update_adam(size_t n, dn_real rate, dn_real b1, dn_real b2, dn_real eps, dn_real scale,
                                     dn_real decay, dn_real *p, const dn_real *g, dn_real *m, dn_real *v) {
    DN_SIMD for (size_t i = 0; i < n; i++) {
        dn_real g_ = scale * g[i];
        dn_real m_ = b1 * m[i] + (1 - b1) * g_;
        dn_real v_ = b2 * v[i] + (1 - b2) * g_ * g_;
        m[i] = m_;
        v[i] = v_;
        p[i] = decay * (p[i] - rate * m_ / (DN_MATH(sqrt)(v_) + eps));
    }
}
