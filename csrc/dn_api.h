/* The C interface of dist_dynet, read twice: by the C compiler, and by cffi through
 * `cc -E -P -DDN_CDEF csrc/dn_api.h`.
 *
 * Objects and ownership. A *graph* is a number: the slot of a tape, which owns nodes, their values
 * and gradients. A *parameter store* owns parameters: blocks of values and gradients. A *trainer*
 * owns the moments of one parameter store. A graph is used by one thread at a time (a second one
 * gets an error); a parameter store may be shared by graphs and is locked by the calls that need
 * it.
 *
 * Handles. Expressions are known by a 64-bit number that says all: (graph, epoch, index of the
 * node). The epoch rises at each renew and revert, so that a handle closed by either is always
 * recognised. A parameter's handle (dn_param_handle) stands for "the node of this parameter in the
 * graph at hand": the graph of the other inputs. Calls that are given nothing but parameters return
 * DN_ERROR_NO_GRAPH.
 *
 * Errors. Calls that return a handle or a status return a negative dn_error on failure;
 * dn_message() of the graph has the message.
 *
 * Shapes. Column-major, batch last. `dn_real` is float, or double under DN_DOUBLE. */
#ifndef DN_API_H
#define DN_API_H
#ifndef DN_CDEF
#include <stddef.h>
#include <stdint.h>
#include "dn_real.h"
#else
#ifdef DN_DOUBLE
typedef double dn_real;
#else
typedef float dn_real;
#endif
#endif

enum dn_limits {
    DN_MAX_DIMS = 7,
    DN_INDEX_BITS = 23,
    DN_EPOCH_BITS = 29,
    DN_GRAPH_BITS = 10, /* of a handle, from the lowest */
    /* numbers read and written by what is computed without giving Python's lock up: some
     * microseconds */
    DN_FAST_WORK = 1 << 14,
    /* numbers of an array that are read by a fast path; to read more takes its time anyway */
    DN_FAST_CAPACITY = 256,
    /* what a fast path returns that has done nothing: the general path is to do it */
    DN_FALLBACK = 3,
    /* numbers read and written in one call: tens of milliseconds. The caller looks at signals in
     * between. */
    DN_WORK = 1 << 26
};
enum dn_error {
    DN_ERROR_VALUE = -1,     /* of an argument */
    DN_ERROR_STALE = -2,     /* the handle of a node that is gone */
    DN_ERROR_STATE = -3,     /* the call is not possible now */
    DN_ERROR_MEMORY = -4,    /* out of memory */
    DN_ERROR_NONFINITE = -5, /* NaN or infinity where that is an error */
    DN_ERROR_BUSY = -6,      /* another call uses the graph, or the store */
    DN_ERROR_NO_GRAPH = -7,  /* no input belongs to a graph */
    DN_ERROR_PYTHON = -8,    /* an operation written in Python has raised */
    DN_ERROR_NEGATIVE = -9,  /* an index below 0 */
    DN_ERROR_UNTRACED = -10, /* a traced function has no program for these arguments */
    DN_ERROR_INTERNAL = -11  /* a fault of this library */
};

/* d[0..nd-1] are the sizes of one batch element, `size` their product, `batch` the number of batch
 * elements. */
typedef struct dn_dim {
    int nd;
    int batch;
    int size;
    int d[DN_MAX_DIMS];
} dn_dim;

/* How recurrent networks over sequences take x and give the result (csrc/ops/sequence.h); an option
 * of the second int, with the form. */
