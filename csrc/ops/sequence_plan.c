#include "sequence_plan.h"

#include <string.h>

/* ---- sizes ---------------------------------------------------------------------------- */

static int form_of(int options) { return options & DN_SEQUENCE_FORMS; }
static int count_bits(int options, int bits) {
    return !!(options & bits & DN_SEQUENCE_H_MASK) + !!(options & bits & DN_SEQUENCE_C_MASK);
}

dn_sizes dn__sizes_of(const dn_network *net, const dn_dim *wx, const int *ints, int n_ints,
                      int batch) {
    dn_sizes z = {.steps = ints[0],
                  .batch = batch,
                  .options = ints[1],
                  .form = form_of(ints[1]),
                  .state = net->weights};
    z.h = dn__rows_of(wx) / net->blocks[0].rows;
    z.k = dn__columns_of(wx);
    z.mask = z.state + (z.options & DN_SEQUENCE_STATE ? 1 + net->has_c : 0);
    z.first = z.mask + count_bits(z.options, DN_SEQUENCE_H_MASK | DN_SEQUENCE_C_MASK);
    z.columns = (size_t)z.steps * (size_t)batch;
    if (n_ints > 2) {
        if (!(z.options & DN_SEQUENCE_MASK)) z.batch = n_ints - 2;
        z.columns = 0;
        for (int i = 2; i < n_ints; i++) z.columns += (size_t)ints[i];
    }
    z.positions = z.form == DN_SEQUENCE_PACKED && z.options & DN_SEQUENCE_BY_ELEMENT
                      ? z.columns
                      : (size_t)z.steps * (size_t)z.batch;
    z.by_element = z.options & DN_SEQUENCE_BY_ELEMENT;
    z.ends_only = z.by_element && !(z.options & DN_SEQUENCE_EVERY_C);
    z.plain = z.columns == (size_t)z.steps * (size_t)z.batch &&
              !(z.options & DN_SEQUENCE_REVERSED) &&
              (z.batch == 1 || !(z.by_element || z.form == DN_SEQUENCE_PACKED));
    z.direct = z.plain && (z.batch == 1 ? z.form != DN_SEQUENCE_LIST : z.form == DN_SEQUENCE_STEPS);
    return z;
}

/* ---- dims ----------------------------------------------------------------------------- */

static int wrong_weight(dn_shape *s, const dn_network *net, int i) {
    return dn__fail(s, DN_ERROR_VALUE, "%s; got input %d = %s.", net->rule, i, DIMS(s->x[i]));
}

static int check_weights(dn_shape *s, const dn_network *net) {
    const dn_dim *wx = s->x[net->blocks[0].wx];
    int h = dn__rows_of(wx) / net->blocks[0].rows, k = dn__columns_of(wx);
    for (int i = 0; i < net->weights; i++)
        if (s->x[i]->batch != 1)
            return dn__fail(s, DN_ERROR_VALUE, "weights must not be batched; got input %d = %s.", i,
                            DIMS(s->x[i]));
    for (int i = 0; i < net->n_blocks; i++) {
        int rows = net->blocks[i].rows * h, x = net->blocks[i].wx, b = net->blocks[i].b;
        if (s->x[x]->nd > 2 || dn__rows_of(s->x[x]) != rows || s->x[x]->size != (int64_t)rows * k ||
            !h)
            return wrong_weight(s, net, x);
        if (s->x[b]->size != rows) return wrong_weight(s, net, b);
    }
    for (int i = 0; i < net->n_products; i++) {
        const dn_dim *w = s->x[net->products[i].w];
        int rows = net->blocks[net->products[i].block].rows * h;
        if (dn__rows_of(w) != rows || w->size != (int64_t)rows * h)
            return wrong_weight(s, net, net->products[i].w);
    }
    return 0;
}

