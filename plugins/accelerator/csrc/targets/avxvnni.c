/* Every op on AVX2 + AVX-VNNI. CLAW_EMULATED: see avx512vnni.c. */
#include "../core/cpu.h"
#if defined(CLAW_BUILDS_AVXVNNI)
#if defined(CLAW_EMULATED)
#elif defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif
#include "../api.h"
#include "../isa/avxvnni.h"
#include <math.h>
#include "../ops/all.inc"

TABLE = {
    .isa = "avxvnni",
#include "../ops.def"
};
#if defined(__clang__) && !defined(CLAW_EMULATED)
#pragma clang attribute pop
#endif
#else
typedef int claw_no_avxvnni;
#endif
