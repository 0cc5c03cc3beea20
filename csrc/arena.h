/* Bump allocators that live as long as their owner: memory is taken by chunk, kept between graphs
 * and reused from the bottom, so that the working set stays in the cache. Nothing in them is freed
 * one by one. */
#pragma once

#include <stddef.h>
#include <string.h>

typedef struct dn_arena_chunk {
    char *memory;
    size_t size;
    int alone; /* for one large block at a time */
} dn_arena_chunk;
typedef struct dn_arena {
    dn_arena_chunk *chunks;
    int n_chunks, current; /* chunks[current] is being filled, ... */
    char *memory;          /* ... which is here, ... */
    size_t size, used;     /* ... so large, 0: not for small blocks, and filled so far */
    /* a request has failed: everything is given back at the next return to the bottom */
    int starved;
} dn_arena;
/* A place to return to. */
typedef struct dn_arena_mark {
    int current;
    size_t used;
} dn_arena_mark;

enum { DN_ARENA_ALIGN = 64 };
static inline void *dn__arena_taken(void *p, size_t bytes) {
#ifdef DN_POISON /* a build for tests: whatever is read before it is written is NaN */
    memset(p, 0xff, bytes);
#else
    (void)bytes;
#endif
    return p;
}
/* dn__arena_take where it does not fit into the chunk at hand, or that one is for one block alone;
 * dn__arena_reset to a mark in another chunk. */
void *dn__arena_take_elsewhere(dn_arena *, size_t bytes);
void dn__arena_reset_elsewhere(dn_arena *, dn_arena_mark);

/* `bytes` of memory, 64-byte aligned, contents undefined; NULL: no memory. */
static inline void *dn__arena_take(dn_arena *a, size_t bytes) {
    if (bytes >= a->size || a->used + bytes > a->size) return dn__arena_take_elsewhere(a, bytes);
    void *p = a->memory + a->used;
    a->used += (bytes + DN_ARENA_ALIGN - 1) & ~(size_t)(DN_ARENA_ALIGN - 1);
    return dn__arena_taken(p, bytes);
}
static inline dn_arena_mark dn__arena_mark(const dn_arena *a) {
    return (dn_arena_mark){a->current, a->used};
}
/* to a mark; {0, 0}: to the bottom */
static inline void dn__arena_reset(dn_arena *a, dn_arena_mark m) {
    if (m.current != a->current || a->starved) dn__arena_reset_elsewhere(a, m);
    else a->used = m.used;
}
size_t dn__arena_bytes(const dn_arena *);
void dn__arena_free(dn_arena *);

/* Large zeroed blocks, on huge pages where the system has them; NULL: no memory. dn__block_raw: not
 * zeroed. */
void *dn__block_new(size_t bytes);
void *dn__block_raw(size_t bytes);
enum { DN_HUGE_PAGE = 2 << 20 };
void dn__block_free(void *);