/* the batch count of the sequences; negative: an error */
static int find_batch(dn_shape *s, const dn_sizes *z) {
    dn_shape others = *s;
    const int by_step = z->form == DN_SEQUENCE_STEPS;
    others.n = z->form == DN_SEQUENCE_PACKED || by_step ? z->first : s->n;
    int batch = dn__common_batch(&others),
        lengths = s->n_ints > 2 && !(z->options & DN_SEQUENCE_MASK);
    if (batch < 0) return batch;
    if (by_step) {
        const int each = s->x[z->first]->batch / z->steps;
        if (each * z->steps != s->x[z->first]->batch || (batch != 1 && batch != each))
            return dn__fail(s, DN_ERROR_VALUE,
                            "x must have the same batch at each of the %d steps; got %s for a "
                            "batch of %d.",
                            z->steps, DIMS(s->x[z->first]), batch);
        batch = each;
    }
    if (lengths && batch != 1 && batch != s->n_ints - 2)
        return dn__fail(s, DN_ERROR_VALUE,
                        "takes one length for each batch element; got %d for a batch of %d.",
                        s->n_ints - 2, batch);
    if (lengths) batch = s->n_ints - 2;
    return batch;
}

static int check_positions(dn_shape *s, const dn_sizes *z, int batch) {
    int mask = z->options & DN_SEQUENCE_MASK, most = mask ? 1 : z->steps;
    if (mask && s->n_ints - 2 != (int64_t)z->steps * batch)
        return dn__fail(s, DN_ERROR_VALUE,
                        "the mask must be (%d, %d): steps, batch elements; got %d numbers.",
                        z->steps, batch, s->n_ints - 2);
    int64_t total = 0;
    for (int i = 2; i < s->n_ints; i++) {
        if (s->ints[i] < 0 || s->ints[i] > most)
            return mask
                       ? dn__fail(s, DN_ERROR_VALUE, "a mask holds zeros and ones; got %d.",
                                  s->ints[i])
                       : dn__fail(s, DN_ERROR_VALUE,
                                  "lengths must lie between 0 and the number of steps, %d; got %d.",
                                  most, s->ints[i]);
        total += s->ints[i];
    }
    if (z->form == DN_SEQUENCE_PACKED && (s->n_ints == 2 || mask || total != s->x[z->first]->batch))
        return dn__fail(s, DN_ERROR_VALUE,
                        "the lengths must add up to the batch of x; got %lld for x = %s.",
                        (long long)total, DIMS(s->x[z->first]));
    return 0;
}

static int wrong_count(dn_shape *s, const dn_network *net, const char *state, int list) {
    return dn__fail(s, DN_ERROR_VALUE, "takes %s%s and %s; got %d inputs.", net->takes, state,
                    list ? "one x for each step" : "one x for all steps", s->n);
}

#define BATCH_OF_INPUTS " A batch of inputs is inputTensor(a.T, batched=True)."

/* Whether x is a matrix whose rows, not columns, have k numbers. */
static int in_rows(const dn_dim *x, int k) {
    return x->nd == 2 && dn__rows_of(x) != k && dn__columns_of(x) == k;
}

int dn__check_sequence(dn_shape *s, const dn_network *net, dn_sizes *z) {
    int error, options = s->ints[1], list = form_of(options) == DN_SEQUENCE_LIST;
    if (s->n < net->weights || s->ints[0] < 1) return wrong_count(s, net, "", list);
    if ((error = check_weights(s, net)) < 0) return error;
    *z = dn__sizes_of(net, s->x[net->blocks[0].wx], s->ints, 2, 1);
    if (s->n != z->first + (list ? z->steps : 1))
        return wrong_count(s, net, z->mask > z->state ? net->has_c ? ", h, c" : ", h" : "", list);
    for (int i = z->state; i < z->first; i++)
        if (s->x[i]->size != z->h)
            return dn__fail(s, DN_ERROR_VALUE, "the state must be (%d,); got %s.", z->h,
                            DIMS(s->x[i]));
    int size = z->form == DN_SEQUENCE_MATRIX ? z->k * z->steps : z->k;
    for (int i = z->first; i < s->n; i++)
        if (s->x[i]->size != size ||
            (z->form == DN_SEQUENCE_MATRIX && dn__rows_of(s->x[i]) != z->k))
            return z->form == DN_SEQUENCE_MATRIX
                       ? dn__fail(s, DN_ERROR_VALUE,
                                  "this network's inputs are the columns of a matrix (%d, %d); got "
                                  "x = %s.%s",
                                  z->k, z->steps, DIMS(s->x[i]),
                                  in_rows(s->x[i], z->k) ? " Did you mean transpose(x)?" : "")
                       : dn__fail(s, DN_ERROR_VALUE,
                                  "this network's inputs have dim (%d,); got x_%d = %s.%s", z->k,
                                  i - z->first + 1, DIMS(s->x[i]),
                                  in_rows(s->x[i], z->k) ? BATCH_OF_INPUTS : "");
    int batch = find_batch(s, z);
    if (batch < 0) return batch;
    if ((error = check_positions(s, z, batch)) < 0) return error;
    *z = dn__sizes_of(net, s->x[net->blocks[0].wx], s->ints, s->n_ints, batch);
    return 0;
}

