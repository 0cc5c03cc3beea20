/* Numbers that change their places: blocks, and arrays walked with steps of their own. What lies
 * together is moved together. */
#include "kernels.h"
#include "math.h"
#include "parallel.h"
#include "quad.h"

/* Below this a call of memcpy costs more than the copy. */
enum { SHORT_RUN = 16 };
typedef dn_real Oct __attribute__((vector_size(8 * sizeof(dn_real))));

/* y = x, or y += x with add = 1, for 4 to 15 numbers: two vectors that overlap. Both are read
 * before one is written. */
#define TWO_VECTORS(Vector, n) \
    do { \
        Vector first, second, old; \
        memcpy(&first, x, sizeof first); \
        memcpy(&second, x + run - (n), sizeof second); \
        if (add) { \
            memcpy(&old, y, sizeof old); \
            first += old; \
            memcpy(&old, y + run - (n), sizeof old); \
            second += old; \
        } \
        memcpy(y, &first, sizeof first); \
        memcpy(y + run - (n), &second, sizeof second); \
    } while (0)
DN_INLINE void short_runs(size_t run, size_t count, const dn_real *x, size_t x_step, int add,
                          dn_real *y, size_t y_step) {
    if (run >= 8)
        for (size_t o = 0; o < count; o++, x += x_step, y += y_step) TWO_VECTORS(Oct, 8);
    else if (run >= 4)
        for (size_t o = 0; o < count; o++, x += x_step, y += y_step) TWO_VECTORS(Quad, 4);
    else
        for (size_t o = 0; o < count; o++, x += x_step, y += y_step)
            for (size_t i = 0; i < run; i++) y[i] = add ? x[i] + y[i] : x[i];
}
DN_MULTIVERSION static void copy_short(size_t run, size_t count, const dn_real *x, size_t x_step,
                                       dn_real *y, size_t y_step) {
    short_runs(run, count, x, x_step, 0, y, y_step);
}
DN_MULTIVERSION static void add_short(size_t run, size_t count, const dn_real *x, size_t x_step,
                                      dn_real *y, size_t y_step) {
    short_runs(run, count, x, x_step, 1, y, y_step);
}
static void copy_elements(size_t count, const dn_real *x, size_t x_step, dn_real *y,
                          size_t y_step) {
    for (size_t o = 0; o < count; o++) y[o * y_step] = x[o * x_step];
}
void dn__copy_blocks(size_t run, size_t count, const dn_real *x, size_t x_step, dn_real *y,
                     size_t y_step) {
    if (run == x_step && run == y_step) {
        run *= count;
        count = 1;
    }
    if (run == 1) copy_elements(count, x, x_step, y, y_step);
    else if (run < SHORT_RUN) copy_short(run, count, x, x_step, y, y_step);
    else
        for (size_t o = 0; o < count; o++) memcpy(y + o * y_step, x + o * x_step, run * sizeof *y);
}

DN_MULTIVERSION static void add_runs(size_t run, size_t count, const dn_real *x, size_t x_step,
                                     dn_real *y, size_t y_step) {
    for (size_t o = 0; o < count; o++, x += x_step, y += y_step) {
        DN_SIMD for (size_t i = 0; i < run; i++)
            y[i] += x[i];
    }
}
static void add_numbers(size_t count, const dn_real *x, size_t x_step, dn_real *y, size_t y_step) {
    for (size_t o = 0; o < count; o++) y[o * y_step] += x[o * x_step];
}
void dn__add_blocks(size_t run, size_t count, const dn_real *x, size_t x_step, dn_real beta,
                    dn_real *y, size_t y_step) {
    if (beta == 0) {
        dn__copy_blocks(run, count, x, x_step, y, y_step);
        return;
    }
    if (run == x_step && run == y_step) {
        run *= count;
        count = 1;
    }
    if (run == 1) add_numbers(count, x, x_step, y, y_step);
    else if (run < SHORT_RUN) add_short(run, count, x, x_step, y, y_step);
    else add_runs(run, count, x, x_step, y, y_step);
}

typedef struct repetition {
    size_t rows;
    const dn_real *x;
    dn_real *y;
} repetition;
static void repeat_columns(const void *context, size_t from, size_t count) {
    const repetition *r = context;
    for (size_t c = from; c < from + count; c++)
        memcpy(r->y + c * r->rows, r->x, r->rows * sizeof *r->y);
}
void dn__repeat(int rows, size_t cols, const dn_real *x, dn_real *y) {
    const repetition r = {(size_t)rows, x, y};
    dn__parallel_ranges(cols, 0.2 * rows, 1, repeat_columns, &r);
}

/* ---- transposition -------------------------------------------------------------------- */

