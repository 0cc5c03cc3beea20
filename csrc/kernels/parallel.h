/* One computation by several threads of this process. It is cut into pieces by its shape alone, and
 * each piece writes what no other piece reads or writes. So the result has the same bits whichever
 * thread computes which piece, and however many threads there are (docs/adr/0017). */
#pragma once

#include <stdatomic.h>
#include <stddef.h>

/* How many threads a computation may have, its caller's included. With 1 no other is ever made.
 * How many others are awake and watch for the next one. */
extern atomic_int dn__threads, dn__watching;
enum { DN_MAX_THREADS = 1024 };
/* 1 <= n <= DN_MAX_THREADS. Threads that are too many end before it returns; new ones are made when
 * they are first needed. */
void dn__set_threads(int n);
/* For so many nanoseconds, or until there is another number of threads, the caller computes alone,
 * as where it has waited for a thread that had lost its core. */
void dn__compute_alone(double time);

/* body(context, i) for each i < pieces, once, in any order; returns when all are done. Threads of
 * the pool take part as far as they get a core: what none of them has begun, the caller computes,
 * so it waits only for pieces that are under way. It computes all of them where there is one
 * thread, within a piece, and while another thread of the program has the pool. `work`: of all. */
typedef void dn__piece(const void *context, int piece);
void dn__parallel(int pieces, double work, dn__piece *body, const void *context);

/* Work is counted in nanoseconds of one core, roughly. shared_work: what is worth waking threads
 * for; a part of it is worth sharing with one that watches. piece_work: little enough to wait for;
 * a part of it is worth a claim. Only tests change them. */
extern double dn__shared_work, dn__piece_work;
enum { DN_PART_WATCHED = 12, DN_PART_CLAIMED = 4, DN_USUAL_PIECES = 16, DN_MOST_PIECES = 256 };
static inline int dn__shared(double work) {
    return atomic_load_explicit(&dn__threads, memory_order_relaxed) > 1 &&
           (work >= dn__shared_work || (work >= dn__shared_work / DN_PART_WATCHED &&
                                        atomic_load_explicit(&dn__watching, memory_order_relaxed)));
}

/* n things in pieces of about equal size, which begin at multiples of `unit`. */
typedef struct dn__pieces {
    size_t n, unit;
    int count; /* at most n / unit, but for a whole of less */
} dn__pieces;
/* of about `size` and no less than a unit */
static inline dn__pieces dn__pieces_of(size_t n, double size, size_t unit) {
    if (size >= (double)n) return (dn__pieces){n, unit, 1};
    size_t s = ((size_t)size / unit + 1) * unit, count = n / s + (n % s >= unit);
    return (dn__pieces){n, unit, count ? (int)count : 1};
}
/* `each`: the work of one thing */
static inline dn__pieces dn__in_pieces(size_t n, double each, size_t unit) {
    double size = dn__piece_work / (each > 0 ? each : 1), most = (double)n / DN_MOST_PIECES,
           usual = (double)n / DN_USUAL_PIECES;
    if (size > usual) size = size / DN_PART_CLAIMED > usual ? size / DN_PART_CLAIMED : usual;
    return dn__pieces_of(n, size > most ? size : most, unit);
}
static inline size_t dn__piece_from(const dn__pieces *p, int i) {
    return p->n / p->unit * (size_t)i / (size_t)p->count * p->unit;
}
static inline size_t dn__piece_size(const dn__pieces *p, int i) {
    return (i == p->count - 1 ? p->n : dn__piece_from(p, i + 1)) - dn__piece_from(p, i);
}

/* body(context, from, count) over ranges that make up 0 <= i < n: the whole where the work of n
 * things, `each` of one, is too little for several threads; else multiples of `unit`. */
typedef void dn__range_body(const void *context, size_t from, size_t count);
void dn__shared_ranges(size_t n, double each, size_t unit, dn__range_body *body,
                       const void *context);
static inline void dn__parallel_ranges(size_t n, double each, size_t unit, dn__range_body *body,
                                       const void *context) {
    if (dn__shared((double)n * each)) dn__shared_ranges(n, each, unit, body, context);
    else body(context, 0, n);
}
