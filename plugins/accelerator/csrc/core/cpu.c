/* Detection: cpuid on x86-64, the auxiliary vector on ARM. */
#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>

static int has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

/* Compilers name this feature only lately; its registers are AVX2's, so the system saves them. */
static int has_avxvnni(void)
{
    unsigned a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

static int has_avx512vnni(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

#define HAS_DOTPROD (1ul << 20) /* of AT_HWCAP */
#define HAS_I8MM (1ul << 13)    /* of AT_HWCAP2 */

static int has_dotprod(void) { return (getauxval(AT_HWCAP) & HAS_DOTPROD) != 0; }
static int has_i8mm(void) { return has_dotprod() && (getauxval(AT_HWCAP2) & HAS_I8MM) != 0; }
#endif

int cpu_has(cpu_feature feature)
{
    switch (feature) {
    case CPU_PLAIN: return 1;
#if defined(__x86_64__)
    case CPU_AVX2: return has_avx2();
    case CPU_AVXVNNI: return has_avxvnni();
    case CPU_AVX512VNNI: return has_avx512vnni();
#elif defined(__aarch64__)
    case CPU_NEON: return 1;
    case CPU_DOTPROD: return has_dotprod();
    case CPU_I8MM: return has_i8mm();
#endif
    default: return 0;
    }
}
