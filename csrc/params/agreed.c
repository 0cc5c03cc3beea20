/* What this process has changed of a model by itself, where several train it together: an update
 * that all make alike does not count. */
#include "params/rules.h"

int64_t dn_store_alone(dn_store *r) { return __atomic_load_n(&r->alone, __ATOMIC_RELAXED); }
int64_t dn_trainer_resets(dn_trainer *t) { return t->resets; }
void dn_trainer_together(dn_trainer *t, int on) { t->together = on; }

void dn_trainer_set_updates(dn_trainer *t, int64_t updates) {
    t->updates = updates;
    t->resets++;
}

int dn__param_state(const dn_members *of, const dn_param *p) {
    const dn_trainer *t = of->trainer;
    const int excluded = t && p->id < t->n_excluded && t->excluded[p->id];
    const int written = __atomic_load_n(&p->alone_at, __ATOMIC_RELAXED) > of->alone;
    return (dn__param_is_updated(p) ? 0 : DN_IS_FROZEN) | (excluded ? DN_IS_EXCLUDED : 0) |
           (written ? DN_IS_WRITTEN : 0) | p->precision * DN_PRECISION_IS;
}

int dn__was_reset(const dn_members *of) { return of->trainer && of->trainer->resets > of->resets; }
