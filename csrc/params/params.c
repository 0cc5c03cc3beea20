/* Roots: dense parameters in chunks, lookup tables with the list of touched rows. */
#include "params.h"

#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "kernels/kernels.h"

/* Chunks start small and grow with the model, so that a tiny model is tiny and a large one has few chunks. Their boundaries depend on the
 * model alone: the same parameters in the same order give the same chunks on every rank. */
enum { FIRST_CHUNK = 1 << 14, LARGEST_CHUNK = 1 << 22, MOST_CHUNKS = 1 << 12, TABLE_BLOCK_ROWS = 64 };

static const int64_t PARAM_TAG = (int64_t)1 << 62, CONSTANT_TAG = (int64_t)1 << 61;

/* ---- life ---------------------------------------------------------------------------------------------------------- */

dn_root *dn_root_new(void) {
    dn_root *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->references = 1;
    r->chunks = r->few_chunks;
    pthread_mutex_init(&r->lock, NULL);
    dn__watch_init(r);
    return r;
}

static void param_free(dn_param *p) {
    dn__block_free(p->table);
    free(p->block);
    free(p->touched);
    free(p->slot);
    free(p);
}

void dn__root_retain(dn_root *r) { __atomic_add_fetch(&r->references, 1, __ATOMIC_RELAXED); }

