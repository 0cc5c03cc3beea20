/* Register-blocked matrix products for few columns (n up to about 64), without packing. A template:
 * product_kernels.h includes it once for each instruction set, with ISA (suffix of the names) and
 * VECTOR_BYTES (16, 32 or 64) defined.
 *   small_n_mm:  y  = W x    sums of outer products, a column of W with a row of x
 *   small_n_dw:  dW = dy x'  sums of outer products, a column of dy with a column of x
 *   small_n_dx:  dx = W' dy  dot products of the columns of W with those of dy
 * m must be at least VL. The rows left over by full vectors are covered by one vector that ends at
 * row m and overlaps rows already done; `tail` tells its new lanes. Tiles are called with constant
 * sizes: each is straight vector code. Rows go in blocks of ROW_BLOCK: a block of W (or dy) stays
 * in L2 while all columns pass over it. */
#define NAME__(a, b) a##_##b
#define NAME_(a, b) NAME__(a, b)
#define NAME(a) NAME_(a, ISA)
#define V NAME(vector)
#define IN_MEMORY NAME(in_memory)
#define M NAME(mask)
#define VL ((int)(VECTOR_BYTES / sizeof(dn_real)))
#if VECTOR_BYTES == 64
#define MV_MAX 4
#define DOT_COLUMNS 6
#elif defined(__aarch64__) /* 32 registers, too */
#define MV_MAX 4
#define DOT_COLUMNS 4
#else
#define MV_MAX 2
#define DOT_COLUMNS 3
#endif

/* GCC 14 for aarch64 cannot pass vectors that are not aligned: so they are in memory only */
typedef dn_real V __attribute__((vector_size(VECTOR_BYTES)));
typedef dn_real IN_MEMORY
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(dn_real)), may_alias));
typedef lane_int M __attribute__((vector_size(VECTOR_BYTES)));

DN_INLINE V NAME(load)(const dn_real *p) { return *(const IN_MEMORY *)p; }
DN_INLINE void NAME(store)(dn_real *p, V v) { *(IN_MEMORY *)p = v; }
/* lanes of a where the mask is set, of b elsewhere */
DN_INLINE V NAME(choose)(M mask, V a, V b) { return (V)(((M)a & mask) | ((M)b & ~mask)); }
/* lanes of the vector that ends at row m which the full vectors before it have not covered */
DN_INLINE M NAME(tail_lanes)(int m) {
    M mask = {0};
    for (int i = 0; i < VL; i++) mask[i] = i >= VL - m % VL ? -1 : 0;
    return mask;
}

/* Sums of four vectors at once, down to 4 lanes each and then across: a scalar sum for each dot
 * product would halve the speed at m = 256. */
DN_INLINE Quad NAME(fold)(V v) {
    union {
        Quad part[VL >= 4 ? VL / 4 : 1];
        V whole;
    } u = {.part = {{0}}};
    u.whole = v;
    Quad s = u.part[0];
    for (int i = 1; i < VL / 4; i++) s += u.part[i];
    return s;
}
DN_INLINE Quad NAME(sum4)(V a, V b, V c, V d) {
    Quad p = NAME(fold)(a), q = NAME(fold)(b), r = NAME(fold)(c), s = NAME(fold)(d);
    Quad t = SHUFFLE(p, q, 0, 4, 1, 5) + SHUFFLE(p, q, 2, 6, 3, 7);
    Quad u = SHUFFLE(r, s, 0, 4, 1, 5) + SHUFFLE(r, s, 2, 6, 3, 7);
    return SHUFFLE(t, u, 0, 1, 4, 5) + SHUFFLE(t, u, 2, 3, 6, 7);
}

/* ---- sums of outer products: y = a x + beta y ----------------------------------------- */
enum { NAME(plain), NAME(tail), NAME(near), NAME(fetch), NAME(pack) };
#define LINE ((int)(64 / sizeof(dn_real)))

