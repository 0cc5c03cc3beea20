/* Trainers: the moments that stand beside the values, and one pass over the ranges that have a gradient. Neighbouring parameters are one
 * range (the padding between them is zero in every array and stays zero), so in the plain case a chunk is one kernel call. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "kernels/kernels.h"
#include "params.h"

enum { MAX_MOMENTS = 3 };

struct dn_trainer {
    dn_root *root;
    int n_moments;
    dn_real *(*chunk_moments)[MAX_MOMENTS];    /* by chunk */
    int n_chunks;
    dn_real *(*table_moments)[MAX_MOMENTS];    /* by parameter id */
    int n_params;
};

dn_trainer *dn_trainer_new(dn_root *root, int n_moments) {
    if (n_moments < 0 || n_moments > MAX_MOMENTS) return NULL;
    dn_trainer *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->root = root;
    t->n_moments = n_moments;
    dn__root_retain(root);
    return t;
}

static void free_moments(dn_trainer *t) {
    for (int i = 0; i < t->n_chunks; i++)
        for (int k = 0; k < t->n_moments; k++) dn__block_free(t->chunk_moments[i][k]);
    for (int i = 0; i < t->n_params; i++)
        for (int k = 0; k < t->n_moments; k++) dn__block_free(t->table_moments[i][k]);
    free(t->chunk_moments);
    free(t->table_moments);
    t->chunk_moments = t->table_moments = NULL;
    t->n_chunks = t->n_params = 0;
}

void dn_trainer_free(dn_trainer *t) {
    if (!t) return;
    free_moments(t);
    dn__root_release(t->root);
    free(t);
}

void dn_trainer_restart(dn_trainer *t) { free_moments(t); }

/* Room for one entry per chunk and per parameter; moments themselves are made when they are first needed. */
static int grow(dn_real *(**array)[MAX_MOMENTS], int *have, int wanted) {
    if (*have >= wanted) return 0;
    void *p = realloc(*array, (size_t)wanted * sizeof **array);
    if (!p) return DN_ERROR_MEMORY;
    *array = p;
    memset(*array + *have, 0, (size_t)(wanted - *have) * sizeof **array);
    *have = wanted;
    return 0;
}

static int prepare(dn_trainer *t, const dn_param *p) {
    if (grow(&t->chunk_moments, &t->n_chunks, t->root->n_chunks) || grow(&t->table_moments, &t->n_params, t->root->n_params))
        return DN_ERROR_MEMORY;
    dn_real **moments = p->rows ? t->table_moments[p->id] : t->chunk_moments[p->chunk];
    int64_t size = p->rows ? p->rows * p->row_size : t->root->chunks[p->chunk].capacity;
    for (int k = 0; k < t->n_moments; k++)
        if (!moments[k] && !(moments[k] = dn__block_new((size_t)size * sizeof(dn_real)))) return DN_ERROR_MEMORY;
    return 0;
}

dn_real *dn_trainer_moment(dn_trainer *t, dn_param *p, int k) {
    if (k < 0 || k >= t->n_moments || prepare(t, p)) return NULL;
    return p->rows ? t->table_moments[p->id][k] : t->chunk_moments[p->chunk][k] + p->offset;
}

/* ---- ranges -------------------------------------------------------------------------------------------------------- */

/* One rule over n numbers: values, gradient, and the moments' places. */
typedef struct dn_rule dn_rule;
struct dn_rule {
    void (*apply)(const dn_rule *, size_t n, dn_real *p, const dn_real *g, dn_real *const *moments);
    double rate, beta1, beta2, eps, scale, decay;
};

static void at(dn_real *const *moments, int n, int64_t offset, dn_real **out) {
    for (int k = 0; k < n; k++) out[k] = moments[k] + offset;
}

static void update_range(dn_trainer *t, const dn_rule *rule, int chunk, int64_t from, int64_t to) {
    const dn_chunk *c = &t->root->chunks[chunk];
    dn_real *moments[MAX_MOMENTS];
    at(t->chunk_moments[chunk], t->n_moments, from, moments);
    rule->apply(rule, (size_t)(to - from), c->values + from, c->grads + from, moments);
}

