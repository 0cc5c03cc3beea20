/* A tape: the nodes of one graph, what they were made with, and what is on loan to their calls.
 * Slots and handles.
 *
 * It knows how nodes are numbered and where their memory begins. It does not know what is computed
 * with what (schedule.h), how gradients flow (backward_pass.h), nor any operation: those lie above
 * it, and it has but a pointer to what each of them keeps. */
#pragma once

#include "arena.h"
#include "op.h"
#include "params/params.h"

/* DN_FAILED_ALREADY: when its turn comes, it is not tried again */
enum dn_failed { DN_FAILED = 1, DN_FAILED_ALREADY };

struct dn_node {
    /* What schedules and groups read of nodes in any order comes first, on one cache line: a large
     * graph has more nodes than the second-level cache holds. */
    const dn_op *op;
    dn_real *value;
    int32_t n_args, args; /* tape->args[args ...] are the inputs' indices */
    dn_dim dim;
    int32_t n_ints, ints;  /* tape->ints; see dn__ordinal */
    uint8_t not_batchable; /* never a member of a group */
    uint8_t rng;           /* needs keys of random draws beside its own */
    uint8_t needs_grad;    /* leads to a parameter that is updated */
    uint8_t constant;      /* a parameter or row used without gradient */
    /* value is a copy of the parameter's, made when it was read; 2: its packed forms follow it */
    uint8_t copied;
    uint8_t in_chunk; /* backward: grad is the parameter's own gradient memory */
    /* backward: the parameter has its gradient already; the backward pass passes this node by */
    uint8_t finished;
    /* dn_failed: has no value although its turn has passed, because an operation written in Python
     * raised */
    uint8_t failed;
    int32_t n_floats, floats; /* tape->floats */
    dn_real *grad;
    dn_param *param; /* of parameter and lookup nodes */
    union {
        /* numbers kept from forward for backward, behind the value; not of nodes with DN_VIEW */
        size_t saved;
        dn_real *given;  /* of input nodes: what set() writes */
        int64_t written; /* of a node that is in_chunk: dn__param_written when it got its place */
    };
    int32_t parts; /* blocks of a value with several outputs */
    /* how many numbers computing it reads and writes, about; INT32_MAX: that many or more */
    int32_t work;
    uint32_t epoch;   /* the lowest bits of the tape's */
    int32_t products; /* first pending weight-gradient product, or -1 */
};
_Static_assert(sizeof(dn_node) <= 128, "a node has two cache lines");

/* A parameter store, and versions of it since when no value has changed that computed nodes were
 * made of: `latest` of the nodes from `from_latest` on, `version` of those before. `reader`: the
 * first node that reads it; version -1: none was computed. */
typedef struct dn_used_store {
    dn_store *store;
    int64_t version, latest;
    int64_t writes; /* forward.c: the store's when the present forward began */
    int reader, from_latest;
    int hooked; /* hooks.c: in the present backward */
} dn_used_store;

/* How many there are, or may be. */
typedef struct dn_extent { int nodes, args, ints, floats, stores; } dn_extent;
typedef struct dn_mark {
    dn_extent n;
    dn_arena_mark data;
} dn_mark;

/* An object that nodes refer to, kept until the graph is renewed; its last node, and the last one
 * that the schedule has seen, or -1. */
typedef struct dn_kept {
    void *object;
    void (*release)(void *);
    int32_t last, seen;
} dn_kept;

/* Which nodes are like earlier ones of this graph, or of the one before. It saves time and decides
 * nothing: whatever is found here is compared before it is used. */
typedef struct dn_likes {
    /* by node: nodes of one number, which is that of one of them, have the same operation,
     * attributes, sizes and parameters, and inputs of the same sizes; -1: not known */
    int32_t *kinds;
    int capacity;
    /* so many nodes, from the first, are either of this graph, or still those of the graph before,
     * which began as this one: the same operations, inputs and sizes, and parameters that need a
     * gradient in the same places; 0: this one differs from it */
    int again;
    int next;           /* the node after the one that the last node made is like */
    int32_t begun[256]; /* by what they are made of: nodes that nothing led to */
} dn_likes;

