/* Who works on what: the dearest first, each to the part with the least load.
 *
 * A tournament over the parts: each inner node keeps the loser of the last match there, so that an
 * item costs one match a level, on the way from the part that has just got it. Of equal loads the
 * part with fewer items comes first, then the one with the lower number. All three are one number,
 * so that a match is one comparison without a branch. */
#include <stdlib.h>
#include <string.h>

#include "params/params.h"

#define DEAL(NAME, KEY, COST, FIRST_KEY, NEXT_KEY, PART_OF) \
    static int NAME(int64_t n, const COST *costs, const int64_t *order, int parts, int32_t *out) { \
        const size_t many = (size_t)parts; \
        KEY *lost = malloc(many * sizeof *lost), *won = malloc(2 * many * sizeof *won); \
        double *loads = calloc(many, sizeof *loads); \
        const int error = lost && won && loads ? 0 : DN_ERROR_MEMORY; \
        if (!error) { \
            for (int p = 0; p < parts; p++) won[parts + p] = FIRST_KEY(p); \
            for (int k = parts - 1; k > 0; k--) { \
                const int right = won[2 * k + 1] < won[2 * k]; \
                won[k] = won[2 * k + right]; \
                lost[k] = won[2 * k + !right]; \
            } \
            KEY key = won[1]; \
            for (int64_t i = 0; i < n; i++) { \
                const uint32_t part = PART_OF(key); \
                out[order[i]] = (int32_t)part; \
                key = NEXT_KEY(key, part, costs[order[i]]); \
                for (uint32_t k = ((uint32_t)parts + part) / 2; k > 0; k /= 2) { \
                    const KEY other = lost[k], least = other < key ? other : key; \
                    lost[k] = other < key ? key : other; \
                    key = least; \
                } \
            } \
        } \
        free(lost); \
        free(won); \
        free(loads); \
        return error; \
    }

/* Whole costs below 2^16 of fewer than 2^16 items: 32 bits of load, 16 of how many, 16 of which. */
#define SHORT_FIRST(p) ((uint64_t)(p))
#define SHORT_PART(key) ((uint32_t)((key) & 0xffff))
#define SHORT_NEXT(key, part, cost) ((key) + ((uint64_t)(cost) << 32) + (1 << 16))
DEAL(deal_short, uint64_t, uint16_t, SHORT_FIRST, SHORT_NEXT, SHORT_PART)

/* 64 bits whose order is that of the numbers. */
static uint64_t ordered(double x) {
    const double positive_zero = x + 0.0;
    uint64_t bits;
    memcpy(&bits, &positive_zero, sizeof bits);
    return bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

typedef unsigned __int128 wide;
#define WIDE_FIRST(p) ((wide)ordered(0) << 64 | (wide)(p))
#define WIDE_PART(key) ((uint32_t)(key))
#define WIDE_NEXT(key, part, cost) \
    ((wide)ordered(loads[part] += (cost)) << 64 | (uint64_t)((key) + ((uint64_t)1 << 32)))
DEAL(deal_wide, wide, double, WIDE_FIRST, WIDE_NEXT, WIDE_PART)

int dn_deal_short(int64_t n, const uint16_t *costs, const int64_t *order, int parts, int32_t *out) {
    if (n > UINT16_MAX || parts > UINT16_MAX || parts < 1) return DN_ERROR_VALUE;
    return deal_short(n, costs, order, parts, out);
}

int dn_deal(int64_t n, const double *costs, const int64_t *order, int parts, int32_t *out) {
    return parts < 1 ? DN_ERROR_VALUE : deal_wide(n, costs, order, parts, out);
}
