/* Gradients of tables' rows on their way between ranks: taken out of the tables by owner, added up,
 * cut by ranges of keys, and put into the tables. What a message holds says dn_api_params.h. */
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "params/params.h"

enum {
    LINE = 4, /* messages, and what is in them, begin at multiples of so many numbers */
    DIGIT = 11,
    PLACE = 31, /* bits of a row's place among the touched ones, below those of owner and key */
    FEW = 32    /* so many are sorted by insertion */
};

typedef struct {
    dn_param *p;
    int bits; /* of a key */
    uint32_t factor, inverse;
    const uint64_t *next; /* of what is given */
} table;

struct dn_rows {
    int tables, owners;
    table *of;
    uint64_t *order[2]; /* owner, key and place of what a rank gives, sorted; and room to sort it */
    int64_t capacity;
    int64_t *counts; /* of it: rows by table and owner */
};

static int64_t lines(int64_t n) { return (n + LINE - 1) / LINE * LINE; }

static int64_t row_numbers(const table *t) {
    return t->p->row_size * (int64_t)(sizeof(dn_real) / sizeof(int32_t));
}

static uint32_t mask(const table *t) { return (uint32_t)(((uint64_t)1 << t->bits) - 1); }

dn_rows *dn_rows_new(int tables, dn_param *const *params, int owners, int spread) {
    dn_rows *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    *c = (dn_rows){.tables = tables, .owners = owners};
    c->of = calloc((size_t)tables + 1, sizeof *c->of);
    c->counts = malloc(((size_t)tables * (size_t)owners + 1) * sizeof *c->counts);
    if (!c->of || !c->counts) {
        dn_rows_free(c);
        return NULL;
    }
    for (int k = 0; k < tables; k++) {
        table *t = c->of + k;
        t->p = params[k];
        while (((int64_t)1 << t->bits) * owners < t->p->rows) t->bits++;
        t->factor = t->inverse = 1;
        if (!spread || !t->bits) continue;
        /* the golden section of all keys: multiples of it lie evenly in every range */
        t->factor = (uint32_t)((uint64_t)0x9E3779B9 >> (32 - t->bits)) | 1;
        for (int i = 0; i < 5; i++) t->inverse *= 2 - t->factor * t->inverse;
    }
    return c;
}

void dn_rows_free(dn_rows *c) {
    if (!c) return;
    free(c->of);
    free(c->order[0]);
    free(c->order[1]);
    free(c->counts);
    free(c);
}

/* ---- what a rank gives --------------------------------------------------------------- */

/* The present order of n numbers that differ from the bit PLACE on, by these; in c->order[0]. */
static void sort_by_bits(uint64_t *a, uint64_t *room, int64_t n, int bits) {
    if (n <= FEW) {
        for (int64_t i = 1; i < n; i++) {
            const uint64_t x = a[i];
            int64_t j = i;
            for (; j > 0 && a[j - 1] > x; j--) a[j] = a[j - 1];
            a[j] = x;
        }
        return;
    }
    uint64_t *from = a, *to = room;
    for (int shift = PLACE; shift < PLACE + bits; shift += DIGIT) {
        int64_t at[(1 << DIGIT) + 1] = {0};
        for (int64_t i = 0; i < n; i++) at[(from[i] >> shift & ((1 << DIGIT) - 1)) + 1]++;
        for (int i = 0; i < 1 << DIGIT; i++) at[i + 1] += at[i];
        for (int64_t i = 0; i < n; i++) to[at[from[i] >> shift & ((1 << DIGIT) - 1)]++] = from[i];
        uint64_t *const next = from;
        from = to;
        to = next;
    }
    if (from != a) memcpy(a, from, (size_t)n * sizeof *a);
}