/* MV vectors of rows x NC columns of y. a: column t at a + t lda; x: element (t, c) at x[t down + c
 * across]. Kinds: tail: of the first vector just these lanes; near: fetches the rows of the next
 * tile; fetch: `lines` cache lines with each term, from `next` on along columns of `height` lines;
 * pack: as near, and leaves its part of a, column after column, in `packed`. */
DN_INLINE void NAME(outer_tile)(int MV, int NC, int kind, int terms, const dn_real *a, int lda,
                                const dn_real *next, int lines, int height, const dn_real *x,
                                size_t down, size_t across, dn_real beta, dn_real *y, int ldy,
                                M tail, dn_real *packed) {
    V sum[MV_MAX][6];
    int line = 0;
    for (int c = 0; c < NC; c++)
        for (int r = 0; r < MV; r++)
            sum[r][c] = beta == 0 ? (V){0} : NAME(load)(y + (size_t)c * ldy + r * VL);
    for (int t = 0; t < terms; t++, a += lda, x += down) {
        V v[MV_MAX];
        for (int r = 0; r < MV; r++) {
            v[r] = NAME(load)(a + r * VL);
            KEEP(v[r]);
            if (kind == NAME(near) || kind == NAME(pack))
                __builtin_prefetch(a + (MV + r) * VL, 0, 2);
            if (kind == NAME(pack)) NAME(store)(packed + (t * MV + r) * VL, v[r]);
        }
        for (int l = 0; kind == NAME(fetch) && l < lines; l++) {
            __builtin_prefetch(next + line * LINE, 0, 2);
            if (++line == height) {
                line = 0;
                next += lda;
            }
        }
        for (int c = 0; c < NC; c++)
            for (int r = 0; r < MV; r++) sum[r][c] += v[r] * x[c * across];
    }
    for (int c = 0; c < NC; c++) {
        for (int r = 0; r < MV; r++) {
            dn_real *to = y + (size_t)c * ldy + r * VL;
            if (kind == NAME(tail) && r == 0) /* the other lanes have all their terms already */
                sum[r][c] = NAME(choose)(tail, sum[r][c], NAME(load)(to));
            NAME(store)(to, sum[r][c]);
        }
    }
}

#define OUTER_TILE(MV, NC, kind, row) \
    NAME(outer_tile)(MV, NC, NAME(kind), part, ap + (row), lda, fetched, lines, height, xc, down, \
                     across, b, yc + (row), ldy, tail, NULL)
#define TILE_OF(TILE, columns, MV, kind, row) \
    switch (columns) { \
    case 1: TILE(MV, 1, kind, row); break; \
    case 2: TILE(MV, 2, kind, row); break; \
    case 3: TILE(MV, 3, kind, row); break; \
    case 4: TILE(MV, 4, kind, row); break; \
    case 5: TILE(MV, 5, kind, row); break; \
    default: TILE(MV, 6, kind, row); \
    }
#define OUTER_TILE_OF(columns, MV, kind, row) TILE_OF(OUTER_TILE, columns, MV, kind, row)
/* of the next group: 8 as 4 + 4, not as 6 + 2 */
#define COLUMNS_OF(rest) ((rest) <= 6 ? (rest) : (rest) <= 8 ? 4 : 6)

/* Rows i to m, fewer than MV_MAX full vectors: one tile, or two if that would begin before row 0.
 * By itself: the loop over whole tiles would be 15 % slower with these beside them. */
static __attribute__((noinline)) void
NAME(outer_rest)(int i, int m, int columns, int part, const dn_real *ap, int lda, const dn_real *xc,
                 size_t down, size_t across, dn_real b, dn_real *yc, int ldy) {
    const M all = ~(M){0}, uncovered = NAME(tail_lanes)(m);
    const dn_real *fetched = NULL;
    enum { lines, height = 1 };
    while (i < m) {
        int vectors = (m - i + VL - 1) / VL;
        vectors -= vectors * VL > m;
        const int row = m - i < vectors * VL ? m - vectors * VL : i;
        const M tail = row < i ? uncovered : all;
        switch (vectors) {
        case 1: OUTER_TILE_OF(columns, 1, tail, row) break;
#if MV_MAX > 2
        case 2: OUTER_TILE_OF(columns, 2, tail, row) break;
        case 3: OUTER_TILE_OF(columns, 3, tail, row) break;
#endif
        default: OUTER_TILE_OF(columns, MV_MAX, tail, row)
        }
        i = row + vectors * VL;
    }
}

