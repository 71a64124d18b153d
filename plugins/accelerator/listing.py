"""What the library holds, as one line of JSON for `claw ops`.

    python -I -m clawai.plugins.accelerator.listing "gemv_int=avx2 ahead=2048"

The argument is the profile (``clawai.sdk.tuning``) whose choices are shown.
"""

import json
import sys
from typing import Any

from clawai.plugins.accelerator.native import ISAS, available_isas, lib
from clawai.plugins.accelerator.tuned import Row, rows, tune
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_fields

SMALLER = {"avxvnni": "avx2", "avx512vnni": "avx2", "dotprod": "neon", "i8mm": "neon"}
"""Sets that bring nothing but sums of products of bytes, and whose ops the others are: the very
same functions, so there they count for nothing."""

MATRIX_FAMILIES = ("gemm_int", "conv_int")
"""Families on products of bytes that use what i8mm has and dotprod lacks (smmla, usdot); the others
run the instructions of dotprod there, and count for that set only."""


def set_of(row: Row, isa: str) -> str:
    """The instruction set that an op counts for when it runs on ``isa``."""
    if not row.dots:
        return SMALLER.get(isa, isa)
    return "dotprod" if isa == "i8mm" and row.family not in MATRIX_FAMILIES else isa


def listing(line: str) -> dict[str, Any]:
    """Everything that `claw ops` shows but what was timed."""
    tuned = tune(line)
    hints = {
        "ahead": lib.claw_tune.ahead,
        "tile": lib.claw_tune.tile,
        "streams": lib.claw_tune.streams,
        "one_threads": lib.claw_tune.one,
        "many_threads": lib.claw_tune.many,
    }
    ops = [
        {
            "family": row.family,
            "op": row.op,
            "dtype": row.dtype,
            "isa": isa,
            "chosen": set_of(row, tuned.isa_of(row.family)) == isa,
        }
        for row in rows()
        for isa in ISAS
        if set_of(row, isa) == isa
    ]
    return {"ops": ops, "isas": list(ISAS), "here": available_isas(), "hints": hints}


def main() -> None:
    """Print it."""
    try:
        found = listing(" ".join(sys.argv[1:]))
    except ClawError as error:
        found = {"error": error_fields(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
