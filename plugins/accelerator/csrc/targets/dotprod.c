/* The ops on products of bytes on NEON with dot products of bytes. */
#if defined(__aarch64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("arch=armv8.2-a+dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#define CLAW_DOTS_ONLY
#include "../api.h"
#include "../isa/dotprod.h"
#include <math.h>
#include "../ops/all.inc"

TABLE = {
    .isa = "dotprod",
#include "../ops.def"
};
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int claw_no_dotprod;
#endif