enum dn_sequence_option {
    /* these inputs are there */
    DN_SEQUENCE_STATE = 1,
    DN_SEQUENCE_H_MASK = 2,
    DN_SEQUENCE_C_MASK = 4,
    DN_SEQUENCE_REVERSED = 8, /* from the last position to the first */
    DN_SEQUENCE_BY_ELEMENT = 16,
    DN_SEQUENCE_MASK = 32, /* the ints after the second are a mask */
    /* with BY_ELEMENT: c of all positions follows, as h does, in place of the last h and c */
    DN_SEQUENCE_EVERY_C = 256
};
enum dn_sequence_form {
    DN_SEQUENCE_LIST = 0,    /* T inputs, k x batch each */
    DN_SEQUENCE_MATRIX = 64, /* one input (k, T) x batch */
    /* one input (k) x (sum of lengths): sequence after sequence; T is the greatest length */
    DN_SEQUENCE_PACKED = 128,
    DN_SEQUENCE_STEPS = 192, /* one input (k) x (T batch): step after step */
    DN_SEQUENCE_FORMS = 192
};

/* What the steps of a recurrent network are made of: written by nn/builder.py, once for many
 * sequences, and read by csrc/python/states.c. A layer is a node of `op` or, if it is composed,
 * that in DyNet's operations; if it is composable, it could be. */
typedef struct dn_layers {
    int op, layers, n_weights, n_floats, input_dim, hidden_dim;
    int has_c, drops_each_step, composed, composable;
    double floats[4];
    int64_t weights[]; /* handles, layers x n_weights */
} dn_layers;

/* The operations, in the order of the rows `DN_OP(...)` in csrc/ops. build_ffi.py writes op_list.h
 * from those rows. */
#define DN_OP_ENUM(name) DN_OP_##name,
enum dn_op_code {
#define DN_OP_ITEM DN_OP_ENUM
#include "op_list.h"
#undef DN_OP_ITEM
    DN_OP_COUNT
};

typedef struct dn_store dn_store;
typedef struct dn_param dn_param;
typedef struct dn_trainer dn_trainer;
typedef struct dn_traced dn_traced;

/* ---- calls that make nodes, and renew: csrc/python makes them with Python's lock held, by the
 * table of dn_node_table(). Each infers the dims, appends a node and returns its handle. */
