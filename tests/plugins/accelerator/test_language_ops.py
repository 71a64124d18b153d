"""Promises of the ops of language models beyond their cases.

Fused ops have the bits of the ops that they join, results may overwrite inputs, and a row gives the
same bits alone and in a batch.
"""

from typing import Any

import numpy as np
import pytest

from clawai.plugins.accelerator._ops import ffi, lib
from clawai.plugins.accelerator.native import available_isas
from guarded import Guarded
from op_cases import KINDS, Out, make_case

TARGETS = available_isas()
WITH_Q8 = {
    "rmsnorm_q8": "rmsnorm",
    "layernorm_q8": "layernorm_f32",
    "silu_mul_q8": "silu_mul",
    "geglu_q8": "geglu_f32",
}
IN_PLACE = [
    *("relu_f32", "leaky_relu_f32", "clamp_f32", "hardswish_f32", "sigmoid_f32", "tanh_f32"),
    *("silu_f32", "quick_gelu_f32", "gelu_f32", "gelu_tanh_f32", "softplus_f32", "exp_f32"),
    *("softcap_f32", "geglu_f32", "glu_f32", "softmax_f32", "log_softmax_f32", "layernorm_f32"),
    *("l2norm_f32", "hadamard_f32"),
]


def call(target: str, name: str, args: list[Any], in_place: bool = False) -> list[Any]:
    """Run an op on copies; returns its outputs. in_place: the one output is the first array."""
    function = getattr(lib.claw_ops_named(target.encode()), name)
    given, outs = [], []
    with Guarded("end") as space, np.errstate(all="ignore"):
        for arg, kind in zip(args, ffi.typeof(function).args, strict=True):
            if isinstance(arg, int | float):
                given.append(arg)
                continue
            if isinstance(arg, Out) and in_place:
                array = outs[0]
            else:
                array = space.place(np.zeros(arg.shape, arg.dtype) if isinstance(arg, Out) else arg)
                if isinstance(arg, Out) or (in_place and not outs):
                    outs.append(array)
            given.append(ffi.cast(kind, array.ctypes.data))
        function(*given)
        return [out.copy() for out in outs]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fused", WITH_Q8)
