/* Which column of the kernels' arrays is which position of a sequence: sizes, checks, and the order
 * of batch elements; and states, and their gradients, from the one order to the other. For
 * sequence.c. */
#pragma once

#include "product.h"

/* What a matrix of a recurrent network multiplies. */
typedef enum dn_factor { DN_OF_H_BEFORE, DN_OF_C_BEFORE, DN_OF_C_NOW, DN_OF_EXTRA } dn_factor;

enum { DN_MOST_PRODUCTS = 5 };

/* What the kinds of recurrent networks differ in. */
typedef struct dn_network {
    /* the weights' names, and what they must be */
    const char *takes, *rule;
    int weights; /* how many inputs are */
    int has_c, has_extra, has_peepholes;
    /* rows of all blocks together, in h */
    int gates;
    int n_blocks;
    struct { int rows, wx, b; } blocks[3]; /* rows in h; inputs */
    int n_products;
    /* matrices that multiply the state; in the order that the kernels take */
    struct {
        int w, block;
        dn_factor factor;
    } products[DN_MOST_PRODUCTS];
    void (*forward)(const dn_sequence *, const dn_matrix *w, const double *floats);
    void (*backward)(const dn_sequence *, const dn_matrix *w);
} dn_network;

typedef struct dn_sizes {
    int h, k, steps, batch, options, form;
    /* h element by element; and after it the last states, rather than every c */
    int by_element, ends_only;
    /* the inputs h_0, the masks, x begin at; state and mask where there are some */
    int state, mask, first;
    /* every position is real and in its place: columns are positions, kernels write h into the
     * result */
    int plain;
    int direct;                /* and x lies as the kernels want it */
    size_t columns, positions; /* real positions; those of the result */
    size_t live; /* in backward: columns before the steps that the loss does not need */
} dn_sizes;

/* Batch elements in the order of falling length; `step` of a column is its place within its own
 * sequence. In `shown`, a column, or -1 - (place of the batch element): the initial state. Where
 * z.plain only `active` is there. */
typedef struct dn_plan {
    int steps;         /* of the longest */
    int *active;       /* steps: how many sequences have this step */
    int *element;      /* columns: the batch element */
    int *position;     /* columns: the position */
    int *order;        /* batch: batch elements by place */
    int *start;        /* batch: where a packed sequence begins */
    int *shown, *last; /* steps x batch, batch: whose state a position, the end shows */
} dn_plan;

dn_sizes dn__sizes_of(const dn_network *net, const dn_dim *wx, const int *ints, int n_ints,
                      int batch);
/* Checks the inputs of a node and fills its sizes. Negative: an error. */
int dn__check_sequence(dn_shape *, const dn_network *net, dn_sizes *);
/* 0: no memory */
int dn__make_plan(dn_call *, const dn_sizes *, dn_plan *);

/* where a packed sequence begins; one alone begins at 0 */
static inline int dn__start_of(const dn_plan *p, int b) { return p->start ? p->start[b] : 0; }

static inline const dn_real *dn__x_at(const dn_call *c, const dn_sizes *z, const dn_plan *p, int t,
                                      int b) {
    const dn_in *x = &c->x[z->first];
    size_t k = (size_t)z->k;
    switch (z->form) {
    case DN_SEQUENCE_LIST: return x[t].v + (size_t)b * x[t].stride;
    case DN_SEQUENCE_MATRIX: return x->v + (size_t)b * x->stride + (size_t)t * k;
    case DN_SEQUENCE_STEPS: return x->v + ((size_t)t * (size_t)z->batch + (size_t)b) * k;
    default: return x->v + (size_t)(dn__start_of(p, b) + t) * k;
    }
}

/* whose a column of the plan is: step t of batch element b */
static inline void dn__step_and_element(const dn_sizes *z, const dn_plan *p, size_t column, int *t,
                                        int *b) {
    *t = z->plain ? (int)(column / (size_t)z->batch) : p->position[column];
    *b = z->plain ? (int)(column % (size_t)z->batch) : p->element[column];
}

/* the place of a position in the result, counted in h */
static inline size_t dn__place_of(const dn_sizes *z, const dn_plan *p, int t, int b) {
    if (!z->by_element) return (size_t)t * (size_t)z->batch + (size_t)b;
    return z->form == DN_SEQUENCE_PACKED ? (size_t)(dn__start_of(p, b) + t)
                                         : (size_t)b * (size_t)z->steps + (size_t)t;
}
static inline int dn__has_place(const dn_call *c, const dn_sizes *z, int t, int b) {
    return !(z->form == DN_SEQUENCE_PACKED && z->by_element) || t < c->ints[2 + b];
}

/* ---- sequence_states.c */
/* x (h x batch, or one for all) in the order of the plan */
void dn__by_place(const dn_in *x, const dn_sizes *, const dn_plan *, dn_real *to);
/* The states, in the places of the result; where z.plain, h are there. */
void dn__show_states(const dn_call *, const dn_network *, const dn_sizes *, const dn_plan *,
                     const dn_sequence *);
/* The gradients that the result has got, by column. */
void dn__gather_gradients(const dn_call *, const dn_network *, const dn_sizes *, const dn_plan *,
                          dn_sequence *);
/* What states have got from one another, and c by way of h, is part of their gradients for those
 * who ask: with it they are as if each step was a node. */
void dn__show_gradients(dn_call *, const dn_network *, const dn_sizes *, const dn_plan *,
                        const dn_sequence *);
/* Adds `from` (h x batch, as planned) to input i's gradient; sums over the batch if need be. */
void dn__give_back(dn_call *, const dn_sizes *, const dn_plan *, int i, const dn_real *from);
