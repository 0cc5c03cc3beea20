/* The inside of a tape: one graph's nodes, their values and gradients. For tape.c (life, handles), make.c (nodes), forward.c, backward.c and
 * the few ops that own memory (csrc/ops/leaves.c). */
#ifndef DN_TAPE_H
#define DN_TAPE_H

#include "arena.h"
#include "op.h"
#include "params.h"

enum dn_failed { DN_FAILED = 1, DN_FAILED_ALREADY };     /* the latter: when its turn comes, it is not tried again */

struct dn_node {
    const dn_op *op;
    int64_t epoch;              /* graph and epoch: the upper part of its handle */
    dn_dim dim;
    int32_t n_args, args;       /* tape->args[args ...] are the inputs' indices */
    int32_t n_ints, ints;       /* tape->ints */
    int32_t n_reals, reals;     /* tape->reals */
    uint32_t ordinal;           /* nodes made before it in this graph, reverted ones included: the key of its random draws */
    int32_t products;           /* first pending weight-gradient product, or -1 */
    size_t saved;               /* numbers kept from forward for backward */
    int32_t next_user, last_user;   /* join.h: the next node that multiplies by the same matrix; of a matrix, the last one that does */
    int32_t group, column;          /* group.h: the group that the value was computed in, and the first batch element in it */
    int64_t grouped;                /* the tape's `values_made` when it was; else another number, or 0 */
    int32_t gathers;                /* group.c: the last gather that begins with this node; may be one that is no more */
    int32_t parts;                  /* blocks of a value with several outputs */
    int32_t work;                   /* how many numbers computing it reads and writes, about; INT32_MAX: that many or more */
    uint8_t alone;              /* never a member of a group */
    uint8_t needs_grad;         /* leads to a parameter that is updated */
    uint8_t constant;           /* a parameter or row used without gradient */
    uint8_t copied;             /* value is a copy of the parameter's, made when it was read */
    uint8_t in_chunk;           /* backward: grad is the parameter's own gradient memory */
    uint8_t reached;            /* backward.c: the gradient of the loss comes to it; of use within one function */
    uint8_t finished;           /* backward: the parameter has its gradient already; the sweep passes this node by */
    uint8_t patience;           /* join.h: how many misfits a search that begins here passes over before it finds the first that fits */
    uint8_t failed;             /* dn_failed: has no value although its turn has passed, because an operation written in Python raised */
    int64_t written;            /* of a node that is in_chunk: dn__param_written when it got its place there */
    dn_param *param;            /* of parameter and lookup nodes */
    const dn_real *data;        /* of input nodes: what set() writes */
    dn_real *value, *saved_memory, *grad;
};

/* Nodes computed as one (group.h): members[first ... first + n - 1], the first of which is the leader, and what each input of the call is. */
typedef struct dn_group {
    int32_t first, n;
    int32_t batch;                  /* of all members together */
    int32_t inputs;                 /* tape->group_inputs[inputs + k] */
    uint8_t ragged;                 /* of DN_RAGGED nodes: computed as one in the packed form; `batch` is the number of steps of all */
    uint8_t joined;                 /* made by join.c: the members were computed out of their order */
    uint8_t weights;                /* in this backward a member has got products of a weight gradient */
    dn_real *value, *saved, *grads; /* of all members; grads NULL: nothing has come yet */
    struct dn_once *once;           /* once.h: equal members are computed once, and `saved` is of the distinct ones; NULL: no */
    size_t total;                   /* numbers of `value` */
} dn_group;
/* gather: an index; DN_SHARED_INPUT: one node for all; DN_MIRRORED: `source` and its neighbours in the memory of one group or owner, where
 * their gradients lie as their values do. */
enum { DN_SHARED_INPUT = -1, DN_MIRRORED = -2 };
typedef struct dn_group_input { int32_t gather, source; const dn_real *value; } dn_group_input;
/* Values of nodes side by side, sources[first ... first + n - 1], and their gradients on the way back to them. */
typedef struct dn_gather {
    int32_t first, n, next;         /* next: an earlier gather that begins with the same node, or -1 */
    int32_t once;                   /* of a group's distinct members, for it alone: gradients go to rows of tables, not to nodes */
    int32_t group;                  /* the first that uses it; when its backward is done, the gradients are complete */
    const dn_real *value;
    dn_real *grad;                  /* NULL: nothing has come yet */
    size_t total;
} dn_gather;

enum dn_only { DN_ALL_INPUTS, DN_ONLY_SHARED, DN_ONLY_COLLECTED };

/* A pending product dW += dy x'. */
typedef struct dn_product { int32_t next; int m, k, n; const dn_real *dy, *x; } dn_product;

/* The dy or the x of a list of products side by side, kept for other matrices that belong to the same outputs or multiply the same inputs. */
typedef struct dn_kept_columns { int32_t first; int wide, of_x; int64_t used; dn_real *all; dn_arena memory; } dn_kept_columns;
enum { DN_KEPT_COLUMNS = 4 };