/* A parameter that nodes use, and its node; of a former life of the graph if its epoch is another
 * one. */
typedef struct dn_used_param {
    int64_t handle, epoch;
    int node;
} dn_used_param;

/* What the layers above give: the routes of calls, and what is to be done before values go. */
typedef struct dn_upper {
    const dn_gradient_routes *node, *group;
    void (*values_go)(dn_tape *);
    /* of a call whose first input is not kept (schedule/unkept.c): its value, and perhaps more */
    void (*forward_in_blocks)(dn_call *);
} dn_upper;

struct dn_tape {
    int graph;              /* its slot */
    int taken;              /* the slot is somebody's graph */
    int busy;               /* a call is running: 1 (atomic) */
    int tracing;            /* a function is being traced on it; there are no values */
    int holds;              /* nodes refer to Python objects */
    int64_t epoch, version; /* epoch: with the slot above it, as in handles */
    dn_node *nodes;
    int32_t *args, *ints;
    double *floats;
    dn_used_store *stores; /* used by nodes of this graph */
    dn_likes likes;
    dn_extent n, capacity;
    /* nodes that reverts have dropped from this graph; after 2^32 of them keys of draws come again,
     * and nothing else depends on it */
    uint32_t dropped;
    int may_join; /* nodes of ops with a flag of DN_JOINED were made */
    /* what computing all nodes made in this graph would read and write, about */
    int64_t work_made;
    dn_arena data; /* of inputs */
    struct {
        dn_mark *at;
        int n, capacity;
    } marks;
    struct {
        dn_kept *at;
        int n, capacity;
    } kept;
    /* parameters used in this graph: parameter handle -> node index, open addressing */
    struct {
        dn_used_param *slots;
        int capacity, count;
        int64_t epoch;
    } parameters;
    struct {
        dn_in *in;
        const dn_dim **xdims;
        int capacity;
    } call; /* inputs of the call at hand */
    dn_workspace workspace;
    struct dn_schedule *schedule;
    struct dn_backward_pass *backward;
    const dn_upper *upper;
    char message[DN_MESSAGE];
};
/* Whether node i was computed from values of this store that have changed since. */
int dn__reads_changed(const dn_tape *, int i, const dn_used_store *);

dn_tape *dn__graph_tape(int graph); /* NULL: no such graph */
/* NULL: a parameter's handle, or no handle at all */
dn_tape *dn__handle_tape(int64_t a);
/* A slot's tape, given what makes one where there is none; NULL: none is left, or no memory. And
 * the slot given back. */
dn_tape *dn__take_slot(dn_tape *(*make)(void));
void dn__give_slot_back(dn_tape *);
static inline int dn__tape_enter(dn_tape *t) {
    return __atomic_exchange_n(&t->busy, 1, __ATOMIC_ACQUIRE) ? DN_ERROR_BUSY : 0;
}
static inline void dn__tape_leave(dn_tape *t) { __atomic_store_n(&t->busy, 0, __ATOMIC_RELEASE); }
static inline void dn__leave_entered(dn_tape *const *t) { dn__tape_leave(*t); }
/* From here to the end of the block `t` is used by this thread: other threads may come without
 * Python's lock. Not free: returns `failure`. */
#define DN_ENTER_OR(t, failure) \
    if (dn__tape_enter(t)) return failure; \
    __attribute__((cleanup(dn__leave_entered), unused)) dn_tape *const entered_ = (t)
