#include "schedule.h"

#include <string.h>

/* ---- what is known is forgotten ------------------------------------------------------- */

void dn__end_plan(dn_tape *t) {
    t->schedule->planning = NULL;
    dn__memory_back_to(t, DN_PLAN, (dn_arena_mark){0});
}

void dn__abandon_plan(dn_tape *t) {
    dn_schedule *s = t->schedule;
    if (!s->planning) return;
    s->n.order = s->n_done = s->begun.n.order;
    s->n.groups = s->begun.n.groups;
    s->n.members = s->begun.n.members;
    dn__end_plan(t);
}

/* What groups from `from` on had as members are no longer grouped, up to node `last`, and nothing
 * there is computed ahead. */
static void ungroup(dn_tape *t, int first, int last, int from) {
    dn_schedule *s = t->schedule;
    for (int i = first; i < s->ahead_end; i++) s->seats[i].ahead = 0;
    if (s->ahead_end > first) s->ahead_end = first;
    for (int i = first; i < last && i < s->seen && s->n.groups; i++)
        if (s->seats[i].group >= from) s->seats[i].made = 0;
}

static void return_to(dn_tape *t, const dn_schedule_mark *m) {
    t->schedule->n = m->n;
    t->schedule->n_done = m->n.order;
    dn__memory_back_to(t, DN_VALUES, m->values);
}

/* Forgets an order that is computed in part, with what is computed of it: nodes from `evaluated` on
 * are as they were before. */
static void drop_plan(dn_tape *t) {
    dn_schedule *s = t->schedule;
    dn__abandon_plan(t);
    if (s->n_done == s->n.order) return;
    ungroup(t, s->evaluated, s->planned, s->begun.n.groups);
    return_to(t, &s->begun);
}

static void forget_all(dn_tape *t) {
    dn_schedule *s = t->schedule;
    dn__abandon_plan(t);
    for (int i = 0; s->any_failed && i < t->n.nodes; i++) t->nodes[i].failed = 0;
    s->n = (dn_scheduled){0};
    s->evaluated = s->ahead_end = s->n_done = s->any_failed = s->unreported = 0;
    s->forward_begun = s->unkept.any = 0;
    if (!(uint32_t)++s->values_made) { /* seats may say so of long ago */
        s->values_made++;
        s->seen = 0;
    }
    dn__memory_back_to(t, DN_VALUES, (dn_arena_mark){0});
    dn__memory_back_to(t, DN_COPIES, (dn_arena_mark){0});
}

/* Of parameters that nodes from n on were computed from. */
static void forget_versions(dn_tape *t, int n) {
    for (dn_used_store *s = t->stores; s < t->stores + t->n.stores; s++) {
        if (s->reader >= n) s->version = -1;
        if (s->from_latest > n) s->from_latest = n;
    }
}

void dn__forget_values(dn_tape *t) {
    t->upper->values_go(t);
    forget_all(t);
    t->workspace.rng.counter++;
    forget_versions(t, 0);
    /* marks that point above the bottom would keep what is now forgotten: let them begin at the
     * bottom, too */
    if (t->schedule->marks.n)
        memset(t->schedule->marks.at, 0,
               (size_t)t->schedule->marks.n * sizeof *t->schedule->marks.at);
}

/* ---- life ----------------------------------------------------------------------------- */

void dn__schedule_start(dn_tape *t, int immediate, int check_finite, int autobatch) {
    dn_schedule *s = t->schedule;
    forget_all(t);
    s->immediate = immediate;
    s->check_finite = check_finite;
    s->autobatch = autobatch;
    memset(&s->counts, 0, sizeof s->counts);
    s->seen = s->marks.n = 0;
}

int dn__schedule_mark(dn_tape *t) {
    dn_schedule *s = t->schedule;
    if (DN_GROW(s->marks.at, s->marks.capacity, s->marks.n + 1)) return DN_ERROR_MEMORY;
    drop_plan(t);
    dn_schedule_mark m = {s->evaluated, s->n, dn__memory_mark(t, DN_VALUES),
                          dn__memory_mark(t, DN_COPIES)};
    /* A forward that did not end has left values that it cannot tell from those to come: a revert
     * forgets all. */
    if (s->ahead_end > s->evaluated) m = (dn_schedule_mark){.copies = m.copies};
    s->marks.at[s->marks.n++] = m;
    return 0;
}

/* A revert to this mark keeps values of nodes below i alone. In an order other than that of the
 * nodes it cannot tell which those are: none; nor where groups have members on both sides of i. */
static void lower_mark(const dn_schedule *s, dn_schedule_mark *m, int i) {
    const int is_in_order = !s->n.order && !s->n.groups;
    m->evaluated = is_in_order ? i : 0;
    if (is_in_order) return;
    m->n = (dn_scheduled){0};
    m->values = (dn_arena_mark){0};
}

void dn__lower_marks(dn_tape *t, int i) {
    dn_schedule *s = t->schedule;
    for (int m = 0; m < s->marks.n; m++)
        if (s->marks.at[m].evaluated > i) lower_mark(s, &s->marks.at[m], i);
}

void dn__schedule_revert(dn_tape *t) {
    dn_schedule *s = t->schedule;
    const dn_schedule_mark m = s->marks.at[--s->marks.n];
    dn__abandon_plan(t);
    /* Nodes from before the mark that were computed after it have their values above it: compute
     * them again (the same draws). */
    if (s->evaluated > m.evaluated) s->evaluated = m.evaluated;
    if (s->seen > t->n.nodes) s->seen = t->n.nodes;
    ungroup(t, m.evaluated, t->n.nodes, m.n.groups);
    return_to(t, &m);
    dn__memory_back_to(t, DN_COPIES, m.copies);
    forget_versions(t, s->evaluated);
    /* what is left may be less than there was at the marks around this one */
    for (dn_schedule_mark *k = s->marks.at; k < s->marks.at + s->marks.n; k++)
        if (k->evaluated > s->evaluated)
            *k = (dn_schedule_mark){s->evaluated, s->n, m.values, k->copies};
}

int dn__schedule_take_back(dn_tape *t, int n) {
    dn_schedule *s = t->schedule;
    if ((s->evaluated > n || s->ahead_end > n) && (s->n.order || s->n.groups)) return -1;
    dn__abandon_plan(t);
    if (s->evaluated > n) s->evaluated = n;
    if (s->ahead_end > n) s->ahead_end = n;
    if (s->seen > n) s->seen = n;
    forget_versions(t, n);
    return 0;
}

void dn__schedule_free(dn_tape *t) {
    dn_schedule *s = t->schedule;
    for (int k = 0; k < DN_SCRATCH; k++) dn__arena_free(&s->memory[k]);
    DN_FREE(s->seats);
    DN_FREE(s->order);
    DN_FREE(s->groups);
    DN_FREE(s->members);
    DN_FREE(s->sources);
    DN_FREE(s->group_inputs);
    DN_FREE(s->gathers);
    DN_FREE(s->marks.at);
    s->capacity = (dn_scheduled){0};
    s->seats_capacity = s->marks.capacity = 0;
    memset(&s->unkept, 0, sizeof s->unkept);
}

int64_t dn__schedule_bytes(const dn_tape *t) {
    const dn_schedule *s = t->schedule;
    size_t bytes = (size_t)s->seats_capacity * sizeof(dn_seat);
    for (int k = 0; k < DN_SCRATCH; k++) bytes += dn__arena_bytes(&s->memory[k]);
    return (int64_t)bytes;
}
