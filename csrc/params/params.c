/* Parameter stores: dense parameters in chunks, lookup tables with the list of touched rows. */
#include "params.h"

#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "kernels/kernels.h"

/* Chunks start small and grow with the model, so that a tiny model is tiny and a large one has few
 * chunks. Their boundaries depend on the model alone: the same parameters in the same order give
 * the same chunks on every rank. */
enum { FIRST_CHUNK = 1 << 14, LARGEST_CHUNK = 1 << 22, MOST_CHUNKS = 1 << 12 };

/* ---- life ----------------------------------------------------------------------------- */

static void end_watch(dn_store *r) {
    pthread_cond_destroy(&r->hook_moved);
    pthread_mutex_destroy(&r->hook_lock);
}

dn_store *dn_store_new(void) {
    dn_store *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->references = 1;
    r->chunks = r->few_chunks;
    dn__make_locks(r);
    if (!dn__list_store(r)) return r;
    dn__store_release(r);
    return NULL;
}

static void param_free(dn_param *p) {
    dn__block_free(p->table);
    for (int i = 0; i < 2; i++) dn__block_free(p->packed[i].at);
    free(p->block);
    free(p->touched);
    free(p->slot);
    free(p->rows_changed_at);
    free(p);
}

void dn__store_retain(dn_store *r) { __atomic_add_fetch(&r->references, 1, __ATOMIC_RELAXED); }

void dn__store_release(dn_store *r) {
    if (__atomic_sub_fetch(&r->references, 1, __ATOMIC_ACQ_REL)) return;
    dn__unlist_store(r);
    for (int i = 0; i < r->n_params; i++) param_free(r->params[i]);
    for (int i = 0; i < r->n_chunks; i++) {
        dn__block_free(r->chunks[i].values);
        dn__block_free(r->chunks[i].private_grads);
    }
    free(r->params);
    if (r->chunks != r->few_chunks) free(r->chunks);
    end_watch(r);
    pthread_mutex_destroy(&r->lock);
    pthread_mutex_destroy(&r->pack_lock);
    free(r);
}

void dn_store_free(dn_store *r) {
    if (r) dn__store_release(r);
}

/* ---- making parameters ---------------------------------------------------------------- */

/* To room for all chunks there may be (64 GB and more). Who has found the few a moment ago reads on
 * there: they stay until the store goes. */
static int move_chunks(dn_store *r) {
    dn_chunk *all = calloc(MOST_CHUNKS, sizeof *all);
    if (!all) return -1;
    memcpy(all, r->few_chunks, sizeof r->few_chunks);
    __atomic_store_n(&r->chunks, all, __ATOMIC_RELEASE);
    return 0;
}

/* A place of n numbers in the last chunk, or in a new one. */
static int place_parameter(dn_store *r, dn_param *p) {
    int64_t n = (p->row_size + DN_PARAM_ALIGN - 1) / DN_PARAM_ALIGN * DN_PARAM_ALIGN;
    dn_chunk *last = r->n_chunks ? &r->chunks[r->n_chunks - 1] : NULL;
    if (!last || last->capacity - last->size < n) {
        int64_t capacity = last ? last->capacity * 4 : FIRST_CHUNK;
        if (capacity > LARGEST_CHUNK) capacity = LARGEST_CHUNK;
        if (capacity < n) capacity = n;
        if (r->n_chunks == MOST_CHUNKS || (r->n_chunks == DN_FEW_CHUNKS && move_chunks(r)))
            return -1;
        last = &r->chunks[r->n_chunks];
        *last = (dn_chunk){.capacity = capacity};
        last->values = dn__block_raw((size_t)capacity * sizeof(dn_real));
        last->private_grads = last->grads = dn__block_raw((size_t)capacity * sizeof(dn_real));
        if (!last->values || !last->grads) {
            dn__block_free(last->values);
            dn__block_free(last->grads);
            return -1;
        }
        r->n_chunks++;
    }
    p->chunk = r->n_chunks - 1;
    p->offset = last->size;
    p->first_piece = r->n_pieces;
    r->n_pieces += (p->row_size + DN_PIECE - 1) / DN_PIECE;
    memset(last->values + last->size, 0, (size_t)n * sizeof(dn_real));
    memset(last->grads + last->size, 0, (size_t)n * sizeof(dn_real));
    last->size += n;
    return 0;
}

