"""What the outputs of an op must be, wherever it ran."""

import numpy as np

from clawai.plugins.accelerator.build_ops import OpRow
from op_cases.parts import Array, Case


def meets_reference(op: OpRow, case: Case, outs: list[Array], where: str) -> None:
    """Within the tolerance of ``ops.def`` of the float64 reference; to the bit where it is exact.

    Raises:
        AssertionError: it is not; ``where`` names the target.
    """
    for got, expected in zip(outs, case.expected, strict=True):
        if case.exact:
            np.testing.assert_array_equal(got, expected.astype(got.dtype), where)
            continue
        scale = np.abs(expected).max() if case.scale is None else case.scale
        error = np.abs(got.astype(np.float64) - expected).max()
        assert error <= op.tolerance * scale, f"{where}: {error / scale:.3g} of the scale"


def agrees(op: OpRow, case: Case, outs: list[Array], reference: list[Array], where: str) -> None:
    """With the scalar target: to the bit where the tolerance is 0 or sums are exact; otherwise NaN
    in the same places.

    Raises:
        AssertionError: it does not; ``where`` names the target.
    """
    for got, expected in zip(outs, reference, strict=True):
        if op.tolerance == 0 or case.exact:
            np.testing.assert_array_equal(got, expected, where)
        else:
            np.testing.assert_array_equal(np.isnan(got), np.isnan(expected), where)