#define DN_NODE_CALLS(X) \
    /* how many inputs an operation takes; -1: any number >= 1 */ \
    X(int, op_inputs, (int op), (op)) \
    X(int64_t, node_many, \
      (int op, int n, const int64_t *inputs, int n_ints, const int *ints, int n_floats, \
       const double *floats), \
      (op, n, inputs, n_ints, ints, n_floats, floats)) \
    /* a node without inputs */ \
    X(int64_t, leaf, \
      (int graph, int op, int n_ints, const int *ints, int n_floats, const double *floats), \
      (graph, op, n_ints, ints, n_floats, floats)) \
    /* the rows of a table, given by its parameter handle; the second makes a batch of n */ \
    X(int64_t, lookup, (int graph, int64_t table, int row), (graph, table, row)) \
    X(int64_t, lookup_batch, (int graph, int64_t table, int n, const int *rows), \
      (graph, table, n, rows)) \
    /* n outputs of a node that has several: blocks first, first + 1, ... of (size) x the node's \
     * batch. They get consecutive handles; the first is returned. */ \
    X(int64_t, output_views, (int64_t owner, int first, int n, int size), (owner, first, n, size)) \
    /* A call of a traced function, given by its handle, with n arguments: the handle of its \
     * output; several outputs have consecutive ones. DN_ERROR_UNTRACED: there is no program for \
     * arguments of these dims. */ \
    X(int64_t, traced_call, (int64_t traced, int n, const int64_t *inputs), (traced, n, inputs)) \
    /* node_many, and the first `parts` outputs of that node: consecutive handles, the first of \
     * which is returned */ \
    X(int64_t, node_with_views, \
      (int op, int n, const int64_t *inputs, int n_ints, const int *ints, int n_floats, \
       const double *floats, int parts), \
      (op, n, inputs, n_ints, ints, n_floats, floats, parts)) \
    /* The h of a TreeLSTM's cell (csrc/ops/tree_lstm.c) with the six weights, x (0: none) and n \
     * <= 2 children, given by their h; the handle after that of an h is its c's. */ \
    X(int64_t, tree_node, \
      (const int64_t *weights, int n_ary, int64_t x, int n, int64_t first, int64_t second), \
      (weights, n_ary, x, n, first, second)) \
    /* an input node of the given dims (n_dims sizes); `data` may be NULL: zeros */ \
    X(int64_t, input, (int graph, int n_dims, const int *dims, int batch, const dn_real *data), \
      (graph, n_dims, dims, batch, data)) \
    /* input and input_set from numbers of Python's own type */ \
    X(int64_t, input_numbers, \
      (int graph, int n_dims, const int *dims, int batch, const double *data), \
      (graph, n_dims, dims, batch, data)) \
    X(int, input_set_numbers, (int64_t a, int64_t n, const double *data), (a, n, data)) \
    /* new contents of an input node, n = its number of elements; new ints (row, index) of a node. \
     * Both forget all values. */ \
    X(int, input_set, (int64_t a, int64_t n, const dn_real *data), (a, n, data)) \
    X(int, ints_set, (int64_t a, int n, const int *ints), (a, n, ints)) \
    /* the node of a parameter's handle in this graph, made if need be; other handles are checked \
     * and returned */ \
    X(int64_t, resolve, (int graph, int64_t a), (graph, a)) \
    /* of a parameter's handle that of the same as a constant, which gets no gradient; \
     * DN_ERROR_VALUE: it is none */ \
    X(int64_t, constant_of, (int64_t a), (a)) \
    X(int, node_dim, (int64_t a, dn_dim *out), (a, out)) \
    /* Where the work is so small that to give the lock up would cost more, else DN_FALLBACK: \
     * dn_forward; the value of a node, computed if need be, as `capacity` numbers at most; that \
     * of a softmax, by dn_normalize; a gradient in the last backward, likewise; the values of a \
     * parameter, given by its handle, or one of its rows (row < 0: all of them); new values of \
     * such a row; dn_backward; dn_trainer_update of the trainer at this address. */ \
    X(int, fast_forward, (int64_t a), (a)) \
    X(int, fast_value, (int64_t a, dn_dim *dim, int capacity, double *out), \
      (a, dim, capacity, out)) \
    X(int, fast_probabilities, (int64_t a, dn_dim *dim, int capacity, double *out), \
      (a, dim, capacity, out)) \
    X(int, fast_gradient, (int64_t a, dn_dim *dim, int capacity, double *out), \
      (a, dim, capacity, out)) \
    X(int, fast_param, (int64_t a, int64_t row, dn_dim *dim, int capacity, double *out), \
      (a, row, dim, capacity, out)) \
    X(int, fast_row_set, (int64_t a, int64_t row, int64_t n, const double *data), \
      (a, row, n, data)) \
    X(int, fast_backward, (int64_t a, int full), (a, full)) \
    X(int, fast_update, (int64_t trainer), (trainer)) \
    /* how many graphs this slot has started since dn_graph_new */ \
    X(int64_t, graph_version, (int graph), (graph)) \
    /* a new graph in this slot: forgets all nodes, keeps the memory */ \
    X(int, renew, (int graph), (graph)) \
    /* marks where the graph ends; back to the last such mark: nodes made since are closed. \
     * Without a mark: nothing. */ \
    X(int, graph_checkpoint, (int graph), (graph)) \
    X(int, graph_revert, (int graph), (graph)) \
    /* forgets all values: draws are made anew */ \
    X(int, graph_invalidate, (int graph), (graph)) \
    /* how many nodes there are; the dn_autobatch of the present graph; the handle of the node of \
     * this index */ \
    X(int, graph_size, (int graph), (graph)) \
    X(int, graph_strategy, (int graph), (graph)) \
    /* whether its random nodes draw from a generator in the order of DyNet's agenda: what is one \
     * node here and several in DyNet counts for that order */ \
    X(int, graph_follows_agenda, (int graph), (graph)) \
    X(int64_t, graph_node, (int graph, int index), (graph, index)) \
    /* A call failed that has made the nodes from n on, which nobody has. They are as if never \
     * made, so that later draws are those without it; unless others are computed with them */ \
    X(int, take_back, (int graph, int n), (graph, n))
