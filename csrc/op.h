/* What an operation is. An op is one row and the block of functions below it in csrc/ops/<family>.c:
 *
 *     DN_OP(tanh, 1, DN_BATCHES, "y_i = tanh(x_i)")
 *     static int tanh_dims(dn_shape *s) {...}
 *     static void tanh_forward(dn_call *c) {...}
 *     static void tanh_backward(dn_call *c) {...}
 *
 * build_ffi.py gathers the rows into op_list.h: the enum, the table and the names come from there. An op knows dims and raw memory,
 * nothing of graphs; the tape knows no op by name but those that touch its own structure (input, parameter, lookup, part). */
#ifndef DN_OP_H
#define DN_OP_H

#include "dn_api.h"

typedef struct dn_node dn_node;
typedef struct dn_tape dn_tape;

/* What dims() sees: the inputs' dims and the attributes; it fills y, and `saved` when the op keeps numbers from forward for backward. */
typedef struct dn_shape {
    const char *op;
    int n, n_ints, n_reals;
    const dn_dim *const *x;
    const int *ints;
    const double *reals;
    dn_dim y;
    size_t saved;          /* numbers */
    int parts;             /* blocks of a value with several outputs */
    int alone;             /* never a member of a group, although the op has DN_BATCHES */
    const struct dn_program *program; /* of a cell (cell.h) */
    char *message;         /* of DN_MESSAGE bytes, for dn__fail */
} dn_shape;
enum { DN_MESSAGE = 1024 };

/* One input in a call: its batch elements are `stride` numbers apart, 0 where one element serves all. */
typedef struct dn_in { const dn_dim *dim; const dn_real *v; size_t stride; } dn_in;

/* What forward() and backward() see.
 * forward: fill y (ops with DN_VIEW: let y point to memory that exists). backward: for each input k that dn__dx() gives a place for,
 * add its gradient there; it has the dims of input k, its own batch count included: where that is 1 and y has more, sum over the batch. */
typedef struct dn_call {
    int n;
    const dn_in *x;
    const dn_dim *dim;                 /* of y */
    size_t total;                      /* elements of y, batch included */
    dn_real *y;
    dn_real *saved;
    const int *ints;
    const double *reals;
    int n_ints;
    const dn_real *dy;
    dn_node *node;                     /* inside of a cell: the cell's */
    dn_tape *tape;
    int group;                         /* the group (group.h) that this call computes, or -1 */
    struct dn_inner_call *inner;       /* this is an operation inside of a cell (cell.h); NULL: of a node */
} dn_call;

typedef struct dn_op {
    const char *name;
    int inputs;                        /* number of inputs, -1: any number >= 1 */
    int flags;                         /* dn_op_flag: the batch signature among them */
    const char *formula;
    int (*dims)(dn_shape *);
    void (*forward)(dn_call *);
    void (*backward)(dn_call *);
} dn_op;

#define DN_OP(NAME, INPUTS, FLAGS, FORMULA)                                                                         \
    static int NAME##_dims(dn_shape *);                                                                             \
    static void NAME##_forward(dn_call *);                                                                          \
    static void NAME##_backward(dn_call *);                                                                         \
    const dn_op dn_op_##NAME = {#NAME, INPUTS, FLAGS, FORMULA, NAME##_dims, NAME##_forward, NAME##_backward};

/* Flag of inputs that cannot be batched: bit k for input k, k < 8. Nodes that differ in one of them are not merged. */
enum { DN_SHARED_SHIFT = 16 };
#define DN_SHARED(mask) ((mask) << DN_SHARED_SHIFT)

extern const dn_op *const dn_ops[DN_OP_COUNT];

/* Writes "<op>: <text>" to the message and returns `error`. dn__dims_text writes "(4, 3)", or "(4, 3) x 5" with a batch. */
int dn__fail(dn_shape *s, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));
typedef struct dn_text { char s[96]; } dn_text;
dn_text dn__dims_text(const dn_dim *d);
#define DIMS(d) dn__dims_text(d).s

/* the error of an index that is out of range */
static inline int dn__bad_index(int index) { return index < 0 ? DN_ERROR_NEGATIVE : DN_ERROR_VALUE; }

/* dims: y with these sizes; the product is checked. Returns 0, or the error of a size that does not fit into an int. */
int dn__set_dims(dn_shape *s, int nd, const int *d, int batch);
/* The batch count of a result: all inputs have it or 1. Negative error otherwise. */
int dn__common_batch(dn_shape *s);
int dn__same_sizes(const dn_dim *a, const dn_dim *b);       /* equal but for trailing 1s */
/* The dims() of an op whose inputs have the same dims but for trailing 1s; the batch is repeated. */
int dn__alike_dims(dn_shape *s);

/* Memory for the length of one call; NULL: no memory (the tape then reports the call as failed). */
dn_real *dn__scratch(dn_call *c, size_t n);
/* Memory of the backward pass, for what dn__weight_gradient refers to. */
dn_real *dn__backward_memory(dn_call *c, size_t n);

/* The place of input k's gradient: dx = (gradient) + beta dx, where beta = 0 means that dx holds nothing yet and must be written whole.
 * dx is NULL where no gradient is wanted. Ask once for each input, and write at once. dn__dx_zeroed: always to be added to. */
typedef struct dn_grad { dn_real *dx; dn_real beta; } dn_grad;
int dn__wants(const dn_call *c, int k);
dn_grad dn__dx(dn_call *c, int k);
dn_real *dn__dx_zeroed(dn_call *c, int k);

/* dW_k += dy x' (W_k is m x kk, dy m x n, x kk x n, all dense) for input k, an unbatched matrix that dn__wants(). Put off: the products of
 * one matrix are done as one when the sweep reaches its node, so dy and x must outlive the call (values, dy, dn__backward_memory). */
void dn__weight_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy, const dn_real *x);
/* Nothing more comes for input k in this call. Somebody may wait for it: then what was put off is computed now, before other inputs'
 * gradients. */
void dn__input_done(dn_call *c, int k);

/* Random numbers in [0, 1) for the elements of this node; the same for every evaluation order. */
struct dn_draw;
void dn__draw_key(const dn_call *c, struct dn_draw *out);
/* The generator to draw from instead, in the order of evaluation; NULL: there is none, draw with the key. */
struct dn_rng *dn__generator(const dn_call *c);

#endif
