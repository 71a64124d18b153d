/* What the profile of a machine may set (see profile.py), and the list of ops for programs. */
#include <string.h>

#include "../api.h"
#include "cpu.h"
#undef CLAW_DOT

/* Measured: 2 KB ahead in each stream of gemv.c (Sapphire Rapids), and a tile that fits 16 registers (Zen 3). */
claw_tuning claw_tune = {.ahead = 8192, .tile = 4};

__attribute__((constructor)) static void choose_streams(void) { claw_tune.streams = cpu_streams(); }

uint32_t claw_ops_take(claw_ops *into, const char *family, const claw_ops *from)
{
    uint32_t taken = 0;
#define CLAW_OP(family_, name, dtype, tolerance, args) \
    if (!strcmp(family, #family_)) {                   \
        into->name = from->name;                       \
        taken++;                                       \
    }
#define CLAW_DOT CLAW_OP
#include "../ops.def"
#undef CLAW_OP
#undef CLAW_DOT
    return taken;
}

static const claw_op_row ROWS[] = {
#define CLAW_OP(family, name, dtype, tolerance, args) {#family, #name, dtype, tolerance, 0},
#define CLAW_DOT(family, name, dtype, tolerance, args) {#family, #name, dtype, tolerance, 1},
#include "../ops.def"
};

const claw_op_row *claw_op_rows(uint32_t *n)
{
    *n = sizeof ROWS / sizeof *ROWS;
    return ROWS;
}
