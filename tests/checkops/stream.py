"""Cases as bytes for ``checkops.c``, and its results as arrays again (both little-endian)."""

import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from checkops.machines import plain_env
from op_cases import Case, Out

SIDES = ("start", "end", "off")
"""Where the arrays of a run lie: flush with a page that may not be touched, or one element off."""

LIMIT_S = 100.0
"""A run that takes longer hangs: the slowest takes a few seconds."""


class OpFailed(AssertionError):
    """The runner stopped: what it said, with the op, the kind of case and the side."""


def write_cases(path: Path, cases: Sequence[tuple[str, str, Case]]) -> None:
    """Write (op, kind, case) for the runner."""
    with path.open("wb") as out:
        out.write(
            struct.pack("<8sII", b"CLAWOPS1", len(cases), max(len(c.args) for *_, c in cases))
        )
        for op, kind, case in cases:
            out.write(struct.pack("<48s16sII", op.encode(), kind.encode(), len(case.args), 0))
            for arg in case.args:
                out.write(_argument(arg))


def _argument(arg: Any) -> bytes:
    if isinstance(arg, bool | int | np.integer):
        return struct.pack("<cB6xQq", b"i", 0, 0, int(arg))
    if isinstance(arg, float | np.floating):
        return struct.pack("<cB6xQd", b"f", 0, 0, float(arg))
    if isinstance(arg, Out):
        kind, size = b"s" if arg.scratch else b"w", np.dtype(arg.dtype).itemsize
        return struct.pack("<cB6xQq", kind, size, _count(arg) * size, 0)
    array = np.ascontiguousarray(arg)
    return struct.pack("<cB6xQq", b"r", array.itemsize, array.nbytes, 0) + array.tobytes()


def _count(out: Out) -> int:
    return int(np.prod(out.shape, dtype=np.int64))


def run_cases(
    command: Sequence[str | Path],
    target: str,
    cases: Sequence[tuple[str, str, Case]],
    stream: Path,
) -> Iterator[tuple[int, str, list[npt.NDArray[Any]]]]:
    """Run what ``write_cases`` wrote to ``stream`` in one process.

    Yields (index of the case, side, its outputs).

    Raises:
        OpFailed: an op crashed, or wrote where it must not.
    """
    results = stream.with_name(f"{stream.stem}-{target}.results")
    argv = [*map(str, command), target, str(stream), str(results)]
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, timeout=LIMIT_S, env=plain_env()
    )
    if done.returncode:
        raise OpFailed(f"{target}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    data = np.fromfile(results, np.uint8)
    results.unlink()
    at = 0
    for index, (_, _, case) in enumerate(cases):
        for side in SIDES:
            outs = []
            for arg in case.args:
                if isinstance(arg, Out) and not arg.scratch:
                    size = _count(arg) * np.dtype(arg.dtype).itemsize
                    outs.append(data[at : at + size].copy().view(arg.dtype).reshape(arg.shape))
                    at += size
            yield index, side, outs
    assert at == data.size, "the runner wrote more than the cases ask for"