#define DN_NODE_PROTOTYPE(result, name, params, args) result dn_##name params;
#ifndef DN_CDEF
#define DN_NODE_FIELD(result, name, params, args) result(*name) params;
typedef struct dn_node_calls { DN_NODE_CALLS(DN_NODE_FIELD) } dn_node_calls;
#endif
DN_NODE_CALLS(DN_NODE_PROTOTYPE)

/* The table of these calls, a dn_node_calls. */
const void *dn_node_table(void);

/* ---- threads of a computation --------------------------------------------------------- */
/* How many threads of this process compute at most at one thing; 1 at first. Any number gives the
 * same bits. 1 <= n <= dn_most_threads(). Waits for what is being computed. */
int dn_threads(void);
void dn_set_threads(int n);
int dn_most_threads(void);
/* For tests: the work, in nanoseconds, from which on several threads share a computation (60000),
 * and what each piece of it has (12000). */
void dn_share_work(double shared, double piece);
/* For tests: as if a thread had lost its core in the midst of its work, for so many nanoseconds. */
void dn_compute_alone(double time);

/* ---- process-wide constants, set once when the extension is loaded -------------------- */
/* Addresses of cblas_?gemm, ?gemv, and of LAPACK's ?getrf or NULL, with 32-bit integers; all NULL:
 * plain C. */
void dn_set_blas(void *gemm, void *gemv, void *getrf);
/* "default", "x86-64-v3" (AVX2) or "x86-64-v4" (AVX-512): the instruction set that the vector loops
 * run with on this machine */
const char *dn_simd_level(void);
const char *dn_op_name(int op);
const char *dn_op_formula(int op);
int dn_op_flags(int op);
enum dn_op_flag {
    /* batch elements do not meet: nodes of equal signature may be merged, batch counts add up */
    DN_BATCHES = 1,
    /* has no inputs to send gradients to; what it owns (a parameter, a row) takes them */
    DN_LEAF = 4,
    DN_VIEW = 8,     /* the value is memory that exists already; nothing is computed */
    DN_NO_GRAD = 16, /* sends no gradient to its inputs */
    DN_RANDOM = 32,  /* draws random numbers */
    /* nodes that differ in the last input alone are computed as one, see
     * csrc/schedule/batched_gemm.h */
    DN_BATCHED_GEMM = 64,
    /* has several outputs, blocks of (size x batch), read through `output_view` nodes */
    DN_SEVERAL_OUTPUTS = 128,
    DN_INTS_EACH = 256,        /* each int belongs to a batch element, equally many to each, ... */
    DN_INTS_AFTER_FIRST = 512, /* ... or each after the first: what merged nodes have is joined */
    /* the first int is T, the last T inputs are steps: nodes of any T are merged, as one in the
     * form DN_SEQUENCE_PACKED; single steps that go on from one another as one in the form
     * DN_SEQUENCE_STEPS, see csrc/schedule/chain.c */
    DN_VARIABLE_LENGTH = 1024,
    /* merged nodes whose inputs are equal rows of tables are computed once, see
     * csrc/schedule/deduplicate.h */
    DN_DEDUPLICATES_ROWS = 2048,
    /* made by calls of a traced function; those of one program whose arguments are known are
     * computed as one */
    DN_TRACED = 4096,
    /* takes its first input column by column, and so may be called for some columns at a time: what
     * it has for each of its batch elements, `saved` included, lies in their order. See
     * csrc/schedule/unkept.c */
    DN_BY_COLUMNS = 8192
};

