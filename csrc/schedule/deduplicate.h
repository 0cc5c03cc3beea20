/* Equal members of a group, computed once. Where all that differs between the members are rows of
 * tables (the leaves of trees, the words of sentences), members with equal rows have equal values:
 * an operation with DN_DEDUPLICATES_ROWS then sees each *distinct* member once. Its values are
 * copied to all members; the gradients of equal ones are added up before backward sees them, and
 * their sum goes to the table's row, not to the nodes of the lookups. If somebody asks for the
 * gradient of such a node it is computed then (rows.c), and in a backward that was asked for all
 * gradients it is computed at once. */
#pragma once

#include "schedule.h"

struct dn_deduplicated {
    int n;                  /* distinct members */
    const int32_t *members; /* their nodes, the first of equal ones */
    /* of each member: which of them it equals. They are numbered as they appear */
    const int32_t *column;
    dn_real *value; /* theirs, laid out as a group of n */
};

/* Sets group->deduplicated if it is worth it, where the group's inputs are known to be shared or
 * not. Negative: no memory. */
int dn__deduplicated_find(dn_tape *, int group, int n_inputs);
/* Values of the distinct members to all. */
void dn__deduplicated_spread(const dn_tape *, const dn_group *);
