/* Gradients of parameters: of dense ones in chunks, of tables by the rows that were touched. */
#include "params.h"

#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "kernels/kernels.h"

enum { TABLE_BLOCK_ROWS = 64 }; /* of gradients, at first */

dn_real *dn__param_gradient(dn_param *p, dn_real *beta) {
    *beta = !dn__param_is_empty(p);
    dn__param_set_empty(p, 0);
    p->changes++;
    p->written++;
    return p->store->chunks[p->chunk].grads + p->offset;
}

dn_real *dn__param_filled(dn_param *p) {
    if (!dn__param_is_empty(p)) return p->store->chunks[p->chunk].grads + p->offset;
    dn_real beta, *g = dn__param_gradient(p, &beta);
    dn__fill((size_t)p->row_size, 0, g);
    return g;
}

void dn_param_mark_filled(dn_param *p) {
    DN_HOLD(p->store);
    dn__param_set_empty(p, 0);
    p->changes++;
    p->written++;
}

dn_real *dn_param_gradient(dn_param *p) {
    DN_HOLD(p->store);
    dn_real *g = dn__param_filled(p);
    p->changes++; /* by the caller */
    p->written++;
    return g;
}

static int make_room(dn_param *p, int64_t capacity) {
    int *touched = realloc(p->touched, (size_t)capacity * sizeof *touched);
    if (!touched) return DN_ERROR_MEMORY;
    p->touched = touched;
    const int64_t size = p->row_size ? p->row_size : 1; /* of nothing realloc gives NULL */
    dn_real *block = realloc(p->block, (size_t)(capacity * size) * sizeof *block);
    if (!block) return DN_ERROR_MEMORY;
    p->block = block;
    p->touched_capacity = capacity;
    return 0;
}

int dn__lookup_reserve(dn_param *p, int64_t rows) {
    if (rows > p->rows) rows = p->rows;
    return rows > p->touched_capacity ? make_room(p, rows) : 0;
}

dn_real *dn__lookup_new_row(dn_param *p, int64_t row) {
    p->slot[row] = (int)p->n_touched;
    p->touched[p->n_touched++] = (int)row;
    dn__param_set_empty(p, 0);
    return p->block + p->slot[row] * p->row_size;
}

const dn_real *dn__lookup_spare_row(dn_param *p) {
    dn_real *row = p->block + p->n_touched * p->row_size;
    dn__fill((size_t)p->row_size, 0, row);
    return row;
}

dn_real *dn__lookup_row(dn_param *p, int64_t row) {
    if (p->slot[row] < 0) {
        if (p->n_touched == p->touched_capacity) {
            int64_t capacity = p->touched_capacity ? 2 * p->touched_capacity : TABLE_BLOCK_ROWS;
            if (make_room(p, capacity < p->rows ? capacity : p->rows)) return NULL;
        }
        dn__fill((size_t)p->row_size, 0, dn__lookup_new_row(p, row));
    }
    return p->block + p->slot[row] * p->row_size;
}

/* Whether nobody else writes to the memory of these gradients. */
static int is_private(const dn_chunk *c) { return c->grads == c->private_grads; }

/* Rows that were touched from the n-th on are not touched any more. */
static void untouch(dn_param *p, int64_t n, int empty) {
    for (int64_t i = n; i < p->n_touched; i++) p->slot[p->touched[i]] = -1;
    p->n_touched = n;
    dn__param_set_empty(p, empty);
}

void dn__param_clear(dn_param *p) {
    untouch(p, 0, 1);
    p->changes++;
    p->clears++;
    p->scaled = 1;
    /* an exchange between processes has put its sums there */
    p->written += !p->rows && !is_private(&p->store->chunks[p->chunk]);
}

void dn_param_set_updated(dn_param *p, int updated) {
    DN_HOLD(p->store);
    __atomic_store_n(&p->updated, updated, __ATOMIC_RELAXED);
    if (!dn__param_gathers(p)) dn__param_clear(p);
}

void dn_param_clear_gradient(dn_param *p) {
    DN_HOLD(p->store);
    dn__param_clear(p);
}

void dn_param_copy_gradient(dn_param *p, dn_real *out) {
    DN_HOLD(p->store);
    const size_t n = (size_t)(p->row_size * (p->rows ? p->rows : 1));
    if (n && (p->rows || dn__param_is_empty(p))) memset(out, 0, n * sizeof *out);
    if (p->rows)
        for (int64_t i = 0; i < p->n_touched; i++)
            memcpy(out + p->touched[i] * p->row_size, p->block + i * p->row_size,
                   (size_t)p->row_size * sizeof *out);
    else if (!dn__param_is_empty(p))
        memcpy(out, p->store->chunks[p->chunk].grads + p->offset,
               (size_t)p->row_size * sizeof *out);
}

/* Of a table: those of the rows that have one. */
static dn_real *gradient_numbers(const dn_param *p, size_t *n) {
    *n = (size_t)(p->row_size * (p->rows ? p->n_touched : 1));
    return p->rows ? p->block : p->store->chunks[p->chunk].grads + p->offset;
}

void dn_param_zero_gradient(dn_param *p) {
    DN_HOLD(p->store);
    size_t n;
    dn_real *g = gradient_numbers(p, &n);
    if (!dn__param_is_empty(p)) dn__fill(n, 0, g);
    p->changes++;
    p->written++;
}

