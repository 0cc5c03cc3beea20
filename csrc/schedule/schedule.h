/* The schedule of a tape: which of its nodes are computed, in which order, and which of them as
 * one. It is what the files of this folder work on. It makes no gradient (groups and gathers have
 * room for what backward notes of them), and knows no operation by name but those of
 * graph/leaves.c. */
#pragma once

#include "program.h"
#include "tape/tape.h"

/* What the schedule knows of a node. */
typedef struct dn_seat {
    /* the lowest bits of the schedule's `values_made` when its value was computed in a group, or
     * before its turn; else another number, or 0 */
    uint32_t made;
    int32_t group, column; /* that group (-1: none), and the first batch element in it */
    /* batched_gemm.h: the next node that multiplies by the same matrix; of a matrix, the last one
     * that does */
    int32_t next_user, last_user;
    /* group.c: the last gather that begins with this node; may be one that is no more */
    int32_t gathers;
    /* backward/put_off.c: in this backward, what is put off of the gradient of the node's value */
    int32_t put_off;
    /* batched_gemm.h: how many misses a search that begins here passes over before it finds the
     * first that fits */
    uint8_t lookahead;
    uint8_t is_source : 1; /* groups.c: a gather has it as a source; of use within one function */
    uint8_t ahead : 1;     /* it was computed before its turn */
    uint8_t begins : 1;    /* of a step in a group of steps: the first of its chain */
    uint8_t search;        /* batched_gemm.c; of use within one function */
} dn_seat;

/* Of dn_seat.lookahead: in a long chain no input is known. So each search in vain halves it for the
 * next one along the chain, down to the least; a search that has found something leaves the next
 * one with the most. */
enum { DN_MOST_LOOKAHEAD = 128, DN_LEAST_LOOKAHEAD = 4 };

/* Of groups made by batched_gemm.c. In the order of the nodes, inputs that need no computing may
 * stand behind the representative; in one of its own, schedule->order, all precede it. */
enum dn_joined { DN_IN_NODE_ORDER = 1, DN_IN_OWN_ORDER };

/* How the members of a group are computed as one: as batch elements; as sequences of several
 * lengths, in the packed form; as steps of chains (chain.c), of which each goes on from the member
 * before it or begins a chain. */
enum dn_joined_as { DN_AS_ELEMENTS, DN_AS_SEQUENCES, DN_AS_STEPS };

/* Nodes computed as one (group.h): members[first ... first + n - 1], the first of which is the
 * representative, and what each input of the call is. */
typedef struct dn_group {
    int32_t first, n;
    int32_t batch;     /* of all members together; of sequences, the number of steps of all */
    int32_t inputs;    /* group_inputs[inputs + k] */
    int32_t sequences; /* how many sequences, or chains of steps */
    uint8_t as;        /* enum dn_joined_as */
    /* made by batched_gemm.c, the members computed out of their order: 0, or enum dn_joined */
    uint8_t batched_gemm;
    /* in this backward a member has got products of a weight gradient */
    uint8_t weights;
    int32_t put_off;                /* as in dn_seat */
    dn_real *value, *saved, *grads; /* of all members; grads NULL: nothing has come yet */
    /* groups.c: how many numbers of `grads` this gather (-1: none) brings, to be written */
    int32_t gather;
    size_t brought;
    /* deduplicate.h: equal members are computed once, and `saved` is of the distinct ones; NULL:
     * no */
    struct dn_deduplicated *deduplicated;
    size_t total; /* numbers of `value` */
} dn_group;
/* gather: an index; DN_BROADCAST_INPUT: one node for all; DN_MIRRORED: `source` and its neighbours
 * in the memory of one group or owner, where their gradients lie as their values do. */
enum { DN_BROADCAST_INPUT = -1, DN_MIRRORED = -2 };
typedef struct dn_group_input {
    int32_t gather, source;
    const dn_real *value;
} dn_group_input;
/* Values of nodes side by side, sources[first ... first + n - 1], and their gradients in the
 * backward pass to them. */
typedef struct dn_gather {
    /* next: an earlier gather that begins with the same node, or -1 */
    int32_t first, n, next;
    /* of the distinct members of groups: gradients go to rows of tables, not to nodes */
    int32_t deduplicated;
    /* the first that uses it; when its backward is done, the gradients are complete */
    int32_t group;
    const dn_real *value;
    dn_real *grad; /* NULL: nothing has come yet */
    size_t total;
} dn_gather;

/* How many there are, or may be. */
typedef struct dn_scheduled {
    int order, groups, members, group_inputs, gathers, sources;
} dn_scheduled;
/* Where all stood: nodes below `evaluated` were computed, n.order of the order. */
typedef struct dn_schedule_mark {
    int evaluated;
    dn_scheduled n;
    dn_arena_mark values, copies;
} dn_schedule_mark;

