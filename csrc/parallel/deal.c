/* Who works on what: the dearest first, each to the part with the least load. Of equal loads the
 * part with fewer items comes first, then the one with the lower number.
 *
 * In general by a tournament over the parts: each inner node keeps the loser of the last match
 * there, so that an item costs one match a level, on the way from the part that has just got it.
 * Load, items and number are one number, so that a match is one comparison without a branch. Where
 * costs are small integers parts wait in lists by their load instead: an item costs one look
 * at the list of the least load. */
#include <stdlib.h>
#include <string.h>

#include "dn_api.h"

#define DEAL(NAME, KEY, COST, PLACE, FIRST_KEY, NEXT_KEY, PART_OF) \
    static int NAME(int64_t n, const COST *costs, const PLACE *order, int parts, int32_t *out) { \
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
DEAL(deal_short, uint64_t, uint16_t, uint16_t, SHORT_FIRST, SHORT_NEXT, SHORT_PART)

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
DEAL(deal_wide, wide, double, int64_t, WIDE_FIRST, WIDE_NEXT, WIDE_PART)

/* ---- by lists of loads ---------------------------------------------------------------- */

enum { LOADS = 1 << 10, NOBODY = UINT16_MAX };

typedef struct { uint16_t first, last; } waiting;

/* Rising runs become one; the sorted numbers are in a, or in room. */
static uint32_t *sorted(uint32_t *a, uint32_t *room, int n) {
    for (int runs = 2; runs > 1;) {
        runs = 0;
        for (int start = 0; start < n; runs++) {
            int middle = start + 1, end, i = start, to = start;
            while (middle < n && a[middle - 1] < a[middle]) middle++;
            if (!start && middle == n) return a;
            for (end = middle + (middle < n); end < n && a[end - 1] < a[end];) end++;
            for (int j = middle; to < end; to++)
                room[to] = j == end || (i < middle && a[i] < a[j]) ? a[i++] : a[j++];
            start = end;
        }
        uint32_t *const other = a;
        a = room;
        room = other;
    }
    return a;
}

/* Costs are from 1 to less than LOADS: then none of the parts in reach of the least load has the
 * place of another load. */
static int deal_by_load(int64_t n, const uint16_t *costs, const uint16_t *order, int parts,
                        int32_t *out) {
    waiting *lists = malloc(LOADS * sizeof *lists);
    uint16_t *next = malloc((size_t)parts * sizeof *next);
    uint32_t *items = calloc((size_t)parts, sizeof *items);
    uint32_t *now = malloc(2 * (size_t)parts * sizeof *now);
    const int error = lists && next && items && now ? 0 : DN_ERROR_MEMORY;
    for (int k = 0; k < LOADS && !error; k++) lists[k].first = NOBODY;
    for (int p = 0; p < parts && !error; p++) now[p] = (uint32_t)p;
    int count = parts;
    for (int64_t i = 0, load = 0; i < n && !error;) {
        const uint32_t *first = sorted(now, now + parts, count);
        for (int k = 0; k < count && i < n; k++, i++) {
            const uint16_t part = (uint16_t)(first[k] & UINT16_MAX), item = order[i];
            waiting *list = lists + (load + costs[item]) % LOADS;
            out[item] = part;
            items[part]++;
            next[part] = NOBODY;
            if (list->first == NOBODY) list->first = part;
            else next[list->last] = part;
            list->last = part;
        }
        for (count = 0; i < n && !count;) {
            waiting *list = lists + ++load % LOADS;
            for (uint16_t p = list->first; p != NOBODY; p = next[p])
                now[count++] = items[p] << 16 | p;
            list->first = NOBODY;
        }
    }
    free(lists);
    free(next);
    free(items);
    free(now);
    return error;
}

int dn_deal_short(int64_t n, const uint16_t *costs, int parts, int32_t *out) {
    if (n > UINT16_MAX || parts > UINT16_MAX || parts < 1) return DN_ERROR_VALUE;
    int least = n ? UINT16_MAX : 0, most = 0;
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        total += costs[i];
        if (costs[i] < least) least = costs[i];
        if (costs[i] > most) most = costs[i];
    }
    uint16_t *order = malloc((size_t)n * sizeof *order + 1);
    const int costs_between = most > least ? most - least : 0;
    int32_t *at = calloc((size_t)costs_between + 1, sizeof *at);
    const int error = order && at ? 0 : DN_ERROR_MEMORY;
    if (!error) {
        for (int64_t i = 0; i < n; i++) at[costs[i] - least]++;
        for (int cost = costs_between, before = 0; cost >= 0; cost--) {
            const int these = at[cost];
            at[cost] = before;
            before += these;
        }
        for (int64_t i = 0; i < n; i++) order[at[costs[i] - least]++] = (uint16_t)i;
    }
    /* loads that no part has are looked at, too */
    const int by_load = least && most < LOADS && total / parts < 2 * n;
    const int outcome =
        error ? error : (by_load ? deal_by_load : deal_short)(n, costs, order, parts, out);
    free(order);
    free(at);
    return outcome;
}

int dn_deal(int64_t n, const double *costs, const int64_t *order, int parts, int32_t *out) {
    return parts < 1 ? DN_ERROR_VALUE : deal_wide(n, costs, order, parts, out);
}
