/* Values and moments that the ranks of a host share. A dense parameter is cut into pieces, a table
 * into rows, and each belongs to one rank, which alone writes it. */
#pragma once

#include "params/store.h"

enum { DN_PIECE = 4096 };
/* Smaller blocks every rank keeps for itself. */
static inline int dn__is_large(int64_t numbers) {
    return numbers * (int64_t)sizeof(dn_real) >= DN_LEAST_PAGED;
}
/* numbers in the block of values that it lies in */
static inline int64_t dn__block_numbers(const dn_param *p) {
    return p->rows ? p->rows * p->row_size : p->store->chunks[p->chunk].capacity;
}
/* Whether only its owners may write it now: inside of the window. */
static inline int dn__has_owners(const dn_param *p) {
    return p->store->window == DN_WINDOW_OPEN && dn__is_large(dn__block_numbers(p));
}
/* Who has this piece of a dense parameter. */
int dn__owner(const dn_param *, int64_t piece);
/* Of a dense parameter that has owners the next numbers that this rank is to update, [*from, *to),
 * which lie behind *to: its pieces, or, where it must be whole, all of it on the rank that has the
 * first; 0: no more. */
int dn__next_piece(const dn_param *, int whole, int64_t *from, int64_t *to);
/* The same of any: without owners all of it. */
static inline int dn__next_share(const dn_param *p, int whole, int64_t *from, int64_t *to) {
    if (dn__has_owners(p)) return dn__next_piece(p, whole, from, to);
    *from = *to;
    *to = p->row_size;
    return *from < *to;
}
/* Whether of its gradient only this rank's pieces, or rows, are here, and the sum of squares. */
static inline int dn__is_in_pieces(const dn_param *p) {
    return p->store->squares && dn__has_owners(p);
}
double dn__sum_pieces(const dn_param *);
/* Writes the sum of squares of this rank's piece [from, to) where the other ranks read it. */
void dn__publish_squares(const dn_param *, int64_t from, int64_t to);
/* The same for this rank's rows of a table. */
void dn__publish_row_squares(const dn_param *);
/* The sum of squares of a table's gradient, wherever its rows are; where they have owners, once
 * each of them has published its own. */
double dn__sum_rows(const dn_param *);
/* Lists a block of values or moments if it is large: 1. */
int dn__list_block(void *at, int64_t numbers, int64_t used, int capacity, dn_memory_block *out);
static inline int dn__is_own_row(const dn_store *r, int64_t row) {
    return row % r->ranks == r->rank;
}
/* To be called, locked, before values or moments are written: they become this process's own.
 * DN_ERROR_MEMORY; DN_ERROR_BUSY: inside of an update of several processes. */
int dn__detach(dn_store *);
/* Memory stays shared, up to dn_store_close in this thread; locked. */
void dn__pin(dn_store *);
/* The block at this address is about to be freed. */
void dn__forget_shared(dn_store *, void *at);
