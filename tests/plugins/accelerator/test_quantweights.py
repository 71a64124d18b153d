"""Quantizers of weights: the bytes of the ``gguf`` package, and Q4_1 better than its rule."""

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from clawai.plugins.accelerator import claw_quantize, quantize
from clawai.plugins.accelerator.native import available_isas
from clawai.sdk.model.dequant import dequantize
from clawai.sdk.model.dtypes import DType

Array = npt.NDArray[np.float32]


@pytest.fixture(params=available_isas(), autouse=True)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each target of this processor."""
    monkeypatch.setenv("CLAW_ISA", request.param)


def gaussian(rows: int, k: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, k)).astype(np.float32)


def plain(weights: Array, dtype: DType) -> Array:
    """What the package makes of them, decoded."""
    raw = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[dtype.name])
    return dequantize(raw.tobytes(), dtype, weights.shape)


def ours(weights: Array, dtype: DType, importance: Array | None = None) -> Array:
    made = quantize.quantize(weights, dtype, importance)
    assert made is not None
    return dequantize(made.tobytes(), dtype, weights.shape)


def decibels(weights: Array, decoded: Array) -> float:
    error = ((weights - decoded).astype(np.float64) ** 2).sum()
    return float(10 * np.log10((weights.astype(np.float64) ** 2).sum() / error))


@pytest.mark.parametrize("size", [1.0, 1e-3, 3e4])
@pytest.mark.parametrize("dtype", [DType.Q8_0, DType.Q4_0])
def test_the_usual_rules_agree_bit_for_bit(dtype: DType, size: float) -> None:
    spread = gaussian(64, 96) * np.float32(size) / 5
    ties = np.round(gaussian(64, 96, 1) * 4) * np.float32(size / 16)
    heavy = np.random.default_rng(2).standard_t(2, (64, 96)).clip(-20, 20).astype(np.float32)
    flat = np.zeros((2, 96), np.float32)
    flat[1] = -size
    for weights in (spread, ties, heavy, flat):
        made = quantize.quantize(weights, dtype)
        assert made is not None
        expected = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[dtype.name])
        np.testing.assert_array_equal(made, expected)


def test_q4_1_is_better_than_the_usual_rule() -> None:
    """On Gaussian weights the rule has 22.1 dB; searched it is at least 22.5."""
    weights = gaussian(256, 512)
    assert 22.0 < decibels(weights, plain(weights, DType.Q4_1)) < 22.3
    assert decibels(weights, ours(weights, DType.Q4_1)) >= 22.5
    heavy = np.random.default_rng(1).standard_t(5, (256, 512)).astype(np.float32)
    better = decibels(heavy, ours(heavy, DType.Q4_1)) - decibels(heavy, plain(heavy, DType.Q4_1))
    assert better >= 0.4


def test_q4_1_is_worse_than_the_usual_rule_in_no_block() -> None:
    weights = gaussian(300, 32) ** 3
    weights[1::4] += 5  # far from zero
    weights[2::8] = np.round(weights[2::8])
    errors = [
        ((weights - made) ** 2).sum(1)
        for made in (ours(weights, DType.Q4_1), plain(weights, DType.Q4_1))
    ]
    assert np.all(errors[0] <= errors[1] * (1 + 1e-5) + 1e-9)


def test_q4_1_weighs_errors_by_the_importance_of_columns() -> None:
    weights, importance = gaussian(256, 64), np.ones(64, np.float32)
    importance[::4] = 100
    alike, weighed = (ours(weights, DType.Q4_1, each) for each in (None, importance))
    loss = [float((importance * (weights - made) ** 2).sum()) for made in (alike, weighed)]
    assert loss[1] < 0.85 * loss[0]
    nothing = ours(weights, DType.Q4_1, np.zeros(64, np.float32))
    np.testing.assert_array_equal(nothing, alike)


@pytest.mark.parametrize("dtype", [DType.Q8_0, DType.Q4_0, DType.Q4_1])
def test_what_cannot_be_spanned_shows(dtype: DType) -> None:
    weights = gaussian(5, 32)
    weights[1, 3], weights[2, 0], weights[3, 31] = np.nan, -np.inf, 1e6
    made = ours(weights, dtype)
    assert np.isnan(made[1:4]).all() and np.isfinite(made[[0, 4]]).all()
    tiny = np.full((1, 32), 1e-42, np.float32)
    assert np.isfinite(ours(tiny, dtype)).all()


def test_a_large_matrix_is_cut_where_rows_end(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, importance = gaussian(50, 64), np.abs(gaussian(1, 64)[0])
    whole = [quantize.quantize(weights, each, importance) for each in (DType.Q4_0, DType.Q4_1)]
    monkeypatch.setattr(quantize, "_ROWS", 64 * 7)
    cut = [quantize.quantize(weights, each, importance) for each in (DType.Q4_0, DType.Q4_1)]
    for one, other in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(one, other)


def test_types_that_are_not_made_are_left_to_others() -> None:
    assert claw_quantize(gaussian(1, 256), DType.Q6_K, None) is None
    made = claw_quantize(gaussian(1, 256)[:, ::-1], DType.Q8_0, None)  # not in C order
    assert made.nbytes == DType.Q8_0.row_bytes(256)
