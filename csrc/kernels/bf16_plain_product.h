/* The product of tiles in plain vectors. A template: bf16_plain.c includes it once for each
 * instruction set, with ISA (suffix of the names), TARGET (of functions), VECTOR_BYTES (16, 32 or
 * 64) and FMA(a, b, c), which is a b + c, defined. Sums are in the order of AVX512-BF16: of each
 * pair the odd product first, each rounded as it is added. */
#define NAME__(a, b) a##_##b
#define NAME_(a, b) NAME__(a, b)
#define NAME(a) NAME_(a, ISA)
#define V NAME(bf16_vector)
#define U NAME(bf16_pairs)
#define VL (VECTOR_BYTES / 4)
#define VECTORS (LINES / VL)
/* sums of the greatest block, all in registers: 16, 8 or 8 vectors */
#define PANELS (VECTOR_BYTES == 64 ? 2 : 1)
#define COLUMNS (VECTOR_BYTES == 64 ? 8 : VECTOR_BYTES == 32 ? 4 : 2)

typedef float V __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef uint32_t U __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

/* `panels` blocks of 16 rows by `count` columns of y, of which `rows` are there */
TARGET DN_INLINE void NAME(bf16_block)(int panels, int count, int rows, int tiles,
                                       const uint32_t *a, size_t a_step, const uint32_t *b, int add,
                                       float *y, size_t ldy) {
    float edge[COLUMNS][PANELS * LINES] = {{0}};
    V sum[COLUMNS][PANELS * VECTORS];
    for (int c = 0; add && c < count; c++)
        memcpy(edge[c], y + (size_t)c * ldy, sizeof(float) * (size_t)rows);
    for (int c = 0; c < count; c++)
        for (int v = 0; v < panels * VECTORS; v++) sum[c][v] = *(const V *)(edge[c] + v * VL);
    for (int t = 0; t < tiles; t++, a += TILE, b += TILE) {
        float odds[COLUMNS][LINES], evens[COLUMNS][LINES];
        for (int c = 0; c < count; c++)
            for (int v = 0; v < VECTORS; v++) {
                U pairs = *(const U *)(b + LINES * c + v * VL);
                *(U *)(odds[c] + v * VL) = pairs & 0xffff0000u;
                *(U *)(evens[c] + v * VL) = pairs << 16;
            }
        for (int q = 0; q < LINES; q++) {
            V odd[PANELS * VECTORS], even[PANELS * VECTORS];
            for (int v = 0; v < panels * VECTORS; v++) {
                U pairs = *(const U *)(a + v / VECTORS * a_step + LINES * q + v % VECTORS * VL);
                odd[v] = (V)(pairs & 0xffff0000u);
                even[v] = (V)(pairs << 16);
            }
            for (int c = 0; c < count; c++) {
                V of_odd = odds[c][q] - (V){0}, of_even = evens[c][q] - (V){0};
                for (int v = 0; v < panels * VECTORS; v++)
                    sum[c][v] = FMA(odd[v], of_odd, sum[c][v]);
                for (int v = 0; v < panels * VECTORS; v++)
                    sum[c][v] = FMA(even[v], of_even, sum[c][v]);
            }
        }
    }
    for (int c = 0; c < count; c++) {
        for (int v = 0; v < panels * VECTORS; v++) *(V *)(edge[c] + v * VL) = sum[c][v];
        memcpy(y + (size_t)c * ldy, edge[c], sizeof(float) * (size_t)rows);
    }
}

#define BLOCK(panels, count) \
    NAME(bf16_block)(panels, count, rows, tiles, a, a_step, lines, add, to, ldy)
#define BLOCK_OF(panels) \
    switch (count) { \
    case 1: BLOCK(panels, 1); break; \
    case 2: BLOCK(panels, 2); break; \
    case 4: BLOCK(panels, COLUMNS < 4 ? COLUMNS : 4); break; \
    default: BLOCK(panels, COLUMNS); \
    }

TARGET static void NAME(bf16_product)(int m, int n, int tiles, const uint32_t *a, size_t a_step,
                                      const uint32_t *b, size_t b_step, int add, float *y,
                                      size_t ldy) {
    for (int i = 0, rows; i < m; i += rows, a += PANELS * a_step) {
        rows = dn_bf16_least(m - i, PANELS * LINES);
        for (int c = 0, count; c < n; c += count) {
            const uint32_t *lines = b + c / LINES * b_step + c % LINES * LINES;
            float *to = y + (size_t)c * ldy + i;
            for (count = COLUMNS; count > n - c;) count /= 2;
            if (rows > LINES) BLOCK_OF(PANELS)
            else BLOCK_OF(1)
        }
    }
}

#undef BLOCK
#undef BLOCK_OF
#undef PANELS
#undef FMA
#undef TARGET
#undef NAME__
#undef NAME_
#undef NAME
#undef V
#undef U
#undef VL
#undef VECTORS
#undef COLUMNS
#undef ISA
#undef VECTOR_BYTES