/* ---- the order of batch elements ------------------------------------------------------ */

static int is_real(const dn_call *c, const dn_sizes *z, int t, int b) {
    if (c->n_ints == 2) return 1;
    return z->options & DN_SEQUENCE_MASK ? c->ints[2 + (size_t)t * (size_t)z->batch + (size_t)b]
                                         : t < c->ints[2 + b];
}

/* Sorts by falling length, equal ones in their order; fills active. */
static int sort_by_length(dn_call *c, const dn_sizes *z, dn_plan *p) {
    int *length = dn__scratch_ints(c, (size_t)z->batch),
        *place = dn__scratch_ints(c, (size_t)z->steps + 2);
    if (!length || !place) return 0;
    memset(place, 0, ((size_t)z->steps + 2) * sizeof *place);
    for (int b = 0; b < z->batch; b++) {
        length[b] = 0;
        for (int t = 0; t < z->steps; t++) length[b] += is_real(c, z, t, b);
        place[length[b]]++;
    }
    int longer = 0; /* place[n]: how many are longer than n */
    for (int n = z->steps; n >= 0; n--) {
        int equal = place[n];
        if (n < z->steps) p->active[n] = longer;
        place[n] = longer;
        longer += equal;
    }
    for (p->steps = 0; p->steps < z->steps && p->active[p->steps];) p->steps++;
    for (int b = 0; b < z->batch; b++) p->order[place[length[b]]++] = b;
    return 1;
}

int dn__make_plan(dn_call *c, const dn_sizes *z, dn_plan *p) {
    size_t cells = (size_t)z->steps * (size_t)z->batch;
    *p = (dn_plan){.steps = z->steps, .active = dn__scratch_ints(c, (size_t)z->steps)};
    if (!p->active) return 0;
    for (int t = 0; t < z->steps; t++) p->active[t] = z->batch;
    if (z->plain) return 1;
    p->element = dn__scratch_ints(c, z->columns);
    p->position = dn__scratch_ints(c, z->columns);
    p->order = dn__scratch_ints(c, (size_t)z->batch);
    p->start = dn__scratch_ints(c, (size_t)z->batch);
    p->shown = dn__scratch_ints(c, cells);
    p->last = dn__scratch_ints(c, (size_t)z->batch);
    int *at = dn__scratch_ints(c, (size_t)z->steps);
    if (!p->element || !p->position || !p->order || !p->start || !p->shown || !p->last || !at ||
        !sort_by_length(c, z, p))
        return 0;
    for (int s = 0, next = 0; s < p->steps; next += p->active[s++]) at[s] = next;
    for (int b = 0, next = 0; z->form == DN_SEQUENCE_PACKED && b < z->batch;
         next += c->ints[2 + b++])
        p->start[b] = next;
    int reversed = z->options & DN_SEQUENCE_REVERSED;
    for (int place = 0; place < z->batch; place++) {
        int b = p->order[place], column = -1 - place, step = 0;
        for (int i = 0; i < z->steps; i++) {
            int t = reversed ? z->steps - 1 - i : i;
            if (is_real(c, z, t, b)) {
                column = at[step++] + place;
                p->element[column] = b;
                p->position[column] = t;
            }
            p->shown[(size_t)t * (size_t)z->batch + (size_t)b] = column;
        }
        p->last[b] = column;
    }
    return 1;
}
