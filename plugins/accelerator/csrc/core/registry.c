/* Which table of ops runs here: detection by the processor itself (no /proc, fit for a sandbox). */
#define _GNU_SOURCE
#include <string.h>

#include "../api.h"

extern const claw_ops claw_ops_scalar;
#if defined(__x86_64__)
extern const claw_ops claw_ops_avx2, claw_ops_avx512vnni;

static int has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

static int has_avx512vnni(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
#endif
#if defined(__riscv)
#include <sys/syscall.h>
#include <unistd.h>

extern const claw_ops claw_ops_rvv __attribute__((weak)); /* the compiler may not have known how */

/* riscv_hwprobe came to Linux with the vector extension 1.0. The letter V of AT_HWCAP is no proof:
 * kernels of early boards set it for the draft 0.7.1, whose instructions differ. */
static int has_rvv(void)
{
#if defined(__riscv_v)
    return 1; /* the whole library was built for it */
#else
    struct { int64_t key; uint64_t value; } base = {4, 0}; /* RISCV_HWPROBE_KEY_IMA_EXT_0 */
    return &claw_ops_rvv && !syscall(258, &base, 1, 0, NULL, 0) && base.key == 4 && (base.value >> 2 & 1);
#endif
}
#endif

const claw_ops *claw_ops_named(const char *isa)
{
#if defined(__x86_64__)
    if ((!isa || !strcmp(isa, "avx512vnni")) && has_avx512vnni()) return &claw_ops_avx512vnni;
    if ((!isa || !strcmp(isa, "avx2")) && has_avx2()) return &claw_ops_avx2;
#endif
#if defined(__riscv)
    if ((!isa || !strcmp(isa, "rvv")) && has_rvv()) return &claw_ops_rvv;
#endif
    return !isa || !strcmp(isa, "scalar") ? &claw_ops_scalar : NULL;
}
