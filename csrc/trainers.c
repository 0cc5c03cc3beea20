/* Trainers: the moments that stand beside the values, and one pass over the ranges that have a gradient. Neighbouring parameters are one
 * range (the padding between them is zero in every array and stays zero), so in the plain case a chunk is one kernel call. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "kernels/kernels.h"
#include "params.h"

enum { MAX_MOMENTS = 3 };
static const double SMALLEST_FACTOR = 0.25; /* of a table's decay, before it is multiplied into the rows: keeps all digits */

/* One rule over n numbers: values, gradient, and the moments' places. */
typedef struct dn_step { double rate, scale, decay; } dn_step;
typedef struct dn_rule {
    int moments;
    double (*rate)(const dn_trainer *);        /* what the step is multiplied by in update number `updates` */
    void (*apply)(const dn_trainer *, const dn_step *, size_t n, dn_real *p, const dn_real *g, dn_real *const *moments);
} dn_rule;

struct dn_trainer {
    dn_root *root;
    dn_rule rule;
    double a, b, c;                            /* the rule's constants */
    double learning_rate, clip, decay;
    int sparse;
    int64_t updates;
    int n_selected;                            /* -1: all of the root */
    dn_param **selected;
    dn_real *(*chunk_moments)[MAX_MOMENTS];    /* by chunk */
    int n_chunks;
    dn_real *(*table_moments)[MAX_MOMENTS];    /* by parameter id */
    int n_params;
};

/* ---- rules --------------------------------------------------------------------------------------------------------- */

static double plain_rate(const dn_trainer *t) { return t->learning_rate; }

static void sgd(const dn_trainer *t, const dn_step *s, size_t n, dn_real *p, const dn_real *g, dn_real *const *moments) {
    (void)t, (void)moments;
    dn__update_sgd(n, (dn_real)s->rate, (dn_real)s->scale, (dn_real)s->decay, p, g);
}

/* the bias correction of both moments */
static double adam_rate(const dn_trainer *t) {
    double n = (double)t->updates;
    return t->learning_rate * sqrt(1 - pow(t->b, n)) / (1 - pow(t->a, n));
}

static void adam(const dn_trainer *t, const dn_step *s, size_t n, dn_real *p, const dn_real *g, dn_real *const *moments) {
    dn__update_adam(n, (dn_real)s->rate, (dn_real)t->a, (dn_real)t->b, (dn_real)t->c, (dn_real)s->scale, (dn_real)s->decay, p, g, moments[0],
                    moments[1]);
}

static const dn_rule RULES[] = {[DN_RULE_SGD] = {0, plain_rate, sgd}, [DN_RULE_ADAM] = {2, adam_rate, adam}};

/* ---- life ---------------------------------------------------------------------------------------------------------- */

dn_trainer *dn_trainer_new(dn_root *root, int rule, double a, double b, double c) {
    if (rule < 0 || rule >= (int)(sizeof RULES / sizeof *RULES)) return NULL;
    dn_trainer *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    *t = (dn_trainer){.root = root, .rule = RULES[rule], .a = a, .b = b, .c = c, .decay = 1, .sparse = 1, .n_selected = -1};
    dn__root_retain(root);
    return t;
}

int dn_trainer_select(dn_trainer *t, int n, dn_param *const *params) {
    dn_param **copy = n > 0 ? malloc((size_t)n * sizeof *copy) : NULL;
    if (n > 0 && !copy) return DN_ERROR_MEMORY;
    if (n > 0) memcpy(copy, params, (size_t)n * sizeof *copy);
    free(t->selected);
    t->selected = copy;
    t->n_selected = n;
    return 0;
}

void dn_trainer_set(dn_trainer *t, double rate, double clip, double decay, int sparse) {
    t->learning_rate = rate;
    t->clip = clip;
    t->decay = decay;
    t->sparse = sparse;
}

int64_t dn_trainer_updates(dn_trainer *t) { return t->updates; }
void dn_trainer_set_updates(dn_trainer *t, int64_t updates) { t->updates = updates; }

static void free_moments(dn_trainer *t) {
    for (int i = 0; i < t->n_chunks; i++)
        for (int k = 0; k < t->rule.moments; k++) dn__block_free(t->chunk_moments[i][k]);
    for (int i = 0; i < t->n_params; i++)
        for (int k = 0; k < t->rule.moments; k++) dn__block_free(t->table_moments[i][k]);
    free(t->chunk_moments);
    free(t->table_moments);
    t->chunk_moments = t->table_moments = NULL;
    t->n_chunks = t->n_params = 0;
}

void dn_trainer_free(dn_trainer *t) {
    if (!t) return;
    free_moments(t);
    free(t->selected);
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
    for (int k = 0; k < t->rule.moments; k++)
        if (!moments[k] && !(moments[k] = dn__block_new((size_t)size * sizeof(dn_real)))) return DN_ERROR_MEMORY;
    return 0;
}

