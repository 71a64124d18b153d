/* Every op in plain C: the reference of the checks, and the last resort on any processor. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(CLAW_CHECKOPS)
/* Level 3 takes more than twice as long to compile here, for code that is no faster. */
#pragma GCC optimize("O2")
#endif
#include "../api.h"
#include "../isa/scalar.h"
#include "../ops/all.inc"

TABLE = {
    .isa = "scalar",
#include "../ops.def"
};