@pytest.mark.parametrize("target", TARGETS)
def test_fused_ops_have_the_bits_of_the_two(target: str, fused: str, kind: str) -> None:
    args = make_case(fused, kind).args
    inputs, outs = args[:-3], args[-3:]
    n = outs[0].shape
    y = call(target, WITH_Q8[fused], [*inputs, Out(n)])[0]
    expected = call(target, "quantize_q8", [y, n, *outs])
    for got, want in zip(call(target, fused, args), expected, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("target", TARGETS)
def test_the_output_may_be_the_input(target: str, name: str) -> None:
    args = make_case(name, "odd").args
    apart, same = (call(target, name, args, in_place) for in_place in (False, True))
    np.testing.assert_array_equal(same[0], apart[0])


@pytest.mark.parametrize("target", TARGETS)
def test_the_sum_of_a_norm_may_be_the_residual(target: str) -> None:
    a, b, gain, n, eps, *outs = make_case("add_rmsnorm", "odd").args
    total, y = call(target, "add_rmsnorm", [a, b, gain, n, eps, *outs])
    op = lib.claw_ops_named(target.encode()).add_rmsnorm
    x, out = a.copy(), np.zeros_like(y)
    at = [ffi.cast("float *", v.ctypes.data) for v in (x, b, gain, out)]
    op(at[0], at[1], at[2], n, eps, at[0], at[3])
    np.testing.assert_array_equal(x, total)
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("name", ["attention_q8", "attention_window_f16"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_query_gives_the_same_bits_alone_and_in_a_batch(target: str, name: str) -> None:
    args = make_case(name, "odd").args
    query, rows, dim, scale, cap, first, limit, stride, keys, values, scratch, _ = args
    scratch = Out(scratch.shape)
    batch = call(target, name, [*args[:-2], scratch, Out((rows, dim))])[1]
    for r in range(rows):
        few = [query[r : r + 1], 1, dim, scale, cap, first[r : r + 1], limit[r : r + 1]]
        alone = call(target, name, [*few, stride, keys, values, scratch, Out((1, dim))])[1]
        np.testing.assert_array_equal(alone[0], batch[r])


@pytest.mark.parametrize("target", TARGETS)
def test_without_a_window_attention_has_the_bits_of_attention(target: str) -> None:
    args = make_case("attention_f16", "large").args
    query, rows, dim, scale, limit, stride, keys, values, scratch, out = args
    scratch = Out(scratch.shape)
    plain = call(target, "attention_f16", [*args[:-2], scratch, out])[1]
    first = np.zeros(rows, np.int32)
    rest = [stride, keys, values, scratch, out]
    got = call(target, "attention_window_f16", [query, rows, dim, scale, 0.0, first, limit, *rest])
    np.testing.assert_array_equal(got[1], plain)


@pytest.mark.parametrize("target", TARGETS)
def test_the_int8_cache_is_near_the_one_in_f16(target: str) -> None:
    """A cache that was filled by kv_append_q8, position by position, and read by attention_q8."""
    rng, dim, length = np.random.default_rng(5), 64, 130
    k, v = rng.standard_normal((2, length, dim)).astype(np.float32)
    query = rng.standard_normal((1, dim)).astype(np.float32)
    cache = [np.zeros((3, 68 * dim), np.uint8) for _ in range(2)]
    ops = lib.claw_ops_named(target.encode())
    at = [ffi.cast("uint8_t *", c.ctypes.data) for c in cache]
    for i in range(length):
        row = [ffi.cast("float *", x[i].ctypes.data) for x in (k, v)]
        ops.kv_append_q8(*row, dim, i, 68 * dim, *at)
    first, limit = np.zeros(1, np.int32), np.full(1, length, np.int32)
    scratch = Out(64 * dim * 2 + 130, scratch=True)
    args = [query, 1, dim, 0.125, 0.0, first, limit, 68 * dim, *cache, scratch, Out((1, dim))]
    got = call(target, "attention_q8", args)[1]
    weights = np.exp(query @ k.T * 0.125)
    np.testing.assert_allclose(got, weights / weights.sum() @ v, atol=0.01)


@pytest.mark.parametrize("target", TARGETS)
def test_special_values_of_activations(target: str) -> None:
    x = np.array([-np.inf, np.inf, np.nan, -0.0, 1e-30, -200, 200], np.float32)
    limits = {
        "relu_f32": (0, np.inf),
        "sigmoid_f32": (0, 1),
        "tanh_f32": (-1, 1),
        "silu_f32": (0, np.inf),
        "quick_gelu_f32": (0, np.inf),
        "gelu_f32": (0, np.inf),
        "gelu_tanh_f32": (0, np.inf),
        "hardswish_f32": (0, np.inf),
        "softplus_f32": (0, np.inf),
        "exp_f32": (0, np.inf),
    }
    for name, (left, right) in limits.items():
        y = call(target, name, [x, x.size, Out(x.size)])[0]
        assert np.isnan(y).tolist() == np.isnan(x).tolist(), name
        np.testing.assert_allclose(y[[0, 5]], left, atol=1e-6, err_msg=name)
        assert y[1] == right, name


@pytest.mark.parametrize("target", TARGETS)
def test_a_row_of_nothing(target: str) -> None:
    nothing = np.full(13, -np.inf, np.float32)
    assert not call(target, "softmax_f32", [nothing, 13, 13, 1.0, Out(13)])[0].any()
    assert not call(target, "softmax_f32", [nothing, 13, 0, 1.0, Out(13)])[0].any()
    assert call(target, "logsumexp_f32", [nothing, 13, Out(1)])[0][0] == -np.inf
    nan = np.full(13, np.nan, np.float32)
    assert call(target, "argmax_f32", [nan, 13, Out(1, np.int32)])[0][0] == -1
    assert call(target, "argmax_f32", [nothing, 13, Out(1, np.int32)])[0][0] == 0
    values, indices = call(target, "topk_f32", [nan, 13, 2, Out(2), Out(2, np.int32)])
    assert values.tolist() == [-np.inf] * 2 and indices.tolist() == [-1, -1]


@pytest.mark.parametrize("target", TARGETS)
def test_hadamard_twice_is_the_input(target: str) -> None:
    x = make_case("hadamard_f32", "large").args[0]
    y = call(target, "hadamard_f32", [x, x.size, Out(x.size)])[0]
    back = call(target, "hadamard_f32", [y, x.size, Out(x.size)])[0]
    np.testing.assert_allclose(back, x, atol=1e-5)
