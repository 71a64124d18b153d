"""Weights to GGUF's block types, by the ops of ``csrc/ops/quantweights.c``.

Q8_0 and Q4_0 follow GGUF's usual rules, to which the importance of columns is nothing. Q4_1
searches the scale and minimum of each block with the smallest error, weighted by it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from clawai.plugins.accelerator.native import choose_isa, ffi, lib
from clawai.sdk.model.dtypes import DType

Array = npt.NDArray[np.float32]
_ROWS = 1 << 24
"""Weights of one call: the counts in C are 32 bits."""


def quantize(
    weights: Array, dtype: DType, importance: Array | None = None
) -> npt.NDArray[np.uint8] | None:
    """The blocks of a matrix (rows, k); None for a type that is not made here.

    Args:
        importance: (k,), none negative; None: all columns alike.
    """
    ops: Any = lib.claw_ops_named(choose_isa().encode())
    run = {DType.Q8_0: ops.weights_q8_0, DType.Q4_0: ops.weights_q4_0, DType.Q4_1: ops.weights_q4_1}
    if dtype not in run:
        return None
    rows, k = weights.shape
    matrix = np.ascontiguousarray(weights, np.float32)
    columns = np.ones(k, np.float32) if importance is None else np.ascontiguousarray(importance)
    made = np.empty((rows, dtype.row_bytes(k)), np.uint8)
    step = max(1, _ROWS // k)
    for first in range(0, rows, step):
        part, out = matrix[first : first + step], made[first : first + step]
        x, y = ffi.from_buffer("float[]", part), ffi.from_buffer("uint8_t[]", out)
        if dtype is DType.Q4_1:
            run[dtype](x, ffi.from_buffer("float[]", columns), len(part), k, y)
        else:
            run[dtype](x, part.size, y)
    return made
