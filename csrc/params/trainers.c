/* Trainers: the moments that stand beside the values, gradients as a whole, and updates. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "kernels/kernels.h"
#include "params/rules.h"
#include "profile.h"
#include "work.h"

/* What an update reads while Python's lock is held: fewer parameters and numbers than these. */
enum { FAST_PARAMS = 32, FAST_NUMBERS = DN_FAST_WORK / 4 };

/* ---- life ----------------------------------------------------------------------------- */

dn_trainer *dn_trainer_new(dn_store *store, int rule, const double *constants) {
    dn_trainer *t = dn__rule(rule) ? calloc(1, sizeof *t) : NULL;
    if (!t) return NULL;
    *t = (dn_trainer){.store = store,
                      .rule = *dn__rule(rule),
                      .set = {.share = 1, .decay = 1, .sparse = 1},
                      .last_norm = -1,
                      .n_selected = -1};
    memcpy(t->c, constants, sizeof t->c);
    dn__store_retain(store);
    return t;
}

int dn_trainer_select(dn_trainer *t, int n, dn_param *const *params) {
    dn_param **copy = n > 0 ? malloc((size_t)n * sizeof *copy) : NULL;
    if (n > 0 && !copy) return DN_ERROR_MEMORY;
    if (n > 0) memcpy(copy, params, (size_t)n * sizeof *copy);
    free(t->selected);
    t->selected = copy;
    t->n_selected = n;
    return 0;
}

int dn_trainer_exclude(dn_trainer *t, int n, dn_param *const *params) {
    char *excluded = calloc((size_t)t->store->n_params + 1, 1);
    if (!excluded) return DN_ERROR_MEMORY;
    for (int i = 0; i < n; i++) excluded[params[i]->id] = 1;
    free(t->excluded);
    t->excluded = excluded;
    t->n_excluded = t->store->n_params;
    return 0;
}

void dn_trainer_set(dn_trainer *t, const dn_settings *set) { t->set = *set; }

int64_t dn_trainer_updates(dn_trainer *t) { return t->updates; }
int64_t dn_trainer_clips(dn_trainer *t) { return t->clips; }
double dn_trainer_last_norm(dn_trainer *t) { return t->last_norm; }

/* Of the chunks, then of the tables: how many numbers there are of each moment. */
static dn_moments *moments_of(dn_trainer *t, int i, int64_t *numbers) {
    const int k = i - t->n_chunks;
    *numbers = k < 0 ? t->store->chunks[i].capacity : dn__block_numbers(t->store->params[k]);
    return k < 0 ? &t->chunk_moments[i] : &t->table_moments[k];
}

static void free_moments(dn_trainer *t) {
    int64_t numbers;
    for (int i = 0; i < t->n_chunks + t->n_params; i++) {
        const dn_moments *m = moments_of(t, i, &numbers);
        for (int k = 0; k < t->rule.moments && !m->updated; k++) dn__block_free(m->at[k]);
    }
    free(t->chunk_moments);
    free(t->table_moments);
}

void dn_trainer_free(dn_trainer *t) {
    if (!t) return;
    free_moments(t);
    free(t->selected);
    free(t->excluded);
    dn__store_release(t->store);
    free(t);
}

void dn_trainer_restart(dn_trainer *t) {
    int64_t numbers;
    DN_HOLD(t->store);
    for (int i = 0; i < t->n_chunks + t->n_params; i++) {
        dn_moments *m = moments_of(t, i, &numbers);
        for (int k = 0; k < t->rule.moments && m->at[k]; k++) {
            if (m->updated) {
                memset(m->at[k], 0, (size_t)numbers * sizeof(dn_real));
                continue;
            }
            dn__block_free(m->at[k]);
            m->at[k] = NULL;
        }
    }
}

/* Room for one entry per chunk and per parameter; moments themselves are made when they are first
 * needed. */
static int grow(dn_moments **array, int *have, int wanted) {
    if (*have >= wanted) return 0;
    void *p = realloc(*array, (size_t)wanted * sizeof **array);
    if (!p) return DN_ERROR_MEMORY;
    *array = p;
    memset(*array + *have, 0, (size_t)(wanted - *have) * sizeof **array);
    *have = wanted;
    return 0;
}

