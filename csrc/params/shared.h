/* Who updates what, where the ranks of a host update a model together: a dense parameter is cut
 * into pieces, a table into rows, and each belongs to one rank. */
#pragma once

#include "params/store.h"

enum { DN_PIECE = 4096 };
/* numbers in the block of values that it lies in */
static inline int64_t dn__block_numbers(const dn_param *p) {
    return p->rows ? p->rows * p->row_size : p->store->chunks[p->chunk].capacity;
}
/* Who has this piece of a dense parameter. */
int dn__owner(const dn_param *, int64_t piece);
/* Of a dense parameter the next numbers that this rank owns, [*from, *to), which lie behind *to:
 * its pieces, or, where it must be whole, all of it on the rank that has the first; 0: no more. */
int dn__next_piece(const dn_param *, int whole, int64_t *from, int64_t *to);
/* The same of what this rank updates: without owners all of it. */
static inline int dn__next_share(const dn_param *p, int whole, int64_t *from, int64_t *to) {
    if (p->store->owned) return dn__next_piece(p, whole, from, to);
    *from = *to;
    *to = p->row_size;
    return *from < *to;
}
/* Whether of its gradient only this rank's pieces, or rows, are here, and the sum of squares. */
static inline int dn__is_in_pieces(const dn_param *p) { return p->store->squares != NULL; }
double dn__sum_pieces(const dn_param *);
/* Writes the sum of squares of this rank's piece [from, to) where the other ranks read it. */
void dn__publish_squares(const dn_param *, int64_t from, int64_t to);
/* The same for this rank's rows of a table. */
void dn__publish_row_squares(const dn_param *);
/* The sum of squares of a table's gradient, wherever its rows are; where they have owners, once
 * each of them has published its own. */
double dn__sum_rows(const dn_param *);
static inline int dn__is_own_row(const dn_store *r, int64_t row) {
    return row % r->ranks == r->rank;
}
