/* One copy of values and moments for the ranks of a host.
 *
 * Memory that all of them see is mapped over each rank's own, at the same address: whatever points
 * there, in the tape or in NumPy, stays right, and sees what the others write. They write in a
 * window alone, in which all of them update: each the numbers that it owns. Outside of it memory is
 * read only by agreement, not by the system: whoever wants to write calls dn__detach before, by
 * which this process gets a copy of its own, at the same address once more. That another rank's
 * values are still the same is then for the ranks to find out (parallel/exchange/shared_model.py).
 *
 * Owners follow from places alone, so that nobody need agree on them: a dense parameter's piece
 * belongs to the rank of the place in the chunk where it begins, a row to that of its number. */
#define _GNU_SOURCE
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif
#include <stdlib.h>

#include "arena.h"
#include "kernels/kernels.h"
#include "params/shared.h"

_Static_assert((int)DN_PIECE == (int)DN_SQUARES_BLOCK, "a piece is a block of the norm's sum");

typedef struct dn_shared_block {
    char *at;
    size_t bytes, used;
} dn_shared_block;

/* ---- owners --------------------------------------------------------------------------- */

int dn__owner(const dn_param *p, int64_t piece) {
    return (int)((p->chunk + p->offset / DN_PIECE + piece) % p->store->ranks);
}

int dn__next_piece(const dn_param *p, int whole, int64_t *from, int64_t *to) {
    const int ranks = p->store->ranks;
    if (whole) {
        *from = *to;
        *to = dn__owner(p, 0) == p->store->rank ? p->row_size : *from;
        return *from < *to;
    }
    int64_t piece = (*to + DN_PIECE - 1) / DN_PIECE;
    piece += (p->store->rank - dn__owner(p, piece) + ranks) % ranks;
    *from = piece * DN_PIECE;
    *to = p->row_size - *from > DN_PIECE ? *from + DN_PIECE : p->row_size;
    return *from < *to;
}

int64_t dn_store_pieces(dn_store *r) { return r->n_pieces; }

/* As dn__sum_squares of the whole. */
double dn__sum_pieces(const dn_param *p) {
    const dn_real *squares = p->store->squares + p->first_piece;
    double sum = 0;
    for (int64_t k = 0; k * DN_PIECE < p->row_size; k++) sum += squares[k];
    return sum;
}

void dn__publish_squares(const dn_param *p, int64_t from, int64_t to) {
    const dn_real *g = p->store->chunks[p->chunk].grads + p->offset;
    p->store->squares[p->first_piece + from / DN_PIECE] =
        (dn_real)dn__sum_squares((size_t)(to - from), g + from);
}

static dn_exact_sum *row_squares(const dn_param *p, int rank) {
    return p->store->row_squares + p->number * p->store->ranks + rank;
}

int64_t dn_store_row_squares(dn_store *r, int ranks) {
    return r->n_tables * ranks * (int64_t)sizeof(dn_exact_sum);
}

static void add_touched(dn_exact_sum *sum, const dn_param *p) {
    dn__exact_add_rows(sum, (size_t)p->n_touched, (size_t)p->row_size, p->block);
}

void dn__publish_row_squares(const dn_param *p) {
    dn_exact_sum *mine = row_squares(p, p->store->rank);
    *mine = (dn_exact_sum){.other = 0};
    add_touched(mine, p);
}

double dn__sum_rows(const dn_param *p) {
    dn_exact_sum sum = {.other = 0};
    if (!dn__is_in_pieces(p)) add_touched(&sum, p);
    else
        for (int r = 0; r < p->store->ranks; r++) dn__exact_add(&sum, row_squares(p, r));
    return dn__exact_value(&sum);
}

/* ---- windows -------------------------------------------------------------------------- */

void dn__pin(dn_store *r) {
    r->window_thread = pthread_self();
    r->window = DN_WINDOW_PINNED;
}

void dn_store_close(dn_store *r) {
    DN_HOLD(r);
    if (!dn__is_in_window(r)) return;
    if (r->window == DN_WINDOW_OPEN) dn__end_writing(r);
    r->window = 0;
    r->squares = NULL;
    r->row_squares = NULL;
    pthread_cond_broadcast(&r->window_closed);
}

/* ---- memory --------------------------------------------------------------------------- */

int dn__list_block(void *at, int64_t numbers, int64_t used, int capacity, dn_memory_block *out) {
    if (!dn__is_large(numbers)) return 0;
    const size_t bytes = dn__pages_bytes((size_t)numbers * sizeof(dn_real));
    if (capacity > 0) *out = (dn_memory_block){at, (int64_t)bytes, used * (int64_t)sizeof(dn_real)};
    return 1;
}