static int prepare(dn_trainer *t, const dn_param *p) {
    if (grow(&t->chunk_moments, &t->n_chunks, t->store->n_chunks) ||
        grow(&t->table_moments, &t->n_params, t->store->n_params))
        return DN_ERROR_MEMORY;
    dn_moments *m = p->rows ? &t->table_moments[p->id] : &t->chunk_moments[p->chunk];
    const int64_t size = dn__block_numbers(p);
    for (int k = 0; k < t->rule.moments; k++) {
        if (m->at[k]) continue;
        if (!(m->at[k] = dn__block_new((size_t)size * sizeof(dn_real)))) return DN_ERROR_MEMORY;
    }
    return t->store->owned && !m->updated ? DN_ERROR_STATE : 0;
}

dn_real *dn_trainer_moment(dn_trainer *t, dn_param *p, int k) {
    if (k < 0 || k >= t->rule.moments || prepare(t, p)) return NULL;
    return p->rows ? t->table_moments[p->id].at[k] : t->chunk_moments[p->chunk].at[k] + p->offset;
}

int dn_trainer_has_moments(dn_trainer *t, dn_param *p) {
    if (!t->rule.moments) return 0;
    return p->rows ? p->id < t->n_params && t->table_moments[p->id].at[0]
                   : p->chunk < t->n_chunks && t->chunk_moments[p->chunk].at[0];
}

/* A dense parameter without a gradient is updated with zero, as in DyNet: its moments go on to move
 * it. Rows of tables without one are left alone; with dense updates, all rows move. Frozen
 * parameters are never touched. */
static int takes_part(const dn_trainer *t, const dn_param *p) {
    if (!p->updated) return 0;
    if (!dn__param_is_empty(p)) return 1;
    return t->set.decay != 1 || (p->rows ? !t->set.sparse : t->rule.moments > 0);
}

/* All memory that update() needs is taken before anything is changed: an update is done, or it is
 * an error and nothing has happened. */
static int prepare_all(dn_trainer *t, int n, dn_param *const *params) {
    for (int i = 0; i < n; i++) {
        dn_param *p = params[i];
        const int error = takes_part(t, p) ? prepare(t, p) : 0;
        if (error) return error;
        if (takes_part(t, p) && p->rows && !t->set.sparse &&
            dn__lookup_reserve(p, p->n_touched + 1))
            return DN_ERROR_MEMORY;
    }
    return 0;
}

/* The parameters come in the order of the store, so that neighbours in a chunk follow one
 * another. */
static void update(dn_trainer *t, const dn_step *s, int n, dn_param *const *params) {
    dn_range r = {.chunk = -1};
    for (int i = 0; i < n; i++) {
        dn_param *p = params[i];
        if (!takes_part(t, p)) continue;
        if (p->rows) {
            dn__apply_to_table(t, s, p);
            continue;
        }
        dn__param_filled(p); /* zero where it is empty */
        const dn_real keep = dn__keep_of(t, p);
        for (int64_t from, to = 0; dn__next_share(p, t->rule.whole, &from, &to);) {
            /* only padding lies between */
            int joins = p->chunk == r.chunk && p->offset + from - r.to < DN_PARAM_ALIGN;
            if (!joins || keep != r.keep || t->rule.whole) {
                dn__apply_to_range(t, s, &r);
                r = (dn_range){p->chunk, p->offset + from, p->offset + from, keep};
            }
            r.to = p->offset + to;
        }
    }
    dn__apply_to_range(t, s, &r);
}

/* What all processes do alike once values are updated. */
static void conclude(dn_trainer *t, int n, dn_param *const *params) {
    for (int i = 0; i < n; i++) {
        dn_param *p = params[i];
        if (takes_part(t, p)) {
            if (p->rows) dn__decay_table(t, p);
            dn__param_note_change(p);
        } else if (!p->updated && dn__store_is_as_dynet(t->store) && t->set.decay != 1)
            dn__decay_frozen(t, p);
        if (p->updated || !dn__store_is_as_dynet(t->store)) dn__param_clear(p);
    }
    dn__raise(&t->store->version, 1);
}

/* ---- gradients as a whole ------------------------------------------------------------- */

/* A parameter's gradient, of a table the touched rows. */
static size_t gradient(const dn_param *p, dn_real **g) {
    *g = p->rows ? p->block : p->store->chunks[p->chunk].grads + p->offset;
    return dn__param_is_empty(p) ? 0 : (size_t)(p->rows ? p->n_touched * p->row_size : p->row_size);
}