void dn_param_scale_gradient(dn_param *p, dn_real by) {
    DN_HOLD(p->store);
    size_t n;
    dn_real *g = gradient_numbers(p, &n);
    if (!dn__param_is_empty(p)) {
        if (by == 0) dn__fill(n, 0, g); /* also what is not finite */
        else dn__axpy(n, by, g, 0, g);
    }
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

int64_t dn_lookup_touched(dn_param *p, int64_t capacity, int *rows, dn_real *block) {
    DN_HOLD(p->store);
    const int64_t n = p->n_touched;
    if (n && n <= capacity && rows) memcpy(rows, p->touched, (size_t)n * sizeof *rows);
    if (n && n <= capacity && block)
        memcpy(block, p->block, (size_t)(n * p->row_size) * sizeof *block);
    return n;
}

void dn_lookup_copy_gradients(dn_param *p, int64_t n, const int *rows, dn_real *out) {
    const size_t size = (size_t)p->row_size;
    DN_HOLD(p->store);
    for (int64_t i = 0; i < n; i++, out += size) {
        const int at = p->slot[rows[i]];
        if (at < 0) dn__fill(size, 0, out);
        else memcpy(out, p->block + at * p->row_size, size * sizeof *out);
    }
}

int dn_lookup_add(dn_param *p, int64_t n, const int *rows, const dn_real *block) {
    int error = 0;
    for (int64_t i = 0; i < n; i++)
        if (rows[i] < 0 || rows[i] >= p->rows) return DN_ERROR_VALUE;
    DN_HOLD(p->store);
    const int64_t before = p->n_touched;
    const int empty = dn__param_is_empty(p);
    for (int64_t i = 0; i < n && !error; i++)
        error = dn__lookup_row(p, rows[i]) ? 0 : DN_ERROR_MEMORY;
    for (int64_t i = 0; i < n && !error; i++) {
        dn_real *to = dn__lookup_row(p, rows[i]);
        dn__add((size_t)p->row_size, to, block + i * p->row_size, to);
    }
    if (error) untouch(p, before, empty);
    return error;
}

static int is_zero(const dn_real *x, int64_t n) {
    int64_t i = 0;
    while (i < n && x[i] == 0) i++;
    return i == n;
}

int dn__param_gradient_reserve(dn_param *p, const dn_real *gradient) {
    int64_t touched = 0;
    for (int64_t row = 0; gradient && p->updated && row < p->rows; row++)
        touched += !is_zero(gradient + row * p->row_size, p->row_size);
    return dn__lookup_reserve(p, touched);
}

void dn__param_gradient_set(dn_param *p, const dn_real *gradient) {
    const size_t size = (size_t)p->row_size;
    dn_real beta;
    dn__param_clear(p);
    if (!gradient || !p->updated) return;
    if (!p->rows) {
        dn_real *to = dn__param_gradient(p, &beta);
        if (size) memcpy(to, gradient, size * sizeof *to);
    }
    for (int64_t row = 0; row < p->rows; row++, gradient += size)
        if (!is_zero(gradient, p->row_size))
            memcpy(dn__lookup_new_row(p, row), gradient, size * sizeof *gradient);
}

int dn__lookup_sum_ranks(dn_param *p, int ranks, const int32_t *counts, size_t stride,
                         int *const *ids, dn_real *const *rows, const double *factors,
                         int own_alone) {
    const size_t size = (size_t)p->row_size;
    int64_t total = 0;
    for (int r = 0; r < ranks; r++) total += counts[(size_t)r * stride];
    const int64_t mine = own_alone ? p->rows / ranks + 1 : p->rows; /* at most */
    DN_HOLD(p->store);
    dn__param_clear(p);
    if (dn__lookup_reserve(p, total < mine ? total : mine)) return DN_ERROR_MEMORY;
    for (int r = 0; r < ranks; r++)
        for (int32_t i = 0; i < counts[(size_t)r * stride]; i++) {
            const int row = ids[r][i];
            if (row < 0 || row >= p->rows) return DN_ERROR_VALUE;
            if (own_alone && !dn__is_own_row(p->store, row)) continue;
            const int is_new = p->slot[row] < 0;
            dn__axpy(size, (dn_real)factors[r], rows[r] + (size_t)i * size, !is_new,
                     is_new ? dn__lookup_new_row(p, row) : dn__lookup_row(p, row));
        }
    dn__param_set_empty(p, !total); /* alike on all ranks */
    return 0;
}

static int move_gradients(dn_chunk *c, dn_real *memory) {
    if (!memory) {
        if (!c->private_grads)
            c->private_grads = dn__block_new((size_t)c->capacity * sizeof(dn_real));
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

int dn_chunk_move_gradients(dn_store *r, int chunk, dn_real *memory) {
    if (memory) dn__lock(r);
    else if (dn__try_lock(r)) return DN_ERROR_BUSY;
    int error = move_gradients(&r->chunks[chunk], memory);
    dn__unlock(r);
    return error;
}

int dn_sum_ranks(int ranks, int only, dn_real *const *segments, const double *factors,
                 const uint8_t *filled, int64_t from, int64_t to) {
    dn_real rounded[DN_MOST_RANKS];
    if (ranks > DN_MOST_RANKS) return DN_ERROR_VALUE;
    for (int r = 0; r < ranks; r++) rounded[r] = (dn_real)factors[r];
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* what others wrote before they said so is read, */
    dn__sum_ranks(ranks, only, segments, rounded, filled, (size_t)from, (size_t)to);
    /* and what is written here is there before this rank says so */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return 0;
}
