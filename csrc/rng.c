/* Random numbers: see rng.h. */
#include "rng.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "dn_real.h"
#include "unfused.h"

/* ---- mt19937 -------------------------------------------------------------------------- */
enum { MT_N = 624, MT_M = 397 };

struct dn_rng {
    uint32_t state[MT_N];
    uint32_t position; /* of the next word; MT_N: the state must be renewed first */
    pthread_mutex_t lock;
};

static void lock(const dn_rng *rng) { pthread_mutex_lock((pthread_mutex_t *)&rng->lock); }
static void unlock(const dn_rng *rng) { pthread_mutex_unlock((pthread_mutex_t *)&rng->lock); }

void dn_rng_seed(dn_rng *rng, uint32_t seed) {
    uint32_t *x = rng->state;
    lock(rng);
    x[0] = seed;
    for (uint32_t i = 1; i < MT_N; i++) x[i] = 1812433253u * (x[i - 1] ^ x[i - 1] >> 30) + i;
    rng->position = MT_N;
    unlock(rng);
}

void dn_rng_forked(dn_rng *rng) { pthread_mutex_init(&rng->lock, NULL); }

dn_rng *dn_rng_new(uint32_t seed) {
    dn_rng *rng = malloc(sizeof *rng);
    if (!rng) return NULL;
    pthread_mutex_init(&rng->lock, NULL);
    dn_rng_seed(rng, seed);
    return rng;
}

void dn_rng_free(dn_rng *rng) {
    if (rng) pthread_mutex_destroy(&rng->lock);
    free(rng);
}

static inline uint32_t mt_twist(uint32_t far, uint32_t here, uint32_t next) {
    uint32_t y = (here & 0x80000000u) | (next & 0x7fffffffu);
    return far ^ y >> 1 ^ (-(y & 1) & 0x9908b0dfu);
}

static void mt_renew(dn_rng *rng) {
    uint32_t *x = rng->state;
    int i = 0;
    for (; i < MT_N - MT_M; i++) x[i] = mt_twist(x[i + MT_M], x[i], x[i + 1]);
    for (; i < MT_N - 1; i++) x[i] = mt_twist(x[i + MT_M - MT_N], x[i], x[i + 1]);
    x[MT_N - 1] = mt_twist(x[MT_M - 1], x[MT_N - 1], x[0]);
    rng->position = 0;
}

