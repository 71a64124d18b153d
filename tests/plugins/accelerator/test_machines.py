"""Every op on the targets of other processors, by ``checkops``: built for them and emulated.

The same cases, references and comparisons as ``test_ops.py``. One process runs all cases of a
target. A box without the compiler or the emulator says so and leaves the machine out.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from checkops import MACHINES, SIDES, Machine, build, run_cases, why_not, write_cases
from clawai.plugins.accelerator.build_ops import read_ops
from op_cases import KINDS, Case, make_case
from op_cases.compare import agrees, meets_reference
from op_cases.native import run
from op_cases.parts import Array

OPS = {op.name: op for op in read_ops()}
PAIRS = [(machine, target) for machine in MACHINES.values() for target in machine.targets]
Stream = tuple[Path, list[tuple[str, str, Case]], list[list[Array]]]


@pytest.fixture(scope="session")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stream]:
    """All cases: as a file for the runner, as objects, and what the scalar target makes of them."""
    path = tmp_path_factory.mktemp("checkops") / "cases"
    cases = [(name, kind, make_case(name, kind)) for name in OPS for kind in KINDS]
    write_cases(path, cases)
    yield path, cases, [run(OPS[name], "scalar", case, "end") for name, _, case in cases]
    path.unlink()


@pytest.mark.parametrize(("machine", "target"), PAIRS, ids=lambda x: getattr(x, "name", x))
def test_every_op(machine: Machine, target: str, stream: Stream) -> None:
    if reason := why_not(machine):
        pytest.skip(reason)
    path, cases, references = stream
    command = [*machine.emulator, build(machine) / "checkops"]
    seen = 0
    for index, side, outs in run_cases(command, target, cases, path):
        name, kind, case = cases[index]
        where = f"{name} {kind} on {target}, {side}"
        agrees(OPS[name], case, outs, references[index], where)
        if kind != "weird":
            meets_reference(OPS[name], case, outs, where)
        seen += 1
    assert seen == len(cases) * len(SIDES)
