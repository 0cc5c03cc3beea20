/* What an operation is. An op is one row and the block of functions below it in
 * csrc/ops/<family>.c:
 *
 *     DN_OP(tanh, 1, DN_BATCHES, "y_i = tanh(x_i)")
 *     static int tanh_dims(dn_shape *s) {...}
 *     static void tanh_forward(dn_call *c) {...}
 *     static void tanh_backward(dn_call *c) {...}
 *
 * build_ffi.py gathers the rows into op_list.h: the enum, the table and the names come from there.
 * An op knows dims and raw memory, nothing of graphs: what it asks of its caller goes through a
 * table (dn_gradient_routes). The tape knows no op by name but those that are its own
 * (csrc/graph/leaves.c). */
#pragma once

#include "arena.h"
#include "dn_api.h"

typedef struct dn_node dn_node;
typedef struct dn_tape dn_tape;

/* What dims() sees: the inputs' dims and the attributes; it fills y, and `saved` when the op keeps
 * numbers from forward for backward. */
typedef struct dn_shape {
    const char *op;
    int n, n_ints, n_floats;
    const dn_dim *const *x;
    const int *ints;
    const double *floats;
    dn_dim y;
    size_t saved; /* numbers */
    int parts;    /* blocks of a value with several outputs; dn__block says how large each is */
    int not_batchable; /* never a member of a group, although the op has DN_BATCHES */
    /* how many of the numbers that random draws are keyed by it needs beside its own */
    int rng;
    /* how many numbers it reads and writes; 0: those of its inputs and its value */
    int64_t work;
    const void *own; /* what the node was made with beside numbers, or NULL */
    char *message;   /* of DN_MESSAGE bytes, for dn__fail */
} dn_shape;
enum { DN_MESSAGE = 1024 };
/* A block of a value: it begins at `at` times the members, and has `size` numbers for each batch
 * element. */
typedef struct dn_block { size_t at, size; } dn_block;

/* One input in a call: its batch elements are `stride` numbers apart, 0 where one element serves
 * all. */
typedef struct dn_in {
    const dn_dim *dim;
    const dn_real *v;
    size_t stride;
} dn_in;

/* The gradient slot of input k: dx = (gradient) + beta dx, where beta = 0 means that dx holds
 * nothing yet and must be written whole. */
typedef struct dn_grad {
    dn_real *dx;
    dn_real beta;
} dn_grad;

/* Memory of calls, what went wrong in them, what they draw from, and how they multiply. */
typedef struct dn_workspace {
    dn_arena scratch; /* for the length of one call */
    dn_arena grads;   /* until the next backward */
    int out_of_memory;
    int raised; /* the error of an op that cannot go on */
    /* generator: what random ops draw from; NULL: draws are keyed */
    struct {
        uint64_t seed, stream, counter;
        struct dn_rng *generator;
    } rng;
    struct {
        /* products with parameters that have no precision of their own are rounded to bfloat16;
         * none is, whatever its precision; some may be */
        int bf16, exact, rounds;
    } precision;
} dn_workspace;

/* What forward() and backward() see.
 * forward: fill y (ops with DN_VIEW: let y point to memory that exists). backward: for each input k
 * that dn__dx() gives a gradient slot for, add its gradient there; it has the dims of input k, its
 * own batch count included: where that is 1 and y has more, sum over the batch. */
typedef struct dn_call {
    int n;
    const dn_in *x;
    const dn_dim *dim; /* of y */
    size_t total;      /* elements of y, batch included */
    dn_real *y;
    dn_real *saved;
    const int *ints;
    const double *floats;
    int n_ints;
    int members; /* nodes that are computed as one */
    /* of y. An op with several outputs may add to what they got what they give one another. */
    dn_real *dy;
    const void *own; /* as dn_shape.own */
    dn_workspace *workspace;
    const struct dn_gradient_routes *routes;
    /* For the functions of `routes` alone. */
    dn_tape *tape;
    dn_node *node;
    int group;
    struct dn_inner_call *inner;
} dn_call;

