/* An order in the making: what autobatch.c plans with, and as_dynet.c where the order is to be
 * DyNet's. */
#pragma once

#include <string.h>

#include "schedule.h"

/* The nodes of one signature: how deep they lie, and which of them are ready. */
typedef struct dn_signature {
    uint64_t hash;
    int64_t depths;  /* added up */
    int64_t numbers; /* of all values */
    double average;  /* of the depths, or what DyNet takes for it */
    int64_t tie;     /* the order where averages are equal */
    int32_t one;     /* the signature whose lists its nodes join: its own, or what DyNet joins */
    int32_t node, count, rank, ready, last_ready;
    int32_t apart; /* what else its nodes have in common: their depth, if that counts, and whether
                      they are beside the loss */
    int32_t n_ready, left; /* how many of its nodes are ready; how many are not computed */
} dn_signature;

/* What a node waits for: edges[at ... at + n - 1], numbered as the agenda's nodes. */
typedef struct dn_waits_for { int32_t at, n; } dn_waits_for;

/* When an output of a sequence is ready: how deep the sequence lies, which step it is, by which
 * weights, and which sequence. */
typedef struct dn_moment { int32_t phase, step, weights, turn; } dn_moment;

/* Steps of recurrent networks (chain.c): the one that begins the chain of a step; the next step of
 * it, or -1; how many steps begin with it. NULL: there are no chains. */
typedef struct dn_chains { int32_t *begin, *next, *length; } dn_chains;

/* Nodes first ... first + n - 1. Leaves need nothing but memory that exists: they come first, and
 * nothing waits for them. Of a large graph it is made in several calls; all of its memory is in
 * DN_PLAN. */
typedef struct dn_agenda {
    dn_tape *t;
    int first, n, leaves, steps, deepest;
    int parts_done;  /* of append_part */
    int64_t batches; /* batch sizes added up */
    /* signature of a node; DN_NOT_BATCHABLE, DN_LEAF_NODE, DN_IN_CHAIN */
    int32_t *sign;
    /* longest way from what is computed; how many inputs are not computed */
    int32_t *depth, *waits;
    /* inputs that are computed; in DyNet's order leaves, too */
    dn_waits_for *inputs;
    int32_t *edges;
    int32_t *users, *user_at; /* users[user_at[i] ... user_at[i + 1]] use node i */
    uint8_t *beside; /* the last node, a loss, does not depend on it; NULL: not looked at */
    dn_chains chains;
    int32_t *next_ready;
    dn_signature *signatures, **by_rank;
    int n_signatures;
    uint64_t *active;                      /* bit of a rank: the signature has nodes ready */
    int lowest_active;                     /* no lower word has a bit */
    int not_batchable, last_not_batchable; /* nodes ready that are computed by themselves */
    /* nodes draw from a generator, in the order of computation: it is to be DyNet's */
    int as_dynet;
    /* the automatic choice: of the signatures, the one with the largest share of its nodes ready;
     * and where a node's value lies: of neighbours in a group it is one more; DN_NO_PLACE: in no
     * group */
    int by_share;
    int32_t *places;
    /* as_dynet: leaves that DyNet batches, those of the signature that came last first, of one
     * signature in their order; how many of them are not taken yet, at the end */
    int32_t *batched_leaves;
    int n_batched_leaves;
    /* as_dynet, in graphs with nodes that are whole sequences: when DyNet, step by step, is done
     * with a node */
    dn_moment *when;
    int32_t *turns; /* the order in which nodes were taken */
    int32_t turn;
} dn_agenda;
enum { DN_NOT_BATCHABLE = -1, DN_LEAF_NODE = -2, DN_IN_CHAIN = -3, DN_NO_PLACE = -2 };
/* DyNet's number for the order of depth; 1 and True stand for its agenda */
enum { DN_DYNET_DEPTH = 2 };

