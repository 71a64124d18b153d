/* The ops on products of bytes on AVX2 + AVX-VNNI. CLAW_EMULATED: see avx512vnni.c. Compilers that do
 * not know the instructions leave the target out. */
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#if defined(CLAW_EMULATED)
#elif defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif
#define CLAW_DOTS_ONLY
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