/* Of a table: `m` products of rows[i] x k matrices w[i] with the columns of dy[i], dx = sum_i
 * w[i]' dy[i], column[count j + b] being the column of batch element b of input first + j, or
 * -1. */
typedef struct dn_row_products {
    int m, k;
    int rows[3];
    const dn_real *w[3], *dy[3];
    const uint16_t *packed[3]; /* dn__packed(, 1) of the w[i] */
    const int *column;
} dn_row_products;

/* dx = columns from ... from + n - 1, batch elements, of the gradient of an input, + beta dx. */
typedef void dn_columns_fn(dn_call *, int from, int n, dn_real beta, dn_real *dx);

/* What a call asks of its caller: a node by itself, a group, a traced function. The functions below
 * say what each is. */
typedef struct dn_gradient_routes {
    int (*wants)(const dn_call *, int k);
    dn_grad (*dx)(dn_call *, int k);
    void (*weight_gradient)(dn_call *, int k, int m, int kk, int n, const dn_real *dy,
                            const dn_real *x);
    int (*defers_weight)(const dn_call *, int k); /* whether weight_gradient computes it later */
    void (*operand_gradient)(dn_call *, int k, int m, int kk, int n, const dn_real *dy, dn_grad);
    void (*input_done)(dn_call *, int k);
    uint32_t (*ordinal)(const dn_call *, int member);
    int (*table_rows)(const dn_call *, int first, int n, int capacity, int *rows);
    void (*rows_gradient)(dn_call *, int first, int n, int count, int n_rows, const int *rows,
                          const dn_real *dx, const dn_row_products *);
    int (*wants_each)(const dn_call *);
    int (*rounds)(const dn_call *, int k);
    const uint16_t *(*packed)(dn_call *, int k, int transposed);
    void (*let_go)(dn_call *, int begin);
    int (*put_off)(dn_call *, int k, dn_columns_fn *); /* NULL: never */
    int (*beside_loss)(const dn_call *, int output);
} dn_gradient_routes;

typedef struct dn_op {
    const char *name;
    int inputs; /* number of inputs, -1: any number >= 1 */
    int flags;  /* dn_op_flag: the batch signature among them */
    const char *formula;
    int (*dims)(dn_shape *);
    void (*forward)(dn_call *);
    void (*backward)(dn_call *);
} dn_op;

#define DN_OP(NAME, INPUTS, FLAGS, FORMULA) \
    static int NAME##_dims(dn_shape *); \
    static void NAME##_forward(dn_call *); \
    static void NAME##_backward(dn_call *); \
    dn_op dn_op_##NAME = {#NAME,       INPUTS,         FLAGS,          FORMULA, \
                          NAME##_dims, NAME##_forward, NAME##_backward};

/* Flag of inputs that cannot be batched: bit k for input k, k < 8. Nodes that differ in one of them
 * are not merged. */
enum { DN_BROADCAST_SHIFT = 16 };
#define DN_BROADCAST(mask) ((mask) << DN_BROADCAST_SHIFT)

/* Flags of ops whose nodes may be computed with later ones even where nothing is batched
 * (schedule/batched_gemm.h). */
enum { DN_JOINED = DN_BATCHED_GEMM | DN_TRACED | DN_VARIABLE_LENGTH };

extern const dn_op *const dn_ops[DN_OP_COUNT];

/* Writes "<op>: <text>" to the message and returns `error`. dn__dims_text writes "(4, 3)", or "(4,
 * 3) x 5" with a batch. */
int dn__fail(dn_shape *s, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));
typedef struct dn_text { char s[96]; } dn_text;
dn_text dn__dims_text(const dn_dim *d);
#define DIMS(d) dn__dims_text(d).s

/* x for "%.*g" in a message: as many digits as tell it from its neighbours, at least 6 */
int dn__digits_of(double x);
#define DIGITS(x) dn__digits_of(x), (x)

/* the error of an index that is out of range */
static inline int dn__bad_index(int index) {
    return index < 0 ? DN_ERROR_NEGATIVE : DN_ERROR_VALUE;
}

/* dims: y with these sizes; the product is checked. Returns 0, or the error of a size that does not
 * fit into an int. */
