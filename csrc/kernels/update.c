/* Parameter updates: one pass over parameter, gradient and moments; out of cache they are bound by
 * memory, so a second pass (for the norm, for zeroing the gradient) would cost as much again. */
#include "kernels.h"
#include "math.h"
#include "unfused.h"

DN_MULTIVERSION void dn__update_sgd(size_t n, const dn_step *s, dn_real *p, const dn_real *g) {
    dn_real step = s->rate * s->scale * s->push, decay = s->decay;
    DN_SIMD for (size_t i = 0; i < n; i++)
        p[i] = decay * (p[i] - step * g[i]);
}

DN_MULTIVERSION void dn__update_momentum(size_t n, const dn_step *s, dn_real mom, dn_real *p,
                                         const dn_real *g, dn_real *v) {
    dn_real rate = s->rate * s->scale, push = s->push, decay = s->decay;
    DN_SIMD for (size_t i = 0; i < n; i++) {
        v[i] = mom * v[i] - rate * g[i];
        p[i] = decay * (p[i] + push * v[i]);
    }
}

DN_MULTIVERSION void dn__update_adagrad(size_t n, const dn_step *s, dn_real eps, dn_real *p,
                                        const dn_real *g, dn_real *h) {
    dn_real step = s->rate * s->push, scale = s->scale, decay = s->decay;
    DN_SIMD for (size_t i = 0; i < n; i++) {
        dn_real g_ = scale * g[i];
        h[i] += g_ * g_;
        p[i] = decay * (p[i] - step * g_ / DN_MATH(sqrt)(h[i] + eps));
    }
}

DN_MULTIVERSION void dn__update_adadelta(size_t n, const dn_step *s, dn_real eps, dn_real rho,
                                         dn_real *p, const dn_real *g, dn_real *G, dn_real *D) {
    dn_real scale = s->scale, push = s->push, decay = s->decay;
    DN_SIMD for (size_t i = 0; i < n; i++) {
        dn_real g_ = scale * g[i];
        G[i] = rho * G[i] + (1 - rho) * g_ * g_;
        dn_real step = -g_ * DN_MATH(sqrt)(D[i] + eps) / DN_MATH(sqrt)(G[i] + eps);
        D[i] = rho * D[i] + (1 - rho) * step * step;
        p[i] = decay * (p[i] + push * step);
    }
}

DN_MULTIVERSION void dn__update_rmsprop(size_t n, const dn_step *s, dn_real eps, dn_real rho,
                                        dn_real *p, const dn_real *g, dn_real *h) {
    dn_real step = s->rate * s->push, scale = s->scale, decay = s->decay;
    DN_SIMD for (size_t i = 0; i < n; i++) {
        dn_real g_ = scale * g[i];
        h[i] = rho * h[i] + (1 - rho) * g_ * g_;
        p[i] = decay * (p[i] - step * g_ / DN_MATH(sqrt)(h[i] + eps));
    }
}

DN_MULTIVERSION void dn__update_adam(size_t n, const dn_step *s, dn_real b1, dn_real b2,
                                     dn_real eps, dn_real *p, const dn_real *g, dn_real *m,
                                     dn_real *v) {
    dn_real step = s->rate * s->push, scale = s->scale, keep = s->keep, decay = s->decay;
    DN_SIMD for (size_t i = 0; i < n; i++) {
        dn_real g_ = scale * g[i];
        dn_real m_ = b1 * m[i] + (1 - b1) * g_;
        dn_real v_ = b2 * v[i] + (1 - b2) * g_ * g_;
        m[i] = m_;
        v[i] = v_;
        p[i] = decay * (keep * p[i] - step * m_ / (DN_MATH(sqrt)(v_) + eps));
    }
}

DN_MULTIVERSION void dn__update_amsgrad(size_t n, const dn_step *s, dn_real b1, dn_real b2,
                                        dn_real eps, dn_real *p, const dn_real *g, dn_real *m,
                                        dn_real *v, dn_real *top) {
    dn_real step = s->rate * s->push, scale = s->scale, keep = s->keep, decay = s->decay;
    DN_SIMD for (size_t i = 0; i < n; i++) {
        dn_real g_ = scale * g[i];
        dn_real m_ = b1 * m[i] + (1 - b1) * g_;
        dn_real v_ = b2 * v[i] + (1 - b2) * g_ * g_;
        dn_real top_ = top[i] > v_ ? top[i] : v_;
        m[i] = m_;
        v[i] = v_;
        top[i] = top_;
        p[i] = decay * (keep * p[i] - step * m_ / (DN_MATH(sqrt)(top_) + eps));
    }
}

DN_MULTIVERSION void dn__update_eg(size_t n, const dn_step *s, dn_real mom, dn_real *p,
                                   const dn_real *g, dn_real *v) {
    dn_real rate = s->rate * s->scale, push = s->push;
    DN_SIMD for (size_t i = 0; i < n; i++) {
        v[i] = mom * v[i] - rate * g[i];
        p[i] = dn__log_of(p[i]) + push * v[i];
    }
    dn__softmax(n, p, p);
}

DN_MULTIVERSION void dn__clamp(size_t n, dn_real limit, dn_real *x) {
    DN_SIMD for (size_t i = 0; i < n; i++)
        x[i] = x[i] > limit ? limit : x[i] < -limit ? -limit : x[i];
}

DN_MULTIVERSION void dn__blend(size_t n, dn_real a, const dn_real *x, dn_real *y) {
    DN_SIMD for (size_t i = 0; i < n; i++)
        y[i] += a * (x[i] - y[i]);
}