typedef struct dn_mark {
    int nodes, evaluated, order, args, ints, reals, roots, groups, members, group_inputs, gathers, sources;
    dn_arena_mark values, copies, data;
} dn_mark;

/* A root, and what its version was when the first node that reads it, `reader`, was computed; version -1: none was. */
typedef struct dn_used_root {
    dn_root *root;
    int64_t version;
    int64_t writes;     /* forward.c: the root's when the present forward began */
    int reader;
    int watched;        /* ready.c: in the present backward */
} dn_used_root;

struct dn_tape {
    int graph;                  /* its slot */
    int taken;                  /* the slot is somebody's graph */
    int busy;                   /* a call is running: 1 (atomic) */
    int immediate, check_finite;
    int tracing;                /* cell.h: a function is being traced on it; there are no values */
    struct { struct dn_program *program; int32_t last; /* node of it */ } *programs; /* cell.h: of the cells called in this graph */
    int n_programs, programs_capacity;
    int holds;                  /* nodes refer to Python objects */
    int64_t epoch, version;     /* epoch: with the slot above it, as in handles */
    dn_node *nodes;
    int n_nodes, nodes_capacity, evaluated;
    uint32_t dropped;           /* nodes that reverts have dropped from this graph; after 2^32 of them keys of draws come again, and nothing else
                                 * depends on it */
    int64_t work_made;          /* what computing all nodes made in this graph would read and write, about */
    int64_t values_made;        /* from 1; rises when values are forgotten */
    int autobatch;              /* autobatch.h: 0, or the strategy */
    int usual_autobatch;        /* the strategy of graphs for which none was named */
    int32_t *order;             /* autobatch.h: nodes, and groups as -1 - group, in the order they were computed */
    int n_order, order_capacity, n_done, planned;
    struct dn_schedule *planning; /* autobatch.c: an order in the making, in plan_memory; NULL: none */
    dn_arena plan_memory;
    dn_mark begun;              /* autobatch.c: where all stood when the order's last part, up to node `planned`, was made */
    dn_group *groups;           /* group.h */
    int32_t *members, *sources;
    dn_group_input *group_inputs;
    dn_gather *gathers;
    int n_groups, groups_capacity, n_members, members_capacity, n_sources, sources_capacity, n_group_inputs, group_inputs_capacity;
    int n_gathers, gathers_capacity;
    dn_autobatch_counts counts; /* of this graph */
    int raised;                 /* set by an op that cannot go on: forward and backward stop with this error */
    int any_failed;             /* some node may be `failed` */
    int forward_begun;          /* dn__forward has more to do: what it has computed and what is to come must be of the same parameters */
    int unreported;             /* dn_quick_value met this error and could not say so: dn_forward will */
    int32_t *args, *ints;
    double *reals;
    int n_args, args_capacity, n_ints, ints_capacity, n_reals, reals_capacity;
    dn_arena values, copies, grads, data, scratch;
    dn_mark *marks;
    int n_marks, marks_capacity;
    /* parameters used in this graph: parameter handle -> node index, open addressing */
    struct { int64_t handle; int node; int64_t epoch; } *param_nodes;
    int param_capacity, param_count;
    int64_t param_epoch;
    dn_used_root *roots;        /* used by nodes of this graph */
    int n_roots, roots_capacity;
    /* backward */
    int zero_rows;              /* backward: a row of a table got zeros, which did not count so far */
    struct dn_late *late;       /* rows.h: gradients of rows that were added up, by input */
    dn_product *products;
    int n_products, products_capacity;
    dn_kept_columns columns[DN_KEPT_COLUMNS];
    int64_t columns_used;       /* counts their uses */
    int sweep, full, out_of_memory;
    int only;                   /* which inputs of a group's call want gradients: dn_only */
    /* ready.c, in a backward that is watched, else NULL: the parameters' nodes that were last used at each place of the sweep, as lists */
    struct { int32_t *last_use, *next; int steps, told; /* whether a step ends when it has told something; whether it has */ } watch;
    int swept_root;             /* root of the last finished or running backward, -1: none */
    int swept_nodes;            /* nodes from this one on are as they were made: no backward has seen them */
    uint64_t seed, stream, counter;
    int as_dynet;               /* the plan is made in the order in which DyNet computes, for the sake of `generator` */
    struct dn_rng *generator;   /* what random nodes draw from one after the other; NULL: their draws are keyed */
    /* inputs of the call at hand */
    dn_in *in;
    const dn_dim **xdims;
    int call_capacity;
    char message[DN_MESSAGE];
};

