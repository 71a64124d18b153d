"""The C library: which instruction set runs, and how GGUF types map to packed formats.

The environment variable ``CLAW_ISA`` (one of ``ISAS``) overrides the choice by the processor.
"""

import os
from typing import Any

from clawai.plugins.accelerator._ops import ffi, lib
from clawai.sdk.model.dtypes import DType

__all__ = [
    "FORMATS",
    "ISAS",
    "PACKED",
    "available_isas",
    "choose_isa",
    "ffi",
    "is_int",
    "lib",
    "packed_bytes",
]

ISAS = ("scalar", "avx2", "avxvnni", "avx512vnni", "neon", "dotprod", "i8mm", "rvv")
"""Targets of the library, of all processors, worst first."""

FORMATS = ("q4a", "q4s", "q8a", "q8s", "f16", "bf16", "f32")
"""Packed formats, at the index that C knows them by (``enum claw_format``)."""

PACKED: dict[DType, str] = {
    DType.F32: "f32",
    DType.F16: "f16",
    DType.BF16: "bf16",
    DType.Q4_0: "q4s",
    DType.Q4_1: "q4a",
    DType.Q4_K: "q4a",
    DType.Q5_0: "q8s",
    DType.Q5_1: "q8a",
    DType.Q5_K: "q8a",
    DType.Q6_K: "q8s",
    DType.Q8_0: "q8s",
}
"""What each GGUF type is packed into when it is loaded (see ``csrc/core/pack.c``)."""


def is_int(fmt: str) -> bool:
    """Whether products with this format take quantized activations."""
    return fmt.startswith("q")


def packed_bytes(fmt: str, rows: int, width: int) -> int:
    """Bytes of a packed matrix; rows are padded to groups of 8."""
    return int(lib.claw_packed_bytes(FORMATS.index(fmt), rows, width))


def available_isas() -> list[str]:
    """The targets that this processor can run."""
    return [name for name in ISAS if lib.claw_ops_named(name.encode()) != ffi.NULL]


def choose_isa() -> str:
    """The name of the instruction set to run.

    Raises:
        RuntimeError: ``CLAW_ISA`` names one that is unknown or that this processor lacks.
    """
    wanted = os.environ.get("CLAW_ISA")
    table: Any = lib.claw_ops_named(wanted.encode() if wanted else ffi.NULL)
    if table == ffi.NULL:
        allowed = ", ".join(available_isas())
        raise RuntimeError(f"CLAW_ISA={wanted} cannot run here; allowed: {allowed}; or unset it")
    return bytes(ffi.string(table.isa)).decode()
