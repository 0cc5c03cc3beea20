/* Rules of trainers, and the inside of a trainer, which they read: moments beside a store's
 * values. */
#pragma once

#include "kernels/kernels.h"
#include "params/params.h"

enum { DN_MOST_MOMENTS = 3 };

/* One rule over n numbers: values, gradient, and the moments' places. */
typedef struct dn_rule {
    int moments;
    /* needs each parameter, or row, by itself: neighbours are not joined */
    int whole;
    /* what the step is multiplied by in update number `updates` */
    double (*rate)(const dn_trainer *);
    void (*apply)(const dn_trainer *, const dn_step *, size_t n, dn_real *p, const dn_real *g,
                  dn_real *const *moments);
    /* whether this step leaves numbers and moments as they are where the gradient is zero; NULL: it
     * never does */
    int (*skips_zeros)(const dn_trainer *, const dn_step *);
} dn_rule;

/* Of one block of values. updated: where their owners update them; then the moments, too, lie in
 * memory that the ranks of a host share. NULL: they are this process's own. */
typedef struct dn_moments {
    dn_real *at[DN_MOST_MOMENTS], *updated;
    int all_rows; /* of a table: whether the last update was of all rows */
} dn_moments;

struct dn_trainer {
    dn_store *store;
    dn_rule rule;
    double c[4]; /* the rule's constants */
    dn_settings set;
    int64_t updates, clips;
    double last_norm; /* -1: not known */
    int n_selected;   /* -1: all of the store */
    dn_param **selected;
    /* by parameter id, below n_excluded: from the decay of AdamW */
    char *excluded;
    int n_excluded;
    dn_moments *chunk_moments; /* by chunk */
    int n_chunks;
    dn_moments *table_moments; /* by parameter id */
    int n_params;
    int shares;  /* with the ranks of its host, see dn_trainer_share */
    int updated; /* by owners, and their values are not yet taken over */
};

/* NULL: there is none of this number. */
const dn_rule *dn__rule(int rule);

/* ---- apply.c */
/* Neighbours in a chunk, so far. */
typedef struct dn_range {
    int chunk;
    int64_t from, to;
    dn_real keep;
} dn_range;
/* What AdamW multiplies the values of a parameter by. */
dn_real dn__keep_of(const dn_trainer *, const dn_param *);
/* The rule, and this step of it, over a range; over the rows of a table that it is for. */
void dn__apply_to_range(dn_trainer *, const dn_step *, const dn_range *);
void dn__apply_to_table(dn_trainer *, const dn_step *, dn_param *);
/* The weight decay of a table, by its factor. */
void dn__decay_table(const dn_trainer *, dn_param *);
/* DyNet's decay, which spares nothing. */
void dn__decay_frozen(const dn_trainer *, dn_param *);
