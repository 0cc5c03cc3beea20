/* Random numbers: mt19937 with libstdc++'s distributions (initial parameters, and DyNet's order of
 * draws in the compatibility mode), and counter-based Philox draws (dropout, noise, sampling).
 *
 * All draws are float32 in both builds; the caller widens. No global state: a generator and a draw
 * key are arguments. The bits depend on IEEE arithmetic alone, not on compiler, instruction set or
 * C library, except those of dn_rng_normal, which calls the C library's logf. */
#pragma once

#ifndef DN_CDEF
#include <stddef.h>
#include <stdint.h>
#endif

/* ---- mt19937 ------------------------------------------------------------------------------
 * Matsumoto and Nishimura, "Mersenne Twister", ACM TOMACS 8 (1998), in the form of std::mt19937.
 * u denotes std::generate_canonical<float>: one word w gives (float)w / 2^32; if that rounds to 1,
 * then 1 - 2^-24. The fill functions do what DyNet does for one tensor: one new distribution
 * object, out[0..n-1] in storage order. They give the bits of the dyNET38 wheel, which was compiled
 * with fused multiply-adds, written fma below (libstdc++ compiled without them gives other last
 * bits). */
typedef struct dn_rng dn_rng; /* Its calls, each for itself, may come from several threads. */

enum { DN_RNG_STATE_WORDS = 625 }; /* 624 words of state, then the position in it (0..624) */

dn_rng *dn_rng_new(uint32_t seed); /* NULL: no memory */
void dn_rng_free(dn_rng *rng);     /* NULL is allowed */
void dn_rng_seed(dn_rng *rng, uint32_t seed);
/* In a forked child, before all other calls: the parent's other threads, one of which may have been
 * drawing, are not there. */
void dn_rng_forked(dn_rng *rng);
void dn_rng_get_state(const dn_rng *rng, uint32_t *state); /* state: uint32[DN_RNG_STATE_WORDS] */
/* Returns 0; or -1, leaving rng as it was, if the position is above 624 or the state is the one
 * that yields only zeros. */
int dn_rng_set_state(dn_rng *rng, const uint32_t *state);

/* out = fma(u, hi - lo, lo): std::uniform_real_distribution<float>(lo, hi). In [lo, hi]: rounding
 * can reach hi. */
void dn_rng_uniform(dn_rng *rng, size_t n, float lo, float hi, float *out);
/* out = fma(z, std, mean): std::normal_distribution<float>(mean, std), Marsaglia's polar method. x
 * = 2u - 1, then y = 2u - 1, until 0 < r2 = fma(y, y, x x) <= 1; f = sqrt(-2 log(r2) / r2); z = y
 * f, then x f (dropped where n is odd). */
void dn_rng_normal(dn_rng *rng, size_t n, float mean, float std, float *out);
/* out = scale with probability p, else 0: std::bernoulli_distribution(p). Two words a draw:
 * (w0 + w1 2^32) / 2^64 < p in double. */
void dn_rng_bernoulli(dn_rng *rng, size_t n, float p, float scale, float *out);
/* out = -log(-log(max(u, 1e-20))): DyNet's random_gumbel, to 3e-7 of the larger of 1 and |out|
 * (DyNet's vector log is another). */
void dn_rng_gumbel(dn_rng *rng, size_t n, float *out);

/* ---- Philox4x32-10 ------------------------------------------------------------------------
 * Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */

/* What a draw depends on, beside the element's index. */
typedef struct dn_rng_key {
    uint64_t seed;    /* of reset_random_seed */
    uint64_t stream;  /* rank, thread or micro-batch */
    uint64_t counter; /* rises at every renew_cg and recalculation */
    uint32_t node;    /* index of the node in its graph */
} dn_rng_key;

/* Each fills out[0..n-1] with the draws of the elements first..first+n-1. A draw is a function of
 * (key, element) alone: any splitting of a range into calls gives the same bits. Elements are
 * numbered below 2^34 (then they repeat).
 *
 * Packing. Block b has the counter words b, node, counter (low, high). The key is the 64 bits (low,
 * high) mix((mix(seed + g) ^ stream) + g), with splitmix64's finaliser mix and g =
 * 0x9e3779b97f4a7c15; under one seed, no two streams share a key. Element i takes word (i / 16) % 4
 * of block i / 64 * 16 + i % 16 (called w below), so that 16 blocks computed side by side give 64
 * elements in order. Masks: see dn_draw_bernoulli_mask. */

/* out = (w >> 8) / 2^24, in [0, 1) */
void dn_draw_uniform(const dn_rng_key *draw, size_t first, size_t n, float *out);
/* Standard normal, by Box and Muller (1958): of the words w0, w1 (and likewise w2, w3) of a block,
 * r = sqrt(-2 log v), v = ((w0 >> 1) + 1) / 2^31 in (0, 1], t = 2 pi w1 / 2^32; the elements of w0
 * and w1 are r cos t and r sin t, within 2e-6. |out| < 6.56. */
void dn_draw_normal(const dn_rng_key *draw, size_t first, size_t n, float *out);
/* out = scale where x < keep_probability 2^32 (rounded), else 0. Below 0 counts as 0, above 1 as 1,
 * nan as 0. x has 32 bits: for element i, k = i / 16 % 8, half k % 2 (0: low) of word k / 2 of
 * block b = i / 128 * 16 + i % 16 gives the high 16, the same half of block b + 2^31 the low 16. */
void dn_draw_bernoulli_mask(const dn_rng_key *draw, size_t first, size_t n, float keep_probability,
                            float scale, float *out);