/* unkept.c: of values that one loss alone needs. DN_IN_TURN: not kept, no backward is expected.
 * DN_AHEAD_OF_BACKWARD: not kept, and what backward will do is done at once. DN_KEPT: the gradients
 * of the loss could not be foreseen. DN_ASKED_FOR: they have other readers. */
enum dn_way { DN_IN_TURN, DN_AHEAD_OF_BACKWARD, DN_KEPT, DN_ASKED_FOR };

/* Memory by how long it lives: as long as values are known; copies of parameters, longer where a
 * revert leaves them; until a plan is made; until the call at hand is over. */
enum dn_memory { DN_VALUES, DN_COPIES, DN_PLAN, DN_SCRATCH };

typedef struct dn_schedule {
    /* nodes are computed when they are made; their values are looked at */
    int immediate, check_finite;
    int autobatch;         /* autobatch.h: 0, or the strategy */
    int default_autobatch; /* the strategy of graphs for which none was named */
    int evaluated;         /* nodes below it are computed, ... */
    int ahead_end;         /* ... some up to here, too: batched_gemm.h */
    int64_t values_made;   /* from 1; rises when values are forgotten */
    int any_failed;        /* some node may be `failed` */
    /* dn__forward has more to do: what it has computed and what is to come must be of the same
     * parameters */
    int forward_begun;
    /* dn_fast_value met this error and could not say so: dn_forward will */
    int unreported;
    /* unkept.c: some value is not kept; how the next ones are done; the gradient that each column
     * of the last one's loss got; whether its backward is still to come */
    struct {
        int any;
        enum dn_way way;
        dn_real dy;
        int awaited;
    } unkept;
    dn_arena memory[DN_SCRATCH]; /* see dn__memory */
    dn_seat *seats;              /* of nodes below `seen` */
    int seen, seats_capacity;
    /* autobatch.h: nodes, and groups as -1 - group, in the order they were computed */
    int32_t *order;
    int n_done, planned;
    dn_group *groups; /* group.h */
    int32_t *members, *sources;
    dn_group_input *group_inputs;
    dn_gather *gathers;
    int first_gather; /* those before it may have copies of parameters that have changed */
    dn_scheduled n, capacity;
    /* the plan is made in the order in which DyNet computes, for the sake of the generator that it
     * draws from */
    int as_dynet;
    /* autobatch.c: an order in the making, in DN_PLAN; NULL: none */
    struct dn_agenda *planning;
    /* where all stood when the order's last part, up to node `planned`, was made */
    dn_schedule_mark begun;
    struct {
        dn_schedule_mark *at;
        int n, capacity;
    } marks;
    dn_autobatch_counts counts; /* of this graph */
} dn_schedule;

static inline dn_arena *dn__arena_of(dn_tape *t, enum dn_memory which) {
    return which == DN_SCRATCH ? &t->workspace.scratch : &t->schedule->memory[which];
}
/* Memory of this kind; NULL: there is none. Where it stands; back to there, {0} being the
 * beginning. */
static inline void *dn__memory(dn_tape *t, enum dn_memory which, size_t bytes) {
    return dn__arena_take(dn__arena_of(t, which), bytes);
}
static inline dn_arena_mark dn__memory_mark(dn_tape *t, enum dn_memory which) {
    return dn__arena_mark(dn__arena_of(t, which));
}
static inline void dn__memory_back_to(dn_tape *t, enum dn_memory which, dn_arena_mark mark) {
    dn__arena_reset(dn__arena_of(t, which), mark);
}
static inline dn_seat *dn__seat(const dn_tape *t, const dn_node *node) {
    return &t->schedule->seats[node - t->nodes];
}
/* Whether a node has a value that was computed as a member of a group. */
static inline int dn__grouped(const dn_tape *t, const dn_node *node) {
    const dn_seat *seat = t->schedule->n.groups ? dn__seat(t, node) : NULL;
    return seat && seat->made == (uint32_t)t->schedule->values_made && seat->group >= 0;
}
/* The group that gave a node its value; NULL: it was computed by itself, or is not computed. */
static inline dn_group *dn__group_of(const dn_tape *t, const dn_node *node) {
    return dn__grouped(t, node) ? &t->schedule->groups[dn__seat(t, node)->group] : NULL;
}
/* Whether a node was computed by itself before its turn, and is in schedule->order. */
static inline int dn__is_ahead(const dn_tape *t, int i) {
    const dn_seat *seat = i < t->schedule->ahead_end ? &t->schedule->seats[i] : NULL;
    return seat && seat->ahead && seat->made == (uint32_t)t->schedule->values_made;
}
/* Whether input k of a group is no node that all members share. */
static inline int dn__is_gathered(const dn_tape *t, const dn_group *g, int k) {
    return t->schedule->group_inputs[g->inputs + k].gather != DN_BROADCAST_INPUT;
}
/* Of a node with several outputs of different sizes, as its program has it; else NULL. */
static inline const dn_block *dn__blocks(const dn_tape *t, const dn_node *node) {
    return node->parts > 1 && node->op->flags & DN_TRACED
               ? ((const dn_program *)dn__own(t, node))->blocks
               : NULL;
}
/* Block k of the value of a node by itself or, of n members, of their group: it begins at n times
 * its `at`. */
