/* Vectors of four numbers, which every instruction set has or is given by the compiler. */
#pragma once

#include <stdint.h>
#include "../dn_real.h"

#ifdef DN_DOUBLE
typedef int64_t lane_int;
#else
typedef int32_t lane_int;
#endif
typedef dn_real Quad __attribute__((vector_size(4 * sizeof(dn_real))));
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef lane_int QuadIndex __attribute__((vector_size(4 * sizeof(dn_real))));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (QuadIndex){__VA_ARGS__})
#endif