/* ---- graphs --------------------------------------------------------------------------- */
/* A slot for a graph; slots given back are used again. DN_ERROR_MEMORY: none is left. */
int dn_graph_new(void);
void dn_graph_free(int graph);
enum dn_autobatch {
    DN_AUTOBATCH_OFF,
    DN_AUTOBATCH_DEPTH, /* groups of equal depth, in the order of depth (Looks et al. 2017) */
    /* of the signatures that have nodes ready, the one of least average depth (Neubig et al.
     * 2017) */
    DN_AUTOBATCH_AGENDA,
    /* of the signatures, the one with the largest share of its nodes ready; or node by node, where
     * that promises to be faster, which is decided for each call that computes */
    DN_AUTOBATCH_AUTO
};
/* What batching has done in the present graph, all values computed since it began. */
typedef struct dn_autobatch_counts {
    /* nodes computed, and calls that computed them: groups and nodes by themselves */
    int64_t nodes, batches;
    /* inputs of groups that had to be laid side by side; that lay so, or had been laid so for
     * another group */
    int64_t copied, avoided;
    double schedule, execution; /* seconds */
} dn_autobatch_counts;
/* As dn_renew, and from now on: immediate: compute nodes as they are made; check_finite: then a NaN
 * or infinite value is an error; autobatch: a dn_autobatch. */
int dn_graph_renew(int graph, int immediate, int check_finite, int autobatch);
/* The dn_autobatch of all later dn_renew, and of the present graph if it has no nodes yet. */
void dn_graph_autobatch(int graph, int strategy);
/* What products with parameters that have no precision of their own are rounded to, a dn_precision:
 * in graphs that have not used a parameter yet. Not in the double build. */
void dn_set_precision(int precision);
/* 1: no product of this graph is rounded, until 0 or the next renewal; values that
 * this changes are forgotten. */
int dn_graph_exact(int graph, int exact);
/* which instructions multiply numbers rounded to bfloat16: "amx", "avx512" or "plain"; another
 * choice, for tests: 0: this processor does not have them */
const char *dn_bf16_isa(void);
int dn_bf16_choose(const char *isa);
/* Random draws are keyed by (seed, stream, counter, node, element); this sets the counter to 0. It
 * rises at renew and recalculation. */
void dn_graph_seed(int graph, uint64_t seed, uint64_t stream);
/* From now on random nodes draw from this generator, as DyNet's do: each when it is computed, in
 * the order of computation. Where nodes are batched, that is the order in which DyNet's agenda
 * would compute them, or nearly so. The graph does not own it. NULL: draws are keyed, as at the
 * start. */
struct dn_rng;
void dn_graph_generator(int graph, struct dn_rng *generator);
/* The draw counter, for saving and resuming. */
uint64_t dn_graph_counter(int graph);
void dn_graph_set_counter(int graph, uint64_t counter);
/* What the calling thread has done so far: how many backwards it has begun, how many updates of
 * trainers it has made; a number that changes when nodes of this graph are made or computed, or it
 * is renewed; one that changes when it is renewed; the index of the node that its last backward
 * began from, -1: none. */
typedef struct dn_work { int64_t passes, updates, activity, epoch, loss; } dn_work;
dn_work dn_thread_work(int graph);
/* The name of the operation that the last backward of this graph began from; "": none. */
const char *dn_loss_op(int graph);
/* Updates of all threads. */
int64_t dn_updates_made(void);
const char *dn_message(int graph);
void dn_graph_autobatch_counts(int graph, dn_autobatch_counts *out);
/* A lower bound on the batches, in any order, of the nodes that are computed; 0 where nothing is
 * batched. Takes about as long as to plan their order; the tape is busy meanwhile. */
int64_t dn_graph_least_batches(int graph);
int64_t dn_graph_bytes(int graph);
/* From now on nodes refer to Python objects that the caller keeps alive until the next renewal:
 * dn_renew returns DN_ERROR_STATE, dn_graph_renew does it. */