static int make_table(dn_store *r, dn_param *p) {
    p->table = dn__block_new((size_t)(p->rows * p->row_size) * sizeof(dn_real));
    p->slot = malloc((size_t)p->rows * sizeof *p->slot);
    if (!p->table || !p->slot) return -1;
    for (int64_t i = 0; i < p->rows; i++) p->slot[i] = -1;
    p->number = r->n_tables++;
    return 0;
}

dn_param *dn_param_new(dn_store *r, int nd, const int *d, int64_t row_count) {
    dn_param *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    *p = (dn_param){.store = r,
                    .rows = row_count,
                    .row_size = 1,
                    .chunk = -1,
                    .updated = 1,
                    .empty = 1,
                    .factor = 1,
                    .scaled = 1,
                    .id = r->n_params};
    p->dim.nd = nd;
    p->dim.batch = 1;
    for (int i = 0; i < nd; i++) p->row_size *= p->dim.d[i] = d[i];
    if (row_count) p->dim.d[p->dim.nd++] = (int)row_count;
    p->dim.size = (int)(p->row_size * (row_count ? row_count : 1));
    dn__lock(r);
    if (r->n_params == r->params_capacity) {
        int capacity = r->params_capacity ? 2 * r->params_capacity : 16;
        dn_param **params = realloc(r->params, (size_t)capacity * sizeof *params);
        if (!params) goto failed;
        r->params = params;
        r->params_capacity = capacity;
    }
    if (row_count ? make_table(r, p) : place_parameter(r, p)) goto failed;
    r->params[r->n_params++] = p;
    dn__unlock(r);
    return p;
failed:
    dn__unlock(r);
    param_free(p);
    return NULL;
}

void dn_param_begin(dn_param *p, struct dn_rng *rng, int first, float a, float b) {
    enum { AT_ONCE = 256 }; /* even, as normal numbers are drawn in pairs */
    float drawn[AT_ONCE];
    dn_real *values = dn_param_values(p);
    const size_t n = (size_t)dn_param_size(p);
    for (size_t start = 0; start < n; start += AT_ONCE) {
        const size_t count = n - start < AT_ONCE ? n - start : AT_ONCE;
        if (first == DN_FIRST_UNIFORM) dn_rng_uniform(rng, count, a, b, drawn);
        else if (first == DN_FIRST_NORMAL) dn_rng_normal(rng, count, a, b, drawn);
        for (size_t i = 0; i < count; i++)
            values[start + i] = (dn_real)(first == DN_FIRST_CONSTANT ? a : drawn[i]);
    }
}

/* ---- reading -------------------------------------------------------------------------- */

int64_t dn_param_handle(dn_param *p, int constant) {
    return DN_PARAM_TAG | (constant ? DN_CONSTANT_TAG : 0) | (int64_t)(intptr_t)p;
}

int64_t dn_constant_of(int64_t handle) {
    int constant;
    dn_param *p = dn__handle_param(handle, &constant);
    return p ? dn_param_handle(p, 1) : DN_ERROR_VALUE;
}

static dn_real *storage(const dn_param *p) {
    return p->rows ? p->table : p->store->chunks[p->chunk].values + p->offset;
}

void dn__param_materialise(dn_param *p) {
    const dn_real factor = (dn_real)p->factor;
    if (p->factor == 1) return;
    p->factor = 1;
    dn__axpy((size_t)dn_param_size(p), factor, p->table, 0, p->table);
}

/* n values from element `from` on. */
static void copy_values(const dn_param *p, int64_t from, int64_t n, dn_real *out) {
    const dn_real *values = storage(p) + from;
    if (p->factor != 1) dn__axpy((size_t)n, (dn_real)p->factor, values, 0, out);
    else if (n) memcpy(out, values, (size_t)n * sizeof *out);
}

dn_real *dn_param_values(dn_param *p) {
    if (!p->rows) return p->store->chunks[p->chunk].values + p->offset;
    DN_HOLD(p->store);
    if (p->factor != 1) {
        dn__begin_writing(p->store);
        dn__param_materialise(p);
        dn__end_writing(p->store);
    }
    return p->table;
}
dn_real *dn_param_storage(dn_param *p, double *factor) {
    *factor = p->factor;
    return storage(p);
}