/* Four columns of four become four rows. */
DN_INLINE void transpose_quad(const dn_real *x, size_t ldx, dn_real beta, dn_real *y, size_t ldy) {
    Quad in[4], t[4], out[4];
    for (int i = 0; i < 4; i++) memcpy(&in[i], x + (size_t)i * ldx, sizeof in[i]);
    for (int i = 0; i < 2; i++) {
        t[2 * i] = SHUFFLE(in[2 * i], in[2 * i + 1], 0, 4, 1, 5);
        t[2 * i + 1] = SHUFFLE(in[2 * i], in[2 * i + 1], 2, 6, 3, 7);
    }
    for (int i = 0; i < 2; i++) {
        out[2 * i] = SHUFFLE(t[i], t[i + 2], 0, 1, 4, 5);
        out[2 * i + 1] = SHUFFLE(t[i], t[i + 2], 2, 3, 6, 7);
    }
    for (int i = 0; i < 4; i++) {
        Quad old;
        if (beta != 0) {
            memcpy(&old, y + (size_t)i * ldy, sizeof old);
            out[i] += old;
        }
        memcpy(y + (size_t)i * ldy, &out[i], sizeof out[i]);
    }
}

static void transpose_rest(size_t rows, size_t cols, const dn_real *x, size_t ldx, dn_real beta,
                           dn_real *y, size_t ldy) {
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            y[c + r * ldy] = beta == 0 ? x[r + c * ldx] : x[r + c * ldx] + y[c + r * ldy];
}

/* In tiles, so that the lines that the strided side touches stay in L1. */
enum { TILE = 16 };
static void transpose_quads(size_t rows, size_t cols, const dn_real *x, size_t ldx, dn_real beta,
                            dn_real *y, size_t ldy) {
    size_t whole_rows = rows & ~(size_t)3, whole_cols = cols & ~(size_t)3;
    for (size_t r0 = 0; r0 < whole_rows; r0 += TILE) {
        size_t r1 = whole_rows - r0 < TILE ? whole_rows : r0 + TILE;
        for (size_t c0 = 0; c0 < whole_cols; c0 += TILE) {
            size_t c1 = whole_cols - c0 < TILE ? whole_cols : c0 + TILE;
            for (size_t r = r0; r < r1; r += 4)
                for (size_t c = c0; c < c1; c += 4)
                    transpose_quad(x + r + c * ldx, ldx, beta, y + c + r * ldy, ldy);
        }
    }
    transpose_rest(rows, cols - whole_cols, x + whole_cols * ldx, ldx, beta, y + whole_cols, ldy);
    transpose_rest(rows - whole_rows, whole_cols, x + whole_rows, ldx, beta, y + whole_rows * ldy,
                   ldy);
}

