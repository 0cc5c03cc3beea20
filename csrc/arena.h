/* Bump allocators that live as long as their owner: memory is taken by chunk, kept between graphs
 * and reused from the bottom, so that the working set stays in the cache. Nothing in them is freed
 * one by one. */
#pragma once

#include <stddef.h>

typedef struct dn_arena_chunk {
    char *memory;
    size_t size;
    int alone; /* for one large block at a time */
} dn_arena_chunk;
typedef struct dn_arena {
    dn_arena_chunk *chunks;
    int n_chunks, current; /* chunks[current] is being filled */
    size_t used;           /* bytes of it */
    /* a request has failed: everything is given back at the next return to the bottom */
    int starved;
} dn_arena;
/* A place to return to. */
typedef struct dn_arena_mark {
    int current;
    size_t used;
} dn_arena_mark;

/* `bytes` of memory, 64-byte aligned, contents undefined; NULL: no memory. */
void *dn__arena_take(dn_arena *, size_t bytes);
dn_arena_mark dn__arena_mark(const dn_arena *);
void dn__arena_reset(dn_arena *, dn_arena_mark); /* to a mark; {0, 0}: to the bottom */
size_t dn__arena_bytes(const dn_arena *);
void dn__arena_free(dn_arena *);

/* Large zeroed blocks, on huge pages where the system has them; NULL: no memory. dn__block_raw: not
 * zeroed. */
void *dn__block_new(size_t bytes);
void *dn__block_raw(size_t bytes);
void dn__block_free(void *);
