/* For tests, under LD_PRELOAD: the n-th allocation, or thread, that certain libraries ask for
 * fails, once or from then on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { MOST = 8 };
static struct { uintptr_t from, to; } watched[MOST];
static int n_hooked, lasting;
static long left = -1, failures;   /* left: how many succeed before one fails; < 0: all */

void shim_watch(uintptr_t from, uintptr_t to) {
    if (n_hooked == MOST) abort();
    watched[n_hooked].from = from;
    watched[n_hooked++].to = to;
}

/* n = 1: the next one fails; 0: none. */
void shim_fail(long n, int from_then_on) {
    left = n - 1;
    lasting = from_then_on;
    failures = 0;
}

long shim_failures(void) { return failures; }

static int fails(void *caller) {
    const uintptr_t at = (uintptr_t)caller;
    int i = 0;
    if (left < 0) return 0;
    while (i < n_hooked && !(at >= watched[i].from && at < watched[i].to)) i++;
    if (i == n_hooked) return 0;
    if (left > 0) return left--, 0;
    if (!lasting) left = -1;
    failures++;
    errno = ENOMEM;
    return 1;
}

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
#define FAILS fails(__builtin_return_address(0))
void *malloc(size_t n) { return FAILS ? NULL : __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return FAILS ? NULL : __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return FAILS ? NULL : __libc_realloc(p, n); }
void *aligned_alloc(size_t align, size_t n) { return FAILS ? NULL : __libc_memalign(align, n); }

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*f)(void *),
                   void *x) {
    int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (FAILS) return EAGAIN;
    *(void **)&create = dlsym(RTLD_NEXT, "pthread_create");
    return create(thread, attributes, f, x);
}