int dn__set_dims(dn_shape *s, int nd, const int *d, int batch);
/* The batch count of a result: all inputs have it or 1. Negative error otherwise. */
int dn__common_batch(dn_shape *s);
int dn__same_sizes(const dn_dim *a, const dn_dim *b); /* equal but for trailing 1s */
/* The dims() of an op whose inputs have the same dims but for trailing 1s; the batch is
 * repeated. */
int dn__alike_dims(dn_shape *s);

/* Memory for the length of one call: n numbers, n elements of so many bytes, n ints; NULL: no
 * memory (the tape then reports the call as failed). */
dn_real *dn__scratch(dn_call *c, size_t n);
void *dn__scratch_of(dn_call *c, size_t n, size_t bytes);
static inline int *dn__scratch_ints(dn_call *c, size_t n) {
    return dn__scratch_of(c, n, sizeof(int));
}
/* n sums in double that are 0, for dn__wide_add; NULL: no memory. */
double *dn__wide_zeros(dn_call *c, size_t n);
/* Memory of the backward pass, for what dn__weight_gradient refers to. */
dn_real *dn__backward_memory(dn_call *c, size_t n);

/* dx is NULL where no gradient is wanted. Ask once for each input, and write at once.
 * dn__dx_zeroed: always to be added to. */
static inline int dn__wants(const dn_call *c, int k) { return c->routes->wants(c, k); }
static inline dn_grad dn__dx(dn_call *c, int k) { return c->routes->dx(c, k); }
dn_real *dn__dx_zeroed(dn_call *c, int k);
/* The same, for an op that adds to dx batch element by batch element, of which there are `count`:
 *
 *     dn_batch_grad to = dn__dx_by_element(c, k, count);
 *     while (dn__next_element(&to)) the part of element to.b is added to to.dx, beta being to.beta
 *
 * There are none where no gradient is wanted. Of an input that is not batched to.dx is dx itself;
 * where they are many (DN_MANY), sums of so many, which are added in double after the last. */
typedef struct dn_batch_grad {
    size_t b, count;
    dn_real *dx, beta;
    size_t stride, n;
    dn_grad whole; /* with `sum`: where the sums go */
    double *sum;
    int in_part;
} dn_batch_grad;
void dn__dx_prepare(dn_call *c, int k, dn_batch_grad *to);
void dn__dx_next_part(dn_batch_grad *to);
void dn__dx_add_parts(dn_batch_grad *to);
static inline dn_batch_grad dn__dx_by_element(dn_call *c, int k, int count) {
    const dn_grad g = dn__dx(c, k);
    dn_batch_grad to = {.b = (size_t)-1,
                        .count = g.dx ? (size_t)count : 0,
                        .dx = g.dx,
                        .beta = g.beta,
                        .stride = c->x[k].stride,
                        .n = (size_t)c->x[k].dim->size};
    if (g.dx && (!c->total || (!to.stride && c->dim->batch > DN_MANY))) dn__dx_prepare(c, k, &to);
    return to;
}
static inline int dn__next_element(dn_batch_grad *to) {
    if (!to->count) return 0;
    const int goes_on = ++to->b < to->count;
    if (to->sum) {
        (goes_on ? dn__dx_next_part : dn__dx_add_parts)(to);
    } else if (to->b) {
        to->dx += to->stride;
        if (!to->stride) to->beta = 1;
    }
    return goes_on;
}
/* The same, where to.dx is always to be added to. */
int dn__next_zeroed(dn_batch_grad *to);

/* dW_k += dy x' (W_k is m x kk, dy m x n, x kk x n, all dense) for input k, an unbatched matrix
 * that dn__wants(). Put off: the products of one matrix are done as one when the backward pass
 * reaches its node, so dy and x must outlive the call (values, dy, dn__backward_memory). */
static inline void dn__weight_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy,
                                       const dn_real *x) {
    c->routes->weight_gradient(c, k, m, kk, n, dy, x);
}
static inline int dn__defers_weight(const dn_call *c, int k) {
    return c->routes->defers_weight(c, k);
}
/* dx = W_k' dy + beta dx, dense, for input k, an unbatched matrix: the gradient of what it was
 * multiplied by. The caller may have W_k' in a form that is better for many columns. */
