"""Calls ops of the installed library, on a target that this processor has."""

from typing import Any

import numpy as np

from clawai.plugins.accelerator._ops import ffi, lib
from clawai.plugins.accelerator.build_ops import OpRow
from guarded import Guarded
from op_cases.parts import Case, Out


def run(op: OpRow, target: str, case: Case, side: str) -> list[Any]:
    """Call the op on guarded copies of the arguments; returns copies of its outputs."""
    function = getattr(lib.claw_ops_named(target.encode()), op.name)
    kinds = [kind.cname.replace("const ", "") for kind in ffi.typeof(function).args]
    with Guarded(side) as space:
        given, outs, inputs = [], [], []
        for arg, kind in zip(case.args, kinds, strict=True):
            if isinstance(arg, int | float):
                given.append(arg)
                continue
            array = space.place(np.zeros(arg.shape, arg.dtype) if isinstance(arg, Out) else arg)
            if isinstance(arg, Out) and not arg.scratch:
                outs.append(array)
            elif not isinstance(arg, Out):
                inputs.append((array, arg))
            given.append(ffi.cast(kind, array.ctypes.data))
        function(*given)
        for array, before in inputs:
            assert array.tobytes() == before.tobytes(), "an input was changed"
        return [out.copy() for out in outs]
