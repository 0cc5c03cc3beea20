#define _GNU_SOURCE
#include "arena.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

enum {
    ALIGN = 64,
    FIRST_CHUNK = 256 << 10,
    LARGEST_CHUNK = 64 << 20,
    HUGE_PAGE = 2 << 20,
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

/* First touch of fresh memory costs 7 to 30 times a write into warm memory; huge pages make it four
 * times cheaper. */
static void *aligned_new(size_t bytes) {
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : ALIGN;
    if (bytes > SIZE_MAX - align || !is_available(bytes)) return NULL;
    void *p = aligned_alloc(align, (bytes + align - 1) / align * align);
#ifdef MADV_HUGEPAGE
    if (p && align == HUGE_PAGE) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p;
}

void *dn__block_raw(size_t bytes) { return aligned_new(bytes ? bytes : ALIGN); }

void *dn__block_new(size_t bytes) {
    void *p = dn__block_raw(bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

void dn__block_free(void *p) { free(p); }

static void *taken(void *p, size_t bytes) {
#ifdef DN_POISON /* a build for tests: whatever is read before it is written is NaN */
    memset(p, 0xff, bytes);
#else
    (void)bytes;
#endif
    return p;
}

/* Gives back chunks from `first` on, in which nothing lies and which a large request does not fit:
 * else blocks that grow a little from graph to graph would leave all smaller ones behind. */
static void drop_unused(dn_arena *a, int first) {
    while (a->n_chunks > first) free(a->chunks[--a->n_chunks].memory);
    a->current = a->n_chunks;
}

void *dn__arena_take(dn_arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    const int unused = a->current + (a->used > 0);
    for (; a->current < a->n_chunks; a->current++, a->used = 0) {
        dn_arena_chunk *c = &a->chunks[a->current];
        if (c->size - a->used >= bytes) {
            void *p = c->memory + a->used;
            a->used += bytes;
            return taken(p, bytes);
        }
    }
    size_t size = a->n_chunks ? a->chunks[a->n_chunks - 1].size * 2 : FIRST_CHUNK;
    if (size > LARGEST_CHUNK) size = LARGEST_CHUNK;
    if (bytes > LARGEST_CHUNK) drop_unused(a, unused);
    /* the next one may be larger */
    if (size < bytes) size = bytes > LARGEST_CHUNK ? bytes + bytes / 8 : bytes;
    dn_arena_chunk *chunks = realloc(a->chunks, (size_t)(a->n_chunks + 1) * sizeof *chunks);
    if (!chunks) return NULL;
    a->chunks = chunks;
    char *memory = aligned_new(size);
    if (!memory && size > bytes) memory = aligned_new(size = bytes);
    a->starved |= !memory;
    if (!memory) return NULL;
    a->chunks[a->n_chunks++] = (dn_arena_chunk){memory, size};
    a->used = bytes;
    return taken(memory, bytes);
}

dn_arena_mark dn__arena_mark(const dn_arena *a) { return (dn_arena_mark){a->current, a->used}; }

void dn__arena_reset(dn_arena *a, dn_arena_mark m) {
    a->current = m.current;
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
