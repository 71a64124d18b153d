/* Every op on the RISC-V vector extension 1.0. Needs a compiler that can use it for one function
 * (clang 18, gcc 14) or was told to for all (-march=rv64gcv); else this target is left out. */
#if defined(__riscv) && __riscv_xlen == 64 \
    && (defined(__riscv_v) || (defined(__clang__) ? __clang_major__ >= 18 : __GNUC__ >= 14))
#if !defined(__riscv_v) && defined(__clang__)
#pragma clang attribute push(__attribute__((target("arch=+v"))), apply_to = function)
#elif !defined(__riscv_v)
#pragma GCC target("arch=+v")
#endif
#include "../api.h"
#include "../isa/rvv.h"
#include "../ops/all.inc"

TABLE = {
    .isa = "rvv",
#include "../ops.def"
};
#if !defined(__riscv_v) && defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int claw_no_rvv;
#endif