static inline void *dn__plan_take(dn_tape *t, size_t n, size_t size) {
    return dn__memory(t, DN_PLAN, (n + 1) * size);
}
static inline void *dn__plan_zeroed(dn_tape *t, size_t n, size_t size) {
    void *p = dn__plan_take(t, n, size);
    return p ? memset(p, 0, (n + 1) * size) : NULL;
}

/* How many steps begin with node i, if it is the first of several. */
static inline int dn__chain_length(const dn_agenda *s, int i) {
    return s->chains.length && s->chains.length[i] > 1 ? s->chains.length[i] : 0;
}
/* How node i can be joined with others like it. Sequences may differ in their number of steps; a
 * single step is quicker as an ordinary group. */
static inline enum dn_joined_as dn__joined_as(const dn_agenda *s, int i) {
    const dn_node *node = &s->t->nodes[s->first + i];
    if (!(node->op->flags & DN_VARIABLE_LENGTH) || node->n_ints != 2 || node->dim.batch != 1)
        return DN_AS_ELEMENTS;
    if (s->t->ints[node->ints] > 1) return DN_AS_SEQUENCES;
    return dn__chain_length(s, i) ? DN_AS_STEPS : DN_AS_ELEMENTS;
}
/* How many numbers the value of node i has, with those of all steps that begin with it. */
static inline int64_t dn__numbers_of(const dn_agenda *s, int i) {
    const int steps = dn__chain_length(s, i);
    return (int64_t)dn__elements(&s->t->nodes[s->first + i].dim) * (steps ? steps : 1);
}
/* The node that is computed where node i is: the first of its chain, or itself. */
static inline int dn__begin_of(const dn_agenda *s, int i) {
    return s->chains.begin ? s->chains.begin[i] : i;
}

/* ---- signatures.c; negative: no memory */
/* How deep each node lies, what it waits for, how many use it. */
int dn__count_edges(dn_agenda *);
/* Which nodes are beside the last one, if that is a loss; after dn__count_edges. */
int dn__note_beside(dn_agenda *);
/* The signatures of all nodes; by_depth: nodes of unequal depth have different ones. */
int dn__find_signatures(dn_agenda *, int by_depth);

/* ---- chain.c; after dn__count_edges, and dn__note_beside. Negative: no memory. */
/* Finds the steps that are computed where the first of their chain is: they are DN_IN_CHAIN, and it
 * waits for what they need. */
int dn__find_chains(dn_agenda *);

/* ---- as_dynet.c: draws come from a generator, and the order of computation is DyNet's */
/* Whether DyNet batches such nodes, and the inputs of an op that DyNet does not batch, as of
 * DN_BROADCAST. */
int dn__dynet_batches(const dn_tape *, const dn_node *);
int dn__dynet_broadcasts(const dn_op *);
/* Whether nodes first ... last draw from the generator. */
int dn__dynet_samples(const dn_tape *, int first, int last);
/* Its averages of depths, and its order where they are equal: products and convolutions last, of
 * the others the latest first. */
void dn__dynet_averages(dn_agenda *);
/* Whether DyNet computes leaf i by itself, before all that it batches; the others, in
 * s->batched_leaves. Negative: no memory. */
int dn__dynet_leaf_alone(const dn_agenda *, int i);
int dn__dynet_leaves(dn_agenda *);
/* How many of these, from the end on, are of one signature: DyNet takes them at once. */
int dn__dynet_leaf_batch(const dn_agenda *);
/* It computes sequences step by step: where there are any, the moments of nodes are noted.
 * Negative: no memory. */
int dn__dynet_note(dn_agenda *);
/* When DyNet is done with the last input of node i; with i itself, if it is an output of a
 * sequence. Its inputs are computed. */
dn_moment dn__dynet_moment(const dn_agenda *, int i);
/* Puts node i where it belongs in a list of ready nodes, which mostly is its end: behind all that
 * DyNet is done with before it. */
void dn__dynet_insert(dn_agenda *, int *first, int *last, int i);