/* Of `rest` terms: about as many as wanted, and no short rest. */
DN_INLINE int NAME(panel)(int wanted, int rest) {
    return rest < wanted + wanted / 2 ? rest : wanted;
}

/* A panel of a, ROW_BLOCK rows of OUTER_PANEL columns, stays in L2 while the columns of y pass over
 * it in groups. `prefetch`: the next panel is fetched meanwhile, evenly and along its columns: a
 * core has few lines under way, and the hardware follows runs. The first panel, which nobody
 * fetches, is narrow. With one group, rows of the next tile are fetched. At 10,000 x 256, n = 25,
 * 114 -> 132 GFLOP/s; packing gives less. */
DN_INLINE void NAME(outer_products)(int m, int terms, int n, const dn_real *a, int lda,
                                    const dn_real *x, size_t down, size_t across, dn_real beta,
                                    dn_real *y, int ldy, int prefetch) {
    enum { OUTER_PANEL = 128, FIRST_PANEL = 32 };
    const M tail = {0}; /* not used */
    const int groups = (n + 5) / 6, lines = groups < 4 ? 2 : 1;
    const int in_panels = prefetch && terms >= 2 * OUTER_PANEL,
              whole = in_panels ? OUTER_PANEL : terms;
    int part = in_panels ? FIRST_PANEL : terms;
    for (int block = 0, end; block < m; block = end) {
        end = m - block < ROW_BLOCK ? m : block + ROW_BLOCK;
        for (int from = 0, following; from < terms; from += part, part = following) {
            const dn_real *ap = a + (size_t)from * lda, *next = ap + (size_t)part * lda + block;
            const dn_real b = from ? 1 : beta, *fetched = NULL;
            int rows = end - block, rest = terms - from - part; /* of the next panel */
            following = NAME(panel)(2 * part < whole ? 2 * part : whole, rest);
            if (rest == 0) {
                next = a + end;
                rows = m - end < ROW_BLOCK ? m - end : ROW_BLOCK;
                following = NAME(panel)(whole, terms);
            }
            /* lines of its columns, columns that a tile fetches, the next of them, and the last */
            const int height = rows ? (rows + LINE - 1) / LINE : 1,
                      each = (part * lines + height - 1) / height;
            int fetch = 0, fetches = prefetch && groups > 1 && rows ? following : 0;
            for (int c = 0, columns; c < n; c += columns) {
                columns = COLUMNS_OF(n - c);
                const dn_real *xc = x + c * across + (size_t)from * down;
                dn_real *yc = y + (size_t)c * ldy;
                int i = block;
                if (prefetch && groups == 1)
                    for (; i + MV_MAX * VL <= end; i += MV_MAX * VL)
                        OUTER_TILE_OF(columns, MV_MAX, near, i)
                for (; i + MV_MAX * VL <= end && fetch < fetches; i += MV_MAX * VL, fetch += each) {
                    fetched = next + (size_t)fetch * lda;
                    OUTER_TILE_OF(columns, MV_MAX, fetch, i)
                }
                for (; i + MV_MAX * VL <= end; i += MV_MAX * VL)
                    OUTER_TILE_OF(columns, MV_MAX, plain, i)
                if (i < end)
                    NAME(outer_rest)(i, m, columns, part, ap, lda, xc, down, across, b, yc, ldy);
            }
        }
    }
}