static int update_table(dn_trainer *t, const dn_rule *rule, dn_param *p, int sparse) {
    dn_real *moments[MAX_MOMENTS];
    for (int64_t row = 0; !sparse && row < p->rows; row++)
        if (!dn__lookup_row(p, row)) return DN_ERROR_MEMORY;
    for (int64_t i = 0; i < p->n_touched; i++) {
        int64_t offset = p->touched[i] * p->row_size;
        at(t->table_moments[p->id], t->n_moments, offset, moments);
        rule->apply(rule, (size_t)p->row_size, p->table + offset, p->block + i * p->row_size, moments);
    }
    return 0;
}

/* A dense parameter without a gradient is updated with zero, as in DyNet: its moments go on to move it. Rows of tables without one are left
 * alone. Frozen parameters are never touched. */
static int takes_part(const dn_trainer *t, const dn_rule *rule, const dn_param *p) {
    return p->updated && (!p->empty || (!p->rows && (t->n_moments || rule->decay != 1)));
}

/* `params` come in the order of the root, so that neighbours in a chunk follow one another. */
static int update(dn_trainer *t, const dn_rule *rule, int n, dn_param *const *params, int sparse) {
    int error = 0, chunk = -1;
    int64_t from = 0, to = 0;
    pthread_mutex_lock(&t->root->lock);
    for (int i = 0; i < n && !error; i++)
        if (takes_part(t, rule, params[i])) error = prepare(t, params[i]);
    for (int i = 0; i < n && !error; i++) {
        dn_param *p = params[i];
        if (!takes_part(t, rule, p)) continue;
        if (!p->rows) dn_param_gradient(p); /* zero where it is empty */
        if (p->rows) {
            error = update_table(t, rule, p, sparse);
            continue;
        }
        if (p->chunk != chunk || p->offset - to >= 16) { /* less: only padding lies between */
            if (chunk >= 0) update_range(t, rule, chunk, from, to);
            chunk = p->chunk;
            from = p->offset;
        }
        to = p->offset + p->row_size;
    }
    if (chunk >= 0 && !error) update_range(t, rule, chunk, from, to);
    for (int i = 0; i < n && !error; i++) dn_param_clear_gradient(params[i]);
    dn_root_changed(t->root);
    pthread_mutex_unlock(&t->root->lock);
    return error;
}

double dn_gradient_norm2(dn_root *r, int n, dn_param *const *params) {
    double sum = 0;
    pthread_mutex_lock(&r->lock);
    for (int i = 0; i < n; i++) {
        const dn_param *p = params[i];
        if (p->empty) continue;
        if (p->rows) sum += dn__sum_squares((size_t)(p->n_touched * p->row_size), p->block);
        else sum += dn__sum_squares((size_t)p->row_size, r->chunks[p->chunk].grads + p->offset);
    }
    pthread_mutex_unlock(&r->lock);
    return sum;
}

/* ---- rules --------------------------------------------------------------------------------------------------------- */

static void sgd(const dn_rule *r, size_t n, dn_real *p, const dn_real *g, dn_real *const *moments) {
    (void)moments;
    dn__update_sgd(n, (dn_real)r->rate, (dn_real)r->scale, (dn_real)r->decay, p, g);
}

int dn_update_sgd(dn_trainer *t, int n, dn_param *const *params, double rate, double scale, double decay, int sparse) {
    return update(t, &(dn_rule){.apply = sgd, .rate = rate, .scale = scale, .decay = decay}, n, params, sparse);
}

static void adam(const dn_rule *r, size_t n, dn_real *p, const dn_real *g, dn_real *const *moments) {
    dn__update_adam(n, (dn_real)r->rate, (dn_real)r->beta1, (dn_real)r->beta2, (dn_real)r->eps, (dn_real)r->scale, (dn_real)r->decay, p, g,
                    moments[0], moments[1]);
}

int dn_update_adam(dn_trainer *t, int n, dn_param *const *params, double rate, double beta1, double beta2, double eps, double scale,
                   double decay, int sparse) {
    dn_rule rule = {.apply = adam, .rate = rate, .beta1 = beta1, .beta2 = beta2, .eps = eps, .scale = scale, .decay = decay};
    return update(t, &rule, n, params, sparse);
}