dn_tape *dn__graph_tape(int graph);             /* NULL: no such graph */
dn_tape *dn__handle_tape(int64_t a);            /* NULL: a parameter's handle, or no handle at all */
static inline int dn__tape_enter(dn_tape *t) { return __atomic_exchange_n(&t->busy, 1, __ATOMIC_ACQUIRE) ? DN_ERROR_BUSY : 0; }
static inline void dn__tape_leave(dn_tape *t) { __atomic_store_n(&t->busy, 0, __ATOMIC_RELEASE); }
/* For calls that give Python's lock up: `t` is used by this thread until dn__tape_leave. */
#define DN_ENTER(t)                                  \
    do {                                             \
        int error_ = dn__tape_enter(t);              \
        if (error_) return error_;                   \
    } while (0)
int dn__tape_fail(dn_tape *, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));
int dn__no_memory(dn_tape *);
int dn__internal_error(dn_tape *, const char *what);  /* what must not be: raised as an error rather than looped over or read */
int dn__no_values(dn_tape *);                   /* the error while a function is traced */
int dn__param_node(dn_tape *, int64_t handle, dn_param *, int constant);
/* Appends a node and returns its index. `inputs` are indices; `param` is NULL but for parameter and lookup nodes, whose dims are asked with the
 * table's dim. */
int dn__make(dn_tape *, const dn_op *, int n, const int *inputs, int n_ints, const int *ints, int n_reals, const double *reals, dn_param *param,
             int constant);
/* The last step of each node-making call: immediate mode, and the handle; an error is passed on. */
int64_t dn__finish(dn_tape *, int i);
/* The graph uses parameters of this root, and keeps it until it is renewed. */
int dn__retain_root(dn_tape *, dn_root *);
/* forget all nodes; forget all values */
void dn__start_graph(dn_tape *, int immediate, int check_finite, int autobatch);
void dn__forget_values(dn_tape *);
/* a parameter or row is read: its root's version is noted for the check before backward */
void dn__use_root(dn_tape *, dn_root *);
/* Gradients of this graph are no more; a backward that is not done ends as one that failed, and whoever makes its next step gets an error. */
void dn__stop_backward(dn_tape *);
/* the place of node i's gradient; beta = 0: it holds nothing yet */
dn_grad dn__place(dn_tape *, int i);
/* what is collected for a parameter's node, and its gradient, go to the parameter: once, when no use of it is left */
void dn__finish_parameter(dn_tape *, int i);
/* ready.c: of parameter node i, whose last use has passed, so many numbers have their gradient; told if it is watched */
void dn__watch_tell(dn_tape *, int i, int64_t numbers);
/* a backward begins (-1: out of memory), has passed the place `sweep`, ends; locks are held in the latter two */
int dn__watch_begin(dn_tape *);
void dn__watch_passed(dn_tape *);
void dn__watch_end(dn_tape *, int complete);
/* whether node wants a gradient in this backward */
int dn__node_wants(const dn_tape *, const dn_node *);
/* fills the call's fields that forward and backward share */
void dn__prepare_call(dn_tape *, dn_node *, dn_call *);
/* computes nodes up to index `last` until about DN_WORK numbers were read and written; 0: done, 1: more to do */
int dn__forward(dn_tape *, int last);
/* computes one node by itself; its inputs are known */
int dn__compute(dn_tape *, int i);
/* the locks of all roots that the graph uses: held while backward runs, but not by an op that calls out */
void dn__lock_roots(dn_tape *);
void dn__unlock_roots(dn_tape *);
int dn__grow(void **array, int *capacity, int64_t wanted, size_t element);
#define DN_GROW(array, capacity, wanted) \
    ((wanted) <= (capacity) ? 0 : dn__grow((void **)&(array), &(capacity), wanted, sizeof *(array)))
/* the same for a handle that is no node's of this graph: a parameter's, or none */
int dn__find_parameter(dn_tape *, int64_t handle);
/* index of a live handle; a parameter's handle gives its node, made if need be; negative error */
static inline int dn__find(dn_tape *t, int64_t handle) {
    const int64_t i = handle & (((int64_t)1 << DN_INDEX_BITS) - 1);
    return i < t->n_nodes && t->nodes[i].epoch == handle >> DN_INDEX_BITS ? (int)i : dn__find_parameter(t, handle);
}
static inline int64_t dn__handle(const dn_tape *t, int i) { return t->nodes[i].epoch << DN_INDEX_BITS | i; }
static inline size_t dn__elements(const dn_dim *d) { return (size_t)d->size * (size_t)d->batch; }
/* The index of node i's input k. */
static inline int dn__input(const dn_tape *t, int i, int k) { return t->args[t->nodes[i].args + k]; }
/* How many ints belong to the node as a whole; the others belong to batch elements. */
static inline int dn__whole_ints(const dn_node *node) {
    if (node->op->flags & DN_INTS_EACH) return 0;
    return node->op->flags & DN_INTS_AFTER_FIRST ? 1 : node->n_ints;
}
/* n numbers, rounded up so that what follows them begins on a cache line. */
static inline size_t dn__aligned(size_t n) { return (n + 15) & ~(size_t)15; }

#endif
