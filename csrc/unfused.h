/* To be included where the bits of a sum must not depend on the machine, on the clone of a function
 * or on the place of a number in a loop: from here on the compiler fuses no product with a sum but
 * where fmaf is written. Of two products that are added it would choose one to fuse, and choose
 * otherwise in vectors than in what is left of a loop (GCC 15). */
#pragma once

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif
