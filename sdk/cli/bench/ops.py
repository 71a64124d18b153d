"""`claw bench ops`: every op of the list on every instruction set that runs here.

Each op at one shape of a real model, on one thread; the calls and what they are given are the
accelerator's own (``plugins/accelerator/opbench.py``), in a process of their own.

    TIME         microseconds of a call
    GB/S         bytes read and written, once each
    GOP/S        of ops that compute: a multiply and an add are two
    OF THE BOX   the share of the nearer ceiling: "read" (of the memory), "fma" or "int8" (of the
                 processor); "in cache" where no ceiling is near, "too short" where the call takes
                 most of the time
    FASTER       times faster than the scalar reference

With --json each row is an object in ``rows``; ``figures`` and ``shares`` hold ``OP_ISA_us``.
"""

import json
import subprocess
import sys
from typing import Any

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.bench.report import Report, figure
from clawai.sdk.errors import ClawError

PROGRAM = (sys.executable, "-I", "-B", "-m", "clawai.plugins.accelerator.opbench")
TIMEOUT = 600.0
LOW = 0.3
"""Shares below it are marked."""
SLOW = 1.5
"""So is what is less than this times faster than the scalar reference."""
MARK = " <"


def measure(families: list[str], isas: list[str], quick: bool) -> dict[str, Any]:
    """``ceilings``, ``empty_us`` and ``rows`` as the program prints them.

    Raises:
        ClawError: bad_params: no such family or set here; worker_failed, with what it said.
    """
    asked = json.dumps({"families": families, "isas": isas, "quick": quick})
    status = output.Status()
    status.show("timing the ops, one after the other")
    try:
        done = subprocess.run(
            [*PROGRAM, asked], check=False, capture_output=True, text=True, timeout=TIMEOUT
        )
    finally:
        status.clear()
    if done.returncode:
        said = done.stderr[-500:].strip()
        raise ClawError("worker_failed", "the ops cannot be timed", got=said or done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    if "error" in found:
        raise ClawError(*found["error"])
    return found


def report(found: dict[str, Any], quick: bool) -> dict[str, Any]:
    """The form of every benchmark, and the rows."""
    keys = [f"{row['op']}_{row['isa']}_us" for row in found["rows"]]
    figures = {key: row["time_us"] for key, row in zip(keys, found["rows"], strict=True)}
    shares = {
        key: row["share_ratio"]
        for key, row in zip(keys, found["rows"], strict=True)
        if "share_ratio" in row
    }
    settings = {"threads": 1, "quick": quick, "empty_call_us": found["empty_us"]}
    made = Report("ops", settings, figures, ceilings=found["ceilings"], shares=shares)
    return made.as_dict() | {"rows": found["rows"]}


def show(found: dict[str, Any]) -> None:
    """A table for each family."""
    box = found["box"]
    print(f"ops on {box['processor']}, one thread ({box['system']})")
    print("the box at most: " + ", ".join(f"{k} {v:g}" for k, v in found["ceilings"].items()))
    families = dict.fromkeys(row["family"] for row in found["rows"])
    for family in families:
        rows = [row for row in found["rows"] if row["family"] == family]
        print(f"\n{family}")
        columns = ("OP", "ISA", "US", "GB/S", "GOP/S", "OF THE BOX", "FASTER", "SHAPE")
        output.table(columns, map(cells, rows), right=(2, 3, 4, 5, 6))
    print(f"\n{MARK.strip()} marks shares below {LOW:.0%} and less than {SLOW:g} times scalar")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One row for people."""
    share, faster = row.get("share_ratio"), row.get("faster_ratio")
    known = row["isa"] != "scalar"  # what the others are compared with is not judged
    if share is not None:
        of = f"{row['of']} {share:.0%}{mark(known and share < LOW)}"
    else:
        of = row["why"] + mark(False)
    return (
        row["op"],
        row["isa"],
        figure("_us", row["time_us"]),
        figure("_gb_s", row["moved_gb_s"]) if "moved_gb_s" in row else "",
        figure("_gop_s", row["done_gop_s"]) if "done_gop_s" in row else "",
        of,
        "" if faster is None else f"{faster:.1f}x{mark(faster < SLOW)}",
        row["shape"],
    )


def mark(low: bool) -> str:
    """What makes a low figure easy to see; as wide where there is none."""
    return MARK if low else " " * len(MARK)


@click.command("ops")
@click.option("--family", "families", multiple=True, help="Only this family; can be repeated.")
@click.option("--isa", "isas", multiple=True, help="Only this instruction set; can be repeated.")
@click.option("--quick", is_flag=True, help="Shorter samples.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(families: tuple[str, ...], isas: tuple[str, ...], quick: bool, as_json: bool) -> None:
    """Time every op on every instruction set here, as a share of what the box can do.

    \b
    Example:
      claw bench ops --family gemv_int
      claw bench ops --isa avx2 --json
    """
    found = report(measure(list(families), list(isas), quick), quick)
    if as_json:
        output.print_json(found)
    else:
        show(found)