void dn_param_copy(dn_param *p, int64_t from, int64_t n, dn_real *out) {
    DN_HOLD(p->store);
    copy_values(p, from, n, out);
}

void dn_lookup_copy_rows(dn_param *p, int64_t n, const int *rows, dn_real *out) {
    DN_HOLD(p->store);
    for (int64_t i = 0; i < n; i++)
        copy_values(p, rows[i] * p->row_size, p->row_size, out + i * p->row_size);
}

int dn_fast_param(int64_t a, int64_t row, dn_dim *dim, int capacity, double *out) {
    int constant;
    dn_param *p = dn__handle_param(a, &constant);
    if (!p || (row >= 0 && row >= p->rows)) return DN_FALLBACK;
    *dim = p->dim;
    if (row >= 0) {
        dim->size = (int)p->row_size;
        dim->nd--; /* the rows are the last dim */
    }
    if (dim->size < 1 || dim->size > capacity || dn__try_lock(p->store)) return DN_FALLBACK;
    const dn_real *values = storage(p) + (row >= 0 ? row * p->row_size : 0);
    const dn_real factor = (dn_real)p->factor;
    for (int i = 0; i < dim->size; i++) out[i] = (double)(factor * values[i]);
    dn__unlock(p->store);
    return 0;
}

int64_t dn_param_size(dn_param *p) { return p->row_size * (p->rows ? p->rows : 1); }
/* Four lanes of multiply and shift, so that memory is the limit. The multiplier is the odd number
 * nearest to 2^64 / golden ratio. */
uint64_t dn_checksum(const void *memory, int64_t size, uint64_t seed) {
    enum { LANES = 4 };
    const uint64_t by = 0x9e3779b97f4a7c15u;
    uint64_t h[LANES] = {1, 2, 3, 4}, words[LANES];
    const char *data = memory;
    const size_t bytes = (size_t)size;
    for (size_t at = 0; at < bytes; at += sizeof words) {
        size_t n = bytes - at < sizeof words ? bytes - at : sizeof words;
        if (n < sizeof words) memset(words, 0, sizeof words);
        memcpy(words, data + at, n);
        for (int k = 0; k < LANES; k++) h[k] = (h[k] ^ words[k]) * by, h[k] ^= h[k] >> 29;
    }
    uint64_t result = seed;
    for (int k = 0; k < LANES; k++) result = (result ^ h[k]) * by, result ^= result >> 32;
    return result;
}

uint64_t dn_param_checksum(dn_param *p) {
    uint64_t factor;
    DN_HOLD(p->store);
    memcpy(&factor, &p->factor, sizeof factor);
    return dn_checksum(storage(p), dn_param_size(p) * (int64_t)sizeof(dn_real), factor);
}

void dn_param_set_precision(dn_param *p, int precision) { p->precision = precision; }
int dn_param_precision(dn_param *p) { return p->precision; }

int dn_param_updated(dn_param *p) { return dn__param_is_updated(p); }
int dn_param_empty(dn_param *p) { return dn__param_is_empty(p); }
int dn_param_chunk(dn_param *p) { return p->chunk; }
int64_t dn_param_offset(dn_param *p) { return p->offset; }
int dn_store_chunks(dn_store *r) { return r->n_chunks; }
int64_t dn_chunk_size(dn_store *r, int chunk) { return r->chunks[chunk].size; }
int64_t dn_chunk_capacity(dn_store *r, int chunk) { return r->chunks[chunk].capacity; }
dn_real *dn_chunk_gradients(dn_store *r, int chunk) {
    __atomic_add_fetch(&r->lent, 1, __ATOMIC_RELAXED);
    return r->chunks[chunk].grads;
}

void dn_store_as_dynet(dn_store *r, int on) {
    __atomic_store_n(&r->as_dynet, on, __ATOMIC_RELAXED);
}

int64_t dn_store_version(dn_store *r) {
    DN_HOLD(r);
    return __atomic_load_n(&r->version, __ATOMIC_RELAXED);
}
