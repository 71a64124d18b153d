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

const claw_ops *claw_ops_named(const char *isa)
{
#if defined(__x86_64__)
    if ((!isa || !strcmp(isa, "avx512vnni")) && has_avx512vnni()) return &claw_ops_avx512vnni;
    if ((!isa || !strcmp(isa, "avx2")) && has_avx2()) return &claw_ops_avx2;
#endif
    return !isa || !strcmp(isa, "scalar") ? &claw_ops_scalar : NULL;
}
