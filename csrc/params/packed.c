/* Matrices rounded to bfloat16 and packed for products: made when they are first asked for after
 * values have changed, however often they are used. */
#include "params.h"

#include "arena.h"
#include "kernels/bf16.h"

#ifndef DN_DOUBLE
size_t dn__packed_numbers(const dn_param *p, int transposed) {
    const int m = p->dim.d[0], k = p->dim.d[1];
    return transposed ? dn__bf16_packed(k, m) : dn__bf16_packed(m, k);
}

void dn__pack(const dn_param *p, int transposed, const dn_real *w, uint16_t *to) {
    const int m = p->dim.d[0], k = p->dim.d[1];
    if (transposed) dn__bf16_pack_transposed(m, k, w, m, to);
    else dn__bf16_pack(m, k, w, m, to);
}

/* A packed form belongs to the store's `writes` as they were before it was made. Whoever writes
 * meanwhile, or while it is read, leaves other `writes`: then it is made anew for the next reader,
 * and this one's values are no more (forward.c). */
const uint16_t *dn__param_packed(dn_param *p, int transposed) {
    dn_store *r = p->store;
    dn_packed *form = &p->packed[transposed];
    int64_t now = __atomic_load_n(&r->writes, __ATOMIC_ACQUIRE) + 1;
    if (__atomic_load_n(&form->writes, __ATOMIC_ACQUIRE) == now) return form->at;
    pthread_mutex_lock(&r->pack_lock);
    now = __atomic_load_n(&r->writes, __ATOMIC_ACQUIRE) + 1;
    if (form->writes != now) {
        if (!form->at)
            form->at = dn__block_raw(dn__packed_numbers(p, transposed) * sizeof *form->at);
        if (form->at) {
            dn__pack(p, transposed, r->chunks[p->chunk].values + p->offset, form->at);
            __atomic_store_n(&form->writes, now, __ATOMIC_RELEASE);
        }
    }
    pthread_mutex_unlock(&r->pack_lock);
    return form->at;
}
#endif
