/* Every op on AVX2 + FMA + F16C. Chosen at run time, so the rest of the library needs no flags. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include "../api.h"
#include "../isa/avx2.h"
#include <math.h>
#include "../ops/all.inc"

TABLE = {
    .isa = "avx2",
#include "../ops.def"
};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int claw_no_avx2;
#endif