/* Of one table what is given, sorted. */
static void put_in_order(dn_rows *c, int k, int64_t n, uint64_t *order, uint64_t *room) {
    const table *t = c->of + k;
    const uint32_t owners = (uint32_t)c->owners;
    int64_t *counts = c->counts + (int64_t)k * owners;
    int bits = t->bits;
    memset(counts, 0, owners * sizeof *counts);
    while (owners > (uint64_t)1 << (bits - t->bits)) bits++;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t row = (uint32_t)t->p->touched[i], owner = row % owners;
        const uint32_t key = row / owners * t->factor & mask(t);
        order[i] = ((uint64_t)owner << t->bits | key) << PLACE | (uint64_t)i;
        counts[owner]++;
    }
    sort_by_bits(order, room, n, bits);
}

int64_t dn_rows_capacity(const dn_rows *c) {
    int64_t size = lines(c->owners + 1) + c->owners * (lines(c->tables) + 2 * LINE * c->tables);
    for (int k = 0; k < c->tables; k++)
        size += c->of[k].p->n_touched * (1 + row_numbers(c->of + k));
    return size;
}

static int reserve(dn_rows *c) {
    int64_t n = 0;
    for (int k = 0; k < c->tables; k++) n += c->of[k].p->n_touched;
    if (n <= c->capacity) return 0;
    for (int i = 0; i < 2; i++) {
        uint64_t *more = realloc(c->order[i], 2 * (size_t)n * sizeof *more);
        if (!more) return DN_ERROR_MEMORY;
        c->order[i] = more;
    }
    c->capacity = 2 * n;
    return 0;
}

static void copy_row(int64_t size, dn_real by, const dn_real *from, dn_real *to) {
    if (by == 1) memcpy(to, from, (size_t)size * sizeof *to);
    else dn__axpy((size_t)size, by, from, 0, to);
}

int dn_rows_give(dn_rows *c, dn_real weight, int32_t *window) {
    if (!c->tables) return 0;
    DN_HOLD(c->of->p->store);
    if (reserve(c)) return DN_ERROR_MEMORY;
    int64_t at = 0;
    for (int k = 0; k < c->tables; k++) {
        const int64_t n = weight != 0 ? c->of[k].p->n_touched : 0;
        put_in_order(c, k, n, c->order[0] + at, c->order[1] + at);
        c->of[k].next = c->order[0] + at;
        at += n;
    }
    at = lines(c->owners + 1);
    for (int owner = 0; owner < c->owners; owner++) {
        int32_t *message = window + at;
        window[owner] = (int32_t)at;
        at += lines(c->tables);
        for (int k = 0; k < c->tables; k++) {
            table *t = c->of + k;
            const int64_t n = c->counts[(int64_t)k * c->owners + owner], size = t->p->row_size;
            dn_real *rows = (dn_real *)(window + at + lines(n));
            message[k] = (int32_t)n;
            for (int64_t i = 0; i < n; i++, t->next++) {
                const int64_t place = (int64_t)(*t->next & (((uint64_t)1 << PLACE) - 1));
                window[at + i] = (int32_t)(*t->next >> PLACE & mask(t));
                copy_row(size, weight, t->p->block + place * size, rows + i * size);
            }
            at += lines(n) + lines(n * row_numbers(t));
        }
    }
    window[c->owners] = (int32_t)at;
    return 0;
}

/* ---- messages ------------------------------------------------------------------------ */

/* The part of a message that has one table, and how far it is read. */
typedef struct {
    const int32_t *keys;
    const dn_real *rows;
    int64_t left;
} part;

/* The part of the table k that begins at *at, which goes on to the next. */
static part part_of(const dn_rows *c, const int32_t *message, int k, int64_t *at) {
    const int64_t n = message[k];
    const part p = {message + *at, (const dn_real *)(message + *at + lines(n)), n};
    *at += lines(n) + lines(n * row_numbers(c->of + k));
    return p;
}

/* How many numbers a message has. */
static int64_t message_size(const dn_rows *c, const int32_t *message) {
    int64_t at = lines(c->tables);
    for (int k = 0; k < c->tables; k++) part_of(c, message, k, &at);
    return at;
}

int64_t dn_rows_given(const dn_rows *c, int n, const int32_t *const *windows, int owner,
                      const int32_t **messages) {
    int64_t size = 0;
    for (int i = 0; i < n; i++) {
        messages[i] = windows[i] + windows[i][owner];
        size += message_size(c, messages[i]);
    }
    return size;
}

/* Goes past this key in all parts, where one may be next; returns the least of the next keys,
 * UINT32_MAX: there are none. */
static uint32_t pass(int n, part *parts, uint32_t key) {
    uint32_t next = UINT32_MAX;
    for (int i = 0; i < n; i++) {
        part *p = parts + i;
        if (p->left && (uint32_t)*p->keys == key) {
            p->keys++;
            p->left--;
        }
        if (p->left && (uint32_t)*p->keys < next) next = (uint32_t)*p->keys;
    }
    return next;
}

/* The sum of the rows that have this key, in the order of parts. */
static void add_row(int n, part *parts, uint32_t key, int64_t size, dn_real *out) {
    const dn_real *first = NULL;
    for (int i = 0; i < n; i++) {
        part *p = parts + i;
        if (!p->left || (uint32_t)*p->keys != key) continue;
        if (first) dn__add((size_t)size, first, p->rows, out);
        first = first ? out : p->rows;
        p->keys++;
        p->rows += size;
        p->left--;
    }
    if (first && first != out) memcpy(out, first, (size_t)size * sizeof *out);
}

/* The first key that is not below this fraction of all that there may be. */
static uint64_t bound(const table *t, const int64_t *end) {
    return ((uint64_t)end[0] << t->bits) / (uint64_t)end[1];
}

/* The sum of what these parts have below a key, which they are read past: keys, then rows. How many
 * there are. */
static int64_t add_table(int n, part *parts, part *room, uint64_t end, int64_t size, int32_t *out) {
    int64_t count = 0;
    memcpy(room, parts, (size_t)n * sizeof *parts);
    for (uint32_t key = pass(n, parts, UINT32_MAX); key < end; key = pass(n, parts, key))
        out[count++] = (int32_t)key;
    dn_real *rows = (dn_real *)(out + lines(count));
    for (int64_t i = 0; i < count; i++) add_row(n, room, (uint32_t)out[i], size, rows + i * size);
    memcpy(parts, room, (size_t)n * sizeof *parts);
    return count;
}

int dn_rows_add(const dn_rows *c, int n, const int32_t *const *messages, int cuts,
                const int64_t *ends, int32_t *out, int64_t *starts) {
    part *parts = malloc((size_t)n * ((size_t)c->tables + 1) * sizeof *parts + 1);
    if (!parts) return DN_ERROR_MEMORY;
    for (int i = 0; i < n; i++) {
        int64_t at = lines(c->tables);
        for (int k = 0; k < c->tables; k++) parts[k * n + i] = part_of(c, messages[i], k, &at);
    }
    int64_t at = 0;
    for (int j = 0; j <= cuts; j++) {
        int32_t *counts = out + at;
        starts[j] = at;
        at += lines(c->tables);
        for (int k = 0; k < c->tables; k++) {
            const table *t = c->of + k;
            const uint64_t end = j < cuts ? bound(t, ends + 2 * j) : UINT32_MAX;
            const int64_t count =
                add_table(n, parts + k * n, parts + c->tables * n, end, t->p->row_size, out + at);
            counts[k] = (int32_t)count;
            at += lines(count) + lines(count * row_numbers(t));
        }
    }
    starts[cuts + 1] = at;
    free(parts);
    return 0;
}

/* How many of a part's keys are below this fraction of all that there may be. */
static int64_t below(const table *t, const part *p, const int64_t *end) {
    const uint64_t least = bound(t, end);
    int64_t low = 0, high = p->left;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if ((uint32_t)p->keys[middle] < least) low = middle + 1;
        else high = middle;
    }
    return low;
}

