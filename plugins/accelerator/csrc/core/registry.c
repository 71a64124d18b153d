/* Which table of ops runs here, and what the library holds. */
#include <string.h>

#include "../api.h"
#include "cpu.h"

extern const claw_ops claw_ops_scalar;
#if defined(__x86_64__)
extern const claw_ops claw_ops_avx2, claw_ops_avxvnni, claw_ops_avx512vnni;
#elif defined(__aarch64__)
extern const claw_ops claw_ops_neon, claw_ops_dotprod, claw_ops_i8mm;
#endif

/* Best first. */
static const struct {
    const claw_ops *ops;
    cpu_feature needs;
} TARGETS[] = {
#if defined(__x86_64__)
    {&claw_ops_avx512vnni, CPU_AVX512VNNI},
#if defined(CLAW_BUILDS_AVXVNNI)
    {&claw_ops_avxvnni, CPU_AVXVNNI},
#endif
    {&claw_ops_avx2, CPU_AVX2},
#elif defined(__aarch64__)
    {&claw_ops_i8mm, CPU_I8MM},
    {&claw_ops_dotprod, CPU_DOTPROD},
    {&claw_ops_neon, CPU_NEON},
#endif
    {&claw_ops_scalar, CPU_PLAIN},
};

const claw_ops *claw_ops_named(const char *isa)
{
    for (size_t i = 0; i < sizeof TARGETS / sizeof *TARGETS; i++)
        if ((!isa || !strcmp(isa, TARGETS[i].ops->isa)) && cpu_has(TARGETS[i].needs)) return TARGETS[i].ops;
    return NULL;
}

#undef CLAW_DOT
#define CLAW_OP(family, name, dtype, tolerance, args) {#family, #name, dtype, tolerance, 0},
#define CLAW_DOT(family, name, dtype, tolerance, args) {#family, #name, dtype, tolerance, 1},
static const claw_row ROWS[] = {
#include "../ops.def"
};

const claw_row *claw_rows(uint32_t *n)
{
    *n = sizeof ROWS / sizeof *ROWS;
    return ROWS;
}
