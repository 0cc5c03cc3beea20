/* A backward pass over a tape, back through its schedule: gradient slots, products that are
 * collected, rows whose gradients are added up, hooks that are notified of what is complete. It
 * does not know how a schedule is made, nor any operation by name but those of leaves.c. */
#pragma once

#include "schedule/schedule.h"

/* A pending product dW += dy x'. */
typedef struct dn_product {
    int32_t next;
    int m, k, n;
    const dn_real *dy, *x;
} dn_product;

/* The dy or the x of a list of products side by side, kept for other matrices that belong to the
 * same outputs or multiply the same inputs. */
typedef struct dn_kept_columns {
    int32_t first;
    int wide, of_x;
    int64_t used;
    dn_real *all;
    dn_arena memory;
} dn_kept_columns;
enum { DN_KEPT_COLUMNS = 4 };

/* A matrix that groups multiply by: how many columns of gradients have come to it in this backward,
 * and its transpose, NULL: too few. */
typedef struct dn_transposed {
    int32_t node, columns;
    dn_real *v;
} dn_transposed;
enum { DN_MOST_TRANSPOSED = 64 };

/* A call whose inputs are rows that got no gradient of their own. */
typedef struct dn_deferred {
    struct dn_deferred *next;
    int node, group, first, n, count; /* count = 0: of a group by deduplicate.h */
    dn_row_products products;
} dn_deferred;

/* What is put off (put_off.c): columns from ... from + n - 1, in its group, of the gradient of node
 * `to`, by the call of node `user` or, not -1, of a group; `next`: one more than the entry of the
 * same group that comes next, 0: none. */
typedef struct dn_put_off {
    int32_t next, to, user, group, from, n;
    dn_columns_fn *columns;
} dn_put_off;

/* What backward does for node `node`, whose value is not kept, done while its user was computed, if
 * each column of the user gets the gradient dy: `grads` of the node's inputs, NULL: not wanted. */
typedef struct dn_ahead {
    struct dn_ahead *next;
    int node, user;
    dn_real dy, **grads;
} dn_ahead;

typedef struct dn_backward_pass {
    dn_deferred *deferred; /* gradients of rows that were added up, by input */
    dn_product *products;
    int n_products, products_capacity;
    dn_put_off *put_off;
    int n_put_off, put_off_capacity;
    struct dn_in_blocks *blocks; /* blocks.c: while a call is done in blocks */
    dn_ahead *ahead;             /* in the memory of values */
    dn_kept_columns columns[DN_KEPT_COLUMNS];
    int64_t columns_used; /* counts their uses */
    dn_transposed transposed[DN_MOST_TRANSPOSED];
    int n_transposed;
    int position;   /* the place in the order that comes next; -1: none */
    int32_t *views; /* reached.c: which outputs it depends on; NULL: not known yet */
    int full;       /* gradients of all nodes are wanted */
    /* hooks.c, in a backward that is watched, else NULL: the parameters' nodes that were last used
     * at each place of the backward pass, as lists */
    struct {
        int32_t *last_use, *next;
        int steps, notified; /* whether a step ends when it has notified somebody; whether it has */
    } hook;
    int last_loss; /* loss of the last finished or running backward, -1: none */
    /* nodes from this one on are as they were made: no backward has seen them */
    int first_new_node;
} dn_backward_pass;

/* ---- gradient_slots.c: where gradients are put */
/* whether a gradient of this node is of use to a parameter that is updated */
int dn__leads_to_update(const dn_node *);
/* whether node wants a gradient in this backward */
int dn__node_wants(const dn_tape *, const dn_node *);
/* the gradient slot of node i; beta = 0: it holds nothing yet */
dn_grad dn__gradient_slot(dn_tape *, int i);
/* Where node i's gradient is, or NULL: nothing has come. That of a parameter may be elsewhere, see
 * dn_gradient. */
const dn_real *dn__arrived(const dn_tape *, int i);
/* The memory of a group's gradients, not set; the same, zeros before anything has come; NULL: out
 * of memory. */
dn_real *dn__group_new_grads(dn_tape *, dn_group *);
dn_real *dn__group_grads(dn_tape *, int group);
int dn__route_wants(const dn_call *, int k);
dn_grad dn__route_dx(dn_call *, int k);
/* the same for a call that computes a group, and whether its input k is collected from the
 * members */
int dn__route_group_wants(const dn_call *, int k);
dn_grad dn__route_group_dx(dn_call *, int k);
int dn__group_gathers(const dn_call *, int k);

/* ---- reached.c: what the loss depends on. Without memory the backward fails, and it is 1 */
/* Whether the loss does not depend on this output of node i, one of several. Whether it does not
 * depend on node i: nothing reads it, or only such outputs. */
