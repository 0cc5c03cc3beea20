/* Products of bfloat16 numbers by AMX. Its instructions round to nearest even, take denormals for
 * zero and give none. Each sum of 32 products is rounded as two chains, of the even and of the odd
 * ones, which are added to one another and then to the sum so far. */
#include "bf16_ways.h"

#ifndef DN_DOUBLE
#if defined(__x86_64__) && defined(__linux__) && \
    (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#include <cpuid.h>
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ISA __attribute__((target("avx512f,prfchw,amx-tile,amx-bf16")))
#define INLINE ISA static inline __attribute__((always_inline))
/* the compiler does not know that tiles are read from memory */
#define WRITTEN() __asm__ volatile("" ::: "memory")

enum {
    ROW_BYTES = 64,
    GROUP_TILES = 512, /* of a, which stay in L2 while all columns pass over them */
    FETCHED = 2        /* lines of a tile of y that are fetched in each step */
};

/* Sizes of the tile registers. With up to 16 columns 0 to 3 are sums, 4 is of b, 5 to 7 are of a;
 * with more 0 and 1 are sums with 4, 2 and 3 with 5, which are of b, and 6 and 7 are of a. */
typedef struct palette {
    uint8_t number, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} palette;

ISA static void configure(int n) {
    palette p = {.number = 1};
    int first = dn_bf16_least(n, LINES), second = n > LINES ? dn_bf16_least(n - LINES, LINES) : n;
    uint8_t rows[8] = {(uint8_t)first, (uint8_t)first, (uint8_t)second, (uint8_t)second,
                       (uint8_t)first, LINES,          LINES,           LINES};
    if (n > LINES) rows[5] = (uint8_t)second;
    for (int i = 0; i < 8; i++) {
        p.bytes[i] = ROW_BYTES;
        p.rows[i] = rows[i];
    }
    WRITTEN();
    _tile_loadconfig(&p);
}

/* a tile of y: in place, or at its edge by way of `copy` */
typedef struct spot {
    float *y;
    size_t ld;
    int rows, columns; /* of y in it */
    int is_copy;
    float *copy;
} spot;

INLINE void open_spot(spot *s, float *y, size_t ldy, int rows, int columns, int tile_columns,
                      int add, float *copy) {
    s->rows = dn_bf16_least(rows, LINES);
    s->columns = dn_bf16_least(columns, LINES);
    s->is_copy = s->rows < LINES || s->columns < tile_columns;
    s->y = y;
    s->ld = ldy;
    s->copy = copy;
    if (s->is_copy && add) {
        memset(copy, 0, sizeof(float) * LINES * LINES);
        for (int c = 0; c < s->columns; c++)
            memcpy(copy + c * LINES, y + (size_t)c * ldy, sizeof(float) * (size_t)s->rows);
        WRITTEN();
    }
}
INLINE void close_spot(const spot *s) {
    if (!s->is_copy) return;
    for (int c = 0; c < s->columns; c++)
        memcpy(s->y + (size_t)c * s->ld, s->copy + c * LINES, sizeof(float) * (size_t)s->rows);
}
#define BEGIN(tile, s) \
    if (add) \
        _tile_loadd(tile, (s)->is_copy ? (s)->copy : (s)->y, \
                    (s)->is_copy ? ROW_BYTES : (long)((s)->ld * 4)); \
    else _tile_zero(tile)
#define END(tile, s) \
    _tile_stored(tile, (s)->is_copy ? (s)->copy : (s)->y, \
                 (s)->is_copy ? ROW_BYTES : (long)((s)->ld * 4)); \
    close_spot(s)

/* 2 x 2 tiles at most: the columns of one or two blocks of b, the rows of one or two of a */
INLINE void square(int two_b, int two_a, int tiles, const uint32_t *a, size_t a_step,
                   const uint32_t *b, size_t b_step, int add, spot *s) {
    BEGIN(0, s);
    if (two_a) { BEGIN(1, s + 1); }
    if (two_b) { BEGIN(2, s + 2); }
    if (two_a && two_b) { BEGIN(3, s + 3); }
    for (int t = 0; t < tiles; t++, a += TILE, b += TILE) {
        /* to be written when the sums are ready */
        if (two_a && two_b && t * FETCHED < LINES)
            for (int q = 0; q < 4; q++)
                for (int l = 0; l < FETCHED; l++)
                    __builtin_prefetch(s[q].y + (size_t)(t * FETCHED + l) * s[q].ld, 1, 3);
        _tile_loadd(4, b, ROW_BYTES);
        _tile_loadd(6, a, ROW_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        if (two_a) {
            _tile_loadd(7, a + a_step, ROW_BYTES);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (two_b) {
            _tile_loadd(5, b + b_step, ROW_BYTES);
            _tile_dpbf16ps(2, 5, 6);
            if (two_a) _tile_dpbf16ps(3, 5, 7);
        }
    }
    END(0, s);
    if (two_a) { END(1, s + 1); }
    if (two_b) { END(2, s + 2); }
    if (two_a && two_b) { END(3, s + 3); }
}

/* 16 columns at most, by four blocks of rows */
INLINE void four(int tiles, const uint32_t *a, size_t a_step, const uint32_t *b, int add, spot *s) {
    BEGIN(0, s);
    BEGIN(1, s + 1);
    BEGIN(2, s + 2);
    BEGIN(3, s + 3);
    for (int t = 0; t < tiles; t++, a += TILE, b += TILE) {
        _tile_loadd(4, b, ROW_BYTES);
        _tile_loadd(5, a, ROW_BYTES);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(6, a + a_step, ROW_BYTES);
        _tile_dpbf16ps(1, 4, 6);
        _tile_loadd(7, a + 2 * a_step, ROW_BYTES);
        _tile_dpbf16ps(2, 4, 7);
        _tile_loadd(5, a + 3 * a_step, ROW_BYTES);
        _tile_dpbf16ps(3, 4, 5);
    }
    END(0, s);
    END(1, s + 1);
    END(2, s + 2);
    END(3, s + 3);
}

typedef float edge[4][LINES * LINES];

ISA static void few_columns(int m, int n, int tiles, const uint32_t *a, size_t a_step,
                            const uint32_t *b, int add, float *y, size_t ldy, edge copy) {
    spot s[4];
    int i = 0;
    for (; i + 3 * LINES < m; i += 4 * LINES, a += 4 * a_step) {
        for (int q = 0; q < 4; q++)
            open_spot(s + q, y + i + q * LINES, ldy, m - i - q * LINES, n, n, add, copy[q]);
        four(tiles, a, a_step, b, add, s);
    }
    for (; i < m; i += LINES, a += a_step) {
        open_spot(s, y + i, ldy, m - i, n, n, add, copy[0]);
        square(0, 0, tiles, a, a_step, b, 0, add, s);
    }
}

/* columns and rows left: two blocks of each, or one */
ISA static void square_at(int rows, int columns, int second, int tiles, const uint32_t *a,
                          size_t a_step, const uint32_t *b, size_t b_step, int add, float *y,
                          size_t ldy, edge copy) {
    spot s[4];
    int two_a = rows > LINES, two_b = columns > LINES;
    for (int q = 0; q < 4; q++) {
        int across = q >= 2, down = q & 1;
        if (across > two_b || down > two_a) continue;
        open_spot(s + q, y + across * LINES * ldy + down * LINES, ldy, rows - down * LINES,
                  columns - across * LINES, across ? second : LINES, add, copy[q]);
    }
    if (two_a && two_b) square(1, 1, tiles, a, a_step, b, b_step, add, s);
    else if (two_b) square(1, 0, tiles, a, a_step, b, b_step, add, s);
    else if (two_a) square(0, 1, tiles, a, a_step, b, b_step, add, s);
    else square(0, 0, tiles, a, a_step, b, b_step, add, s);
}

ISA static void amx_product(int m, int n, int tiles, const uint32_t *a, size_t a_step,
                            const uint32_t *b, size_t b_step, int add, float *y, size_t ldy) {
    enum { PAIR = 2 * LINES };
    int group = PAIR * (tiles < GROUP_TILES / 2 ? GROUP_TILES / 2 / tiles : 1);
    edge copy __attribute__((aligned(64)));
    int second = dn_bf16_least(n - LINES, LINES);
    configure(n);
    if (n <= LINES) few_columns(m, n, tiles, a, a_step, b, add, y, ldy, copy);
    else
        for (int g = 0; g < m; g += group)
            for (int c = 0; c < n; c += PAIR)
                for (int i = g; i < m && i < g + group; i += PAIR)
                    square_at(m - i, n - c, second, tiles, a + i / LINES * a_step, a_step,
                              b + c / LINES * b_step, b_step, add, y + (size_t)c * ldy + i, ldy,
                              copy);
    _tile_release();
}

/* ---- the processor and the system ----------------------------------------------------- */
static int has_amx(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low >> 17 & 3) != 3) return 0;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

const dn_bf16_way *dn__bf16_amx(void) {
    static dn_bf16_way way;
    const dn_bf16_way *other = dn__bf16_avx512();
    if (!other || !has_amx()) return NULL;
    way = (dn_bf16_way){"amx", other->columns, other->rows, amx_product};
    return &way;
}
#else
const dn_bf16_way *dn__bf16_amx(void) { return NULL; }
#endif
#endif
