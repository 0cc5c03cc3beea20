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

static void free_of(dn_trainer *t, dn_real *const *moments) {
    for (int k = 0; k < t->rule.moments; k++) {
        dn__forget_shared(t->store, moments[k]);
        dn__block_free(moments[k]);
    }
}

static void free_moments(dn_trainer *t) {
    for (int i = 0; i < t->n_chunks; i++) free_of(t, t->chunk_moments[i]);
    for (int i = 0; i < t->n_params; i++) free_of(t, t->table_moments[i]);
    free(t->chunk_moments);
    free(t->table_moments);
    t->chunk_moments = t->table_moments = NULL;
    t->n_chunks = t->n_params = 0;
    t->sharing = 0;
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
    DN_HOLD(t->store);
    free_moments(t);
}

/* Room for one entry per chunk and per parameter; moments themselves are made when they are first
 * needed. */
static int grow(dn_real *(**array)[DN_MOST_MOMENTS], int *have, int wanted) {
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
    dn_real **moments = p->rows ? t->table_moments[p->id] : t->chunk_moments[p->chunk];
    const int64_t size = dn__block_numbers(p);
    for (int k = 0; k < t->rule.moments; k++) {
        if (moments[k]) continue;
        if (!(moments[k] = dn__pages_new((size_t)size * sizeof(dn_real)))) return DN_ERROR_MEMORY;
        if (dn__is_large(size)) t->sharing = 0; /* this one is not */
    }
    return 0;
}

dn_real *dn_trainer_moment(dn_trainer *t, dn_param *p, int k) {
    if (k < 0 || k >= t->rule.moments || prepare(t, p)) return NULL;
    return p->rows ? t->table_moments[p->id][k] : t->chunk_moments[p->chunk][k] + p->offset;
}

int dn_trainer_has_moments(dn_trainer *t, dn_param *p) {
    if (!t->rule.moments) return 0;
    return p->rows ? p->id < t->n_params && t->table_moments[p->id][0]
                   : p->chunk < t->n_chunks && t->chunk_moments[p->chunk][0];
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
        if (takes_part(t, p) && prepare(t, p)) return DN_ERROR_MEMORY;
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
        if (!p->updated && dn__store_is_as_dynet(t->store) && t->set.decay != 1)
            dn__decay_frozen(t, p);
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
    for (int i = 0; i < n; i++) {
        if (takes_part(t, params[i])) {
            dn__param_note_change(params[i]);
        }
        if (params[i]->updated || !dn__store_is_as_dynet(t->store)) dn__param_clear(params[i]);
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
    if (prepare_all(t, n, params)) return DN_ERROR_MEMORY;
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

int dn_trainer_blocks(dn_trainer *t, int capacity, dn_memory_block *out) {
    dn_param *const *params;
    DN_HOLD(t->store);
    const int n = selection(t, &params);
    int count = 0;
    for (int i = 0; i < n; i++)
        if (params[i]->updated && prepare(t, params[i])) return DN_ERROR_MEMORY;
    for (int i = 0; i < t->n_chunks + t->n_params; i++) {
        const int k = i - t->n_chunks;
        dn_real *const *moments = k < 0 ? t->chunk_moments[i] : t->table_moments[k];
        const dn_chunk *c = &t->store->chunks[k < 0 ? i : 0];
        const dn_param *table = t->store->params[k < 0 ? 0 : k];
        for (int m = 0; m < t->rule.moments && moments[m]; m++)
            count += dn__list_block(moments[m], k < 0 ? c->capacity : dn__block_numbers(table),
                                    k < 0 ? c->size : dn__block_numbers(table), capacity - count,
                                    out + count);
    }
    return count;
}

void dn_trainer_join(dn_trainer *t) { t->sharing = t->store->sharing; }

static int is_shared(dn_trainer *t) {
    dn_param *const *params;
    if (!t->store->sharing || t->sharing != t->store->sharing) return 0;
    const int n = selection(t, &params);
    for (int i = 0; i < n && t->rule.moments; i++)
        if (params[i]->updated && !dn_trainer_has_moments(t, params[i])) return 0;
    return 1;
}

int dn_trainer_pin(dn_trainer *t) {
    DN_HOLD(t->store);
    dn__await_window(t->store, DN_WINDOW_PINNED);
    const int result = is_shared(t);
    if (result) dn__pin(t->store);
    return result;
}

/* DyNet's frozen parameters have gradients that count in the norm, and stay. */
static int takes_pieces(const dn_trainer *t) {
    return !t->rule.whole && !(t->set.clip_value > 0) && !dn__store_is_as_dynet(t->store);
}

int dn_trainer_open(dn_trainer *t, dn_real *squares, void *row_squares) {
    dn_store *r = t->store;
    DN_HOLD(r);
    if (!dn__is_in_window(r)) return DN_ERROR_STATE;
    dn__begin_writing(r);
    r->squares = takes_pieces(t) ? squares : NULL;
    r->row_squares = row_squares;
    r->window = DN_WINDOW_OPEN;
    return r->squares != NULL;
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
    int error = dn__is_in_window(t->store) ? 0 : dn__detach(t->store);
    if (!error) error = clip(t, n, params, &scale);
    dn__count_update();
    if (!error) {
        t->updates++;
        dn_step s = {(dn_real)t->rule.rate(t), (dn_real)scale, 1, 1, (dn_real)t->set.decay};
        dn__begin_writing(t->store);
        update(t, &s, n, params);
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