void dn__root_release(dn_root *r) {
    if (__atomic_sub_fetch(&r->references, 1, __ATOMIC_ACQ_REL)) return;
    for (int i = 0; i < r->n_params; i++) param_free(r->params[i]);
    for (int i = 0; i < r->n_chunks; i++) {
        dn__block_free(r->chunks[i].values);
        dn__block_free(r->chunks[i].private_grads);
    }
    free(r->params);
    if (r->chunks != r->few_chunks) free(r->chunks);
    dn__watch_destroy(r);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

void dn_root_free(dn_root *r) {
    if (r) dn__root_release(r);
}

/* ---- making parameters --------------------------------------------------------------------------------------------- */

/* To memory for all chunks. Who has found the few reads on there: they stay until the root goes. */
static int move_chunks(dn_root *r) {
    dn_chunk *all = calloc(MOST_CHUNKS, sizeof *all);
    if (!all) return -1;
    memcpy(all, r->few_chunks, sizeof r->few_chunks);
    __atomic_store_n(&r->chunks, all, __ATOMIC_RELEASE);
    return 0;
}

/* A place of n numbers in the last chunk, or in a new one. */
static int place(dn_root *r, dn_param *p) {
    int64_t n = (p->row_size + DN_PARAM_ALIGN - 1) / DN_PARAM_ALIGN * DN_PARAM_ALIGN;
    dn_chunk *last = r->n_chunks ? &r->chunks[r->n_chunks - 1] : NULL;
    if (!last || last->capacity - last->size < n) {
        int64_t capacity = last ? last->capacity * 4 : FIRST_CHUNK;
        if (capacity > LARGEST_CHUNK) capacity = LARGEST_CHUNK;
        if (capacity < n) capacity = n;
        if (r->n_chunks == MOST_CHUNKS || (r->n_chunks == DN_FEW_CHUNKS && move_chunks(r))) return -1;
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
    memset(last->values + last->size, 0, (size_t)n * sizeof(dn_real));
    memset(last->grads + last->size, 0, (size_t)n * sizeof(dn_real));
    last->size += n;
    return 0;
}

static int make_table(dn_param *p) {
    p->table = dn__block_new((size_t)(p->rows * p->row_size) * sizeof(dn_real));
    p->slot = malloc((size_t)p->rows * sizeof *p->slot);
    if (!p->table || !p->slot) return -1;
    for (int64_t i = 0; i < p->rows; i++) p->slot[i] = -1;
    return 0;
}

dn_param *dn_param_new(dn_root *r, int nd, const int *d, int64_t row_count) {
    dn_param *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    *p = (dn_param){.root = r, .rows = row_count, .row_size = 1, .chunk = -1, .updated = 1, .empty = 1, .factor = 1, .scaled = 1,
                    .id = r->n_params};
    p->dim.nd = nd;
    p->dim.batch = 1;
    for (int i = 0; i < nd; i++) p->row_size *= p->dim.d[i] = d[i];
    if (row_count) p->dim.d[p->dim.nd++] = (int)row_count;
    p->dim.size = (int)(p->row_size * (row_count ? row_count : 1));
    pthread_mutex_lock(&r->lock);
    if (r->n_params == r->params_capacity) {
        int capacity = r->params_capacity ? 2 * r->params_capacity : 16;
        dn_param **params = realloc(r->params, (size_t)capacity * sizeof *params);
        if (!params) goto failed;
        r->params = params;
        r->params_capacity = capacity;
    }
    if (row_count ? make_table(p) : place(r, p)) goto failed;
    r->params[r->n_params++] = p;
    pthread_mutex_unlock(&r->lock);
    return p;
failed:
    pthread_mutex_unlock(&r->lock);
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
        for (size_t i = 0; i < count; i++) values[start + i] = (dn_real)(first == DN_FIRST_CONSTANT ? a : drawn[i]);
    }
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

int64_t dn_param_handle(dn_param *p, int constant) { return PARAM_TAG | (constant ? CONSTANT_TAG : 0) | (int64_t)(intptr_t)p; }

dn_param *dn__handle_param(int64_t handle, int *constant) {
    if (handle < 0 || !(handle & PARAM_TAG)) return NULL;
    *constant = (handle & CONSTANT_TAG) != 0;
    return (dn_param *)(intptr_t)(handle & ~(PARAM_TAG | CONSTANT_TAG));
}

/* Readers without the lock see an odd number, or another one afterwards: values are whole. */
void dn__begin_writing(dn_root *r) {
    __atomic_add_fetch(&r->writes, 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
void dn__end_writing(dn_root *r) { __atomic_add_fetch(&r->writes, 1, __ATOMIC_RELEASE); }

static dn_real *storage(const dn_param *p) { return p->rows ? p->table : p->root->chunks[p->chunk].values + p->offset; }

void dn__param_settle(dn_param *p) {
    if (p->factor == 1) return;
    dn__axpy((size_t)dn_param_size(p), (dn_real)p->factor, p->table, 0, p->table);
    p->factor = 1;
}

/* n values from element `from` on. */
static void copy(const dn_param *p, int64_t from, int64_t n, dn_real *out) {
    const dn_real *values = storage(p) + from;
    if (p->factor != 1) dn__axpy((size_t)n, (dn_real)p->factor, values, 0, out);
    else if (n) memcpy(out, values, (size_t)n * sizeof *out);
}

dn_real *dn_param_values(dn_param *p) {
    if (!p->rows) return p->root->chunks[p->chunk].values + p->offset;
    DN_HOLD(p->root);
    if (p->factor != 1) {
        dn__begin_writing(p->root);
        dn__param_settle(p);
        dn__end_writing(p->root);
    }
    return p->table;
}
dn_real *dn_param_storage(dn_param *p, double *factor) {
    *factor = p->factor;
    return storage(p);
}

void dn_param_copy(dn_param *p, int64_t from, int64_t n, dn_real *out) {
    DN_HOLD(p->root);
    copy(p, from, n, out);
}

void dn_lookup_copy_rows(dn_param *p, int64_t n, const int *rows, dn_real *out) {
    DN_HOLD(p->root);
    for (int64_t i = 0; i < n; i++) copy(p, rows[i] * p->row_size, p->row_size, out + i * p->row_size);
}

static void written(dn_root *r) {
    dn__end_writing(r);
    __atomic_add_fetch(&r->version, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&r->lock);
}

void dn_param_write(dn_param *p, int64_t from, int64_t n, const dn_real *in, double factor) {
    pthread_mutex_lock(&p->root->lock);
    dn__begin_writing(p->root);
    if (n < dn_param_size(p)) dn__param_settle(p);
    if (n) memcpy(storage(p) + from, in, (size_t)n * sizeof *in);
    if (p->rows && n == dn_param_size(p)) p->factor = factor;
    written(p->root);
}

void dn_param_blend(dn_param *p, double a, const dn_real *x) {
    pthread_mutex_lock(&p->root->lock);
    dn__begin_writing(p->root);
    dn__param_settle(p);
    dn__blend((size_t)dn_param_size(p), (dn_real)a, x, storage(p));
    written(p->root);
}

int dn_quick_param(int64_t a, int64_t row, dn_dim *dim, int room, double *out) {
    int constant;
    dn_param *p = dn__handle_param(a, &constant);
    if (!p || (row >= 0 && row >= p->rows)) return DN_LONG_WAY;
    *dim = p->dim;
    if (row >= 0) {
        dim->size = (int)p->row_size;
        dim->nd--; /* the rows are the last dim */
    }
    if (dim->size < 1 || dim->size > room || pthread_mutex_trylock(&p->root->lock)) return DN_LONG_WAY;
    const dn_real *values = storage(p) + (row >= 0 ? row * p->row_size : 0);
    const dn_real factor = (dn_real)p->factor;
    for (int i = 0; i < dim->size; i++) out[i] = (double)(factor * values[i]);
    pthread_mutex_unlock(&p->root->lock);
    return 0;
}
int64_t dn_param_size(dn_param *p) { return p->row_size * (p->rows ? p->rows : 1); }
/* Four lanes of multiply and shift; the multiplier is nearly 2^64 / golden ratio, and odd. */
uint64_t dn_param_checksum(dn_param *p) {
    enum { LANES = 4 };
    const uint64_t by = 0x9e3779b97f4a7c15u;
    uint64_t h[LANES] = {1, 2, 3, 4}, words[LANES];
    pthread_mutex_lock(&p->root->lock);
    const char *data = (const char *)storage(p);
    size_t bytes = (size_t)dn_param_size(p) * sizeof(dn_real);
    for (size_t at = 0; at < bytes; at += sizeof words) {
        size_t n = bytes - at < sizeof words ? bytes - at : sizeof words;
        if (n < sizeof words) memset(words, 0, sizeof words);
        memcpy(words, data + at, n);
        for (int k = 0; k < LANES; k++) h[k] = (h[k] ^ words[k]) * by, h[k] ^= h[k] >> 29;
    }
    double factor = p->factor;
    pthread_mutex_unlock(&p->root->lock);
    memcpy(words, &factor, sizeof factor);
    uint64_t result = words[0];
    for (int k = 0; k < LANES; k++) result = (result ^ h[k]) * by, result ^= result >> 32;
    return result;
}

int dn_param_updated(dn_param *p) { return p->updated; }
int dn_param_empty(dn_param *p) { return p->empty; }
int dn_param_chunk(dn_param *p) { return p->chunk; }
int64_t dn_param_offset(dn_param *p) { return p->offset; }
int dn_root_chunks(dn_root *r) { return r->n_chunks; }
int64_t dn_chunk_size(dn_root *r, int chunk) { return r->chunks[chunk].size; }
int64_t dn_chunk_capacity(dn_root *r, int chunk) { return r->chunks[chunk].capacity; }
dn_real *dn_chunk_values(dn_root *r, int chunk) { return r->chunks[chunk].values; }
dn_real *dn_chunk_gradients(dn_root *r, int chunk) {
    __atomic_add_fetch(&r->lent, 1, __ATOMIC_RELAXED);
    return r->chunks[chunk].grads;
}

void dn_param_set_updated(dn_param *p, int updated) {
    DN_HOLD(p->root);
    p->updated = updated;
    if (!dn__param_gathers(p)) dn__param_clear(p);
}

void dn_root_as_dynet(dn_root *r, int on) { r->as_dynet = on; }

void dn_root_changed(dn_root *r) {
    __atomic_add_fetch(&r->version, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&r->writes, 2, __ATOMIC_RELEASE);
}

int64_t dn_root_version(dn_root *r) {
    DN_HOLD(r);
    return __atomic_load_n(&r->version, __ATOMIC_RELAXED);
}

/* ---- gradients ----------------------------------------------------------------------------------------------------- */

dn_real *dn__param_gradient(dn_param *p, dn_real *beta) {
    *beta = !p->empty;
    p->empty = 0;
    p->changes++;
    p->written++;
    return p->root->chunks[p->chunk].grads + p->offset;
}

dn_real *dn__param_filled(dn_param *p) {
    if (!p->empty) return p->root->chunks[p->chunk].grads + p->offset;
    dn_real beta, *g = dn__param_gradient(p, &beta);
    dn__fill((size_t)p->row_size, 0, g);
    return g;
}

void dn_param_mark_filled(dn_param *p) {
    DN_HOLD(p->root);
    p->empty = 0;
    p->changes++;
    p->written++;
}

dn_real *dn_param_gradient(dn_param *p) {
    DN_HOLD(p->root);
    dn_real *g = dn__param_filled(p);
    p->changes++; /* by the caller */
    p->written++;
    return g;
}

dn_real *dn__lookup_row(dn_param *p, int64_t row) {
    if (p->slot[row] < 0) {
        if (p->n_touched == p->touched_capacity) {
            int64_t capacity = p->touched_capacity ? 2 * p->touched_capacity : TABLE_BLOCK_ROWS;
            if (capacity > p->rows) capacity = p->rows;
            int *touched = realloc(p->touched, (size_t)capacity * sizeof *touched);
            if (!touched) return NULL;
            p->touched = touched;
            dn_real *block = realloc(p->block, (size_t)(capacity * p->row_size) * sizeof *block);
            if (!block) return NULL;
            p->block = block;
            p->touched_capacity = capacity;
        }
        dn__fill((size_t)p->row_size, 0, p->block + p->n_touched * p->row_size);
        p->slot[row] = (int)p->n_touched;
        p->touched[p->n_touched++] = (int)row;
        p->empty = 0;
    }
    return p->block + p->slot[row] * p->row_size;
}

/* Whether nobody else writes to the memory of these gradients. */
static int is_private(const dn_chunk *c) { return c->grads == c->private_grads; }

/* Rows that were touched from the n-th on are not touched any more. */
static void untouch(dn_param *p, int64_t n, int empty) {
    for (int64_t i = n; i < p->n_touched; i++) p->slot[p->touched[i]] = -1;
    p->n_touched = n;
    p->empty = empty;
}

int dn__lookup_all_rows(dn_param *p) {
    const int64_t n = p->n_touched;
    const int empty = p->empty;
    for (int64_t row = 0; row < p->rows; row++) {
        if (dn__lookup_row(p, row)) continue;
        untouch(p, n, empty);
        return DN_ERROR_MEMORY;
    }
    return 0;
}

void dn__param_clear(dn_param *p) {
    untouch(p, 0, 1);
    p->changes++;
    p->clears++;
    p->written += !p->rows && !is_private(&p->root->chunks[p->chunk]); /* sums of several processes */
}

void dn_param_clear_gradient(dn_param *p) {
    DN_HOLD(p->root);
    dn__param_clear(p);
}

void dn_param_copy_gradient(dn_param *p, dn_real *out) {
    DN_HOLD(p->root);
    if (p->rows || p->empty) memset(out, 0, (size_t)dn_param_size(p) * sizeof *out);
    if (p->rows)
        for (int64_t i = 0; i < p->n_touched; i++)
            memcpy(out + p->touched[i] * p->row_size, p->block + i * p->row_size, (size_t)p->row_size * sizeof *out);
    else if (!p->empty)
        memcpy(out, p->root->chunks[p->chunk].grads + p->offset, (size_t)p->row_size * sizeof *out);
}

void dn_param_scale_gradient(dn_param *p, dn_real by) {
    DN_HOLD(p->root);
    dn_real *g = p->rows ? p->block : p->root->chunks[p->chunk].grads + p->offset;
    size_t n = (size_t)(p->row_size * (p->rows ? p->n_touched : 1));
    if (!p->empty) dn__axpy(n, by, g, 0, g);
    p->changes++;
    p->written++;
    p->scaled *= (double)by;
}

void dn_gradient_marks(int n, dn_param *const *params, int64_t *clears, double *scales) {
    for (int i = 0; i < n; i++) {
        clears[i] = params[i]->clears;
        scales[i] = params[i]->scaled;
    }
}

int64_t dn_lookup_touched(dn_param *p, int64_t room, int *rows, dn_real *block) {
    DN_HOLD(p->root);
    const int64_t n = p->n_touched;
    if (n && n <= room && rows) memcpy(rows, p->touched, (size_t)n * sizeof *rows);
    if (n && n <= room && block) memcpy(block, p->block, (size_t)(n * p->row_size) * sizeof *block);
    return n;
}

void dn_lookup_copy_gradients(dn_param *p, int64_t n, const int *rows, dn_real *out) {
    const size_t size = (size_t)p->row_size;
    DN_HOLD(p->root);
    for (int64_t i = 0; i < n; i++, out += size) {
        const int at = p->slot[rows[i]];
        if (at < 0) dn__fill(size, 0, out);
        else memcpy(out, p->block + at * p->row_size, size * sizeof *out);
    }
}

int dn_lookup_add(dn_param *p, int64_t n, const int *rows, const dn_real *block) {
    int error = 0;
    for (int64_t i = 0; i < n; i++)
        if (rows[i] < 0 || rows[i] >= p->rows) return -1;
    DN_HOLD(p->root);
    const int64_t before = p->n_touched;
    const int empty = p->empty;
    for (int64_t i = 0; i < n && !error; i++) error = dn__lookup_row(p, rows[i]) ? 0 : -1;
    for (int64_t i = 0; i < n && !error; i++) {
        dn_real *to = dn__lookup_row(p, rows[i]);
        dn__add((size_t)p->row_size, to, block + i * p->row_size, to);
    }
    if (error) untouch(p, before, empty);
    return error;
}

static int move_gradients(dn_chunk *c, dn_real *memory) {
    if (!memory) {
        if (!c->private_grads) c->private_grads = dn__block_new((size_t)c->capacity * sizeof(dn_real));
        if (!(memory = c->private_grads)) return DN_ERROR_MEMORY;
    }
    if (memory == c->grads) return 0;
    memcpy(memory, c->grads, (size_t)c->size * sizeof *memory);
    if (memory != c->private_grads) {
        dn__block_free(c->private_grads);
        c->private_grads = NULL;
    }
    c->grads = memory;
    return 0;
}

int dn_chunk_move_gradients(dn_root *r, int chunk, dn_real *memory) {
    if (memory) pthread_mutex_lock(&r->lock);
    else if (pthread_mutex_trylock(&r->lock)) return DN_ERROR_BUSY;
    int error = move_gradients(&r->chunks[chunk], memory);
    pthread_mutex_unlock(&r->lock);
    return error;
}

int dn_sum_ranks(int ranks, dn_real *const *segments, const double *factors, const uint8_t *filled, int64_t from, int64_t to) {
    dn_real rounded[DN_MOST_RANKS];
    if (ranks > DN_MOST_RANKS) return DN_ERROR_VALUE;
    for (int r = 0; r < ranks; r++) rounded[r] = (dn_real)factors[r];
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* what others wrote before they said so is read, */
    dn__sum_ranks(ranks, segments, rounded, filled, (size_t)from, (size_t)to);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* written before this rank says so */
    return 0;
}