/* Eight columns of eight at once, where vectors have eight numbers: 2.5 times as fast. */
#if defined(DN_TARGET_CLONES) && defined(__x86_64__) && !defined(__clang__) && !defined(DN_DOUBLE)
#pragma GCC push_options
#pragma GCC target("avx")
typedef int32_t OctIndex __attribute__((vector_size(8 * sizeof(int32_t))));
#define SHUFFLE_OCT(a, b, ...) __builtin_shuffle(a, b, (OctIndex){__VA_ARGS__})
DN_INLINE void transpose_oct(const dn_real *x, size_t ldx, dn_real beta, dn_real *y, size_t ldy) {
    Oct in[8], t[8], u[8];
    for (int i = 0; i < 8; i++) memcpy(&in[i], x + (size_t)i * ldx, sizeof in[i]);
    for (int i = 0; i < 8; i += 2) {
        t[i] = SHUFFLE_OCT(in[i], in[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        t[i + 1] = SHUFFLE_OCT(in[i], in[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int half = 0; half < 8; half += 4) {
        for (int i = 0; i < 2; i++) {
            const Oct a = t[half + i], b = t[half + i + 2];
            u[half + 2 * i] = SHUFFLE_OCT(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
            u[half + 2 * i + 1] = SHUFFLE_OCT(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
        }
    }
    for (int i = 0; i < 8; i++, y += ldy) {
        const Oct a = u[i % 4], b = u[i % 4 + 4];
        Oct old, out = i < 4 ? SHUFFLE_OCT(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
                             : SHUFFLE_OCT(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
        if (beta != 0) {
            memcpy(&old, y, sizeof old);
            out += old;
        }
        memcpy(y, &out, sizeof out);
    }
}
static void transpose_octs(size_t rows, size_t cols, const dn_real *x, size_t ldx, dn_real beta,
                           dn_real *y, size_t ldy) {
    for (size_t r0 = 0; r0 < rows; r0 += TILE)
        for (size_t c = 0; c < cols; c += 8)
            for (size_t r = r0; r < rows && r < r0 + TILE; r += 8)
                transpose_oct(x + r + c * ldx, ldx, beta, y + c + r * ldy, ldy);
}
#pragma GCC pop_options
static int has_octs(void) { return __builtin_cpu_supports("avx"); }
#else
static int has_octs(void) { return 0; }
#define transpose_octs transpose_quads
#endif

void dn__transpose_plane(size_t rows, size_t cols, const dn_real *x, size_t ldx, dn_real beta,
                         dn_real *y, size_t ldy) {
    const size_t whole_rows = has_octs() ? rows & ~(size_t)7 : 0,
                 whole_cols = has_octs() ? cols & ~(size_t)7 : 0;
    if (whole_rows && whole_cols) transpose_octs(whole_rows, whole_cols, x, ldx, beta, y, ldy);
    transpose_quads(rows, cols - whole_cols, x + whole_cols * ldx, ldx, beta, y + whole_cols, ldy);
    transpose_quads(rows - whole_rows, whole_cols, x + whole_rows, ldx, beta, y + whole_rows * ldy,
                    ldy);
}

void dn__transpose(int rows, int cols, const dn_real *x, dn_real beta, dn_real *y) {
    dn__transpose_plane((size_t)rows, (size_t)cols, x, (size_t)rows, beta, y, (size_t)cols);
}

/* ---- walks ---------------------------------------------------------------------------- */

enum { MAX_WALK = 16 };

/* A walk over a dense array y, in the order of its memory, during which x moves by steps of its
 * own. Neighbouring dims are merged; the first two are left to kernels, the others are counted. */
typedef struct walk {
    int nd;
    size_t n[MAX_WALK], sx[MAX_WALK], sy[MAX_WALK];
} walk;

/* Returns 0 if there is nothing to walk over. */
static int plan_walk(walk *w, int nd, const size_t *n, const size_t *step) {
    size_t sy = 1;
    w->nd = 0;
    for (int i = 0; i < nd; i++) {
        if (!n[i]) return 0;
        if (n[i] == 1) continue;
        int last = w->nd - 1;
        if (last >= 0 && w->sx[last] * w->n[last] == step[i]) {
            w->n[last] *= n[i];
        } else {
            w->n[w->nd] = n[i];
            w->sx[w->nd] = step[i];
            w->sy[w->nd++] = sy;
        }
        sy *= n[i];
    }
    for (; w->nd < 2; w->nd++) {
        w->n[w->nd] = 1;
        w->sx[w->nd] = w->sy[w->nd] = w->nd ? 0 : 1;
    }
    /* A dim along which x is contiguous comes second if it is not first: the two make a
     * transposition. */
    for (int i = 2; i < w->nd && w->sx[0] != 1; i++)
        if (w->sx[i] == 1) {
            size_t of_i[] = {w->n[i], w->sx[i], w->sy[i]};
            w->n[i] = w->n[1], w->sx[i] = w->sx[1], w->sy[i] = w->sy[1];
            w->n[1] = of_i[0], w->sx[1] = of_i[1], w->sy[1] = of_i[2];
        }
    return 1;
}

/* Calls f for each plane of the first two dims. */
DN_INLINE void for_planes(const walk *w, const dn_real *x, dn_real *y, dn_real beta,
                          void (*f)(const walk *, const dn_real *, dn_real *, dn_real)) {
    size_t at[MAX_WALK] = {0};
    for (;;) {
        f(w, x, y, beta);
        int i = 2;
        for (; i < w->nd; i++) {
            x += w->sx[i];
            y += w->sy[i];
            if (++at[i] < w->n[i]) break;
            x -= w->sx[i] * w->n[i];
            y -= w->sy[i] * w->n[i];
            at[i] = 0;
        }
        if (i == w->nd) return;
    }
}

static void gather_plane(const walk *w, const dn_real *x, dn_real *y, dn_real beta) {
    (void)beta;
    if (w->sx[0] == 1) dn__copy_blocks(w->n[0], w->n[1], x, w->sx[1], y, w->sy[1]);
    else if (w->sx[1] == 1) dn__transpose_plane(w->n[1], w->n[0], x, w->sx[0], 0, y, w->sy[1]);
    else
        for (size_t i = 0; i < w->n[1]; i++)
            copy_elements(w->n[0], x + i * w->sx[1], w->sx[0], y + i * w->sy[1], 1);
}
void dn__gather(int nd, const size_t *n, const size_t *step, const dn_real *x, dn_real *y) {
    walk w;
    if (plan_walk(&w, nd, n, step)) for_planes(&w, x, y, 0, gather_plane);
}

/* the same the other way round; x is written, y is not */
static void scatter_plane(const walk *w, const dn_real *x, dn_real *y, dn_real beta) {
    dn_real *to = (dn_real *)x;
    if (w->sx[0] == 1) {
        dn__add_blocks(w->n[0], w->n[1], y, w->sy[1], beta, to, w->sx[1]);
    } else if (w->sx[1] == 1) {
        dn__transpose_plane(w->n[0], w->n[1], y, w->sy[1], beta, to, w->sx[0]);
    } else {
        for (size_t i = 0; i < w->n[1]; i++)
            dn__add_blocks(1, w->n[0], y + i * w->sy[1], 1, beta, to + i * w->sx[1], w->sx[0]);
    }
}
void dn__scatter(int nd, const size_t *n, const size_t *step, const dn_real *y, dn_real beta,
                 dn_real *x) {
    walk w;
    if (plan_walk(&w, nd, n, step)) for_planes(&w, x, (dn_real *)y, beta, scatter_plane);
}