static inline uint32_t mt_tempered(uint32_t y) {
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

static inline uint32_t mt_next(dn_rng *rng) {
    if (rng->position == MT_N) mt_renew(rng);
    return mt_tempered(rng->state[rng->position++]);
}

/* Words are made and turned into draws many at a time, by loops that become vector instructions and
 * have no branches: those of a Bernoulli draw are taken at random. */
enum { WORDS = 512 };

DN_MULTIVERSION static void temper(size_t n, const uint32_t *state, uint32_t *words) {
    for (size_t i = 0; i < n; i++) words[i] = mt_tempered(state[i]);
}

/* the next n words */
static void mt_words(dn_rng *rng, size_t n, uint32_t *words) {
    for (size_t count; n; n -= count, words += count) {
        if (rng->position == MT_N) mt_renew(rng);
        count = MT_N - rng->position;
        if (count > n) count = n;
        temper(count, rng->state + rng->position, words);
        rng->position += (uint32_t)count;
    }
}

void dn_rng_get_state(const dn_rng *rng, uint32_t *state) {
    lock(rng);
    memcpy(state, rng->state, sizeof rng->state);
    state[MT_N] = rng->position;
    unlock(rng);
}

int dn_rng_set_state(dn_rng *rng, const uint32_t *state) {
    /* From this state only zeros follow, and dn_rng_normal would wait for another number for
     * ever. */
    uint32_t any = state[0] & 0x80000000u;
    for (int i = 1; i < MT_N; i++) any |= state[i];
    if (!any || state[MT_N] > MT_N) return -1;
    lock(rng);
    memcpy(rng->state, state, sizeof rng->state);
    rng->position = state[MT_N];
    unlock(rng);
    return 0;
}

/* std::generate_canonical<float, 24>(mt19937), in [0, 1) */
static inline float canonical(uint32_t word) {
    float u = (float)word * 0x1p-32f;
    return u < 1.0f ? u : 1.0f - 0x1p-24f;
}
static inline float mt_canonical(dn_rng *rng) { return canonical(mt_next(rng)); }

DN_MULTIVERSION static void all_canonical(size_t n, const uint32_t *words, float *out) {
    for (size_t i = 0; i < n; i++) out[i] = canonical(words[i]);
}

/* the next n numbers in [0, 1) */
static void mt_canonicals(dn_rng *rng, size_t n, float *out) {
    uint32_t words[WORDS];
    for (size_t count; n; n -= count, out += count) {
        count = n < WORDS ? n : WORDS;
        mt_words(rng, count, words);
        all_canonical(count, words, out);
    }
}

/* out = out a + b, rounded once. A pass of its own, since fmaf is a slow call where the instruction
 * set is the oldest one. */
DN_MULTIVERSION static void scale_shift(size_t n, float a, float b, float *out) {
    for (size_t i = 0; i < n; i++) out[i] = fmaf(out[i], a, b);
}

void dn_rng_uniform(dn_rng *rng, size_t n, float lo, float hi, float *out) {
    lock(rng);
    mt_canonicals(rng, n, out);
    unlock(rng);
    scale_shift(n, hi - lo, lo, out);
}

void dn_rng_normal(dn_rng *rng, size_t n, float mean, float std, float *out) {
    lock(rng);
    for (size_t i = 0; i < n; i += 2) {
        float x, y, r2;
        do {
            x = 2.0f * mt_canonical(rng) - 1.0f;
            y = 2.0f * mt_canonical(rng) - 1.0f;
            r2 = fmaf(y, y, x * x);
        } while (r2 > 1.0f || r2 == 0.0f);
        float factor = sqrtf(-2.0f * logf(r2) / r2);
        out[i] = y * factor;
        if (i + 1 < n) out[i + 1] = x * factor;
    }
    unlock(rng);
    scale_shift(n, std, mean, out);
}

/* exact; the conversion of signed numbers is one instruction */
static inline double as_double(uint32_t word) {
    return (double)(int32_t)(word ^ 0x80000000u) + 0x1p31;
}

DN_MULTIVERSION static void bernoulli(size_t n, const uint32_t *words, double p, float scale,
                                      float *out) {
    for (size_t i = 0; i < n; i++) {
        double u = (as_double(words[2 * i]) + as_double(words[2 * i + 1]) * 0x1p32) * 0x1p-64;
        u = u < 1.0 ? u : 1.0 - 0x1p-53;
        out[i] = u < p ? scale : 0.0f;
    }
}

void dn_rng_bernoulli(dn_rng *rng, size_t n, float p, float scale, float *out) {
    uint32_t words[WORDS];
    lock(rng);
    for (size_t count; n; n -= count, out += count) {
        count = n < WORDS / 2 ? n : WORDS / 2;
        mt_words(rng, 2 * count, words);
        bernoulli(count, words, p, scale, out);
    }
    unlock(rng);
}

/* ---- Philox4x32-10 -------------------------------------------------------------------- */
/* The words stand in the low halves of 64 bits; what stands above them does not matter. So the
 * product of 32-bit words is one multiplication, and its low half needs no masking. The multipliers
 * are arguments to keep them from the compiler, which would else replace multiplications by shifts
 * and additions (AVX2: 1.9 ns a word instead of 1.5). */
static inline __attribute__((always_inline)) void philox_rounds(uint64_t c[4], uint64_t key,
                                                                uint64_t m0, uint64_t m1) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (c[0] & 0xffffffffu) * m0, p1 = (c[2] & 0xffffffffu) * m1;
        c[0] = p1 >> 32 ^ c[1] ^ k0;
        c[1] = p1;
        c[2] = p0 >> 32 ^ c[3] ^ k1;
        c[3] = p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}

static inline uint64_t hidden(uint64_t x) {
    __asm__("" : "+r"(x));
    return x;
}

static const uint64_t MULTIPLIER_0 = 0xd2511f53u, MULTIPLIER_1 = 0xcd9e8d57u;

/* ---- draws ---------------------------------------------------------------------------- */
/* Elements lie in groups, of LANES blocks each, that are computed whole: so no bits depend on where
 * a call starts or ends. */
enum { LANES = 16, GROUP = 4 * LANES, MASK_GROUP = 8 * LANES };

/* finaliser of splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
 * OOPSLA 2014 */
static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t draw_key(const dn_rng_key *draw) {
    const uint64_t golden = 0x9e3779b97f4a7c15u;
    return mix((mix(draw->seed + golden) ^ draw->stream) + golden);
}

