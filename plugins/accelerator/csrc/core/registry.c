/* Which table of ops runs here.
 *
 * Sets that bring nothing but products of bytes hold the ops that are built on these (CLAW_DOT); the
 * others they have from the smaller set, the very same functions. */
#include <string.h>

#include "../api.h"
#include "cpu.h"
#undef CLAW_DOT

/* Weak: the compiler may not have known how. */
#define MAYBE __attribute__((weak))
extern const claw_ops claw_ops_scalar;
#if defined(__x86_64__)
extern const claw_ops claw_ops_avx2, claw_ops_avx512vnni, claw_ops_avxvnni MAYBE;
#elif defined(__aarch64__)
extern const claw_ops claw_ops_neon, claw_ops_dotprod MAYBE, claw_ops_i8mm MAYBE;
#elif defined(__riscv)
extern const claw_ops claw_ops_rvv MAYBE;
#endif

/* Best first. */
static const struct {
    const claw_ops *own, *smaller;
    cpu_feature needs;
} TARGETS[] = {
#if defined(__x86_64__)
    {&claw_ops_avx512vnni, &claw_ops_avx2, CPU_AVX512VNNI},
    {&claw_ops_avxvnni, &claw_ops_avx2, CPU_AVXVNNI},
    {&claw_ops_avx2, NULL, CPU_AVX2},
#elif defined(__aarch64__)
    {&claw_ops_i8mm, &claw_ops_neon, CPU_I8MM},
    {&claw_ops_dotprod, &claw_ops_neon, CPU_DOTPROD},
    {&claw_ops_neon, NULL, CPU_NEON},
#elif defined(__riscv)
    {&claw_ops_rvv, NULL, CPU_RVV},
#endif
    {&claw_ops_scalar, NULL, CPU_PLAIN},
};
#define COUNT (sizeof TARGETS / sizeof *TARGETS)

/* Whole tables: written once, while the library is loaded. */
static claw_ops tables[COUNT];

__attribute__((constructor)) static void fill_tables(void)
{
    for (size_t i = 0; i < COUNT; i++) {
        const claw_ops *const own = TARGETS[i].own, *const others = TARGETS[i].smaller ? TARGETS[i].smaller : own;
        if (!own) continue;
        tables[i].isa = own->isa;
#define CLAW_OP(family, name, dtype, tolerance, args) tables[i].name = others->name;
#define CLAW_DOT(family, name, dtype, tolerance, args) tables[i].name = own->name;
#include "../ops.def"
    }
}

const claw_ops *claw_ops_named(const char *isa)
{
    for (size_t i = 0; i < COUNT; i++)
        if (tables[i].isa && (!isa || !strcmp(isa, tables[i].isa)) && cpu_has(TARGETS[i].needs)) return tables + i;
    return NULL;
}
