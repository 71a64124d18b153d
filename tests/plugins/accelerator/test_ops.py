"""Every op of ``ops.def`` on every target of this processor, against a float64 reference.

Arrays lie flush with forbidden pages, once at their start (the end then is unaligned) and once at
their end; sizes are odd where an op allows it. Integer stages must agree bit for bit between
targets, floats within the tolerance that ``ops.def`` states.
"""

import numpy as np
import pytest

from clawai.plugins.accelerator._ops import ffi, lib
from clawai.plugins.accelerator.build_ops import OpRow, read_ops
from clawai.plugins.accelerator.native import available_isas
from guarded import Guarded
from op_cases import KINDS, MAKERS, Case, Out, make_case
from op_cases.compare import agrees, meets_reference
from op_cases.native import run

OPS = read_ops()
TARGETS = available_isas()


def test_every_op_has_cases() -> None:
    assert {op.name for op in OPS} == set(MAKERS)


def test_the_scalar_target_is_always_there() -> None:
    assert "scalar" in TARGETS
    assert lib.claw_ops_named(b"no such target") == ffi.NULL


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "weird"])
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_op_meets_its_reference(op: OpRow, kind: str) -> None:
    case = make_case(op.name, kind)
    for target in TARGETS:
        for side in ("start", "end"):
            meets_reference(op, case, run(op, target, case, side), target)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_targets_agree(op: OpRow, kind: str) -> None:
    """Bit for bit where the tolerance is 0 or sums are exact; NaN in the same places otherwise."""
    case = make_case(op.name, kind)
    reference = run(op, "scalar", case, "end")
    for target in TARGETS:
        agrees(op, case, run(op, target, case, "start"), reference, target)


def meets_alone(fmt: str, case: Case) -> None:
    """Tokens of a batch, and of a smaller one, have the bits that they have alone, everywhere."""
    gemm, gemv = (next(op for op in OPS if op.name == f"{f}_{fmt}") for f in ("gemm", "gemv"))
    data, blocks, k, q, d, s, n, scratch, _, stride = case.args
    for target in TARGETS:
        batch = run(gemm, target, case, "end")[0]
        for t in range(n):
            alone = Case([data, blocks, k, q[t], d[t], s[t], Out(8 * blocks)])
            np.testing.assert_array_equal(run(gemv, target, alone, "end")[0], batch[t])
        for few in (11, 8):
            out = Out((few, 8 * blocks))
            args = [data, blocks, k, q[:few], d[:few], s[:few], few, scratch, out, stride]
            np.testing.assert_array_equal(run(gemm, target, Case(args), "end")[0], batch[:few])


@pytest.mark.parametrize("kind", ["odd", "large", "extreme"])
@pytest.mark.parametrize("fmt", ["q4a", "q4s", "q8a", "q8s"])
def test_a_token_gives_the_same_bits_alone_and_in_a_batch(fmt: str, kind: str) -> None:
    meets_alone(fmt, make_case(f"gemm_{fmt}", kind))


@pytest.mark.parametrize("size", [1e-36, 1e-29, 1e-3, 1e12, 1e18, 1e36])
@pytest.mark.parametrize(
    "scales",
    [
        (0.031, 0.001),
        (0.0325, 0.001),
        (1.99, -0.0625),
        (60000.0, 0.00006),
        (3e-6, 6e-8),
        (1e-6, 6e-8),
        (0.01, 0.0),
        (0.0, 0.0),
    ],
)
def test_so_it_does_whatever_the_scales_are(scales: tuple[float, float], size: float) -> None:
    """Scales near each other may be multiplied as integers, as long as nobody can see it."""
    case = make_case("gemm_q4a", "large")
    rng = np.random.default_rng(5)
    groups = case.args[0].reshape(case.args[1], -1, 128 + 32)
    lanes = rng.uniform(*sorted(scales), (*groups.shape[:2], 8)).astype(np.float16)
    lanes[:, ::3], lanes[:, 1::3] = scales
    groups[:, :, 128:144], groups[:, :, 144:] = lanes.view(np.uint8), 0
    case.args[4] = (case.args[4] * size).astype(np.float32)
    case.args[4][3] = 0.0
    case.args[4][4, 1] = -0.0
    meets_alone("q4a", case)


@pytest.mark.parametrize("name", ["add", "silu_mul"])
def test_elementwise_in_place(name: str) -> None:
    op = next(op for op in OPS if op.name == name)
    case = make_case(name, "odd")
    expected = run(op, "scalar", case, "end")[0]
    for target in TARGETS:
        a, b, n, _ = case.args
        with Guarded("end") as space:
            x, y = space.place(a), space.place(b)
            pointers = [ffi.cast("float *", v.ctypes.data) for v in (x, y)]
            getattr(lib.claw_ops_named(target.encode()), name)(*pointers, n, pointers[0])
            np.testing.assert_allclose(x, expected, rtol=1e-5)
