/* Traced functions: a function of expressions, traced once, from then on one node per call. Python
 * runs the function on a graph of its own, whose inputs stand for the arguments; what it made there
 * becomes a *program* here. A node of the operation `traced` runs its program (csrc/ops/traced.c),
 * for all members of a group at once: the values of an inner operation lie side by side for all of
 * them.
 *
 * Parameters and rows of tables that the function uses are *captured*: each call finds their nodes
 * in its graph and has them as its first inputs, so that gradients, versions and locks are theirs
 * as always. Inputs that the function makes are constants of the program. */
#pragma once

#include "op.h"

/* An operation of a program. Its inputs: a value >= 0 is a node of the program, -1 - k input k of
 * the function. */
typedef struct dn_inner {
    const dn_op *op;
    dn_dim dim; /* as traced; in a group the batch is larger */
    int32_t n_args, args, n_ints, ints, n_floats, floats, parts;
    /* the ints from this one on belong to batch elements; n_ints: none does */
    int32_t each;
    int32_t rng;      /* of random operations: which one, from 1; 0: it draws nothing */
    int32_t output;   /* the output that it is computed into, or -1 */
    uint8_t consumed; /* has uses in the program, or is several outputs */
    /* in what the traced function keeps for backward, for one member */
    size_t saved, value_at, saved_at;
    dn_real *data; /* of constants */
} dn_inner;

typedef struct dn_traced_output {
    int32_t source;
    dn_dim dim;
    size_t at; /* in the traced function's value, for one member */
} dn_traced_output;

typedef struct dn_captured {
    const dn_op *op;
    int64_t handle;
    dn_store *store;
    int32_t n_rows, rows; /* in program->ints */
} dn_captured;

typedef struct dn_program {
    struct dn_program *next; /* of the same traced function, for other dims */
    /* (atomic) its traced function, and graphs that have called it */
    int references;
    int n_given, n_captured, n_nodes, n_outputs, n_args, n_ints, n_floats;
    int most_inputs;   /* of one of its operations */
    int not_batchable; /* its nodes are never members of groups */
    int rng;           /* random operations */
    dn_dim *given;     /* dims of the arguments */
    dn_captured *captured;
    dn_inner *nodes;
    dn_traced_output *outputs;
    dn_block *blocks; /* the outputs, as blocks of the traced function's value */
    /* of each output, n_captured + n_given + n_nodes: which of them it is computed from, itself
     * included; NULL: there is one output */
    uint8_t *leads;
    int32_t *args;
    int *ints;
    double *floats;
    /* of the traced function's node: of its one output, or of all of them together */
    dn_dim dim;
    size_t saved;
    int64_t work;
} dn_program;

/* Input k of the traced function, as inputs of operations name it. */
static inline int32_t dn__input_source(int k) { return -1 - k; }
/* Whether output `output`, one of several, is computed from `source`, or is that. */
static inline int dn__leads(const dn_program *p, int32_t source, int output) {
    const int n_inputs = p->n_captured + p->n_given;
    return p->leads[(size_t)output * (size_t)(n_inputs + p->n_nodes) + (size_t)(source + n_inputs)];
}
