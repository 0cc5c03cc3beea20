/* Rows of tables as inputs of an operation that wants to treat equal rows as one. An embedding of a word that occurs several times in a batch
 * needs to be multiplied only once, and its gradient can be added up before it is multiplied. */
#ifndef DN_ROWS_H
#define DN_ROWS_H

#include "op.h"

/* Whether inputs first ... first + n - 1 are rows of one table, used alike, with equal batch counts. If so: that count, and rows[count k + b]
 * is the row of batch element b of input first + k; the capacity of rows is `room`. Else 0. */
int dn__table_rows(const dn_call *c, int first, int n, int room, int *rows);

/* d(row) += dx. Zeros alone do not count before backward ends, which knows the rows that the loss depends on. */
void dn__add_to_row(dn_tape *, dn_param *, int row, const dn_real *dx);

/* d(row) += dx for these rows of the table of input `first`: in place of gradients of the inputs themselves. `m` products of rows[i] x k
 * matrices w[i] with the columns of dy[i] are what those would be: dx = sum_i w[i]' dy[i], column[count j + b] being the column of batch
 * element b of input first + j, or -1. If somebody asks for one of them after all (dn_gradient), it is computed then. */
typedef struct dn_row_products { int m, k; int rows[3]; const dn_real *w[3], *dy[3]; const int *column; } dn_row_products;
void dn__rows_gradient(dn_call *c, int first, int n, int count, int n_rows, const int *rows, const dn_real *dx, const dn_row_products *);

/* The call was of a group whose equal members were computed once (once.h): the same holds for the gradients of its inputs. */
void dn__late_group(dn_call *c);

/* Whether this backward was asked for the gradients of all nodes. */
int dn__wants_each(const dn_call *c);

/* Adds to `out`, of the dims of node i, a row of a table, what dn__rows_gradient and dn__late_group have kept from it. Negative: an error. */
int dn__add_late(dn_tape *t, int i, dn_real *out);

#endif
