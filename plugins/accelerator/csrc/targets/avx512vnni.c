/* The ops on products of bytes on AVX-512 VL + VNNI. CLAW_EMULATED: a check's build, whose products of bytes are not the
 * processor's; the rest is AVX2, as the command line asked for. */
#if defined(__x86_64__)
#if defined(CLAW_EMULATED)
#elif defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni,prefer-vector-width=256")
#endif
#define CLAW_DOTS_ONLY
#include "../api.h"
#include "../isa/avx512vnni.h"
#include <math.h>
#include "../ops/all.inc"

TABLE = {
    .isa = "avx512vnni",
#include "../ops.def"
};
#if defined(__clang__) && !defined(CLAW_EMULATED)
#pragma clang attribute pop
#endif
#else
typedef int claw_no_avx512vnni;
#endif
