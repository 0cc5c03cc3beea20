/* What vector loops and products run with in this process. */
#include "dn_api.h"
#include "kernels/bf16.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"

void dn_set_blas(void *gemm, void *gemv, void *getrf) {
    dn__set_blas(gemm, gemv);
    dn__set_lapack(getrf);
}

void dn_share_work(double shared, double piece) {
    dn__shared_work = shared;
    dn__piece_work = piece;
}
void dn_compute_alone(double time) { dn__compute_alone(time); }
int dn_most_threads(void) { return DN_MAX_THREADS; }
int dn_threads(void) { return atomic_load(&dn__threads); }
void dn_set_threads(int n) {
    if (n > 1) dn__check_blas();
    dn__set_threads(n);
}

const char *dn_simd_level(void) {
#ifdef DN_TARGET_CLONES
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512cd"))
        return "x86-64-v4";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "x86-64-v3";
#endif
    return "default";
}

#ifdef DN_DOUBLE
const char *dn_bf16_isa(void) { return "none"; }
int dn_bf16_choose(const char *isa) { return (void)isa, 0; }
#else
const char *dn_bf16_isa(void) { return dn__bf16_isa(); }
int dn_bf16_choose(const char *isa) { return dn__bf16_choose(isa); }
#endif
