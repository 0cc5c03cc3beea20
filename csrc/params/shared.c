/* Owners follow from places alone, so that nobody need agree on them: a dense parameter's piece
 * belongs to the rank of the place in the chunk where it begins, a row to that of its number. The
 * sum of squares has the same bits as in one process, since a piece is a block of that sum. */
#include "params/shared.h"

#include "kernels/kernels.h"

_Static_assert((int)DN_PIECE == (int)DN_SQUARES_BLOCK, "a piece is a block of the norm's sum");

int dn__owner(const dn_param *p, int64_t piece) {
    return (int)((p->chunk + p->offset / DN_PIECE + piece) % p->store->ranks);
}

int dn__next_piece(const dn_param *p, int whole, int64_t *from, int64_t *to) {
    const int ranks = p->store->ranks;
    if (whole) {
        *from = *to;
        *to = dn__owner(p, 0) == p->store->rank ? p->row_size : *from;
        return *from < *to;
    }
    int64_t piece = (*to + DN_PIECE - 1) / DN_PIECE;
    piece += (p->store->rank - dn__owner(p, piece) + ranks) % ranks;
    *from = piece * DN_PIECE;
    *to = p->row_size - *from > DN_PIECE ? *from + DN_PIECE : p->row_size;
    return *from < *to;
}

int64_t dn_store_pieces(dn_store *r) { return r->n_pieces; }

/* As dn__sum_squares of the whole. */
double dn__sum_pieces(const dn_param *p) {
    const dn_real *squares = p->store->squares + p->first_piece;
    double sum = 0;
    for (int64_t k = 0; k * DN_PIECE < p->row_size; k++) sum += squares[k];
    return sum;
}

void dn__publish_squares(const dn_param *p, int64_t from, int64_t to) {
    const dn_real *g = p->store->chunks[p->chunk].grads + p->offset;
    p->store->squares[p->first_piece + from / DN_PIECE] =
        (dn_real)dn__sum_squares((size_t)(to - from), g + from);
}

static dn_exact_sum *row_squares(const dn_param *p, int rank) {
    return p->store->row_squares + p->number * p->store->ranks + rank;
}

int64_t dn_store_row_squares(dn_store *r, int ranks) {
    return r->n_tables * ranks * (int64_t)sizeof(dn_exact_sum);
}

static void add_touched(dn_exact_sum *sum, const dn_param *p) {
    dn__exact_add_rows(sum, (size_t)p->n_touched, (size_t)p->row_size, p->block);
}

void dn__publish_row_squares(const dn_param *p) {
    dn_exact_sum *mine = row_squares(p, p->store->rank);
    *mine = (dn_exact_sum){.other = 0};
    add_touched(mine, p);
}

double dn__sum_rows(const dn_param *p) {
    dn_exact_sum sum = {.other = 0};
    if (!dn__is_in_pieces(p)) add_touched(&sum, p);
    else
        for (int r = 0; r < p->store->ranks; r++) dn__exact_add(&sum, row_squares(p, r));
    return dn__exact_value(&sum);
}