static double norm(int n, dn_param *const *params) {
    double sum = 0;
    dn_real *g;
    for (int i = 0; i < n; i++) {
        const dn_param *p = params[i];
        if (dn__param_is_empty(p)) continue;
        const size_t size = gradient(p, &g);
        sum += p->rows               ? dn__sum_rows(p)
               : dn__is_in_pieces(p) ? dn__sum_pieces(p)
                                     : dn__sum_squares(size, g);
    }
    return sqrt(sum);
}

/* Clips, where there is memory for the update; *scale is what the gradients are to be multiplied
 * by. */
static int clip(dn_trainer *t, int n, dn_param *const *params, double *scale) {
    const dn_settings *set = &t->set;
    double length = 0;
    dn_real *g;
    *scale = set->share;
    if (set->check || set->clip > 0) length = norm(n, params);
    t->last_norm = set->check || set->clip > 0 ? length * set->share : -1;
    if (!isfinite(length)) return DN_ERROR_NONFINITE;
    const int error = prepare_all(t, n, params);
    if (error) return error;
    if (set->clip_value > 0) {
        for (int i = 0; i < n; i++) {
            size_t size = gradient(params[i], &g);
            dn__clamp(size, (dn_real)(set->clip_value / set->share), g);
            params[i]->written++;
        }
        if (set->clip > 0) length = norm(n, params);
    }
    if (set->clip > 0 && length * set->share > set->clip) {
        *scale = set->clip / length;
        t->clips++;
    }
    return 0;
}

static int selection(const dn_trainer *t, dn_param *const **params) {
    *params = t->n_selected < 0 ? t->store->params : t->selected;
    return t->n_selected < 0 ? t->store->n_params : t->n_selected;
}

/* ---- shared memory -------------------------------------------------------------------- */

void dn_trainer_share(dn_trainer *t, dn_param *p, dn_real *memory) {
    DN_HOLD(t->store);
    t->shares = 1;
    if (!memory || prepare(t, p)) return;
    dn_moments *m = p->rows ? &t->table_moments[p->id] : &t->chunk_moments[p->chunk];
    const size_t numbers = (size_t)dn__block_numbers(p);
    for (int k = 0; k < t->rule.moments; k++) {
        dn_real *to = memory + (size_t)(k + 1) * numbers;
        memcpy(to, m->at[k], numbers * sizeof *to);
        if (!m->updated) dn__block_free(m->at[k]);
        m->at[k] = to;
    }
    m->updated = memory;
}

int dn_trainer_unshare(dn_trainer *t) {
    int64_t numbers;
    if (dn__try_lock(t->store)) return DN_ERROR_BUSY;
    int error = 0;
    for (int i = 0; i < t->n_chunks + t->n_params && !error; i++) {
        dn_moments *m = moments_of(t, i, &numbers), own = {.at = {NULL}};
        for (int k = 0; k < t->rule.moments && m->updated; k++) {
            own.at[k] = dn__block_raw((size_t)numbers * sizeof(dn_real));
            if (!own.at[k]) error = DN_ERROR_MEMORY;
            else memcpy(own.at[k], m->at[k], (size_t)numbers * sizeof(dn_real));
        }
        if (m->updated && !error) *m = own;
        for (int k = 0; k < t->rule.moments && error; k++) dn__block_free(own.at[k]);
    }
    if (!error) t->shares = 0;
    dn__unlock(t->store);
    return error;
}

/* DyNet's frozen parameters have gradients that count in the norm, and stay. */
static int takes_pieces(const dn_trainer *t) {
    return !t->rule.whole && !(t->set.clip_value > 0) && !dn__store_is_as_dynet(t->store);
}

void dn_trainer_open(dn_trainer *t, const dn_shm_comm_plan *plan, int in_pieces) {
    dn_store *r = t->store;
    if (!t->shares) return;
    DN_HOLD(r);
    r->owned = 1;
    r->rank = plan->rank;
    r->ranks = plan->ranks;
    t->updated = 0;
    r->squares = in_pieces && takes_pieces(t) ? plan->squares : NULL;
    r->row_squares = plan->row_squares;
}

