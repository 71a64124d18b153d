"""Every op on the targets of other processors, by ``checkops``: built for them and emulated.

The same cases, references and comparisons as ``test_ops.py``. One process runs all cases of a
target. A box without the compiler or the emulator says so and leaves the machine out. Under
``check_c.sh`` it is AVX2 instead, in a runner with the sanitizers.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from checkops import MACHINES, SIDES, Machine, OpFailed, build, run_cases, why_not, write_cases
from clawai.plugins.accelerator.build_ops import read_ops
from clawai.plugins.accelerator.listing import SMALLER
from op_cases import KINDS, Case, Out, make_case
from op_cases.compare import agrees, meets_reference
from op_cases.native import run
from op_cases.parts import Array

OPS = {op.name: op for op in read_ops()}
SANITIZED = "CLAW_TEST_OPS" in os.environ
PAIRS = [
    (machine, target)
    for machine in MACHINES.values()
    for target in machine.targets
    if (machine.name == "sanitized") is SANITIZED
]
FIRST, TARGET = PAIRS[0]


@dataclass
class Cases:
    """Cases in a file for the runner, as objects, and what the scalar target makes of them."""

    path: Path
    cases: list[tuple[str, str, Case]]
    references: list[list[Array]]


def prepare(folder: Path, names: list[str]) -> Cases:
    cases = [(name, kind, make_case(name, kind)) for name in names for kind in KINDS]
    write_cases(folder / "cases", cases)
    references = [run(OPS[name], "scalar", case, "end") for name, _, case in cases]
    return Cases(folder / "cases", cases, references)


@pytest.fixture(scope="module")
def every_op(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cases]:
    found = prepare(tmp_path_factory.mktemp("every"), list(OPS))
    yield found
    found.path.unlink()  # some 20 MB


@pytest.fixture(scope="module")
def every_dot(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return prepare(tmp_path_factory.mktemp("dots"), [op.name for op in OPS.values() if op.dots])


def command_of(machine: Machine) -> list[str | Path]:
    if reason := why_not(machine):
        pytest.skip(reason)
    return [*machine.emulator, build(machine) / "checkops"]


@pytest.mark.timeout(400)  # the first of a machine compiles
@pytest.mark.parametrize(("machine", "target"), PAIRS, ids=lambda x: getattr(x, "name", x))
def test_every_op(machine: Machine, target: str, every_op: Cases, every_dot: Cases) -> None:
    given = every_dot if machine.only in SMALLER else every_op
    seen = 0
    for index, side, outs in run_cases(command_of(machine), target, given.cases, given.path):
        name, kind, case = given.cases[index]
        where = f"{name} {kind} on {target}, {side}"
        agrees(OPS[name], case, outs, given.references[index], where)
        if kind != "weird":
            meets_reference(OPS[name], case, outs, where)
        seen += 1
    assert seen == len(given.cases) * len(SIDES)


A, B = np.ones(13, np.float32), np.ones(12, np.float32)
BROKEN = {
    "reads too far": (Case([A, B, 13, Out(13)]), "flush at the end: .*behind argument 1 .byte 48"),
    "writes too far": (Case([A, A, 13, Out(12)]), "argument 3 was written behind its last byte"),
    "writes an input": (Case([A, A, 13, A]), "flush at the start: .*into argument 3"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_op_that_breaks_a_promise_is_named(what: str, tmp_path: Path) -> None:
    case, message = BROKEN[what]
    cases = [("add", "odd", case)]
    write_cases(tmp_path / "cases", cases)
    with pytest.raises(OpFailed, match=f"checkops: add odd on {TARGET}, .*{message}"):
        list(run_cases(command_of(FIRST), TARGET, cases, tmp_path / "cases"))


def test_a_target_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_cases(tmp_path / "cases", [("add", "odd", Case([A, A, 13, Out(13)]))])
    with pytest.raises(OpFailed, match="exit 3\ncheckops: this processor cannot run z80"):
        list(run_cases(command_of(FIRST), "z80", [], tmp_path / "cases"))