#define DN_ENTER(t) DN_ENTER_OR(t, DN_ERROR_BUSY)
int dn__tape_fail(dn_tape *, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int dn__no_memory(dn_tape *);
/* what must not be: raised as an error rather than looped over or read */
int dn__internal_error(dn_tape *, const char *what);
int dn__no_values(dn_tape *); /* the error while a function is traced */
int dn__stale(dn_tape *);     /* the error of a handle that is no node's */
/* DN_GROW: room for at least so many elements in an array; DN_FREE: the array is none again.
 * `array` of dn__grow points to the pointer, whose type it does not know. */
int dn__grow(void *array, int *capacity, int64_t wanted, size_t element);
#define DN_GROW(array, capacity, wanted) \
    ((wanted) <= (capacity) ? 0 : dn__grow(&(array), &(capacity), wanted, sizeof *(array)))
#define DN_FREE(array) (dn__block_free(array), (array) = NULL)
/* The graph uses parameters of this store, and keeps it until it is renewed. */
int dn__retain_store(dn_tape *, dn_store *);
/* whether a store that the graph uses follows DyNet, see dn_store_as_dynet */
int dn__is_as_dynet(const dn_tape *);
/* the locks of all stores that the graph uses: held while backward runs, but not by an op that
 * calls out */
void dn__lock_stores(dn_tape *);
void dn__unlock_stores(dn_tape *);
enum { DN_EPOCH = (1 << DN_EPOCH_BITS) - 1 };
static inline int64_t dn__handle(const dn_tape *t, int i) {
    return ((int64_t)t->graph << DN_EPOCH_BITS | t->nodes[i].epoch) << DN_INDEX_BITS | i;
}
static inline int dn__draws(const dn_node *node) {
    return node->rng || node->op->flags & DN_RANDOM;
}
/* Of a node that draws: the key of its random draws, nodes made before it in this graph, reverted
 * ones included. It stands behind the node's ints. */
static inline uint32_t dn__ordinal(const dn_tape *t, const dn_node *node) {
    return (uint32_t)t->ints[node->ints + node->n_ints];
}
/* Numbers kept from forward for backward. */
static inline size_t dn__saved(const dn_node *node) {
    return node->op->flags & DN_VIEW ? 0 : node->saved;
}
/* As dn_shape.own. */
static inline const void *dn__own(const dn_tape *t, const dn_node *node) {
    if (node->op->flags & DN_TRACED) return t->kept.at[t->ints[node->ints]].object;
    return node->op == dn_ops[DN_OP_input] ? node->given : NULL;
}
/* How many ints belong to the node as a whole; the others belong to batch elements. */
static inline int dn__node_ints(const dn_node *node) {
    if (node->op->flags & DN_INTS_EACH) return 0;
    return node->op->flags & DN_INTS_AFTER_FIRST ? 1 : node->n_ints;
}
/* Whether the sizes of values that are not empty are equal. */
static inline int dn__equal_sizes(const dn_dim *a, const dn_dim *b) {
    if (a->nd != b->nd || a->size != b->size) return 0;
    for (int i = 1; i < a->nd; i++) /* as their product is equal, so is the first */
        if (a->d[i] != b->d[i]) return 0;
    return 1;
}

/* Whether two nodes have the same attributes that are no integers. */
static inline int dn__equal_floats(const dn_tape *t, const dn_node *a, const dn_node *b) {
    return a->n_floats == b->n_floats &&
           (!a->n_floats || !memcmp(t->floats + a->floats, t->floats + b->floats,
                                    (size_t)a->n_floats * sizeof *t->floats));
}

/* The index of node i's input k. */
static inline int dn__input(const dn_tape *t, int i, int k) {
    return t->args[t->nodes[i].args + k];
}

/* ---- rounded.c: products with parameters, rounded to bfloat16 */
/* Whether products with this node are. */
int dn__rounds_node(const dn_tape *, const dn_node *);
/* What parameters without a precision have in this graph. */
void dn__settle_precision(dn_tape *);
/* Memory for a copy of a parameter's value, packed forms included; they are made of the copy. */
size_t dn__copy_bytes(const dn_tape *, const dn_node *);
void dn__pack_copy(const dn_tape *, dn_node *);
int dn__route_rounds(const dn_call *, int k);
const uint16_t *dn__route_packed(dn_call *, int k, int transposed);
