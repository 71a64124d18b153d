"""Packing GGUF matrices: every type against the SDK's own dequantization, row by row."""

import numpy as np
import pytest

from clawai.plugins.accelerator.native import FORMATS, PACKED, ffi, is_int, lib, packed_bytes
from clawai.plugins.accelerator.weights import pack
from clawai.sdk.model.dequant import dequantize
from clawai.sdk.model.driver import UnsupportedGraph
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.graph import Tensor
from tiny_llama import random_bytes

EXACT = set(PACKED) - {DType.Q4_K, DType.Q5_K, DType.Q6_K}
TOLERANCE = {DType.Q4_K: 1e-3, DType.Q5_K: 1e-3, DType.Q6_K: 5e-3}
"""Of the largest value: scales rounded to f16, and Q6_K's rounding to int8."""


def rows_of(fmt: str, packed: memoryview, width: int, blocks: list[int]) -> np.ndarray:
    """All rows of the given blocks, through the embedding op."""
    table = lib.claw_ops_named(b"scalar")
    size = packed_bytes(fmt, 8, width)
    y = np.empty((len(blocks) * 8, width), np.float32)
    for i, block in enumerate(blocks):
        at = ffi.cast("uint8_t *", ffi.from_buffer(packed)) + block * size
        for lane in range(8):
            getattr(table, f"row_{fmt}")(
                at, width, lane, ffi.cast("float *", y[i * 8 + lane].ctypes.data)
            )
    return y


@pytest.mark.parametrize("rows", [8, 13])
@pytest.mark.parametrize("dtype", list(PACKED), ids=lambda d: d.name)
def test_packed_rows_are_the_rows_of_the_file(dtype: DType, rows: int) -> None:
    width = 512 if is_int(PACKED[dtype]) else 77
    data = random_bytes(np.random.default_rng(7), dtype, rows, width, 1.0)
    fmt = PACKED[dtype]
    out = memoryview(bytearray(packed_bytes(fmt, rows, width)))
    pack(Tensor("w", (rows, width), dtype, memoryview(data)), fmt, out, 0, 1)
    got = rows_of(fmt, out, width, list(range(-(-rows // 8))))
    expected = dequantize(data, dtype, (rows, width))
    if dtype in EXACT:
        np.testing.assert_allclose(got[:rows], expected, rtol=1e-6, atol=1e-7)
    else:
        error = np.abs(got[:rows] - expected).max() / np.abs(expected).max()
        assert error <= TOLERANCE[dtype]
    assert not np.any(got[rows:]), "padding rows must be zero"


def test_two_matrices_alternate() -> None:
    rng = np.random.default_rng(8)
    fmt, out = "q4a", memoryview(bytearray(2 * packed_bytes("q4a", 16, 64)))
    expected = []
    for i in range(2):
        data = random_bytes(rng, DType.Q4_1, 16, 64, 1.0)
        pack(Tensor("w", (16, 64), DType.Q4_1, memoryview(data)), fmt, out, i, 2)
        expected.append(dequantize(data, DType.Q4_1, (16, 64)))
    for i in range(2):
        np.testing.assert_allclose(
            rows_of(fmt, out, 64, [i, i + 2]), expected[i], rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize(
    ("rows", "width", "source", "target", "first", "step"),
    [
        (0, 64, 10_000, 10_000, 0, 1),
        (8, 0, 10_000, 10_000, 0, 1),
        (8, 33, 10_000, 10_000, 0, 1),
        (8, 64, 8 * 40 - 1, 10_000, 0, 1),
        (8, 64, 10_000, 319, 0, 1),
        (8, 64, 10_000, 320, 1, 1),
        (9, 64, 10_000, 320 * 2, 0, 2),
        (8, 64, 10_000, 10_000, 0, 3),
        (1 << 31, 1 << 17, 10_000, 10_000, 0, 1),
        (0xFFFFFFFF, 0xFFFFFFE0, 10_000, 10_000, 0, 1),
        (8, 64, 10_000, 10_000, 0xFFFFFFFF, 1),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    rows: int, width: int, source: int, target: int, first: int, step: int
) -> None:
    src, dst = ffi.new("uint8_t[]", 10_000), ffi.new("uint8_t[]", 10_000)
    code = lib.claw_pack(0, DType.Q4_1, rows, width, src, source, dst, target, first, step)
    assert code == lib.CLAW_BAD_PLAN


def test_a_type_packs_into_its_own_format_only() -> None:
    src, dst = ffi.new("uint8_t[]", 10_000), ffi.new("uint8_t[]", 10_000)
    for dtype in [*PACKED, DType.I32]:
        for index, fmt in enumerate(FORMATS):
            code = lib.claw_pack(index, dtype, 8, 256, src, 10_000, dst, 10_000, 0, 1)
            assert (code == 0) == (PACKED.get(dtype) == fmt)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_weight_of_the_wrong_size_is_refused(change: int) -> None:
    data = memoryview(bytes(8 * 40 + change))
    with pytest.raises(UnsupportedGraph, match="must have 320 contiguous bytes"):
        pack(Tensor("w", (8, 64), DType.Q4_1, data), "q4a", memoryview(bytearray(320)), 0, 1)