#if MV_MAX == 2
/* Columns of W 4,096 bytes apart have one place in L1 and push one another out of it. So the first
 * columns of y leave their tile of W there, in one piece, and the others pass over it: at 1,024 x
 * 256, n = 16, 62 -> 75 GFLOP/s, and 54 -> 68 where W comes from L3. Other W gain by it where they
 * are in L2, and lose as much in L3. */
static void NAME(packed_mm)(int m, int k, int n, const dn_real *w, int lda, const dn_real *x,
                            int ldx, dn_real beta, dn_real *y, int ldy) {
    enum { PANEL = 128, TILE = MV_MAX * VL };
    const M tail = {0}; /* not used */
    const size_t down = 1, across = (size_t)ldx;
    dn_real packed[(PANEL + PANEL / 2) * TILE] __attribute__((aligned(64)));
    for (int from = 0, part; from < k; from += part) {
        part = NAME(panel)(PANEL, k - from);
        const dn_real *ap = w + (size_t)from * lda, b = from ? 1 : beta;
        int i = 0;
        for (; i + TILE <= m; i += TILE) {
            for (int c = 0, columns; c < n; c += columns) {
                columns = COLUMNS_OF(n - c);
                const dn_real *xc = x + c * across + from;
                dn_real *yc = y + (size_t)c * ldy;
#define PACKING_TILE(MV, NC, kind, row) \
    NAME(outer_tile)(MV, NC, NAME(kind), part, ap + (row), lda, NULL, 0, 1, xc, down, across, b, \
                     yc + (row), ldy, tail, packed)
#define PACKED_TILE(MV, NC, kind, row) \
    NAME(outer_tile)(MV, NC, NAME(kind), part, packed, TILE, NULL, 0, 1, xc, down, across, b, \
                     yc + (row), ldy, tail, NULL)
                if (c == 0) TILE_OF(PACKING_TILE, columns, MV_MAX, pack, i)
                else TILE_OF(PACKED_TILE, columns, MV_MAX, plain, i)
#undef PACKING_TILE
#undef PACKED_TILE
            }
        }
        for (int c = 0, columns; i < m && c < n; c += columns) {
            columns = COLUMNS_OF(n - c);
            NAME(outer_rest)(i, m, columns, part, ap, lda, x + c * across + from, down, across, b,
                             y + (size_t)c * ldy, ldy);
        }
    }
}
#endif

/* y = W x + beta y */
static void NAME(small_n_mm)(int m, int k, int n, const dn_real *w, int ldw, const dn_real *x,
                             int ldx, dn_real beta, dn_real *y, int ldy) {
#if MV_MAX == 2
    if (n > 6 && ALIASES(ldw)) {
        NAME(packed_mm)(m, k, n, w, ldw, x, ldx, beta, y, ldy);
        return;
    }
#endif
    NAME(outer_products)(m, k, n, w, ldw, x, 1, (size_t)ldx, beta, y, ldy, 1);
}

/* dW = dy x' + beta dW */
static void NAME(small_n_dw)(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x,
                             int ldx, dn_real beta, dn_real *dw, int lddw) {
    NAME(outer_products)(m, n, k, dy, lddy, x, (size_t)ldx, 1, beta, dw, lddw, 0);
}

/* ---- dot products: dx = W' dy + beta dx ----------------------------------------------- */
/* KC columns of W with NC columns of dy, over `rows` rows; added to dx if `add`. FETCH columns from
 * `next` on are fetched meanwhile. */