static void copy_rows(dn_param *p, const dn_real *from, int64_t n, const int *rows) {
    const size_t size = (size_t)p->row_size;
    for (int64_t i = 0; i < n; i++)
        memcpy(p->table + (size_t)rows[i] * size, from + (size_t)rows[i] * size,
               size * sizeof *from);
}

/* Values become those that the owners have computed. */
static void take_over(const dn_trainer *t, dn_param *p) {
    if (!p->rows) {
        memcpy(t->store->chunks[p->chunk].values + p->offset,
               t->chunk_moments[p->chunk].updated + p->offset,
               (size_t)p->row_size * sizeof(dn_real));
        return;
    }
    const dn_moments *m = &t->table_moments[p->id];
    if (m->all_rows) memcpy(p->table, m->updated, (size_t)dn__block_numbers(p) * sizeof *p->table);
    else if (dn__is_in_pieces(p)) copy_rows(p, m->updated, p->n_host_rows, p->host_rows);
    else copy_rows(p, m->updated, p->n_touched, p->touched);
}

int dn_trainer_is_open(dn_trainer *t) { return t->shares && t->store->owned; }

void dn_trainer_close(dn_trainer *t, int n, dn_param *const *params) {
    dn_store *r = t->store;
    DN_HOLD(r);
    if (n < 0) n = selection(t, &params);
    if (t->updated) {
        dn__begin_writing(r);
        for (int i = 0; i < n; i++)
            if (takes_part(t, params[i])) take_over(t, params[i]);
        conclude(t, n, params);
        dn__end_writing(r);
    }
    r->owned = t->updated = 0;
    r->squares = NULL;
}

double dn_trainer_norm(dn_trainer *t) {
    dn_param *const *params;
    DN_HOLD(t->store);
    const int n = selection(t, &params);
    return norm(n, params);
}

/* n < 0: what is selected; locked */
static int clip_and_update(dn_trainer *t, int n, dn_param *const *params) {
    double scale;
    if (n < 0) n = selection(t, &params);
    const int owned = t->store->owned;
    int error = t->shares && !owned ? DN_ERROR_STATE : 0;
    if (!error) error = clip(t, n, params, &scale);
    dn__count_update();
    if (!error) {
        t->updates++;
        dn_step s = {(dn_real)t->rule.rate(t), (dn_real)scale, 1, 1, (dn_real)t->set.decay};
        if (!owned) dn__begin_writing(t->store);
        update(t, &s, n, params);
        t->updated = owned;
        if (owned) return 0; /* dn_trainer_close does the rest */
        conclude(t, n, params);
        dn__end_writing(t->store);
    }
    return error;
}

static int metered_update(dn_trainer *t, int n, dn_param *const *params, int is_locked) {
    const int phase = dn_meter_switch(DN_UPDATE);
    const int64_t begin = DN_PROFILE_OPEN();
    if (!is_locked) dn__lock(t->store);
    const int error = clip_and_update(t, n, params);
    if (!is_locked) dn__unlock(t->store);
    DN_PROFILE_CLOSE(DN_PROFILE_UPDATE, begin);
    dn_meter_switch(phase);
    return error;
}

int dn_trainer_update_these(dn_trainer *t, int n, dn_param *const *params) {
    return metered_update(t, n, params, 0);
}

int dn_trainer_update(dn_trainer *t) { return dn_trainer_update_these(t, -1, NULL); }

/* Whether so many parameters have few numbers, of tables those that have a gradient. */
static int is_small(const dn_trainer *t) {
    dn_param *const *params;
    const int n = selection(t, &params);
    int64_t numbers = 0;
    for (int i = 0; i < n && i < FAST_PARAMS && numbers < FAST_NUMBERS; i++) {
        const dn_param *p = params[i];
        numbers += p->row_size * (!p->rows ? 1 : t->set.sparse ? p->n_touched : p->rows);
    }
    return n < FAST_PARAMS && numbers < FAST_NUMBERS;
}

int dn_fast_update(int64_t trainer) {
    dn_trainer *t = (dn_trainer *)(intptr_t)trainer;
    if (dn__try_lock(t->store)) return DN_FALLBACK;
    const int code = is_small(t) ? metered_update(t, -1, NULL, 1) : DN_FALLBACK;
    dn__unlock(t->store);
    return code;
}

void dn_blend(int64_t n, double a, const dn_real *x, dn_real *y) {
    dn__blend((size_t)n, (dn_real)a, x, y);
}
