"""Dequantization equals the official ``gguf`` package bit for bit."""

import gguf
import numpy as np
import pytest

from clawai.sdk.model.dequant import dequantize
from clawai.sdk.model.dtypes import GEOMETRY, DType

REAL = [dtype for dtype in DType if dtype is not DType.I32]


def official(raw: np.ndarray, dtype: DType) -> np.ndarray:
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(dtype.value))


@pytest.mark.parametrize("dtype", REAL, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_equal_the_official_package_bit_for_bit(dtype: DType, seed: int) -> None:
    rows, columns = 7, 1024
    raw = np.random.default_rng(seed).integers(
        0, 256, (rows, dtype.row_bytes(columns)), dtype=np.uint8
    )
    with np.errstate(all="ignore"):  # random bytes make NaN and infinite scales on purpose
        got = dequantize(raw.tobytes(), dtype, (rows, columns))
        view = raw.view(np.float32) if dtype is DType.F32 else raw
        view = raw.view(np.float16) if dtype is DType.F16 else view
        expected = np.ascontiguousarray(official(view, dtype), dtype=np.float32)
    numbers = ~np.isnan(expected)
    assert got.shape == (rows, columns) and got.dtype == np.float32
    assert np.array_equal(np.isnan(got), ~numbers)
    assert np.array_equal(got.view(np.uint32)[numbers], expected.view(np.uint32)[numbers])


@pytest.mark.parametrize("dtype", [DType.Q4_0, DType.Q4_1, DType.Q5_0, DType.Q5_1, DType.Q8_0])
def test_what_the_official_package_quantized_comes_back_near(dtype: DType) -> None:
    weights = np.random.default_rng(3).standard_normal((5, 256)).astype(np.float32)
    raw = gguf.quants.quantize(weights, gguf.GGMLQuantizationType(dtype.value))
    got = dequantize(raw.tobytes(), dtype, weights.shape)
    assert np.abs(got - weights).max() < 0.5


@pytest.mark.parametrize("dtype", REAL, ids=lambda dtype: dtype.name)
def test_geometry_is_that_of_the_official_package(dtype: DType) -> None:
    assert GEOMETRY[dtype] == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(dtype.value)]


def test_a_wrong_number_of_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 40 bytes, got 39"):
        dequantize(bytes(39), DType.Q4_1, (2, 32))
    with pytest.raises(ValueError, match="multiple of 32 elements, got 33"):
        dequantize(bytes(40), DType.Q4_1, (1, 33))


def test_integers_are_no_real_numbers() -> None:
    with pytest.raises(ValueError, match="I32 cannot be dequantized"):
        dequantize(bytes(4), DType.I32, (1,))