static inline dn_block dn__block(const dn_tape *t, const dn_node *node, int k) {
    const size_t size = (size_t)(node->dim.size / node->parts);
    const dn_block *blocks = dn__blocks(t, node);
    return blocks ? blocks[k] : (dn_block){(size_t)k * size * (size_t)node->dim.batch, size};
}
/* A new graph begins. */
void dn__schedule_start(dn_tape *, int immediate, int check_finite, int autobatch);
/* No value is known any more. */
void dn__forget_values(dn_tape *);
/* Notes where all stands; back to the last note. Negative: no memory. */
int dn__schedule_mark(dn_tape *);
void dn__schedule_revert(dn_tape *);
/* Nodes from n on go, or, negative, cannot: others were computed with them. */
int dn__schedule_take_back(dn_tape *, int n);
/* The value of node i lies where it was not foreseen: a revert forgets it, and all behind it. */
void dn__lower_marks(dn_tape *, int i);
/* Forgets an order that is being made; all else is as it was before. */
void dn__abandon_plan(dn_tape *);
/* There is no plan in the making any more. */
void dn__end_plan(dn_tape *);
void dn__schedule_free(dn_tape *);
int64_t dn__schedule_bytes(const dn_tape *);

/* ---- call.c: the call of a node by itself, with what forward and backward share */
void dn__prepare_call(dn_tape *, dn_node *, dn_call *);

/* ---- seats.c */
/* Gives all nodes their seats (where nothing can be computed with others there may be none), and
 * links those that may be computed with one another. Negative: no memory. */
int dn__schedule_see(dn_tape *);

/* ---- chain.c: steps of a recurrent network that go on from one another */
/* Whether node i, the step after node `before`, has the weights, masks and batch of `first`. */
int dn__same_network(const dn_tape *, int first, int before, int i);
/* Notes of the step before node i that node i goes on from it; the first that does is kept. */
void dn__link_step(dn_tape *, int i);
/* Whether something up to node `last` reads what step i gives; looked for in some nodes only. */
int dn__seems_read(const dn_tape *, int i, int last);

/* ---- compute.c: one node by itself */
/* Computes one node by itself; its inputs are known. */
int dn__compute(dn_tape *, int i);
/* Whether a node cannot be computed because something above it failed, or it did itself a moment
 * ago. */
int dn__blocked(const dn_tape *, const dn_node *);
/* Later readers in this graph see the value of now, whatever becomes of the parameter: where other
 * threads may write to it, behind its lock. */
int dn__copy_parameter(dn_tape *, int i, dn_store *lock);

/* ---- unkept.c: large values in blocks of columns */
/* how many columns a block has */
int dn__block_columns(int batch);
/* The call for batch elements from ... from + n - 1; x, dims: room for its inputs and, one more,
 * for the dims of its value. */
void dn__narrow(const dn_call *all, int from, int n, dn_in *x, dn_dim *dims, dn_call *);
/* Whether a node by itself is computed in blocks, dn__forward_in_blocks, and perhaps not kept. */
int dn__is_wide(const dn_node *);
void dn__forward_in_blocks(dn_call *);
/* Whether the value of node i, which is wide, is not to be kept. */
int dn__leave_unkept(dn_tape *, int i);
/* Negative: an error. The value of node i is kept, if it is not so far. Those of node i's inputs
 * are; in_blocks, not NULL: but for one that node i takes in blocks, which it says. All are. */
int dn__keep_value(dn_tape *, int i);
int dn__keep_inputs(dn_tape *, int i, int *in_blocks);
int dn__keep_all(dn_tape *);

/* ---- forward.c: values are computed when they are asked for */
/* computes nodes up to index `last` until about DN_WORK numbers were read and written; 0: done, 1:
 * more to do */
int dn__forward(dn_tape *, int last);
static inline int64_t dn__writes_of(const dn_store *store) {
    return __atomic_load_n(&store->writes, __ATOMIC_ACQUIRE);
}
/* What node-making calls end with: immediate mode, and the handle of node i; an error is passed
 * on. */
int64_t dn__finish(dn_tape *, int i);

/* A hash of what was hashed before, h, and of x. */
static inline uint64_t dn__mix(uint64_t h, uint64_t x) {
    h = (h ^ x) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}
