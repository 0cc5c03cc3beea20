/* The inside of a parameter store: parameters in chunks, lookup tables, and who may touch them
 * when. */
#pragma once

#include <pthread.h>

#include "arena.h"
#include "dn_api.h"

/* dense parameters begin at multiples of this many numbers; zeros lie between */
enum { DN_PARAM_ALIGN = 16 };

typedef struct dn_chunk {
    dn_real *values, *grads, *private_grads; /* grads is private_grads, or memory from outside */
    int64_t size, capacity;
} dn_chunk;

enum { DN_FEW_CHUNKS = 6, DN_STORE_LOCKS = 3 };

/* A packed form of a matrix; NULL: none was asked for. */
typedef struct dn_packed {
    int64_t writes; /* the store's when it was made, plus 1 (atomic) */
    uint16_t *at;
} dn_packed;

struct dn_param {
    dn_store *store;
    /* dense: its dims. Table: (row dims..., rows), the dims of the whole table as an expression */
    dn_dim dim;
    int64_t rows;     /* 0: dense */
    int64_t row_size; /* numbers in a row; the whole size of a dense parameter */
    int chunk;        /* dense: where it lives; tables: -1 */
    int64_t offset;
    /* shared.c: of dense parameters how many pieces, of tables how many tables come before */
    int64_t first_piece, number;
    int id;      /* position in store->params */
    int updated; /* (atomic) */
    /* of a dense parameter's gradient: rises whenever somebody may have written it */
    int64_t changes;
    /* of the memory of its gradient: rises whenever numbers may have been put there; clearing
     * leaves them */
    int64_t written;
    int64_t hooked_changes; /* hooks.c: what `changes` was when it was complete */
    /* hooks.c: so many numbers, from the first, are complete in the watched backward (atomic) */
    int64_t ready;
    /* the store's version since which its values are these; the same of rows of a table that were
     * written one by one, NULL: none was (atomic) */
    int64_t changed_at, *rows_changed_at;
    int64_t clears; /* see dn_gradient_marks */
    double scaled;
    int precision;       /* a dn_precision */
    dn_packed packed[2]; /* packed.c: of the matrix, of its transpose */
    int empty;           /* dense: the gradient reads as zero. Table: no row has one (atomic) */
    /* tables only */
    dn_real *table; /* values divided by `factor`, rows * row_size */
    /* weight decay of the whole table, so that it need not pass over all rows at each update */
    double factor;
    dn_real *block;      /* gradients of the touched rows, in the order of `touched` */
    int *touched, *slot; /* row numbers; row -> position in touched, -1 */
    int64_t n_touched, touched_capacity;
    const int *host_rows; /* shared.c: rows that ranks of the host use, where they have owners */
    int64_t n_host_rows;
};

struct dn_store {
    /* held by backward steps, updates, and everything else that touches gradients, writes or copies
     * values */
    pthread_mutex_t lock;
    int references;  /* the Python object, and each tape whose graph uses it (atomic) */
    int64_t version; /* rises whenever values change; as the next two, behind the lock */
    /* odd while values are written, behind the lock; what it was shows a reader without the lock
     * whether one was */
    int64_t writes;
    dn_param **params;
    int n_params, params_capacity;
    /* few_chunks, or room for all that there may be, made once; readers of other threads take no
     * lock */
    dn_chunk *chunks;
    dn_chunk few_chunks[DN_FEW_CHUNKS];
    int n_chunks;
    pthread_mutex_t pack_lock; /* of packed forms; taken after `lock` where both are */
    pthread_mutex_t hook_lock; /* of `hook` alone; taken after `lock` where both are */
    pthread_cond_t hook_moved;
    int hook;       /* a dn_hook */
    int64_t hooked; /* how many backwards were watched (atomic) */
    /* rises whenever a chunk's gradients are handed out as memory (atomic) */
    int64_t lent;
    int as_dynet;   /* see dn_store_as_dynet (atomic) */
    int64_t passes; /* see dn_store_passes (atomic) */
    /* shared.c: of the ranks of a host this one. owned: they update together, each its own pieces
     * and rows. The squares of all gradients' pieces then, NULL: gradients are complete here */
    int rank, ranks, owned;
    dn_real *squares;
    struct dn_exact_sum *row_squares; /* by table, then rank; as squares */
    int64_t n_pieces, n_tables;       /* pieces are those of all dense parameters */
    /* forks.c: the list of all stores, and which locks the forking thread has taken */
    dn_store *next, *before;
    uint8_t forking[DN_STORE_LOCKS];
};

static inline void dn__lock(dn_store *r) { pthread_mutex_lock(&r->lock); }
static inline void dn__unlock(dn_store *r) { pthread_mutex_unlock(&r->lock); }
/* Not 0: somebody else has it. */
static inline int dn__try_lock(dn_store *r) { return pthread_mutex_trylock(&r->lock); }
static inline void dn__unlock_held(dn_store *const *store) { dn__unlock(*store); }
/* From here to the end of the block the store is locked. */
#define DN_HOLD(store) \
    dn__lock(store); \
    __attribute__((cleanup(dn__unlock_held), unused)) dn_store *const held_ = (store)

/* Raises a number that only the lock's holder changes, and others read without it: a locked
 * instruction would take as long as a small operation. Returns the new number. */
static inline int64_t dn__raise(int64_t *number, int64_t by) {
    const int64_t raised = __atomic_load_n(number, __ATOMIC_RELAXED) + by;
    __atomic_store_n(number, raised, __ATOMIC_RELEASE);
    return raised;
}

/* Values are written in between, behind the store's lock. Nobody computes with half of what is
 * written: readers without the lock see an odd number, or another one afterwards. */
static inline void dn__begin_writing(dn_store *r) {
    dn__raise(&r->writes, 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static inline void dn__end_writing(dn_store *r) { dn__raise(&r->writes, 1); }

/* ---- forks.c */
/* Locks that nobody has. */
void dn__make_locks(dn_store *);
/* From here on, until it is freed, forks wait for the locks of a store. Negative: no
 * memory. */
int dn__list_store(dn_store *);
void dn__unlist_store(dn_store *);
