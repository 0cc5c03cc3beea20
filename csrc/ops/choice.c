/* Choices of entries along one dim: the largest, or drawn at random. Both keep the indices as
 * integers in `saved` (dn_saved_indices). */
#include <math.h>

#include "kernels/kernels.h"
#include "rng.h"
#include "along_axis.h"

/* The dims of x with dim ints[0] replaced by ints[1]; indices of as many elements are kept. */
static int chosen_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int d[DN_MAX_DIMS] = {1}, error = dn__check_dim(s, s->ints[0]);
    if (error) return error;
    for (int i = 0; i < x->nd; i++) d[i] = x->d[i];
    d[s->ints[0]] = s->ints[1];
    error = dn__set_dims(s, x->nd ? x->nd : 1, d, x->batch);
    s->saved = error ? 0 : dn__elements(&s->y);
    return error;
}
static int size_along(const dn_shape *s) { return dn__size_at(s->x[0], s->ints[0]); }
static int *indices_of(const dn_call *c) { return (int *)c->saved; }

/* ---- topk, kmax_pooling --------------------------------------------------------------- */

/* x at i comes after x at j: less, or equal and later; nan comes first */
static int comes_after(const dn_real *x, int i, int j) {
    dn_real a = x[i], b = x[j];
    if (a < b || (a == a && b != b)) return 1;
    return !(a > b || (a != a && b == b)) && i > j;
}
/* Of a heap of indices whose root comes last, put `index` at the root and let it sink. */
static void sink(int *heap, int k, const dn_real *x, int index) {
    int at = 0;
    for (int child = 1; child < k; child = 2 * at + 1) {
        if (child + 1 < k && comes_after(x, heap[child + 1], heap[child])) child++;
        if (!comes_after(x, heap[child], index)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = index;
}
/* the k first of n in order */
static void k_first(int n, int k, const dn_real *x, int *heap) {
    int size = 0;
    for (; size < k; size++) { /* let it rise */
        int at = size;
        for (; at && comes_after(x, size, heap[(at - 1) / 2]); at = (at - 1) / 2)
            heap[at] = heap[(at - 1) / 2];
        heap[at] = size;
    }
    dn_real last = x[heap[0]];
    for (int i = k; i < n; i++) {
        if (x[i] <= last || !comes_after(x, heap[0], i)) continue; /* the first is quicker */
        sink(heap, k, x, i);
        last = x[heap[0]];
    }
    for (int left = k - 1; left > 0; left--) {
        const int root = heap[0];
        sink(heap, left, x, heap[left]);
        heap[left] = root;
    }
}

/* the same chosen, in the order that they have in x */
static void first_in_place(int n, int k, const dn_real *x, int *chosen) {
    k_first(n, k, x, chosen);
    const int last = chosen[k - 1];
    const dn_real least = x[last];
    for (int i = 0, found = 0; found < k; i++)
        if (!(x[i] < least) && !comes_after(x, i, last)) chosen[found++] = i;
}

static int greatest_dims(dn_shape *s) {
    int error = dn__check_dim(s, s->ints[0]);
    if (error) return error;
    if (s->ints[1] < 1 || s->ints[1] > size_along(s))
        return dn__fail(s, DN_ERROR_VALUE,
                        "k must be from 1 to %d, the size of dim %d of x = %s; got k = %d.",
                        size_along(s), s->ints[0], DIMS(s->x[0]), s->ints[1]);
    return chosen_dims(s);
}
static void greatest_forward(dn_call *c, void (*choose)(int, int, const dn_real *, int *)) {
    const dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    const size_t n = (size_t)l.length, most = vectors_at(&l, 0, VECTORS_AT_A_TIME);
    const int k = c->ints[1];
    int *chosen = indices_of(c), *best = dn__scratch_ints(c, (size_t)k);
    dn_real *copies = l.inner > 1 ? dn__scratch(c, n * most) : NULL;
    if (!best || (l.inner > 1 && !copies)) return;
    for (size_t o = 0; o < l.outer; o++)
        for (size_t i = 0, count; i < l.inner; i += count) {
            const dn_real *x = c->x[0].v + o * l.inner * n + i, *lines = copies ? copies : x;
            count = vectors_at(&l, i, VECTORS_AT_A_TIME);
            if (copies) read_vectors(&l, count, x, copies);
            for (size_t line = 0; line < count; line++, lines += n) {
                size_t at = o * l.inner * (size_t)k + i + line;
                choose(l.length, k, lines, best);
                for (int j = 0; j < k; j++, at += l.inner) {
                    chosen[at] = best[j];
                    c->y[at] = lines[best[j]];
                }
            }
        }
}
/* dx = dy at the chosen entries */
static void greatest_backward(dn_call *c) {
    dn_real *dx = dn__dx_zeroed(c, 0);
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    size_t block = l.inner * (size_t)c->ints[1];
    for (size_t at = 0; dx && at < c->total; at++)
        dx[at / block * l.inner * (size_t)l.length + (size_t)indices_of(c)[at] * l.inner +
           at % l.inner] += c->dy[at];
}

DN_OP(topk, 1, DN_BATCHES,
      "y = the k largest entries of x along dim d, the largest first; the earlier of equal ones")
static int topk_dims(dn_shape *s) { return greatest_dims(s); }
static void topk_forward(dn_call *c) { greatest_forward(c, k_first); }
static void topk_backward(dn_call *c) { greatest_backward(c); }

DN_OP(kmax_pooling, 1, DN_BATCHES,
      "y = the k largest entries of x along dim d, in the order that they have in x; the earlier "
      "of equal ones")
static int kmax_pooling_dims(dn_shape *s) { return greatest_dims(s); }
static void kmax_pooling_forward(dn_call *c) { greatest_forward(c, first_in_place); }
static void kmax_pooling_backward(dn_call *c) { greatest_backward(c); }

/* ---- sampling (Gumbel 1954): the largest of x_i + g_i falls on i with probability softmax(x)_i,
 * where the g_i are drawn from the standard Gumbel distribution */

DN_OP(sample_categorical, 1, DN_BATCHES | DN_NO_GRAD | DN_RANDOM,
      "y = n indices drawn with the probabilities softmax(x) along dim d")
static int sample_categorical_dims(dn_shape *s) {
    int error = dn__check_dim(s, s->ints[0]);
    if (error) return error;
    if (s->ints[1] < 1)
        return dn__fail(s, DN_ERROR_VALUE, "the number of samples must be positive; got n = %d.",
                        s->ints[1]);
    if (size_along(s) < 1)
        return dn__fail(s, DN_ERROR_VALUE, "there is nothing to draw from in dim %d of x = %s.",
                        s->ints[0], DIMS(s->x[0]));
    return chosen_dims(s);
}
static int largest_sum(size_t n, const dn_real *x, size_t step, const float *g, int best,
                       dn_real *best_sum) {
    int found = best;
    for (size_t i = 0; i < n; i++) {
        dn_real sum = x[i * step] + (dn_real)g[i];
        if (!(sum > *best_sum)) continue;
        *best_sum = sum;
        found = (int)i;
    }
    return found;
}
static void sample_categorical_forward(dn_call *c) {
    enum { BLOCK = 1024 };
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    dn_rng_key key;
    float g[BLOCK];
    dn__draw_key(c, &key);
    for (size_t at = 0; at < c->total; at++) {
        const dn_real *x = c->x[0].v +
                           at / (l.inner * (size_t)c->ints[1]) * l.inner * (size_t)l.length +
                           at % l.inner;
        dn_real best = -(dn_real)INFINITY;
        int index = 0;
        for (size_t i = 0; i < (size_t)l.length; i += BLOCK) {
            size_t n = (size_t)l.length - i < BLOCK ? (size_t)l.length - i : BLOCK;
            dn_draw_uniform(&key, at * (size_t)l.length + i, n, g);
            dn__gumbel(n, g);
            int found = largest_sum(n, x + i * l.inner, l.inner, g, -1, &best);
            if (found >= 0) index = (int)i + found;
        }
        indices_of(c)[at] = index;
        c->y[at] = (dn_real)index;
    }
}
static void sample_categorical_backward(dn_call *c) { (void)c; }
