/* The rules of trainers: what becomes of a number, its gradient, and the moments that stand beside
 * it. */
#include <math.h>

#include "kernels/kernels.h"
#include "params/rules.h"

static double plain_rate(const dn_trainer *t) { return t->set.rate; }

#define APPLY(name) \
    static void name(const dn_trainer *t, const dn_step *s, size_t n, dn_real *p, \
                     const dn_real *g, dn_real *const *moments)
#define C(k) ((dn_real)t->c[k])

APPLY(sgd) { (void)t, (void)moments, dn__update_sgd(n, s, p, g); }
APPLY(momentum) { dn__update_momentum(n, s, C(0), p, g, moments[0]); }
APPLY(adagrad) { dn__update_adagrad(n, s, C(0), p, g, moments[0]); }
APPLY(adadelta) { dn__update_adadelta(n, s, C(0), C(1), p, g, moments[0], moments[1]); }
APPLY(rmsprop) { dn__update_rmsprop(n, s, C(0), C(1), p, g, moments[0]); }

/* The bias of a moment with the constant C(k): 1 - C(k)^t, with C(k) as the kernels have it. In
 * float 1 - 0.999 is not 1e-3 but 1.3e-5 less. */
static double bias(const dn_trainer *t, int k) { return 1 - pow(C(k), (double)t->updates); }
static double adam_rate(const dn_trainer *t) { return t->set.rate * sqrt(bias(t, 1)) / bias(t, 0); }
APPLY(adam) { dn__update_adam(n, s, C(0), C(1), C(2), p, g, moments[0], moments[1]); }
APPLY(amsgrad) {
    dn__update_amsgrad(n, s, C(0), C(1), C(2), p, g, moments[0], moments[1], moments[2]);
}

/* eps is added to the root of the *corrected* v, as in the paper: the correction that adam_rate has
 * taken out is multiplied into eps */
APPLY(adamw) {
    dn__update_adam(n, s, C(0), C(1), (dn_real)(t->c[2] * sqrt(bias(t, 1))), p, g, moments[0],
                    moments[1]);
}
APPLY(eg) { dn__update_eg(n, s, C(0), p, g, moments[0]); }

/* Times zero these are zero, in each bit: where a product with an infinite rate is NaN, or the step
 * is a division by zero, a zero gradient changes numbers. */
static int sgd_skips_zeros(const dn_trainer *t, const dn_step *s) {
    const dn_real step = s->rate * s->scale * s->push;
    return (void)t, step >= 0 && isfinite(step);
}
static int adagrad_skips_zeros(const dn_trainer *t, const dn_step *s) {
    return sgd_skips_zeros(t, s) && C(0) > 0;
}

static const dn_rule RULES[] = {
    [DN_RULE_SGD] = {0, 0, plain_rate, sgd, sgd_skips_zeros},
    [DN_RULE_MOMENTUM] = {1, 0, plain_rate, momentum},
    [DN_RULE_ADAGRAD] = {1, 0, plain_rate, adagrad, adagrad_skips_zeros},
    [DN_RULE_ADADELTA] = {2, 0, plain_rate, adadelta},
    [DN_RULE_RMSPROP] = {1, 0, plain_rate, rmsprop},
    [DN_RULE_ADAM] = {2, 0, adam_rate, adam},
    [DN_RULE_AMSGRAD] = {3, 0, adam_rate, amsgrad},
    [DN_RULE_ADAMW] = {2, 0, adam_rate, adamw},
    [DN_RULE_EG] = {1, 1, plain_rate, eg},
};

const dn_rule *dn__rule(int rule) {
    return rule >= 0 && rule < (int)(sizeof RULES / sizeof *RULES) ? &RULES[rule] : NULL;
}

int dn_rule_moments(int rule) { return dn__rule(rule) ? RULES[rule].moments : -1; }
