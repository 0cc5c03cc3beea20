#include "batched_gemm.h"

#include <string.h>

#include "autobatch.h"
#include "group.h"

enum { MOST_COLUMNS = 1024 }; /* of one product, as MOST_NUMBERS of autobatch.c */

static int last_input(const dn_tape *t, const dn_node *node) {
    return t->args[node->args + node->n_args - 1];
}

static int join(dn_tape *t, int i, int last, int may_plan);

/* What a search has found of a node that is not computed. */
enum { UNSEEN, ASKED, PLANNED, MEMBER };

/* The order in which nodes are computed is no longer that in which they were made. No node is in it
 * twice. */
static int keep_order(dn_tape *t) {
    dn_schedule *s = t->schedule;
    if (DN_GROW(s->order, s->capacity.order, t->n.nodes)) return dn__no_memory(t);
    if (s->n.order) return 0;
    for (int i = 0; i < s->evaluated; i++) s->order[i] = i;
    s->n.order = s->n_done = s->evaluated;
    return 0;
}

/* Computes node i, whose inputs are computed, before its turn. */
static int compute_ahead(dn_tape *t, int i, int last) {
    dn_schedule *s = t->schedule;
    int result = keep_order(t);
    if (!result && t->nodes[i].op->flags & DN_JOINED) result = join(t, i, last, 0);
    if (!result) result = dn__compute(t, i);
    if (result < 0) return result;
    if (!dn__grouped(t, &t->nodes[i])) s->seats[i].group = -1;
    s->seats[i].made = (uint32_t)s->values_made;
    s->seats[i].ahead = 1;
    if (s->ahead_end <= i) s->ahead_end = i + 1;
    dn__append_to_order(t, i);
    return 0;
}

static int is_computed(const dn_tape *t, int i) {
    const dn_node *node = &t->nodes[i];
    if (i < t->schedule->evaluated) return !(t->schedule->any_failed && node->failed);
    return dn__is_ahead(t, i) || dn__grouped(t, node);
}

/* Whether node i is computed; what is memory that exists (inputs, rows, outputs of nodes that are
 * computed) is computed on the way. */
static int is_known(dn_tape *t, int i) {
    const dn_node *node = &t->nodes[i];
    if (is_computed(t, i)) return 1;
    if (node->op == dn_ops[DN_OP_output_view]
            ? !is_computed(t, t->args[node->args])
            : node->op != dn_ops[DN_OP_input] && node->op != dn_ops[DN_OP_lookup])
        return 0;
    /* in an order of its own, backward must come to them after what they are joined into */
    return !(t->schedule->n.order ? compute_ahead(t, i, i) : dn__compute(t, i));
}

/* Not what may raise an error, nor what draws from a generator: both have their turn. */
static int has_its_turn(const dn_tape *t, const dn_node *node) {
    const int flags = node->op->flags;
    return node->not_batchable || !(flags & (DN_BATCHES | DN_VIEW | DN_LEAF)) ||
           (t->workspace.rng.generator && (flags & DN_RANDOM || node->rng));
}

/* Whether node x can be computed before node i, the next in the order of nodes. Then all that it
 * needs is PLANNED. */
static int plan(dn_tape *t, int i, int x) {
    dn_seat *seats = t->schedule->seats;
    if (seats[x].search == PLANNED) return 1;
    if (seats[x].search != UNSEEN || x == i) return 0;
    int asked = 1, ahead = 1, k = x, least = x;
    seats[x].search = ASKED;
    for (; asked && ahead; k--) {
        if (seats[k].search != ASKED) continue;
        const dn_node *node = &t->nodes[k];
        asked--;
        ahead = !has_its_turn(t, node);
        for (int a = 0; a < node->n_args && ahead; a++) {
            const int y = t->args[node->args + a];
            if (y == i || seats[y].search == MEMBER) ahead = 0;
            else if (y > i && seats[y].search == UNSEEN && !is_computed(t, y))
                seats[y].search = ASKED, asked++, least = y < least ? y : least;
        }
    }
    for (; least <= x; least++)
        if (seats[least].search == ASKED) seats[least].search = ahead ? PLANNED : UNSEEN;
    return ahead;
}

/* For what is joined with node i: whether nodes may be planned, and the last one that is, or 0. */
typedef struct search { int i, may_plan, planned; } search;

/* Whether node x is computed, or will be before those that are joined. */
static int will_be_known(dn_tape *t, search *s, int x) {
    if (is_known(t, x)) return 1;
    if (!s->may_plan) return 0;
    /* what needs one member of a chain is likely to be needed by all that follow */
    s->may_plan = plan(t, s->i, x);
    if (s->may_plan && s->planned < x) s->planned = x;
    return s->may_plan;
}

/* Whether node j can be computed with the representative: equal but for the last input, which is
 * known and of equal dims. */
static int fits(dn_tape *t, search *s, const dn_node *representative, int j) {
    const dn_node *node = &t->nodes[j];
    if (node->op != representative->op || node->n_args != representative->n_args ||
        node->needs_grad != representative->needs_grad || dn__grouped(t, node) ||
        dn__is_ahead(t, j))
        return 0;
    const dn_dim *x = &t->nodes[last_input(t, representative)].dim,
                 *other = &t->nodes[last_input(t, node)].dim;
    return !memcmp(t->args + node->args, t->args + representative->args,
                   (size_t)(representative->n_args - 1) * sizeof *t->args) &&
           x->nd == other->nd && x->batch == other->batch &&
           !memcmp(x->d, other->d, (size_t)x->nd * sizeof *x->d) &&
           will_be_known(t, s, last_input(t, node));
}

