/* The inside of a parameter store: parameters in chunks, lookup tables, and who may touch them
 * when. */
#pragma once

#include <pthread.h>

#include "dn_api.h"

/* dense parameters begin at multiples of this many numbers; zeros lie between */
enum { DN_PARAM_ALIGN = 16 };

typedef struct dn_chunk {
    dn_real *values, *grads, *private_grads; /* grads is private_grads, or memory from outside */
    int64_t size, capacity;
} dn_chunk;

enum { DN_FEW_CHUNKS = 6 };

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
    int id; /* position in root->params */
    int updated;
    /* of a dense parameter's gradient: rises whenever somebody may have written it */
    int64_t changes;
    /* of the memory of its gradient: rises whenever numbers may have been put there; clearing
     * leaves them */
    int64_t written;
    int64_t hooked_changes; /* hooks.c: what `changes` was when it was complete */
    /* hooks.c: so many numbers, from the first, are complete in the watched backward (atomic) */
    int64_t ready;
    int64_t clears; /* see dn_gradient_marks */
    double scaled;
    int precision;       /* a dn_precision */
    dn_packed packed[2]; /* packed.c: of the matrix, of its transpose */
    int empty;           /* dense: the gradient reads as zero. Table: no row has one */
    /* tables only */
    dn_real *table; /* values divided by `factor`, rows * row_size */
    /* weight decay of the whole table, so that it need not pass over all rows at each update */
    double factor;
    dn_real *block;      /* gradients of the touched rows, in the order of `touched` */
    int *touched, *slot; /* row numbers; row -> position in touched, -1 */
    int64_t n_touched, touched_capacity;
};

struct dn_store {
    /* held by backward steps, updates, and everything else that touches gradients, writes or copies
     * values */
    pthread_mutex_t lock;
    int references;  /* the Python object, and each tape whose graph uses it (atomic) */
    int64_t version; /* rises whenever values change */
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
    int as_dynet;   /* see dn_store_as_dynet */
    int64_t passes; /* see dn_store_passes (atomic) */
};

static inline void dn__unlock_held(pthread_mutex_t *const *lock) { pthread_mutex_unlock(*lock); }
/* From here to the end of the block the store is locked. */
#define DN_HOLD(store) \
    pthread_mutex_lock(&(store)->lock); \
    __attribute__((cleanup(dn__unlock_held), unused)) pthread_mutex_t *const held_ = &(store)->lock

/* the whole gradient is complete */
void dn__param_notify(dn_param *);
/* Whether gradients are gathered for it. */
static inline int dn__param_gathers(const dn_param *p) { return p->updated || p->store->as_dynet; }
/* Two equal numbers: nothing was put into the memory of a dense parameter's gradient in between. */
static inline int64_t dn__param_written(const dn_param *p) {
    return p->written + __atomic_load_n(&p->store->lent, __ATOMIC_RELAXED);
}
/* Values are written in between, behind the store's lock. */
void dn__begin_writing(dn_store *);
void dn__end_writing(dn_store *);
void dn__store_retain(dn_store *);
void dn__store_release(dn_store *);
dn_param *dn__handle_param(int64_t handle, int *constant); /* NULL: not a parameter's handle */
/* Where a dense parameter's gradient goes: *beta is 0 if it was empty (the caller stores), else
 * 1. */
dn_real *dn__param_gradient(dn_param *, dn_real *beta);
/* the same, zeroed if it was empty */
dn_real *dn__param_filled(dn_param *);
void dn__param_clear(dn_param *);
/* multiplies a table's factor into its rows */
void dn__param_materialise(dn_param *);
/* the gradient row of a table, zeroed if it is new; NULL: no memory */
dn_real *dn__lookup_row(dn_param *, int64_t row);
/* Room for the gradients of so many rows; the gradient of a row that has none yet and for which
 * there is room, which the caller writes. */
int dn__lookup_reserve(dn_param *, int64_t rows);
dn_real *dn__lookup_new_row(dn_param *, int64_t row);
/* all rows of a table get a gradient row; negative: no memory, and no row has got one */
int dn__lookup_all_rows(dn_param *);

/* ---- packed.c: a dense matrix rounded to bfloat16 (kernels/bf16.h), or its transpose. Not in the
 * double build. */
/* of its present values; NULL: no memory */
const uint16_t *dn__param_packed(dn_param *, int transposed);
/* How many numbers that takes; and the same of other values of this parameter. */
size_t dn__packed_numbers(const dn_param *, int transposed);
void dn__pack(const dn_param *, int transposed, const dn_real *w, uint16_t *to);