DN_INLINE void NAME(dot_tile)(int KC, int NC, int FETCH, int rows, const dn_real *w, int ldw,
                              const dn_real *next, const dn_real *dy, int lddy, int add,
                              dn_real *dx, int lddx) {
    V sum[8][DOT_COLUMNS];
    int i = 0;
    for (int q = 0; q < KC; q++)
        for (int c = 0; c < NC; c++) sum[q][c] = (V){0};
    for (; i + VL <= rows; i += VL) {
        V d[DOT_COLUMNS];
        for (int q = 0; q < FETCH; q++) __builtin_prefetch(next + (size_t)q * ldw + i, 0, 2);
        for (int c = 0; c < NC; c++) {
            V t = NAME(load)(dy + (size_t)c * lddy + i);
            /* t, not d[c]: GCC 12 would store the array in every turn, 105 -> 82 GFLOP/s at 512 x
             * 256 */
            KEEP(t);
            d[c] = t;
        }
        for (int q = 0; q < KC; q++) {
            V v = NAME(load)(w + (size_t)q * ldw + i);
            if (NC > 1) KEEP(v);
            for (int c = 0; c < NC; c++) sum[q][c] += v * d[c];
        }
    }
    /* both factors are masked: 0 times an inf in a lane that has been counted would be nan */
    if (i < rows) {
        int m = rows;
        HERE(m); /* the loop above needs all registers */
        const M tail = NAME(tail_lanes)(m);
        V v[8];
        for (int q = 0; q < KC; q++)
            v[q] = NAME(choose)(tail, NAME(load)(w + (size_t)q * ldw + rows - VL), (V){0});
        for (int c = 0; c < NC; c++) {
            V d = NAME(choose)(tail, NAME(load)(dy + (size_t)c * lddy + rows - VL), (V){0});
            for (int q = 0; q < KC; q++) sum[q][c] += v[q] * d;
        }
    }
    for (int c = 0; c < NC; c++) {
        if (KC == 1) {
            dn_real *to = dx + (size_t)c * lddx,
                    s = NAME(sum4)(sum[0][c], (V){0}, (V){0}, (V){0})[0];
            *to = add ? *to + s : s;
            continue;
        }
        for (int q = 0; q < KC; q += 4) {
            dn_real *to = dx + (size_t)c * lddx + q;
            Quad s = NAME(sum4)(sum[q][c], sum[q + 1][c], sum[q + 2][c], sum[q + 3][c]), old;
            if (add) {
                memcpy(&old, to, sizeof old);
                s += old;
            }
            memcpy(to, &s, sizeof s);
        }
    }
}

#define DOT_TILE(KC, NC) \
    NAME(dot_tile)(KC, NC, 0, rows, wb + (size_t)j * ldw, ldw, NULL, d, lddy, add, to + j, lddx)
#define DOT_TILE_WITH(KC, NC, FETCH) \
    NAME(dot_tile)(KC, NC, FETCH, rows, wb + (size_t)j * ldw, ldw, \
                   next + (size_t)(first + j - panel) * ldw, d, lddy, add, to + j, lddx)
#define DOT_TILE_FETCHING(KC, NC) \
    if (fetch == 1) DOT_TILE_WITH(KC, NC, 1); \
    else if (fetch) DOT_TILE_WITH(KC, NC, 2); \
    else DOT_TILE(KC, NC)
#define DOT_TILE_OF(columns, KC, TILE) \
    switch (columns) { \
    case 1: TILE(KC, 1); break; \
    case 2: TILE(KC, 2); break; \
    case 3: TILE(KC, DOT_COLUMNS < 3 ? DOT_COLUMNS : 3); break; \
    case 4: TILE(KC, DOT_COLUMNS < 4 ? DOT_COLUMNS : 4); break; \
    case 5: TILE(KC, DOT_COLUMNS < 5 ? DOT_COLUMNS : 5); break; \
    default: TILE(KC, DOT_COLUMNS); \
    }

/* Columns of the next group: groups are about equal. */
DN_INLINE int NAME(dot_columns)(int rest) {
    const int groups = (rest + DOT_COLUMNS - 1) / DOT_COLUMNS;
    return (rest + groups - 1) / groups;
}

#if MV_MAX == 2
/* A block of rows of W whose columns lie 4,096 bytes apart and push one another out of L1: four of
 * them are copied there, and all columns of dy pass over them. 1,024 x 256, n = 16: 52 -> 72. */
