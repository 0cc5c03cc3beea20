/* Values are written: those of several parameters at one moment; and what is noted of it. */
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "params.h"

static int64_t next_version(const dn_param *p) {
    return __atomic_load_n(&p->store->version, __ATOMIC_RELAXED) + 1;
}

void dn__param_note_change(dn_param *p) {
    __atomic_store_n(&p->changed_at, next_version(p), __ATOMIC_RELAXED);
}

/* the same of one row */
static void note_row_write(dn_param *p, int64_t row) {
    if (!p->rows_changed_at) {
        int64_t *new = calloc((size_t)p->rows, sizeof *new);
        if (!new) { /* then as if all rows were written */
            dn__param_note_change(p);
            return;
        }
        __atomic_store_n(&p->rows_changed_at, new, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&p->rows_changed_at[row], next_version(p), __ATOMIC_RELAXED);
}

int dn__param_changed_since(const dn_param *p, int64_t version, const int *rows, int n) {
    if (__atomic_load_n(&p->changed_at, __ATOMIC_RELAXED) > version) return 1;
    const int64_t *of_row = __atomic_load_n(&p->rows_changed_at, __ATOMIC_ACQUIRE);
    if (of_row && !rows) n = (int)p->rows;
    for (int i = 0; of_row && i < n; i++)
        if (__atomic_load_n(&of_row[rows ? rows[i] : i], __ATOMIC_RELAXED) > version) return 1;
    return 0;
}

void dn_param_changed_since(const dn_param *p, int64_t version, uint8_t *rows) {
    int row = 0;
    do rows[row] = (uint8_t)dn__param_changed_since(p, version, &row, p->rows != 0);
    while (++row < p->rows);
}

static void written(dn_store *r) {
    dn__end_writing(r);
    dn__raise(&r->version, 1);
    dn__unlock(r);
}

static void begin_write(dn_store *r) {
    dn__lock(r);
    dn__begin_writing(r);
}

static void write_values(const dn_assignment *a) {
    dn_param *p = a->param;
    const int whole = a->n == dn_param_size(p), is_row = a->n && a->n == p->row_size;
    if (!whole || a->share != 1) dn__param_materialise(p);
    double factor;
    dn_real *to = dn_param_storage(p, &factor) + a->from;
    if (a->share != 1) dn__blend((size_t)a->n, (dn_real)a->share, a->values, to);
    else if (a->n) memcpy(to, a->values, (size_t)a->n * sizeof *to);
    if (p->rows && whole && a->share == 1) p->factor = a->factor;
    if (p->rows && is_row && a->from % a->n == 0) note_row_write(p, a->from / a->n);
    else dn__param_note_change(p);
}

int dn_store_write(dn_store *r, int n, const dn_assignment *given, int n_copied,
                   const dn_copied *copied) {
    int error = 0;
    begin_write(r);
    for (int i = 0; i < n && !error; i++)
        if (given[i].sets_gradient)
            error = dn__param_gradient_reserve(given[i].param, given[i].gradient);
    for (int i = 0; i < n && !error; i++) {
        if (given[i].values) write_values(&given[i]);
        if (given[i].sets_gradient) dn__param_gradient_set(given[i].param, given[i].gradient);
    }
    for (int i = 0; i < n_copied && !error; i++)
        memcpy(copied[i].to, copied[i].from, (size_t)copied[i].bytes);
    written(r);
    return error;
}

int dn_param_write(dn_param *p, int64_t from, int64_t n, const dn_real *values) {
    const dn_assignment given = {
        .param = p, .values = values, .from = from, .n = n, .factor = 1, .share = 1};
    return dn_store_write(p->store, 1, &given, 0, NULL);
}

/* ---- what values become of themselves -------------------------------------------------- */

/* Locks its store and returns the values. */
static dn_real *begin_change(dn_param *p) {
    double factor;
    begin_write(p->store);
    dn__param_materialise(p);
    return dn_param_storage(p, &factor);
}
static int end_change(dn_param *p) {
    dn__param_note_change(p);
    written(p->store);
    return 0;
}

int dn_param_scale(dn_param *p, dn_real by) {
    dn_real *x = begin_change(p);
    dn__axpy((size_t)dn_param_size(p), by, x, 0, x);
    return end_change(p);
}

int dn_param_clip(dn_param *p, dn_real low, dn_real high) {
    dn_real *x = begin_change(p);
    dn__clip((size_t)dn_param_size(p), low, high, x);
    return end_change(p);
}

int dn_param_zero(dn_param *p) {
    dn_real *x = begin_change(p);
    dn__fill((size_t)dn_param_size(p), 0, x);
    if (!p->rows) dn__param_clear(p);
    return end_change(p);
}

/* ---- rows ------------------------------------------------------------------------------ */

int dn_fast_row_set(int64_t a, int64_t row, int64_t n, const double *data) {
    int constant;
    dn_param *p = dn__handle_param(a, &constant);
    if (!p || row < 0 || row >= p->rows || n != p->row_size || dn__try_lock(p->store))
        return DN_FALLBACK;
    dn__begin_writing(p->store);
    dn__param_materialise(p);
    dn_real *to = p->table + row * n;
    for (int64_t i = 0; i < n; i++) to[i] = (dn_real)data[i];
    note_row_write(p, row);
    written(p->store);
    return 0;
}

void dn_params_changed(dn_store *r, int n, dn_param *const *params) {
    DN_HOLD(r);
    for (int i = 0; i < n; i++) dn__param_note_change(params[i]);
    dn__raise(&r->version, 1);
    dn__raise(&r->writes, 2);
}
