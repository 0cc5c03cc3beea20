/* Nodes are appended, and found by their handles. Knows dims and parameters; nothing is computed
 * here. */
#pragma once

#include "tape.h"

/* What a node is made with beside inputs and numbers: a parameter or a table, whose dims dims() is
 * asked with; dn_shape.own. */
typedef struct dn_origin {
    dn_param *param;
    int constant;
    const void *own;
} dn_origin;
/* Appends a node and returns its index. `inputs` are indices; origin may be NULL. */
int dn__make(dn_tape *, const dn_op *, int n, const int *inputs, int n_ints, const int *ints,
             int n_floats, const double *floats, const dn_origin *origin);
/* One without numbers and origin. */
int dn__make_plain(dn_tape *, const dn_op *, int n, const int *inputs);
/* Other ints for the node, checked; its value is what it was. */
int dn__change_ints(dn_tape *, dn_node *, int n, const int *ints);
int dn__param_node(dn_tape *, int64_t handle, dn_param *, int constant);
/* the same for a handle that is no node's of this graph: a parameter's, or none */
int dn__find_parameter(dn_tape *, int64_t handle);
/* index of a live handle; a parameter's handle gives its node, made if need be; negative error */
static inline int dn__find(dn_tape *t, int64_t handle) {
    const int64_t i = handle & (((int64_t)1 << DN_INDEX_BITS) - 1);
    const int64_t epoch = handle >> DN_INDEX_BITS;
    return i < t->n.nodes && t->nodes[i].epoch == (epoch & DN_EPOCH) &&
                   epoch >> DN_EPOCH_BITS == t->graph
               ? (int)i
               : dn__find_parameter(t, handle);
}
/* Enters the tape of a node's handle: `t`, and `i` is its index. */
#define DN_ENTER_NODE(a) \
    dn_tape *t = dn__handle_tape(a); \
    if (!t) return DN_ERROR_NO_GRAPH; \
    DN_ENTER(t); \
    const int i = dn__find(t, a); \
    if (i < 0) return i
