"""What `claw ops` counts is in the machine code: disassembled, for sets that bring instructions.

An op counts for such a set if and only if its function (or one that it calls) holds an instruction
that the smaller set lacks, so neither a copy of the same code nor a forgotten one can be counted.
"""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from checkops import MACHINES, build, why_not
from clawai.plugins.accelerator import _ops
from clawai.plugins.accelerator.listing import listing

BRINGS = {
    "avxvnni": r"\{vex\} vpdpbusd\b",
    "avx512vnni": r"(?<!\{vex\} )\bvpdpbusd\b",
    "dotprod": r"\b[su]dot\b",
    "i8mm": r"\b(s|u|us)mmla\b|\busdot\b|\bsudot\b",
}
"""What objdump calls the instructions."""


Function = tuple[int, str]
"""Where it is and what it is called: targets have helpers of the same names."""


@cache
def functions(objdump: str, path: Path) -> dict[Function, str]:
    """The code of each function of an object file."""
    command = [objdump, "-d", "--no-show-raw-insn", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    parts = re.split(r"^([0-9a-f]+) <([^>]+)>:$", text, flags=re.M)[1:]
    heads = zip(parts[::3], parts[1::3], strict=True)
    return {(int(at, 16), name): body for (at, name), body in zip(heads, parts[2::3], strict=True)}


def code_of(function: Function, code: dict[Function, str]) -> str:
    """The code of a function and of all that it jumps to or calls."""
    seen: set[Function] = set()
    waiting = [function]
    while waiting:
        found = waiting.pop()
        if found in code and found not in seen:
            seen.add(found)
            calls = re.findall(r"\b(?:call|j\w+|bl?)\s+([0-9a-f]+) <([\w.]+)>", code[found])
            waiting += [(int(at, 16), name) for at, name in calls]
    return "".join(code[found] for found in sorted(seen))


def machine_code(isa: str) -> dict[Function, str]:
    """Of the target's functions: of this library, or of the object that was built for ARM."""
    machine = MACHINES[isa if isa in MACHINES else "aarch64"]
    if reason := why_not(machine):
        pytest.skip(reason)
    path = Path(_ops.__file__) if machine.only else build(machine) / f"{isa}.o"
    return functions(machine.objdump, path)


@pytest.mark.parametrize("isa", BRINGS)
def test_what_counts_uses_the_set(isa: str) -> None:
    rows = listing("")["ops"]
    code = machine_code(isa)
    counted = {row["op"] for row in rows if row["isa"] == isa}
    assert counted
    end = f"_{isa}"
    held = {name.removesuffix(end): (at, name) for at, name in code if name.endswith(end)}
    held = {op: function for op, function in held.items() if op in {row["op"] for row in rows}}
    uses = {op for op, function in held.items() if re.search(BRINGS[isa], code_of(function, code))}
    assert uses == counted
