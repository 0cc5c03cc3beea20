/* Products of matrices rounded to bfloat16: blocks that stay in the caches, and the choice of a way
 * to compute them. The order of sums of one number is that of the way, whatever the blocks are:
 * these only interrupt it, and the sum so far is a float in either case. */
#include "bf16.h"

#ifndef DN_DOUBLE
#include <pthread.h>
#include <stdlib.h>

#include "bf16_ways.h"
#include "math.h"

/* ---- the choice ----------------------------------------------------------------------- */
typedef const dn_bf16_way *way_fn(void);
static way_fn *const WAYS[] = {dn__bf16_amx, dn__bf16_avx512, dn__bf16_plain};
static const dn_bf16_way *chosen; /* atomic */

static const dn_bf16_way *way(void) {
    const dn_bf16_way *w = __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
    for (size_t i = 0; !w && i < sizeof WAYS / sizeof *WAYS; i++)
        if ((w = WAYS[i]())) __atomic_store_n(&chosen, w, __ATOMIC_RELEASE);
    return w;
}

const char *dn__bf16_isa(void) { return way()->name; }

int dn__bf16_choose(const char *isa) {
    for (size_t i = 0; i < sizeof WAYS / sizeof *WAYS; i++) {
        const dn_bf16_way *w = WAYS[i]();
        if (!w || strcmp(w->name, isa)) continue;
        __atomic_store_n(&chosen, w, __ATOMIC_RELEASE);
        return 1;
    }
    return 0;
}

/* ---- working memory: tiles of operands ------------------------------------------------ */
enum {
    TILE_BYTES = TILE * sizeof(uint32_t),
    MOST_DEPTH = 32,   /* tiles of one line at a time: 1,024 numbers */
    MOST_TILES = 1024, /* of the operand that stays, and */
    PANEL_TILES = 256, /* of the one that passes by: both in L2 */
    FEW_TILES = 16     /* each, without memory */
};
typedef struct tiles_of {
    uint32_t *tiles;
    size_t count;
} tiles_of;
static __thread tiles_of own;
static pthread_key_t at_exit;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int has_key;

static void make_key(void) { has_key = !pthread_key_create(&at_exit, free); }

/* `wanted` tiles of this thread, or what there is: `few` of FEW_TILES x 2. */
static tiles_of own_tiles(size_t wanted, uint32_t *few) {
    if (own.count < wanted) {
        void *block = NULL;
        pthread_once(&once, make_key);
        if (has_key && !posix_memalign(&block, 64, wanted * TILE_BYTES)) {
            if (pthread_setspecific(at_exit, block)) free(block);
            else {
                free(own.tiles);
                own = (tiles_of){block, wanted};
            }
        }
    }
    return own.count >= wanted ? own : (tiles_of){few, 2 * FEW_TILES};
}

/* ---- weights -------------------------------------------------------------------------- */
static size_t tiles_for(int lines, int depth) {
    return (size_t)dn_bf16_blocks(lines, LINES) * (size_t)dn_bf16_blocks(depth, DEPTH);
}

size_t dn__bf16_packed(int m, int k) { return tiles_for(m, k) * 2 * TILE; }

void dn__bf16_pack(int m, int k, const dn_real *w, int ldw, dn_bf16 *packed) {
    way()->rows(m, k, w, (size_t)ldw, 1, (uint32_t *)packed);
}
void dn__bf16_pack_transposed(int m, int k, const dn_real *w, int ldw, dn_bf16 *packed) {
    way()->columns(m, k, w, (size_t)ldw, 1, (uint32_t *)packed);
}

/* ---- products ------------------------------------------------------------------------- */
void dn__bf16_mm(int m, int k, int n, const dn_bf16 *packed, const dn_real *x, int ldx,
                 dn_real beta, dn_real *y, int ldy) {
    const dn_bf16_way *w = way();
    uint32_t few[2 * FEW_TILES * TILE] __attribute__((aligned(64)));
    const uint32_t *a = (const uint32_t *)packed;
    int tiles = dn_bf16_blocks(k, DEPTH), depth = dn_bf16_least(tiles, MOST_DEPTH);
    if (m == 0 || n == 0) return;
    if (k == 0) {
        if (beta == 0) dn__zero_matrix(m, n, y, ldy);
        return;
    }
    int columns = LINES * dn_bf16_least(dn_bf16_blocks(n, LINES), MOST_TILES / depth);
    tiles_of b = own_tiles((size_t)(columns / LINES * depth), few);
    columns = dn_bf16_least(columns, (int)b.count / depth * LINES);
    for (int c = 0; c < n; c += columns) {
        int n_now = dn_bf16_least(columns, n - c);
        for (int t = 0; t < tiles; t += depth) {
            int now = dn_bf16_least(depth, tiles - t), from = t * DEPTH;
            w->columns(dn_bf16_least(now * DEPTH, k - from), n_now, x + (size_t)c * ldx + from,
                       (size_t)ldx, 0, b.tiles);
            w->product(m, n_now, now, a + (size_t)t * TILE, (size_t)tiles * TILE, b.tiles,
                       (size_t)now * TILE, beta != 0 || t > 0, y + (size_t)c * ldy, (size_t)ldy);
        }
    }
}

void dn__bf16_mm_dw(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x, int ldx,
                    dn_real beta, dn_real *dw, int lddw) {
    const dn_bf16_way *w = way();
    uint32_t few[2 * FEW_TILES * TILE] __attribute__((aligned(64)));
    int tiles = dn_bf16_blocks(n, DEPTH), depth = dn_bf16_least(tiles, MOST_DEPTH);
    if (m == 0 || k == 0) return;
    if (n == 0) {
        if (beta == 0) dn__zero_matrix(m, k, dw, lddw);
        return;
    }
    int x_blocks = dn_bf16_least(dn_bf16_blocks(k, LINES), MOST_TILES / depth);
    int dy_blocks = dn_bf16_least(dn_bf16_blocks(m, LINES), PANEL_TILES / depth);
    tiles_of panels = own_tiles((size_t)((x_blocks + dy_blocks) * depth), few);
    if (panels.tiles == few) {
        depth = dn_bf16_least(depth, FEW_TILES);
        x_blocks = dy_blocks = 1;
    }
    uint32_t *b = panels.tiles, *a = b + (size_t)(x_blocks * depth) * TILE;
    for (int t = 0; t < tiles; t += depth) {
        int now = dn_bf16_least(depth, tiles - t), from = t * DEPTH;
        int columns = dn_bf16_least(now * DEPTH, n - from);
        const dn_real *dy_now = dy + (size_t)from * lddy, *x_now = x + (size_t)from * ldx;
        for (int j = 0; j < k; j += x_blocks * LINES) {
            int k_now = dn_bf16_least(x_blocks * LINES, k - j);
            w->rows(k_now, columns, x_now + j, (size_t)ldx, 0, b);
            for (int i = 0; i < m; i += dy_blocks * LINES) {
                int m_now = dn_bf16_least(dy_blocks * LINES, m - i);
                w->rows(m_now, columns, dy_now + i, (size_t)lddy, 1, a);
                w->product(m_now, k_now, now, a, (size_t)now * TILE, b, (size_t)now * TILE,
                           beta != 0 || t > 0, dw + (size_t)j * lddw + i, (size_t)lddw);
            }
        }
    }
}
#endif
