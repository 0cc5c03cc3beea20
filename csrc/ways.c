#include "ways.h"

#include "roots.h"
#include "sweep.h"

static uint32_t ordinal(const dn_call *c, int member) {
    (void)member;
    return c->node->ordinal;
}

static uint32_t group_ordinal(const dn_call *c, int member) {
    const dn_schedule *s = c->tape->schedule;
    return c->tape->nodes[s->members[s->groups[c->group].first + member]].ordinal;
}

static int wants_each(const dn_call *c) { return c->tape->backward->full; }

static void let_go(dn_call *c, int begin) {
    if (begin) dn__unlock_roots(c->tape);
    else dn__lock_roots(c->tape);
}

static const dn_way NODE = {dn__way_wants,      dn__way_dx,           dn__way_weight_gradient, dn__way_input_done, ordinal,
                            dn__way_table_rows, dn__way_rows_gradient, wants_each,             let_go};
static const dn_way GROUP = {dn__way_group_wants, dn__way_group_dx,     dn__way_weight_gradient, dn__way_input_done, group_ordinal,
                             dn__way_table_rows,  dn__way_rows_gradient, wants_each,             let_go};
const dn_upper dn__upper = {&NODE, &GROUP, dn__stop_backward};