int dn__is_output_beside_loss(dn_tape *, int i, int output);
int dn__is_unneeded(dn_tape *, int i);
/* Whether dx, what has come to node i, is zeros, of calls that have read it for what the loss does
 * not depend on. They must go no further: zero times an infinite derivative is NaN, and a row has
 * no gradient, not even zero, if the loss does not depend on it. */
int dn__is_unread(dn_tape *, int i, const dn_real *dx);
/* Whether it is a recurrent network over several steps, or one with several outputs of a step. */
int dn__is_sequence(const dn_node *);
int dn__route_beside_loss(const dn_call *, int output);
int dn__route_group_beside_loss(const dn_call *, int output);

/* ---- hooks.c: gradient-ready hooks */
/* of parameter node i, whose last use has passed, so many numbers have their gradient; its hook is
 * notified */
void dn__hook_notify(dn_tape *, int i, int64_t numbers);
/* all of it has */
void dn__hook_complete(dn_tape *, int i);
/* a backward begins (-1: out of memory), ends; locks are held in the latter */
int dn__hook_begin(dn_tape *);
void dn__hook_end(dn_tape *, int complete);

/* ---- products.c: collected products, and gradients that come home to parameters */
void dn__route_weight_gradient(dn_call *, int k, int m, int kk, int n, const dn_real *dy,
                               const dn_real *x);
void dn__route_input_done(dn_call *, int k);
/* what is collected for node i is computed */
void dn__flush_products(dn_tape *, int i);
/* what is collected for a parameter's node, and its gradient, go to the parameter: once, when no
 * use of it is left */
void dn__finish_parameter(dn_tape *, int i);
/* the backward has passed the place `position` */
void dn__hook_passed(dn_tape *);

/* ---- transposed.c: gradients of what matrices are multiplied by */
void dn__route_operand_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy,
                                dn_grad);
/* the same for a call that computes a group */
void dn__route_group_operand_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy,
                                      dn_grad);

/* ---- put_off.c */
int dn__route_put_off(dn_call *, int k, dn_columns_fn *);
/* a new backward begins */
void dn__forget_put_off(dn_tape *);
/* Whether something of the gradient of node i, or of its group, is put off and not in memory. */
int dn__is_put_off(const dn_tape *, int i);
/* Writes it into the gradient of node i by itself; or adds it to the gradients of a group. */
void dn__write_put_off(dn_tape *, int i, dn_group *);
/* dx = columns from ... from + n - 1 of what the entry puts off, + beta dx */
void dn__put_off_columns(dn_tape *, const dn_put_off *, int from, int n, dn_real beta, dn_real *dx);

/* ---- blocks.c */
/* Backward of node i, and of a group, whose gradient is put off; 0: of the group in part, and it is
 * in memory now. */
void dn__node_in_blocks(dn_tape *, int i);
int dn__group_in_blocks(dn_tape *, int group);
/* Forward of a call whose first input is not kept and, where backward is expected, its part. */
void dn__unkept_forward(dn_call *);
/* Nothing of backward is done ahead any more: values go, or a backward ends before its time. */
void dn__forget_ahead(dn_tape *);

/* ---- rows.c */
int dn__route_table_rows(const dn_call *, int first, int n, int capacity, int *rows);
void dn__route_rows_gradient(dn_call *, int first, int n, int count, int n_rows, const int *rows,
                             const dn_real *dx, const dn_row_products *);
/* d(row) += dx; a row has a gradient, be it zero, if the loss depends on it. */
void dn__add_to_row(dn_tape *, dn_param *, int row, const dn_real *dx);
/* The call was of a group whose equal members were computed once (deduplicate.h): the same holds
 * for the gradients of its inputs. */
void dn__deferred_group(dn_call *);
/* Adds what one call would have given to node i, if it is an input of it. */
void dn__deferred_add(const dn_tape *, const dn_deferred *, int i, dn_real *out);

/* ---- deduplicated.c: backward of groups whose equal members were computed once */
/* by `c`, a call for the distinct members */
void dn__deduplicated_backward(dn_tape *, int group, dn_call *c);
/* Whether dx, of row x and those of equal members, is zeros that nobody reads (dn__is_unread). */
int dn__deduplicated_unread(dn_tape *, const dn_group *, int x, const dn_real *dx);
/* Adds to `out` what node i, a row, would have got from the group. */
void dn__deduplicated_add(dn_tape *, int group, int i, dn_real *out);

/* ---- groups.c: backward of groups */
/* to be called when the gradients of all members are complete */
void dn__group_backward(dn_tape *, int group);

/* ---- backward.c: the pass */
/* a backward from node i; negative: an error. And up to DN_WORK of it; 1: there is more to do */
int dn__backward_begin(dn_tape *, int i, int full);
int dn__backward_step(dn_tape *);
/* Gradients of this graph are no more; a backward that is not done ends as one that failed, and
 * whoever makes its next step gets an error. */
void dn__stop_backward(dn_tape *);
void dn__backward_free(dn_tape *);
int64_t dn__backward_bytes(const dn_tape *);