static inline void dn__operand_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy,
                                        dn_grad g) {
    c->routes->operand_gradient(c, k, m, kk, n, dy, g);
}
/* Nothing more comes for input k in this call. Somebody may wait for it: then what was put off is
 * computed now, before other inputs' gradients. */
static inline void dn__input_done(dn_call *c, int k) { c->routes->input_done(c, k); }

/* Whether products with input k, a matrix, are rounded to bfloat16; and that matrix, W or its
 * transpose, packed as kernels/bf16.h says, or NULL: they are not, or there was no memory, which
 * fails the call. */
static inline int dn__rounds(const dn_call *c, int k) {
    return c->workspace->precision.rounds && c->routes->rounds(c, k);
}
static inline const uint16_t *dn__packed(dn_call *c, int k, int transposed) {
    return c->workspace->precision.rounds ? c->routes->packed(c, k, transposed) : NULL;
}
/* Whether the gradient of input k, a value of large columns, is computed later, some columns at a
 * time: by `columns`, to which a call equal to this one is given. Else it is to be written now. */
static inline int dn__put_off(dn_call *c, int k, dn_columns_fn *columns) {
    return c->routes->put_off && c->routes->put_off(c, k, columns);
}

/* Whether the loss does not depend on this output, one of several, which has got nothing: to hand
 * on that nothing might multiply it by infinity. It is looked up, so ask where it matters only. */
static inline int dn__beside_loss(const dn_call *c, int output) {
    return c->routes->beside_loss(c, output);
}

/* Random numbers in [0, 1) for the elements of this node; the same for every evaluation order. */
struct dn_rng_key;
void dn__draw_key(const dn_call *c, struct dn_rng_key *out);
/* The generator to draw from instead, in the order of evaluation; NULL: there is none, draw with
 * the key. */
static inline struct dn_rng *dn__generator(const dn_call *c) { return c->workspace->rng.generator; }

/* Rows of tables as inputs of an op that treats equal rows as one: an embedding of a word that
 * occurs several times in a batch needs to be multiplied only once, and its gradient can be added
 * up before it is multiplied.
 *
 * Whether inputs first ... first + n - 1 are rows of one table, used alike, with equal batch
 * counts. If so: that count, and rows[count k + b] is the row of batch element b of input first +
 * k; `rows` has this capacity. Else 0. */
static inline int dn__table_rows(const dn_call *c, int first, int n, int capacity, int *rows) {
    return c->routes->table_rows(c, first, n, capacity, rows);
}
/* d(row) += dx for these rows of the table of input `first`: in place of gradients of the inputs
 * themselves. The products are what those would be. If somebody asks for one of them after all
 * (dn_gradient), it is computed then. */
static inline void dn__rows_gradient(dn_call *c, int first, int n, int count, int n_rows,
                                     const int *rows, const dn_real *dx,
                                     const dn_row_products *products) {
    c->routes->rows_gradient(c, first, n, count, n_rows, rows, dx, products);
}
/* Whether this backward was asked for the gradients of all nodes. */
static inline int dn__wants_each(const dn_call *c) { return c->routes->wants_each(c); }

/* In between, nobody must wait for what the call holds in backward. */
static inline void dn__let_go(dn_call *c) { c->routes->let_go(c, 1); }
static inline void dn__take_back(dn_call *c) { c->routes->let_go(c, 0); }

static inline size_t dn__elements(const dn_dim *d) { return (size_t)d->size * (size_t)d->batch; }
/* Size i of a batch element: 1 beyond its dims. Of a matrix; a vector is a column. */
static inline int dn__size_at(const dn_dim *d, int i) { return i < d->nd ? d->d[i] : 1; }
static inline int dn__rows_of(const dn_dim *d) { return dn__size_at(d, 0); }
static inline int dn__columns_of(const dn_dim *d) { return dn__size_at(d, 1); }
/* n numbers, rounded up so that what follows them begins on a cache line. */
static inline size_t dn__aligned(size_t n) { return (n + 15) & ~(size_t)15; }