/* words[w][lane] = word w of the block first_block + lane */
static inline __attribute__((always_inline)) void
draw_words(const dn_rng_key *draw, uint64_t key, uint32_t first_block, uint32_t words[4][LANES]) {
    uint32_t node = draw->node, counter_low = (uint32_t)draw->counter,
             counter_high = (uint32_t)(draw->counter >> 32);
    uint64_t m0 = hidden(MULTIPLIER_0), m1 = hidden(MULTIPLIER_1);
    for (int lane = 0; lane < LANES; lane++) {
        uint64_t c[4] = {first_block + (uint32_t)lane, node, counter_low, counter_high};
        philox_rounds(c, key, m0, m1);
        for (int w = 0; w < 4; w++) words[w][lane] = (uint32_t)c[w];
    }
}

/* how many of the elements first..end-1 lie in the group of first */
static inline size_t in_group(size_t group, size_t first, size_t end) {
    size_t left = group - first % group;
    return left < end - first ? left : end - first;
}

/* log v for v > 0 that is not denormal, to 1 ulp: v = m 2^e with m in [0.70, 1.41), the polynomial
 * of Cephes' logf in m - 1 */
static inline __attribute__((always_inline)) float log_positive(float v) {
    int32_t bits;
    memcpy(&bits, &v, sizeof bits);
    int32_t e = (bits - 0x3f3504f3) >> 23; /* 0x3f3504f3: sqrt(1/2) */
    bits -= e * (1 << 23);
    float m;
    memcpy(&m, &bits, sizeof m);
    float x = m - 1.0f, z = x * x, p = 7.0376836292e-2f;
    p = p * x - 1.1514610310e-1f;
    p = p * x + 1.1676998740e-1f;
    p = p * x - 1.2420140846e-1f;
    p = p * x + 1.4249322787e-1f;
    p = p * x - 1.6668057665e-1f;
    p = p * x + 2.0000714765e-1f;
    p = p * x - 2.4999993993e-1f;
    p = p * x + 3.3333331174e-1f;
    float k = (float)e;
    return (x + (x * z * p + k * -2.12194440e-4f - 0.5f * z)) + k * 0.693359375f;
}

DN_MULTIVERSION static void gumbel(size_t n, float *out) {
    for (size_t i = 0; i < n; i++) {
        float u = out[i] < 1e-20f ? 1e-20f : out[i];
        out[i] = -log_positive(-log_positive(u));
    }
}

void dn_rng_gumbel(dn_rng *rng, size_t n, float *out) {
    lock(rng);
    mt_canonicals(rng, n, out);
    unlock(rng);
    gumbel(n, out);
}

/* (cos, sin) of 2 pi w / 2^32: the nearest quarter turn q, and the Cephes polynomials in the rest
 * |a| <= pi/4 */
static inline __attribute__((always_inline)) void cos_sin_turn(uint32_t w, float *cos_out,
                                                               float *sin_out) {
    uint32_t q = (w + 0x20000000u) >> 30;
    float a = (float)(int32_t)(w - (q << 30)) * 1.46291807926716e-9f; /* 2 pi / 2^32 */
    float z = a * a;
    float s = a + a * z * (-1.6666654611e-1f + z * (8.3321608736e-3f + z * -1.9515295891e-4f));
    float c =
        1.0f - 0.5f * z +
        z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
    float cos_size = q & 1 ? s : c, sin_size = q & 1 ? c : s;
    *cos_out = (q + 1) & 2 ? -cos_size : cos_size;
    *sin_out = q & 2 ? -sin_size : sin_size;
}

/* In the three loops below a whole group is written to out, a part by way of `part`. The pragmas
 * keep GCC 12 from unrolling the lanes and vectorising over w instead. */

DN_MULTIVERSION void dn_draw_uniform(const dn_rng_key *draw, size_t first, size_t n, float *out) {
    uint64_t key = draw_key(draw);
    for (size_t end = first + n, count; first < end; first += count, out += count) {
        uint32_t words[4][LANES];
        float part[GROUP], *to;
        count = in_group(GROUP, first, end);
        to = count == GROUP ? out : part;
        draw_words(draw, key, (uint32_t)(first / GROUP * LANES), words);
        for (int w = 0; w < 4; w++)
#pragma omp simd
            for (int lane = 0; lane < LANES; lane++)
                to[w * LANES + lane] = (float)(int32_t)(words[w][lane] >> 8) * 0x1p-24f;
        if (to == part) memcpy(out, part + first % GROUP, count * sizeof *out);
    }
}

