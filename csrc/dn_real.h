/* The number type of a build, and how its vector loops are compiled. */
#pragma once

#include <float.h>

#ifdef DN_DOUBLE
typedef double dn_real;
#define DN_MOST DBL_MAX
#else
typedef float dn_real;
#define DN_MOST FLT_MAX
#endif

/* Sums of more numbers than that are sums of blocks of so many, which are added in double: one of
 * float takes nothing up any more once it is 2^24 times as large as what is added. */
enum { DN_MANY = 4096 };

/* build_ffi.py probes the compiler and defines DN_TARGET_CLONES where function multiversioning
 * works: 2 for the x86-64 levels (GCC 12), 1 for single features (GCC 11). Names of processors such
 * as arch=haswell are of no use here: GCC makes them a test of the model, which no AMD processor
 * passes (docs/adr/0002). */
#if defined(DN_TARGET_CLONES) && DN_TARGET_CLONES == 2
#define DN_MULTIVERSION \
    __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#elif defined(DN_TARGET_CLONES)
#define DN_MULTIVERSION __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define DN_MULTIVERSION
#endif

/* For loops that must stay functions of their own: inlined, GCC 12 would find control flow in them
 * and leave them scalar. clang takes no clones that are told so, and inlines none. */
#if defined(__clang__) && defined(DN_TARGET_CLONES)
#define DN_NOT_INLINE
#else
#define DN_NOT_INLINE __attribute__((noinline))
#endif
