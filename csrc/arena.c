#include "arena.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

enum {
    ALIGN = DN_ARENA_ALIGN,
    FIRST_CHUNK = 256 << 10,
    LARGEST_CHUNK = 64 << 20,
    LARGE_BLOCK = 16 << 20, /* from here on a block that opens a chunk has it alone */
    LARGE = 256 << 20
};

/* Linux grants more memory than there is, and ends the process that uses it. So large requests ask
 * whether it is there. */
static int is_available(size_t bytes) {
    FILE *file = bytes < LARGE ? NULL : fopen("/proc/meminfo", "r");
    if (!file) return 1;
    char line[128];
    unsigned long long kilobytes = UINT64_MAX;
    while (fgets(line, sizeof line, file) && sscanf(line, "MemAvailable: %llu", &kilobytes) != 1) {}
    fclose(file);
    return bytes / 1024 < kilobytes;
}

static void ask_for_huge_pages(void *at, size_t bytes) {
#ifdef MADV_HUGEPAGE
    madvise(at, bytes, MADV_HUGEPAGE);
#endif
    (void)at, (void)bytes;
}

/* First touch of fresh memory costs 7 to 30 times a write into warm memory; huge pages make it four
 * times cheaper. */
static void *aligned_new(size_t bytes) {
    const size_t align = bytes < DN_HUGE_PAGE ? ALIGN : DN_HUGE_PAGE;
    if (bytes > SIZE_MAX - align || !is_available(bytes)) return NULL;
    void *p = aligned_alloc(align, (bytes + align - 1) / align * align);
    if (p && align == DN_HUGE_PAGE) ask_for_huge_pages(p, bytes);
    return p;
}

void *dn__block_raw(size_t bytes) { return aligned_new(bytes ? bytes : ALIGN); }

void *dn__block_new(size_t bytes) {
    void *p = dn__block_raw(bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

void dn__block_free(void *p) { free(p); }

/* The chunk from `first` on, all of them unused, for so many bytes, or n_chunks: a large block
 * takes the smallest that it fits, others the first that is not for one block alone. */
static int find_chunk(const dn_arena *a, int first, size_t bytes) {
    int best = a->n_chunks;
    for (int i = first; i < a->n_chunks; i++) {
        const dn_arena_chunk *c = &a->chunks[i];
        if (c->size < bytes || (c->alone && bytes < LARGE_BLOCK)) continue;
        if (bytes < LARGE_BLOCK) return i;
        if (best == a->n_chunks || c->size < a->chunks[best].size) best = i;
    }
    return best;
}

/* Gives back those from `first` on that are for one block, all too small for the one at hand:
 * blocks that grow a little from graph to graph would leave all smaller ones behind. */
static void drop_unused(dn_arena *a, int first) {
    int kept = first;
    for (int i = first; i < a->n_chunks; i++) {
        if (a->chunks[i].alone) free(a->chunks[i].memory);
        else a->chunks[kept++] = a->chunks[i];
    }
    a->n_chunks = kept;
}

/* A new chunk, the last one, where those from `first` on are unused; negative: no memory. */
static int add_chunk(dn_arena *a, int first, size_t bytes) {
    const int alone = bytes >= LARGE_BLOCK;
    size_t size = alone ? bytes + bytes / 8 : FIRST_CHUNK; /* the next one may be larger */
    if (alone) drop_unused(a, first);
    for (int i = 0; i < a->n_chunks && !alone; i++)
        if (!a->chunks[i].alone && size <= a->chunks[i].size) size = 2 * a->chunks[i].size;
    if (!alone && size > LARGEST_CHUNK) size = LARGEST_CHUNK;
    if (size < bytes) size = bytes;
    dn_arena_chunk *chunks = realloc(a->chunks, (size_t)(a->n_chunks + 1) * sizeof *chunks);
    if (!chunks) return -1;
    a->chunks = chunks;
    char *memory = aligned_new(size);
    if (!memory && size > bytes) memory = aligned_new(size = bytes);
    a->starved |= !memory;
    if (!memory) return -1;
    a->chunks[a->n_chunks++] = (dn_arena_chunk){memory, size, alone};
    return 0;
}

/* chunks[i] is the one that is being filled. */
static void fill_chunk(dn_arena *a, int i) {
    const dn_arena_chunk *c = i < a->n_chunks ? &a->chunks[i] : &(dn_arena_chunk){0};
    a->current = i;
    a->memory = c->memory;
    a->size = c->alone ? 0 : c->size;
}

void *dn__arena_take_elsewhere(dn_arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (a->current >= a->n_chunks || a->chunks[a->current].size - a->used < bytes) {
        const int next = a->current + (a->used > 0), found = find_chunk(a, next, bytes);
        if (found == a->n_chunks && add_chunk(a, next, bytes)) return NULL;
        const int i = found < a->n_chunks ? found : a->n_chunks - 1;
        const dn_arena_chunk c = a->chunks[i];
        a->chunks[i] = a->chunks[next];
        a->chunks[next] = c;
        fill_chunk(a, next);
        a->used = 0;
    }
    const dn_arena_chunk *c = &a->chunks[a->current];
    void *p = c->memory + a->used;
    a->used = c->alone ? c->size : a->used + bytes;
    return dn__arena_taken(p, bytes);
}

void dn__arena_reset_elsewhere(dn_arena *a, dn_arena_mark m) {
    fill_chunk(a, m.current);
    a->used = m.used;
    if (a->starved && !m.current && !m.used) dn__arena_free(a);
}

size_t dn__arena_bytes(const dn_arena *a) {
    size_t sum = 0;
    for (int i = 0; i < a->n_chunks; i++) sum += a->chunks[i].size;
    return sum;
}

void dn__arena_free(dn_arena *a) {
    for (int i = 0; i < a->n_chunks; i++) free(a->chunks[i].memory);
    free(a->chunks);
    *a = (dn_arena){0};
}
