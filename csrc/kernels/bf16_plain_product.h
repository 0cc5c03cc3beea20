/* The product of tiles in plain vectors. A template: bf16_plain.c includes it once for each
 * instruction set, with ISA (suffix of the names) and VECTOR_BYTES (16, 32 or 64) defined. Sums are
 * in the order of AVX512-BF16: of each pair the odd product first, each rounded as it is added. */
#define NAME__(a, b) a##_##b
#define NAME_(a, b) NAME__(a, b)
#define NAME(a) NAME_(a, ISA)
#define V NAME(bf16_vector)
#define U NAME(bf16_pairs)
#define VL (VECTOR_BYTES / 4)
#define VECTORS (LINES / VL)
/* sums of a block in registers: 8 of 16, 8 of 16, 8 of 32 */
#define COLUMNS (8 / VECTORS)

typedef float V __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef uint32_t U __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

/* 16 rows by `count` columns of y */
DN_INLINE void NAME(bf16_block)(int count, int tiles, const uint32_t *a, const uint32_t *b,
                                float sums[COLUMNS][LINES]) {
    V sum[COLUMNS][VECTORS];
    for (int c = 0; c < count; c++)
        for (int v = 0; v < VECTORS; v++) sum[c][v] = *(const V *)(sums[c] + v * VL);
    for (int t = 0; t < tiles; t++, a += TILE, b += TILE)
        for (int q = 0; q < LINES; q++) {
            V odd[VECTORS], even[VECTORS];
            for (int v = 0; v < VECTORS; v++) {
                U pairs = *(const U *)(a + LINES * q + v * VL);
                odd[v] = (V)(pairs & 0xffff0000u);
                even[v] = (V)(pairs << 16);
            }
            for (int c = 0; c < count; c++) {
                float of_odd = as_float(b[LINES * c + q] & 0xffff0000u),
                      of_even = as_float(b[LINES * c + q] << 16);
                for (int v = 0; v < VECTORS; v++) sum[c][v] += odd[v] * of_odd;
                for (int v = 0; v < VECTORS; v++) sum[c][v] += even[v] * of_even;
            }
        }
    for (int c = 0; c < count; c++)
        for (int v = 0; v < VECTORS; v++) *(V *)(sums[c] + v * VL) = sum[c][v];
}

static void NAME(bf16_product)(int m, int n, int tiles, const uint32_t *a, size_t a_step,
                               const uint32_t *b, size_t b_step, int add, float *y, size_t ldy) {
    for (int i = 0; i < m; i += LINES, a += a_step) {
        size_t bytes = sizeof(float) * (size_t)dn_bf16_least(m - i, LINES);
        for (int c = 0, count; c < n; c += count) {
            const uint32_t *lines = b + c / LINES * b_step + c % LINES * LINES;
            float sums[COLUMNS][LINES] = {{0}}, *to = y + (size_t)c * ldy + i;
            count = n - c < COLUMNS ? 1 : COLUMNS;
            for (int d = 0; add && d < count; d++) memcpy(sums[d], to + (size_t)d * ldy, bytes);
            if (count == 1) NAME(bf16_block)(1, tiles, a, lines, sums);
            else NAME(bf16_block)(COLUMNS, tiles, a, lines, sums);
            for (int d = 0; d < count; d++) memcpy(to + (size_t)d * ldy, sums[d], bytes);
        }
    }
}

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