/* Whether node j can be computed with the steps before it, the last of which is `before`. */
static int step_fits(dn_tape *t, search *s, int before, int j) {
    return dn__same_network(t, s->i, before, j) && !dn__grouped(t, &t->nodes[j]) &&
           !dn__is_ahead(t, j) && will_be_known(t, s, last_input(t, &t->nodes[j]));
}

/* The same for traced functions: each argument is known. Parameters are the same nodes for all. */
static int traced_fits(dn_tape *t, search *s, const dn_node *representative, int j) {
    const dn_node *node = &t->nodes[j];
    if (node->op != representative->op || t->ints[node->ints] != t->ints[representative->ints])
        return 0;
    if (node->needs_grad != representative->needs_grad || dn__grouped(t, node) ||
        dn__is_ahead(t, j))
        return 0;
    for (int k = 0; k < node->n_args; k++) {
        const int x = t->args[node->args + k], y = t->args[representative->args + k];
        const int is_parameter = t->nodes[x].op == dn_ops[DN_OP_parameter];
        if (is_parameter ? x != y
                         : t->nodes[x].dim.batch != node->dim.batch || !will_be_known(t, s, x))
            return 0;
    }
    return 1;
}

static int broadcast_inputs_are_unbatched(const dn_tape *t, const dn_node *node) {
    for (int k = 0; k < node->n_args - 1 && node->op->flags & DN_BATCHED_GEMM; k++)
        if (t->nodes[t->args[node->args + k]].dim.batch != 1) return 0;
    return 1;
}

/* Appends those that node i is joined with to schedule->members, behind a place for i; how many
 * there are with i. Negative: no memory. */
static int find_members(dn_tape *t, search *s, int last) {
    const dn_node *node = &t->nodes[s->i];
    dn_seat *seats = t->schedule->seats;
    const int first = t->schedule->n.members, most = MOST_COLUMNS / node->dim.batch,
              is_traced = (node->op->flags & DN_TRACED) != 0,
              is_step = (node->op->flags & DN_VARIABLE_LENGTH) != 0,
              may_plan = s->may_plan; /* else marks may be those of a search that goes on */
    int members = 1, misses = 0, before = s->i, error = 0, lookahead = seats[s->i].lookahead;
    for (int j = seats[s->i].next_user, next;
         j > before && j <= last && members < most && misses < lookahead; before = j, j = next) {
        next = seats[j].next_user;
        if (is_step     ? !step_fits(t, s, before, j)
            : is_traced ? !traced_fits(t, s, node, j)
                        : !fits(t, s, node, j)) {
            if (is_step) break;
            misses++;
            continue;
        }
        misses = 0;
        lookahead = DN_MOST_LOOKAHEAD;
        if (DN_GROW(t->schedule->members, t->schedule->capacity.members, first + members + 1)) {
            error = dn__no_memory(t);
            break;
        }
        if (may_plan) seats[j].search = MEMBER;
        t->schedule->members[first + members++] = j;
    }
    for (int m = 1; m < members && may_plan; m++)
        seats[t->schedule->members[first + m]].search = UNSEEN;
    if (is_step) /* a last step that nobody reads has no gradient */
        return error ? error : members - (members > 1 && !dn__seems_read(t, before, last));
    if (members > 1 || error) return error ? error : members;
    const int less = lookahead / 2;
    seats[seats[s->i].next_user].lookahead =
        (uint8_t)(less > DN_LEAST_LOOKAHEAD ? less : DN_LEAST_LOOKAHEAD);
    return members;
}

/* Computes what was planned, in the order of the nodes. DN_AGAIN: there is more to do. */
static int compute_planned(dn_tape *t, const search *s, int last) {
    int64_t work = DN_WORK;
    int result = 0;
    for (int k = s->i + 1; k <= s->planned; k++) {
        dn_seat *seat = &t->schedule->seats[k];
        if (seat->search != PLANNED) continue;
        seat->search = UNSEEN;
        if (result || is_computed(t, k)) continue;
        result = work > 0 ? compute_ahead(t, k, last) : DN_AGAIN;
        work -= t->nodes[k].work;
    }
    return result;
}

static int join(dn_tape *t, int i, int last, int may_plan) {
    const dn_node *node = &t->nodes[i];
    const dn_seat *seat = dn__seat(t, node);
    if (seat->next_user < 0 || seat->next_user > last || !dn__elements(&node->dim) ||
        !broadcast_inputs_are_unbatched(t, node))
        return 0;
    search s = {i, 0, 0};
    if (node->op->flags & DN_TRACED && !traced_fits(t, &s, node, i)) return 0;
    s.may_plan = may_plan;
    int members = find_members(t, &s, last);
    if (s.planned) {
        const int result = compute_planned(t, &s, last);
        if (members < 0 || result) return members < 0 ? members : result;
        s = (search){i, 0, 0};
        members = find_members(t, &s, last);
    }
    if (members <= 1) return members < 0 ? members : 0;
    const int first = t->schedule->n.members;
    t->schedule->members[first] = i;
    int group = dn__group_new(t);
    if (group < 0) return group;
    t->schedule->n.members = first + members;
    t->schedule->groups[group].n = members;
    t->schedule->groups[group].sequences = 1;
    if (node->op->flags & DN_VARIABLE_LENGTH) t->schedule->groups[group].as = DN_AS_STEPS;
    t->schedule->groups[group].batched_gemm =
        t->schedule->n.order ? DN_IN_OWN_ORDER : DN_IN_NODE_ORDER;
    const int error = dn__group_forward(t, group);
    if (!error) return 1;
    t->schedule->n.groups--; /* the same nodes may be joined otherwise when it is tried again */
    t->schedule->n.members = first;
    return error;
}

int dn__batched_gemm_forward(dn_tape *t, int i, int last) {
    return join(t, i, last, !t->schedule->any_failed);
}