int dn_store_blocks(dn_store *r, int capacity, dn_memory_block *out) {
    DN_HOLD(r);
    int n = 0;
    for (int i = 0; i < r->n_chunks; i++)
        n += dn__list_block(r->chunks[i].values, r->chunks[i].capacity, r->chunks[i].size,
                            capacity - n, out + n);
    for (int i = 0; i < r->n_params; i++)
        if (r->params[i]->rows) {
            const int64_t numbers = dn__block_numbers(r->params[i]);
            n += dn__list_block(r->params[i]->table, numbers, numbers, capacity - n, out + n);
        }
    return n;
}

int dn_store_is_shared(dn_store *r) { return r->sharing != 0; }

#ifdef __linux__
/* A second mapping of the same pages: of shared memory mremap makes one if the old size is 0. */
static int map_over(const dn_memory_block *b, void *from) {
    if (mremap(from, 0, (size_t)b->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, b->at) == b->at) return 0;
    /* what was there may be gone */
    void *p = mmap(b->at, (size_t)b->bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (p != b->at) abort();
    memcpy(p, from, (size_t)b->used);
    return DN_ERROR_STATE;
}

static int map_back(const dn_shared_block *b) {
    char *p = mmap(NULL, b->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return DN_ERROR_MEMORY;
    dn__ask_for_huge_pages(p, b->bytes);
    memcpy(p, b->at, b->used);
    if (mremap(p, b->bytes, b->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, b->at) == b->at) return 0;
    munmap(p, b->bytes);
    return DN_ERROR_MEMORY;
}

static void map_nothing(const dn_shared_block *b) {
    if (mmap(b->at, b->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
             0) != b->at)
        abort(); /* the heap would be the other ranks' */
    dn__ask_for_huge_pages(b->at, b->bytes);
}
#else
static int map_over(const dn_memory_block *b, void *from) {
    return (void)b, (void)from, DN_ERROR_STATE;
}
static int map_back(const dn_shared_block *b) { return (void)b, DN_ERROR_STATE; }
static void map_nothing(const dn_shared_block *b) { (void)b; }
#endif

/* Nobody here writes to shared memory outside of a window, so that no lock but the list's is
 * needed. */
static int bring_home(dn_store *r) {
    int error = 0;
    pthread_mutex_lock(&r->shared_lock);
    r->sharing = 0; /* also where there is no memory, so that it is tried again */
    for (; r->n_shared && !error; r->n_shared -= !error)
        error = map_back(&r->shared[r->n_shared - 1]);
    pthread_mutex_unlock(&r->shared_lock);
    return error;
}

int dn__detach(dn_store *r) {
    if (!r->n_shared) return 0;
    dn__await_window(r, DN_WINDOW_PINNED);
    if (r->window == DN_WINDOW_OPEN) return DN_ERROR_BUSY;
    r->window = 0; /* dn_trainer_open will say so */
    return bring_home(r);
}

void dn__forget_shared(dn_store *r, void *at) {
    if (!r->n_shared) return;
    pthread_mutex_lock(&r->shared_lock);
    for (int i = 0; i < r->n_shared; i++)
        if (r->shared[i].at == (char *)at) {
            map_nothing(&r->shared[i]);
            r->shared[i] = r->shared[--r->n_shared];
            break;
        }
    pthread_mutex_unlock(&r->shared_lock);
}

int dn_store_detach(dn_store *r) {
    if (!r->n_shared) return 0;
    if (dn__try_lock(r)) return r->window ? DN_ERROR_BUSY : bring_home(r);
    const int error = dn__detach(r);
    dn__unlock(r);
    return error;
}

int dn_store_share(dn_store *r, int n, const dn_memory_block *blocks, void *const *from, int rank,
                   int ranks) {
    DN_HOLD(r);
    int error = dn__detach(r);
    if (error) return error;
    pthread_mutex_lock(&r->shared_lock);
    dn_shared_block *shared = realloc(r->shared, (size_t)(n + !n) * sizeof *shared);
    if (shared) r->shared = shared;
    else error = DN_ERROR_MEMORY;
    for (int i = 0; i < n && !error; i++) {
        error = map_over(&blocks[i], from[i]);
        if (!error)
            r->shared[r->n_shared++] =
                (dn_shared_block){blocks[i].at, (size_t)blocks[i].bytes, (size_t)blocks[i].used};
    }
    pthread_mutex_unlock(&r->shared_lock);
    if (error) {
        dn__detach(r);
        return error;
    }
    r->rank = rank;
    r->ranks = ranks;
    r->sharing = ++r->last_sharing;
    dn__pin(r);
    return 0;
}
