/* One training step of the language model of tasks/rnnlm.py, written by hand for it: what the
 * processor can do without a graph, without Python, and with all sizes known. One sentence: rows of
 * the table, an LSTM, the scores of all words as one product, softmax with its loss and gradient in
 * place, backward, the norm for clipping, Adam. Products are those of csrc/kernels/matrix.c, which
 * takes BLAS where that is faster; all else is here. language_model.py compiles and runs it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "kernels/kernels.h"
#include "kernels/math.h"

enum { V = 10000, E = 128, H = 256, G = 4 * H, MOST = 64 /* words of a sentence */ };
enum { PANEL = 8 }; /* columns: stays in L2 */
enum { PRODUCTS, RECURRENT, SOFTMAX, OPTIMISER, ROWS, PARTS };
static const float CLIP = 5, B1 = 0.9f, B2 = 0.999f, EPS = 1e-8f, RATE = 1e-3f;

/* dense parameters, and what stands beside them */
enum { WX = 0, WH = WX + G * E, BG = WH + G * H, BV = BG + G, W = BV + V, DENSE = W + V * H };
static float *p, *g, *m, *v;
static float *table, *table_m, *table_v, *dtable;
static int where[V]; /* a word's row in dtable, plus 1 */
static float *x, *gates, *c, *tanh_c, *h, *dh, *dgates, *dx, *scores, *panel;
static int64_t updates;
static double seconds[PARTS], last;
static int fused; /* Adam takes the gradient of the output layer panel by panel */

static float *numbers(size_t n) {
    const size_t bytes = (n * sizeof(float) + (1 << 21) - 1) >> 21 << 21;
    float *a = aligned_alloc(1 << 21, bytes);
    if (!a) abort();
    madvise(a, bytes, MADV_HUGEPAGE);
    memset(a, 0, bytes);
    return a;
}

static void part(int k) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    const double now = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    if (k >= 0) seconds[k] += now - last;
    last = now;
}

void begin(void *gemm, void *gemv, int stored, const float *embedding, const float *wx,
           const float *wh, const float *w) {
    dn__set_blas(gemm, gemv);
    fused = !stored;
    p = numbers(DENSE), g = numbers(DENSE), m = numbers(DENSE), v = numbers(DENSE);
    table = numbers(V * E), table_m = numbers(V * E), table_v = numbers(V * E);
    dtable = numbers(MOST * E);
    x = numbers(MOST * E), gates = numbers(MOST * G), c = numbers((MOST + 1) * H);
    tanh_c = numbers(MOST * H), h = numbers((MOST + 1) * H), dh = numbers((MOST + 1) * H);
    dgates = numbers(MOST * G), dx = numbers(MOST * E), scores = numbers(MOST * V);
    panel = numbers(PANEL * V);
    memcpy(table, embedding, V * E * sizeof *p);
    memcpy(p + WX, wx, G * E * sizeof *p);
    memcpy(p + WH, wh, G * H * sizeof *p);
    memcpy(p + W, w, V * H * sizeof *p);
}

void parts(double *to) { memcpy(to, seconds, sizeof seconds); }

static void cell(float *gate, const float *before, float *now, float *t, float *out) {
    float *i = gate, *f = i + H, *o = f + H, *u = o + H;
    DN_SIMD for (int j = 0; j < H; j++) {
        i[j] = dn__logistic_of(i[j]);
        f[j] = dn__logistic_of(f[j] + 1);
        o[j] = dn__logistic_of(o[j]);
        u[j] = dn__tanh_of(u[j]);
        now[j] = f[j] * before[j] + i[j] * u[j];
        t[j] = dn__tanh_of(now[j]);
        out[j] = o[j] * t[j];
    }
}

static void cell_back(const float *gate, const float *before, const float *t, const float *dout,
                      float *dc, float *dgate) {
    const float *i = gate, *f = i + H, *o = f + H, *u = o + H;
    DN_SIMD for (int j = 0; j < H; j++) {
        const float d = dc[j] + dout[j] * o[j] * (1 - t[j] * t[j]);
        dgate[j] = d * u[j] * i[j] * (1 - i[j]);
        dgate[H + j] = d * before[j] * f[j] * (1 - f[j]);
        dgate[2 * H + j] = dout[j] * t[j] * o[j] * (1 - o[j]);
        dgate[3 * H + j] = d * i[j] * (1 - u[j] * u[j]);
        dc[j] = d * f[j];
    }
}

/* The loss of a word; its scores become their gradient. */
static double softmax(float *s, int word) {
    float most = -INFINITY, sum = 0;
    const double own = s[word];
#pragma omp simd reduction(max : most)
    for (int i = 0; i < V; i++) most = s[i] > most ? s[i] : most;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < V; i++) sum += s[i] = dn__exp_of(s[i] - most);
    const float scale = 1 / sum;
    DN_SIMD for (int i = 0; i < V; i++)
        s[i] *= scale;
    s[word] -= 1;
    return most + log(sum) - own;
}

static double squares(size_t n, const float *a) {
    double all = 0;
    for (size_t from = 0; from < n; from += 4096) {
        const size_t to = from + 4096 < n ? from + 4096 : n;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t i = from; i < to; i++) sum += a[i] * a[i];
        all += sum;
    }
    return all;
}