int64_t dn_rows_cut(const dn_rows *c, const int32_t *message, const int64_t *from,
                    const int64_t *to, int32_t *out) {
    int64_t at = lines(c->tables), end = at;
    for (int k = 0; k < c->tables; k++) {
        const part p = part_of(c, message, k, &at);
        const int64_t first = below(c->of + k, &p, from);
        const int64_t n = below(c->of + k, &p, to) - first, size = c->of[k].p->row_size;
        out[k] = (int32_t)n;
        memcpy(out + end, p.keys + first, (size_t)n * sizeof *out);
        memcpy(out + end + lines(n), p.rows + first * size, (size_t)(n * size) * sizeof *p.rows);
        end += lines(n) + lines(n * row_numbers(c->of + k));
    }
    return end;
}

/* ---- what comes of it ---------------------------------------------------------------- */

static int put_part(const dn_rows *c, int k, int owner, const part *from, dn_real scale, int own) {
    const table *t = c->of + k;
    const int64_t size = t->p->row_size;
    for (int64_t i = 0; i < from->left; i++) {
        const uint32_t local = (uint32_t)from->keys[i] * t->inverse & mask(t);
        const int64_t row = (int64_t)local * c->owners + owner;
        if (row >= t->p->rows || t->p->slot[row] >= 0) return DN_ERROR_VALUE;
        if (own && !dn__is_own_row(t->p->store, row)) continue;
        copy_row(size, scale, from->rows + i * size, dn__lookup_new_row(t->p, row));
    }
    return 0;
}

/* Whether a message holds one rank's rows as the model's owners have them. */
static int is_by_owner(const dn_rows *c) { return c->owners == c->of->p->store->ranks; }

static int put_table(const dn_rows *c, int k, int n, const int32_t *const *messages, dn_real scale,
                     int own, int64_t *at) {
    dn_param *p = c->of[k].p;
    const int in_part = own && dn__is_in_pieces(p);
    int64_t total = 0;
    int error = 0;
    dn__param_clear(p);
    p->scaled *= (double)scale;
    for (int i = 0; i < n && !error; i++) {
        if (!messages[i]) continue;
        const part of = part_of(c, messages[i], k, at + i);
        total += of.left;
        if (in_part && is_by_owner(c) && i != p->store->rank) continue;
        error = put_part(c, k, i, &of, scale, in_part);
    }
    if (in_part && !error) dn__publish_row_squares(p);
    if (in_part) dn__param_set_empty(p, !total);
    return error;
}

int dn_rows_put(dn_rows *c, int n, const int32_t *const *messages, dn_real scale, int own) {
    if (!c->tables) return 0;
    DN_HOLD(c->of->p->store);
    int error = 0;
    for (int k = 0; k < c->tables && !error; k++) {
        int64_t rows = 0;
        for (int i = 0; i < n; i++) rows += messages[i] ? messages[i][k] : 0;
        error = dn__lookup_reserve(c->of[k].p, rows);
    }
    int64_t *at = error ? NULL : malloc(((size_t)n + 1) * sizeof *at);
    if (!error && !at) error = DN_ERROR_MEMORY;
    for (int i = 0; i < n && !error; i++) at[i] = lines(c->tables);
    for (int k = 0; k < c->tables && !error; k++)
        error = put_table(c, k, n, messages, scale, own, at);
    free(at);
    return error;
}

int dn_rows_are_owned(const dn_rows *c) {
    if (!c->tables || !is_by_owner(c)) return 0;
    for (int k = 0; k < c->tables; k++)
        if (!dn__is_in_pieces(c->of[k].p)) return 0;
    return 1;
}

int dn_rows_lacks(const dn_rows *c) {
    for (int k = 0; k < c->tables; k++)
        if (dn__param_is_empty(c->of[k].p)) return 1;
    return 0;
}

void dn_rows_mark(const dn_rows *c, int n, const int32_t *const *messages) {
    for (int k = 0; k < c->tables; k++)
        for (int i = 0; i < n; i++)
            if (messages[i][k]) dn__param_set_empty(c->of[k].p, 0);
}
