/* Every op in plain C: the reference of the checks, and the last resort on any processor. */
#include "../api.h"
#include "../isa/scalar.h"
#include "../ops/all.inc"

TABLE = {
    .isa = "scalar",
#include "../ops.def"
};
