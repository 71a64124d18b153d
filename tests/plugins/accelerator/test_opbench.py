"""What ``claw bench ops`` gives each op: in bounds, ordinary numbers, the results as checked."""

import numpy as np
import pytest

from clawai.plugins.accelerator import opbench
from clawai.plugins.accelerator.build_ops import OpRow, read_ops
from clawai.plugins.accelerator.native import available_isas
from clawai.plugins.accelerator.timed import Case, Out, nbytes
from clawai.sdk.errors import ClawError
from op_cases import Case as Checked
from op_cases import Out as CheckedOut
from op_cases.native import run

OPS = {op.name: op for op in read_ops()}
STEPS_OF_CODES = 1
"""By which codes may differ where the floats that become codes do in the last place."""


def guarded(case: Case) -> Checked:
    """The same call as the checks of ops make it: between pages that may not be touched."""
    args = [CheckedOut(a.n, a.dtype, a.scratch) if isinstance(a, Out) else a for a in case.args]
    return Checked(args)


def test_every_op_of_the_list_is_timed() -> None:
    assert set(opbench.CASES) == set(OPS)


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_a_timed_call_is_one_that_is_checked(op: OpRow) -> None:
    case = opbench.CASES[op.name]()
    tiny = np.finfo(np.float32).tiny
    for arg in case.args:
        if isinstance(arg, np.ndarray) and arg.dtype.kind == "f":
            assert np.isfinite(arg).all()
            assert not ((arg != 0) & (np.abs(arg) < tiny)).any(), "denormals take longer"
    assert case.moved > 0 and case.ops >= 0 and case.about
    assert case.unit in ("", "fma", "int8")
    reference, *others = [run(op, isa, guarded(case), "end") for isa in available_isas()]
    for outs in others:
        for got, expected in zip(outs, reference, strict=True):
            if got.dtype.kind == "f":
                assert np.isfinite(got).all(), "no number"
            if op.tolerance == 0:
                np.testing.assert_array_equal(got, expected)
                continue
            error = np.abs(got.astype(np.float64) - expected)
            scale = (
                STEPS_OF_CODES if got.dtype.kind in "iu" else op.tolerance * np.abs(expected).max()
            )
            assert error.max() <= max(scale, 2 * op.tolerance * np.abs(expected).max())


def test_a_cold_case_lies_beyond_the_caches() -> None:
    memory = opbench.Memory()
    case = opbench.CASES["gemv_q4a"]()
    function = opbench.lib.claw_ops_named(b"scalar").gemv_q4a
    calls = memory.calls(function, case)
    weights = {int(opbench.ffi.cast("uintptr_t", call[0])) for call in calls}
    assert len(weights) == len(calls)
    assert len(calls) * nbytes(case.args[0]) > 0.9 * opbench.REGION
    assert len({int(opbench.ffi.cast("uintptr_t", call[3])) for call in calls}) == 1


@pytest.mark.parametrize(
    ("cold", "unit", "ops", "expected"),
    [
        (False, "", 0, None),
        (True, "", 0, ("read", 0.5)),
        (True, "fma", 1e6, ("read", 0.5)),  # its products would take less time than its bytes
        (True, "fma", 8e9, ("fma", 0.8)),
        (False, "int8", 8e9, ("int8", 0.4)),
    ],
)
def test_the_share_is_of_the_nearer_ceiling(
    cold: bool, unit: str, ops: float, expected: tuple[str, float] | None
) -> None:
    peaks = opbench.Peaks(read=10e9, compute={"fma": 10e9, "int8": 20e9})
    case = Case("", (), cold, ops, unit, reads=5 * 10**9)
    assert peaks.share(case, 1.0) == expected


def test_what_is_too_short_is_not_judged() -> None:
    row = opbench.rows()[0]
    timed = opbench.Timed(row, Case("", (), reads=4), {"scalar": 9e-6, "avx2": 1e-8})
    peaks = opbench.Peaks(read=10e9, compute={})
    told = timed.told("avx2", peaks, 4e-7)
    assert told["why"] == "too short" and told["time_us"] == 0.2
    assert "faster_ratio" not in told and "moved_gb_s" not in told
    assert timed.told("scalar", peaks, 4e-7)["why"] == "in cache"


@pytest.mark.parametrize(
    ("asked", "got"),
    [({"families": ["waltz"], "isas": []}, "waltz"), ({"families": [], "isas": ["mmx"]}, "mmx")],
)
def test_a_family_or_a_set_that_is_not_here(asked: dict[str, list[str]], got: str) -> None:
    with pytest.raises(ClawError) as caught:
        opbench.bench(**asked, quick=True)
    error = caught.value
    assert (error.code, error.got) == ("bad_params", got)
    assert "gemv_int" in error.allowed or "scalar" in error.allowed
    assert error.hint