static void NAME(packed_dx)(int rows, int k, int n, const dn_real *w, int ldw, const dn_real *d,
                            int lddy, int add, dn_real *dx, int lddx) {
    enum { PITCH = ROW_BLOCK + 2 * VL };
    dn_real packed[4 * PITCH] __attribute__((aligned(64)));
    for (int j = 0, width; j < k; j += width) {
        width = k - j < 4 ? 1 : 4;
        for (int q = 0; q < width; q++)
            memcpy(packed + q * PITCH, w + (size_t)(j + q) * ldw, (size_t)rows * sizeof *w);
        for (int c = 0, columns; c < n; c += columns) {
            columns = NAME(dot_columns)(n - c);
            const dn_real *dc = d + (size_t)c * lddy;
            dn_real *to = dx + (size_t)c * lddx + j;
#define PACKED_TILE(KC, NC) \
    NAME(dot_tile)(KC, NC, 0, rows, packed, PITCH, NULL, dc, lddy, add, to, lddx)
            if (width == 4) DOT_TILE_OF(columns, 4, PACKED_TILE)
            else DOT_TILE_OF(columns, 1, PACKED_TILE)
#undef PACKED_TILE
        }
    }
}
#endif

/* A panel of W, ROW_BLOCK rows of DOT_PANEL columns, stays in L2 while the columns of dy pass over
 * it in groups, and each group fetches one or two columns of every four of the next panel:
 * at 10,000 x 256, n = 25, 110 -> 150 GFLOP/s. */
static void NAME(small_n_dx)(int m, int k, int n, const dn_real *w, int ldw, const dn_real *dy,
                             int lddy, dn_real beta, dn_real *dx, int lddx) {
    enum { DOT_PANEL = 128 };
    const int groups = (n + DOT_COLUMNS - 1) / DOT_COLUMNS, most = groups < 4 ? 2 : 1;
    /* with few groups only what is not in L2 anyway */
    const int fetches = groups >= 4 || (groups > 1 && (int64_t)m * k > 2 * MOST_IN_L2);
    for (int block = 0, rows; block < m; block += rows) {
        /* one column is passed over once: only its sums count */
        rows = n == 1 ? 8 * ROW_BLOCK : ROW_BLOCK;
        if (m - block < rows + VL) rows = m - block; /* the last block, too, has VL rows or more */
        int add = block > 0 || beta != 0;
        const dn_real *wb = w + block;
#if MV_MAX == 2
        if (n >= 12 && ALIASES(ldw)) {
            NAME(packed_dx)(rows, k, n, wb, ldw, dy + block, lddy, add, dx, lddx);
            continue;
        }
#endif
        for (int panel = 0, end; panel < k; panel = end) {
            end = k - panel < DOT_PANEL ? k : panel + DOT_PANEL;
            const dn_real *next = end < k            ? wb + (size_t)end * ldw
                                  : block + rows < m ? wb + rows
                                                     : NULL;
            for (int c = 0, group = 0, columns; c < n; c += columns, group++) {
                columns = NAME(dot_columns)(n - c);
                const dn_real *d = dy + (size_t)c * lddy + block;
                dn_real *to = dx + (size_t)c * lddx;
                const int first = group * most, fetch = fetches && next && first < 4 ? most : 0;
                int j = panel;
                if (columns == 1)
                    for (; j + 8 <= end; j += 8) DOT_TILE(8, 1);
                for (; j + 4 <= end; j += 4) DOT_TILE_OF(columns, 4, DOT_TILE_FETCHING)
                for (; j < end; j++) DOT_TILE_OF(columns, 1, DOT_TILE)
            }
        }
    }
}

#undef NAME__
#undef NAME_
#undef NAME
#undef V
#undef IN_MEMORY
#undef M
#undef VL
#undef MV_MAX
#undef LINE
#undef DOT_COLUMNS
#undef OUTER_TILE
#undef OUTER_TILE_OF
#undef TILE_OF
#undef COLUMNS_OF
#undef DOT_TILE
#undef DOT_TILE_WITH
#undef DOT_TILE_FETCHING
#undef DOT_TILE_OF
#undef ISA
#undef VECTOR_BYTES