DN_MULTIVERSION void dn_draw_normal(const dn_rng_key *draw, size_t first, size_t n, float *out) {
    uint64_t key = draw_key(draw);
    for (size_t end = first + n, count; first < end; first += count, out += count) {
        uint32_t words[4][LANES];
        float part[GROUP], *to;
        count = in_group(GROUP, first, end);
        to = count == GROUP ? out : part;
        draw_words(draw, key, (uint32_t)(first / GROUP * LANES), words);
        for (int w = 0; w < 4; w += 2)
#pragma omp simd
            for (int lane = 0; lane < LANES; lane++) {
                float v = ((float)(int32_t)(words[w][lane] >> 1) + 1.0f) * 0x1p-31f, c, s;
                float r = sqrtf(-2.0f * log_positive(v));
                cos_sin_turn(words[w + 1][lane], &c, &s);
                to[w * LANES + lane] = r * c;
                to[(w + 1) * LANES + lane] = r * s;
            }
        if (to == part) memcpy(out, part + first % GROUP, count * sizeof *out);
    }
}

/* limit = keep_probability 2^32, from 1 to 2^32. An element's 32-bit number is compared by its high
 * half, which is half of a word; its low half is computed only where the high half ties. So 16
 * blocks give 128 elements. */
DN_MULTIVERSION static void draw_bernoulli_bits(const dn_rng_key *draw, size_t first, size_t n,
                                                uint64_t limit, float scale, float *out) {
    uint64_t key = draw_key(draw);
    int32_t limit_high = (int32_t)(limit >> 16), limit_low = (int32_t)(limit & 0xffffu);
    uint32_t both_limits = (uint32_t)(limit >> 16 & 0xffffu) * 0x00010001u;
    for (size_t end = first + n, count; first < end; first += count, out += count) {
        uint32_t block = (uint32_t)(first / MASK_GROUP * LANES), words[4][LANES], low[4][LANES],
                 ties = 0;
        float part[MASK_GROUP], *to;
        count = in_group(MASK_GROUP, first, end);
        to = count == MASK_GROUP ? out : part;
        draw_words(draw, key, block, words);
        for (int w = 0; w < 4; w++)
#pragma omp simd reduction(| : ties)
            for (int lane = 0; lane < LANES; lane++) {
                int32_t a = (int32_t)(words[w][lane] & 0xffffu),
                        b = (int32_t)(words[w][lane] >> 16);
                to[2 * w * LANES + lane] = a < limit_high ? scale : 0.0f;
                to[(2 * w + 1) * LANES + lane] = b < limit_high ? scale : 0.0f;
                /* has a half that is 0? Then the next line sets its top bit. */
                uint32_t x = words[w][lane] ^ both_limits;
                ties |= (x - 0x00010001u) & ~x;
            }
        if ((ties & 0x80008000u) && limit_low) { /* one group in 512 */
            draw_words(draw, key, block | 0x80000000u, low);
            for (int w = 0; w < 4; w++)
                for (int lane = 0; lane < LANES; lane++) {
                    int32_t a = (int32_t)(words[w][lane] & 0xffffu),
                            b = (int32_t)(words[w][lane] >> 16);
                    int32_t a_low = (int32_t)(low[w][lane] & 0xffffu),
                            b_low = (int32_t)(low[w][lane] >> 16);
                    if (a == limit_high)
                        to[2 * w * LANES + lane] = a_low < limit_low ? scale : 0.0f;
                    if (b == limit_high)
                        to[(2 * w + 1) * LANES + lane] = b_low < limit_low ? scale : 0.0f;
                }
        }
        if (to == part) memcpy(out, part + first % MASK_GROUP, count * sizeof *out);
    }
}

void dn_draw_bernoulli_mask(const dn_rng_key *draw, size_t first, size_t n, float keep_probability,
                            float scale, float *out) {
    double limit = keep_probability * 0x1p32;
    if (!(limit >= 0.5))
        for (size_t i = 0; i < n; i++) out[i] = 0.0f;
    else
        draw_bernoulli_bits(draw, first, n,
                            limit < 0x1p32 ? (uint64_t)(limit + 0.5) : (uint64_t)1 << 32, scale,
                            out);
}
