/* Broadcasting: dims are aligned from the first, missing ones count as 1, and a size of 1 (the
 * batch included) is repeated. A plan walks the result in segments along which each operand either
 * advances or stands still; neighbouring dims are merged, so that equal dims are a single segment.
 * For csrc/ops/arithmetic.c and masked.c. */
#pragma once

#include "kernels/kernels.h"
#include "op.h"

typedef struct dn_broadcast_plan {
    int nd;
    size_t n[DN_MAX_DIMS + 1], sx[DN_MAX_DIMS + 1], sy[DN_MAX_DIMS + 1];
    /* where more than DN_MANY segments add to dx: the dx of a segment, and the sums, in double */
    dn_real *part;
    double *sum;
} dn_broadcast_plan;

/* size i, and the batch behind all sizes */
static inline int size_of(const dn_dim *d, int i) {
    return i == DN_MAX_DIMS ? d->batch : dn__size_at(d, i);
}

static inline dn_broadcast_plan make_broadcast_plan(const dn_dim *x, const dn_dim *y) {
    dn_broadcast_plan p;
    p.nd = 0;
    p.part = NULL, p.sum = NULL;
    size_t sx = 1, sy = 1;
    for (int i = 0; i <= DN_MAX_DIMS; i++) {
        size_t nx = (size_t)size_of(x, i), ny = (size_t)size_of(y, i), n = nx == 1 ? ny : nx;
        size_t step_x = nx == 1 ? 0 : sx, step_y = ny == 1 ? 0 : sy;
        sx *= nx;
        sy *= ny;
        if (n == 1) continue;
        int last = p.nd - 1;
        if (last >= 0 && p.sx[last] * p.n[last] == step_x && p.sy[last] * p.n[last] == step_y) {
            p.n[last] *= n;
        } else {
            p.n[p.nd] = n;
            p.sx[p.nd] = step_x;
            p.sy[p.nd++] = step_y;
        }
    }
    if (!p.nd) {
        p.nd = 1;
        p.n[0] = p.sx[0] = p.sy[0] = 1;
    }
    return p;
}

/* One segment: n elements of z; x and y advance by 0 or 1, not both by 0. */
typedef struct dn_segment {
    size_t n, sx, sy;
    const dn_real *x, *y;
    dn_real *dx;
    const dn_real *dz;
    dn_real *z;
} dn_segment;

/* Calls f for every segment. dx, when given, follows x; z and dz follow the result. */
static inline void for_segments(const dn_broadcast_plan *p, const dn_real *x, const dn_real *y,
                                dn_real *dx, const dn_real *dz, dn_real *z,
                                void (*f)(const dn_segment *)) {
    size_t at[DN_MAX_DIMS + 1] = {0}, ox = 0, oy = 0, oz = 0;
    for (int i = 0; i < p->nd; i++)
        if (!p->n[i]) return;
    const size_t n_part = p->sx[0] ? p->n[0] : 1;
    for (;;) {
        if (p->part) dn__fill(n_part, 0, p->part);
        f(&(dn_segment){p->n[0], p->sx[0], p->sy[0], x + ox, y ? y + oy : NULL,
                        p->part ? p->part
                        : dx    ? dx + ox
                                : NULL,
                        dz ? dz + oz : NULL, z ? z + oz : NULL});
        if (p->part) dn__wide_add(n_part, 1, p->part, p->sum + ox);
        oz += p->n[0];
        int i = 1;
        for (; i < p->nd; i++) {
            ox += p->sx[i];
            oy += p->sy[i];
            if (++at[i] < p->n[i]) break;
            ox -= p->sx[i] * p->n[i];
            oy -= p->sy[i] * p->n[i];
            at[i] = 0;
        }
        if (i == p->nd) return;
    }
}