void dn_graph_hold(int graph);

/* ---- traced functions (csrc/program.h) ------------------------------------------------ */
/* A function that is traced: programs, one for each combination of the arguments' dims. NULL: no
 * memory. Freed when no graph uses it any more. */
dn_traced *dn_traced_new(void);
void dn_traced_free(dn_traced *);
int64_t dn_traced_handle(dn_traced *);
/* Between these calls a function runs on `graph`: no value can be read there, and no call made on
 * the graph `outer`. The end of what has not begun is nothing. */
int dn_trace_begin(int graph, int outer);
void dn_trace_end(int graph, int outer);
/* Makes a program of what was traced: inputs of `graph` that stand for the arguments, and the
 * outputs. */
int dn_traced_add(dn_traced *, int graph, int n_given, const int64_t *given, int n_outputs,
                  const int64_t *outputs);

/* ---- operations written in Python ----------------------------------------------------- */
/* An input or the result: its dims, its value, its gradient. */
typedef struct dn_python_array {
    const dn_dim *dim;
    dn_real *value, *gradient;
} dn_python_array;
/* A run of the function with this id. Forward: write y.value; all gradients are NULL. Backward:
 * y.gradient is given, write x[k].gradient where it is not NULL. */
typedef struct dn_python_call {
    int id, backward, n;
    const dn_python_array *x;
    dn_python_array y;
} dn_python_call;
/* What runs them: set once when the extension is loaded, like BLAS. It returns 0, or
 * DN_ERROR_PYTHON after it has put the exception by. No lock is held in it but the graph's: calls
 * on the graph return DN_ERROR_BUSY. */
void dn_set_python(int (*run)(const dn_python_call *));
#ifdef DN_CDEF
extern "Python" int dn_python(const dn_python_call *);
#endif

/* ---- nodes ---------------------------------------------------------------------------- */
int dn_node_index(int64_t a);
int dn_node_op(int64_t a);
/* its n-th input as a handle, negative when there are no more */
int64_t dn_node_input(int64_t a, int n);
/* copies at most n of the node's integers (indices and the like) to out; returns how many it has */
int dn_node_ints(int64_t a, int n, int *out);
/* the handle of the parameter that a parameter or lookup node is of; 0: it is another node */
int64_t dn_node_param(int64_t a);

/* Compute values up to node a: 1 if there is more to do (call again), 0 when done. */
int dn_forward(int64_t a);
/* The value of a computed node, column-major, batch last. Stays valid until the graph is renewed,
 * reverted or recomputed. */
const dn_real *dn_value(int64_t a);
/* The indices that a computed node of topk or sample_categorical keeps: as many as its value has
 * numbers, in the same order. Valid as dn_value. */
const int *dn_saved_indices(int64_t a);
/* Divides the numbers x of a value by their sums along dim d, where these are above 0: numbers of
 * float32 sum to 1 only to 7 digits. */
void dn_normalize(const dn_dim *dim, int d, double *x);

/* Backward from node a, a single number, which is computed if need be: adds to the gradients of
 * parameters. full = 1: gradients of all nodes, not only of those that lead to parameters. 0: all
 * is done; 1: it has begun, go on with dn_backward_step until that returns 0 (as dn_forward); 2:
 * forward is not done, call it again. */
int dn_backward(int64_t a, int full);
int dn_backward_step(int graph);
/* Ends a backward that was begun and is not done, as an error of dn_backward_step does: the
 * parameters of the graph are left without gradient. */
void dn_backward_abandon(int graph);
/* The gradient of node a in the last backward (copied to out, zeros where nothing arrived). */
int dn_gradient(int64_t a, dn_real *out);
/* Of what node a was computed from, itself included: the first node, in the order of forward, whose
 * value is not finite; gradients = 1: in the order of backward, whose gradient is not. nan_only =
 * 1: infinities are let pass. 1: found, *node is its index and *element where in it; 0: there is
 * none, or no backward. */
