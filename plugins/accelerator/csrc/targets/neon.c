/* Every op on NEON, which every 64-bit ARM has. */
#if defined(__aarch64__)
#include "../api.h"
#include "../isa/neon.h"
#include <math.h>
#include "../ops/all.inc"

TABLE = {
    .isa = "neon",
#include "../ops.def"
};
#else
typedef int claw_no_neon;
#endif