static void adam(size_t n, float rate, float scale, float *w, const float *dw, float *mw,
                 float *vw) {
    DN_SIMD for (size_t i = 0; i < n; i++) {
        const float d = scale * dw[i];
        mw[i] = B1 * mw[i] + (1 - B1) * d;
        vw[i] = B2 * vw[i] + (1 - B2) * d * d;
        w[i] -= rate * mw[i] / (sqrtf(vw[i]) + EPS);
    }
}

/* |dy h'|^2 = sum of (dy' dy) * (h' h): two small products instead of a pass over the matrix. */
static double squares_of_product(int n) {
    static float a[MOST * MOST], b[MOST * MOST];
    double sum = 0;
    dn__mm_dx(V, n, n, scores, V, scores, V, 0, a, n);
    dn__mm_dx(H, n, n, h + H, H, h + H, H, 0, b, n);
    for (int i = 0; i < n * n; i++) sum += (double)a[i] * b[i];
    return sum;
}

/* n words, the first of which follows `start`; returns the sum of their losses. */
double step(int n, int start, const int *words) {
    double loss = 0, norm = 0;
    float dc[H] = {0};
    int rows[MOST], n_rows = 0;
    part(-1);
    for (int t = 0; t < n; t++)
        memcpy(x + t * E, table + (size_t)(t ? words[t - 1] : start) * E, E * sizeof *x);
    part(ROWS);
    for (int t = 0; t < n; t++) memcpy(gates + t * G, p + BG, G * sizeof *x);
    dn__mm(G, E, n, p + WX, G, x, E, 1, gates, G);
    part(PRODUCTS);
    for (int t = 0; t < n; t++) {
        if (t) dn__mm(G, H, 1, p + WH, G, h + t * H, H, 1, gates + t * G, G);
        cell(gates + t * G, c + t * H, c + (t + 1) * H, tanh_c + t * H, h + (t + 1) * H);
    }
    part(RECURRENT);
    for (int t = 0; t < n; t++) memcpy(scores + (size_t)t * V, p + BV, V * sizeof *x);
    dn__mm(V, H, n, p + W, V, h + H, H, 1, scores, V);
    part(PRODUCTS);
    for (int t = 0; t < n; t++) loss += softmax(scores + (size_t)t * V, words[t]);
    dn__sum_columns(V, n, scores, 0, g + BV);
    part(SOFTMAX);
    dn__mm_dx(V, H, n, p + W, V, scores, V, 0, dh, H);
    if (!fused) dn__mm_dw(V, H, n, scores, V, h + H, H, 0, g + W, V);
    part(PRODUCTS);
    for (int t = n - 1; t >= 0; t--) {
        cell_back(gates + t * G, c + t * H, tanh_c + t * H, dh + t * H, dc, dgates + t * G);
        if (t) dn__mm_dx(G, H, 1, p + WH, G, dgates + t * G, G, 1, dh + (t - 1) * H, H);
    }
    part(RECURRENT);
    dn__mm_dw(G, E, n, dgates, G, x, E, 0, g + WX, G);
    dn__mm_dw(G, H, n, dgates, G, h, H, 0, g + WH, G);
    dn__sum_columns(G, n, dgates, 0, g + BG);
    dn__mm_dx(G, E, n, p + WX, G, dgates, G, 0, dx, E);
    part(PRODUCTS);
    for (int t = 0; t < n; t++) {
        const int word = t ? words[t - 1] : start;
        const float *from = dx + t * E;
        if (!where[word]) {
            rows[n_rows] = word;
            where[word] = ++n_rows;
            memcpy(dtable + (n_rows - 1) * E, from, E * sizeof *x);
            continue;
        }
        float *to = dtable + (where[word] - 1) * E;
        for (int j = 0; j < E; j++) to[j] += from[j];
    }
    norm = squares(n_rows * E, dtable);
    part(ROWS);
    norm += squares(fused ? W : DENSE, g) + (fused ? squares_of_product(n) : 0);
    norm = sqrt(norm);
    const float scale = norm > CLIP ? (float)(CLIP / norm) : 1;
    updates++;
    const float rate =
        (float)(RATE * sqrt(1 - pow(B2, (double)updates)) / (1 - pow(B1, (double)updates)));
    adam(fused ? W : DENSE, rate, scale, p, g, m, v);
    for (int j = 0; fused && j < H; j += PANEL) {
        const size_t at = W + (size_t)j * V;
        part(OPTIMISER);
        dn__mm_dw(V, PANEL, n, scores, V, h + H + j, H, 0, panel, V);
        part(PRODUCTS);
        adam(PANEL * V, rate, scale, p + at, panel, m + at, v + at);
    }
    part(OPTIMISER);
    for (int i = 0; i < n_rows; i++) {
        const size_t at = (size_t)rows[i] * E;
        adam(E, rate, scale, table + at, dtable + i * E, table_m + at, table_v + at);
        where[rows[i]] = 0;
    }
    part(ROWS);
    return loss;
}
