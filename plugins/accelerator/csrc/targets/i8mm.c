/* The ops on products of bytes on NEON with products of matrices of bytes. */
#if defined(__aarch64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("arch=armv8.2-a+dotprod+i8mm"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod+i8mm")
#endif
#define CLAW_DOTS_ONLY
#include "../api.h"
#include "../isa/i8mm.h"
#include <math.h>
#include "../ops/all.inc"

TABLE = {
    .isa = "i8mm",
#include "../ops.def"
};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int claw_no_i8mm;
#endif