int dn_find_nonfinite(int64_t a, int gradients, int nan_only, int *node, int64_t *element);

/* ---- parameters, and the gradients of several ranks */
#include "dn_api_params.h"

/* ---- trainers ------------------------------------------------------------------------- */
enum dn_rule_code {
    DN_RULE_SGD,      /* no constants */
    DN_RULE_MOMENTUM, /* mom */
    DN_RULE_ADAGRAD,  /* eps */
    DN_RULE_ADADELTA, /* eps, rho */
    DN_RULE_RMSPROP,  /* eps, rho */
    DN_RULE_ADAM,     /* beta1, beta2, eps */
    DN_RULE_AMSGRAD,  /* beta1, beta2, eps */
    DN_RULE_ADAMW,    /* beta1, beta2, eps, decay */
    DN_RULE_EG        /* mom */
};
/* A trainer updates the parameters of one parameter store by a rule, whose moments it keeps beside
 * each chunk and table. constants: the rule's, padded to 4. kernels.h has the formulas. */
dn_trainer *dn_trainer_new(dn_store *, int rule, const double *constants);
void dn_trainer_free(dn_trainer *);
/* n < 0: all parameters of the store, later ones included; else these n, in the store's order. */
int dn_trainer_select(dn_trainer *, int n, dn_param *const *params);
/* ADAMW: these n parameters do not shrink. */
int dn_trainer_exclude(dn_trainer *, int n, dn_param *const *params);
typedef struct dn_settings {
    double rate; /* the learning rate */
    /* gradients are multiplied by it first: 1 / k where k backward passes count as one */
    double share;
    double clip_value; /* the greatest size of one element of a gradient, 0: none */
    double clip;       /* then the greatest norm of all gradients together, 0: none */
    double decay;      /* what the result of each update is multiplied by */
    int sparse;        /* 0: all rows of a table take part, not only those that have a gradient */
    /* 1: look for gradients that are not finite also where nothing is clipped */
    int check;
} dn_settings;
void dn_trainer_set(dn_trainer *, const dn_settings *);
/* the L2 norm of all selected gradients together, as they were gathered */
double dn_trainer_norm(dn_trainer *);
/* For every selected parameter that is not frozen, of tables for the rows that have a gradient: the
 * rule, with gradients clipped; then the gradients are empty. Dense parameters without a gradient
 * count as having zero. DN_ERROR_NONFINITE: the norm is not finite, nothing was done. */
int dn_trainer_update(dn_trainer *);
/* the same for these n parameters, in the store's order: no other counts or changes */
int dn_trainer_update_these(dn_trainer *, int n, dn_param *const *params);
/* the number of updates done; Adam's bias correction depends on it */
int64_t dn_trainer_updates(dn_trainer *);
/* how many updates, of this object, shortened longer gradients to `clip` */
int64_t dn_trainer_clips(dn_trainer *);
/* The L2 norm of the last update's gradients, divided by the passes of an accumulation, before they
 * were clipped; -1: it was not computed, because nothing limits it. */
double dn_trainer_last_norm(dn_trainer *);
void dn_trainer_set_updates(dn_trainer *, int64_t updates);
/* how many moments a rule keeps; -1: no such rule */
int dn_rule_moments(int rule);
/* moment k of a parameter: same size as its values; NULL: no such moment, or no memory */
dn_real *dn_trainer_moment(dn_trainer *, dn_param *, int k);
/* whether they were made; they count as zero before */
int dn_trainer_has_moments(dn_trainer *, dn_param *);
void dn_trainer_restart(dn_trainer *); /* moments to zero */
/* y = y + a (x - y): moving averages of values */
void dn_blend(int64_t n, double a, const dn_real *x, dn_real *y);

/* ---- random numbers: initial values and draws ----------------------------------------- */
#include "rng.h"

#endif
