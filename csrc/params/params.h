/* What parameter stores offer to the rest of csrc: parameters in chunks, lookup tables, and their
 * gradients. */
#pragma once

#include "params/shared.h"
#include "params/store.h"

/* the whole gradient is complete */
void dn__param_notify(dn_param *);
/* Set behind the store's lock; a thread that makes nodes, or asks for a gradient, takes none. */
static inline int dn__store_is_as_dynet(const dn_store *r) {
    return __atomic_load_n(&r->as_dynet, __ATOMIC_RELAXED);
}
static inline int dn__param_is_updated(const dn_param *p) {
    return __atomic_load_n(&p->updated, __ATOMIC_RELAXED);
}
static inline int dn__param_is_empty(const dn_param *p) {
    return __atomic_load_n(&p->empty, __ATOMIC_RELAXED);
}
static inline void dn__param_set_empty(dn_param *p, int empty) {
    __atomic_store_n(&p->empty, empty, __ATOMIC_RELAXED);
}
/* Whether gradients are gathered for it. */
static inline int dn__param_gathers(const dn_param *p) {
    return dn__param_is_updated(p) || dn__store_is_as_dynet(p->store);
}
/* Two equal numbers: nothing was put into the memory of a dense parameter's gradient in between. */
static inline int64_t dn__param_written(const dn_param *p) {
    return p->written + __atomic_load_n(&p->store->lent, __ATOMIC_RELAXED);
}
void dn__store_retain(dn_store *);
void dn__store_release(dn_store *);
/* A parameter's handle is its address and these; the second one's has no gradient. */
#define DN_PARAM_TAG ((int64_t)1 << 62)
#define DN_CONSTANT_TAG ((int64_t)1 << 61)
/* NULL: not a parameter's handle */
static inline dn_param *dn__handle_param(int64_t handle, int *constant) {
    *constant = (handle & DN_CONSTANT_TAG) != 0;
    if (handle < 0 || !(handle & DN_PARAM_TAG)) return NULL;
    return (dn_param *)(intptr_t)(handle & ~(DN_PARAM_TAG | DN_CONSTANT_TAG));
}
/* Where a dense parameter's gradient goes: *beta is 0 if it was empty (the caller stores), else
 * 1. */
dn_real *dn__param_gradient(dn_param *, dn_real *beta);
/* the same, zeroed if it was empty */
dn_real *dn__param_filled(dn_param *);
void dn__param_clear(dn_param *);
/* The gradient becomes this one, or empty, as dn_assignment says; for which there is to be room. */
int dn__param_gradient_reserve(dn_param *, const dn_real *);
void dn__param_gradient_set(dn_param *, const dn_real *);
/* Its values change with the store's next version; and whether they have since this one: of a table
 * those of n rows, NULL: all. */
void dn__param_note_change(dn_param *);
int dn__param_changed_since(const dn_param *, int64_t version, const int *rows, int n);
/* multiplies a table's factor into its rows */
void dn__param_materialise(dn_param *);
/* the gradient row of a table, zeroed if it is new; NULL: no memory */
dn_real *dn__lookup_row(dn_param *, int64_t row);
/* Room for the gradients of so many rows; the gradient of a row that has none yet and for which
 * there is room, which the caller writes. */
int dn__lookup_reserve(dn_param *, int64_t rows);
/* The gradient becomes the sum of those of ranks, in their order: rank r has counts[r stride] rows
 * of these numbers, to be multiplied by factors[r]. own_alone: of the rows that this rank owns.
 * DN_ERROR_MEMORY; DN_ERROR_VALUE: there is no such row. */
int dn__lookup_sum_ranks(dn_param *, int ranks, const int32_t *counts, size_t stride,
                         int *const *ids, dn_real *const *rows, const double *factors,
                         int own_alone);
dn_real *dn__lookup_new_row(dn_param *, int64_t row);
/* memory for the gradient of one row more, which is no row's: there is room, and it is zeroed */
const dn_real *dn__lookup_spare_row(dn_param *);

/* ---- packed.c: a dense matrix rounded to bfloat16 (kernels/bf16.h), or its transpose. Not in the
 * double build. */
/* of its present values; NULL: no memory */
const uint16_t *dn__param_packed(dn_param *, int transposed);
/* How many numbers that takes; and the same of other values of this parameter. */
size_t dn__packed_numbers(const dn_param *, int transposed);
void dn__pack(const dn_param *, int transposed, const dn_real *w, uint16_t *to);