dn_real *dn_trainer_moment(dn_trainer *t, dn_param *p, int k) {
    if (k < 0 || k >= t->rule.moments || prepare(t, p)) return NULL;
    return p->rows ? t->table_moments[p->id][k] : t->chunk_moments[p->chunk][k] + p->offset;
}

/* ---- ranges -------------------------------------------------------------------------------------------------------- */

static void at(dn_real *const *moments, int n, int64_t offset, dn_real **out) {
    for (int k = 0; k < n; k++) out[k] = moments[k] + offset;
}

static void update_range(dn_trainer *t, const dn_step *s, int chunk, int64_t from, int64_t to) {
    const dn_chunk *c = &t->root->chunks[chunk];
    dn_real *moments[MAX_MOMENTS];
    at(t->chunk_moments[chunk], t->rule.moments, from, moments);
    t->rule.apply(t, s, (size_t)(to - from), c->values + from, c->grads + from, moments);
}

/* A table's values are factor * storage, so that decay is one number: storage moves by the step divided by the factor. */
static int update_table(dn_trainer *t, const dn_step *s, dn_param *p) {
    dn_real *moments[MAX_MOMENTS];
    dn_step in_storage = {.rate = s->rate / p->factor, .scale = s->scale, .decay = 1};
    for (int64_t row = 0; !t->sparse && row < p->rows; row++)
        if (!dn__lookup_row(p, row)) return DN_ERROR_MEMORY;
    for (int64_t i = 0; i < p->n_touched; i++) {
        int64_t offset = p->touched[i] * p->row_size;
        at(t->table_moments[p->id], t->rule.moments, offset, moments);
        t->rule.apply(t, &in_storage, (size_t)p->row_size, p->table + offset, p->block + i * p->row_size, moments);
    }
    p->factor *= s->decay;
    if (p->factor < SMALLEST_FACTOR) dn__param_settle(p);
    return 0;
}

/* A dense parameter without a gradient is updated with zero, as in DyNet: its moments go on to move it. Rows of tables without one are left
 * alone; with dense updates, all rows move. Frozen parameters are never touched. */
static int takes_part(const dn_trainer *t, const dn_step *s, const dn_param *p) {
    if (!p->updated) return 0;
    if (!p->empty) return 1;
    return s->decay != 1 || (p->rows ? !t->sparse : t->rule.moments > 0);
}

/* The parameters come in the order of the root, so that neighbours in a chunk follow one another. */
static int update(dn_trainer *t, const dn_step *s, int n, dn_param *const *params) {
    int error = 0, chunk = -1;
    int64_t from = 0, to = 0;
    for (int i = 0; i < n && !error; i++)
        if (takes_part(t, s, params[i])) error = prepare(t, params[i]);
    for (int i = 0; i < n && !error; i++) {
        dn_param *p = params[i];
        if (!takes_part(t, s, p)) continue;
        if (p->rows) {
            error = update_table(t, s, p);
            continue;
        }
        dn__param_filled(p); /* zero where it is empty */
        if (p->chunk != chunk || p->offset - to >= DN_PARAM_ALIGN) { /* less: only padding lies between */
            if (chunk >= 0) update_range(t, s, chunk, from, to);
            chunk = p->chunk;
            from = p->offset;
        }
        to = p->offset + p->row_size;
    }
    if (chunk >= 0 && !error) update_range(t, s, chunk, from, to);
    for (int i = 0; i < n && !error; i++) dn__param_clear(params[i]);
    dn_root_changed(t->root);
    return error;
}

static double norm(const dn_root *r, int n, dn_param *const *params) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        const dn_param *p = params[i];
        if (p->empty) continue;
        if (p->rows) sum += dn__sum_squares((size_t)(p->n_touched * p->row_size), p->block);
        else sum += dn__sum_squares((size_t)p->row_size, r->chunks[p->chunk].grads + p->offset);
    }
    return sqrt(sum);
}

static int selection(const dn_trainer *t, dn_param *const **params) {
    *params = t->n_selected < 0 ? t->root->params : t->selected;
    return t->n_selected < 0 ? t->root->n_params : t->n_selected;
}

double dn_trainer_norm(dn_trainer *t) {
    dn_param *const *params;
    pthread_mutex_lock(&t->root->lock);
    int n = selection(t, &params);
    double result = norm(t->root, n, params);
    pthread_mutex_unlock(&t->root->lock);
    return result;
}

int dn_trainer_update(dn_trainer *t) {
    dn_param *const *params;
    dn_step s = {.scale = 1, .decay = t->decay};
    int error = 0;
    pthread_mutex_lock(&t->root->lock);
    int n = selection(t, &params);
    if (t->clip > 0) {
        double length = norm(t->root, n, params);
        if (!isfinite(length)) error = DN_ERROR_NONFINITE;
        else if (length > t->clip) s.scale = t->clip / length;
    }
    if (!error) {
        t->updates++;
        s.rate = t->rule.rate(t);
        error = update(t, &s, n, params);
    }
    pthread_mutex_unlock(&t->root->lock);
    return error;
}
