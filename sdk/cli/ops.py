"""`claw ops`: the C ops of this installation, how each was checked, and which run here.

The list comes from the bundled library, asked by a program of its own: the command line imports no
plugin, and a plugin of a stranger is never asked.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any

import click

from clawai.sdk import tuning
from clawai.sdk.cli import output
from clawai.sdk.errors import ClawError

X86_AND_ARM = ("avx2", "avxvnni", "avx512vnni", "neon", "dotprod", "i8mm")


def _ask(command: Sequence[str]) -> bytes:
    """What a program of the accelerator prints."""
    if tuning.library() is None:
        raise ClawError(
            "unsupported_system",
            "the C library of the ops is not there",
            hint="build it with the package: pip install clawai, with a C compiler",
        )
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("CLAW_DEBUG") else subprocess.PIPE,
            timeout=tuning.MEASURE_S,
            check=False,
            cwd="/",
        )
    except subprocess.TimeoutExpired as error:
        raise ClawError(
            "worker_failed",
            f"the ops did not answer within {tuning.MEASURE_S:g} s",
            hint="CLAW_DEBUG=1 shows what they print",
        ) from error
    if done.returncode or len(done.stdout) > tuning.LIMIT:
        raise ClawError(
            "worker_failed",
            "the library of the ops cannot be asked",
            got=(done.stderr or b"")[-400:].decode("utf-8", "replace") or done.returncode,
            hint="CLAW_DEBUG=1 shows all that it prints",
        )
    return done.stdout


def measure() -> tuning.Profile:
    """Measure this box and keep what was found.

    Raises:
        ClawError: unsupported_system, worker_failed.
    """
    profile = tuning.check(_ask(tuning.MEASURE))
    tuning.keep(tuning.box(), profile)
    return profile


def listing(profile: tuning.Profile | None) -> dict[str, Any]:
    """All ops with their state and what is chosen, the sets that run here, and the hints.

    Raises:
        ClawError: bad_config: the owner's override names what there is not; worker_failed.
    """
    found: dict[str, Any] = json.loads(_ask([*tuning.LIST, tuning.for_worker(profile)]))
    if "error" in found:
        raise ClawError(*found["error"])
    timed = profile.timed if profile else {}
    for row in found["ops"]:
        row["state"] = "timed" if row["op"] in timed.get(row["isa"], {}) else "checked"
        row["chosen"] = row.pop("chosen")  # last, as it is read
    return found


def overrides() -> str:
    """What the owner's environment says about the ops."""
    names = (tuning.VARIABLE, tuning.ISA_VARIABLE)
    return ", ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name))


def _table(found: dict[str, Any]) -> None:
    families: dict[str, dict[str, int]] = {}
    chosen: dict[str, str] = {}
    for row in found["ops"]:
        counts = families.setdefault(row["family"], {})
        counts[row["isa"]] = counts.get(row["isa"], 0) + 1
        if row["chosen"]:
            chosen[row["family"]] = row["isa"]
    isas = [isa for isa in found["isas"] if any(isa in counts for counts in families.values())]
    output.table(
        ("FAMILY", *(isa.upper() for isa in isas), "HERE"),
        [
            (family, *(counts.get(isa, "-") for isa in isas), chosen[family])
            for family, counts in families.items()
        ],
        right=range(1, len(isas) + 1),
    )


def _summary(found: dict[str, Any], profile: tuning.Profile | None) -> None:
    without = [row for row in found["ops"] if row["isa"] != "scalar"]
    both = [row for row in without if row["isa"] in X86_AND_ARM]
    timed = sum(row["state"] == "timed" for row in found["ops"])
    print(
        f"\n{len(both)} ops on x86 and NEON without the scalar references, "
        f"{len(without)} with RVV (op x dtype x ISA, each once)"
    )
    if profile is None:
        print("this box was not measured: the first model does so, or claw ops --measure")
        return
    hints = found["hints"]
    print(
        f"measured here in {profile.seconds:.2f} s of processor time: {timed} ops timed; "
        f"asks {hints['ahead']} bytes ahead, tiles of {hints['tile']} tokens, "
        f"threads for a token: {hints['one_threads'] or 'all'}, "
        f"for a prompt: {hints['many_threads'] or 'all'}"
    )


@click.command("ops")
@click.option("--measure", "again", is_flag=True, help="Measure this box (again), in a second.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list, an object for each op and set.")
def ops_command(again: bool, as_json: bool) -> None:
    """List the ops that models run on, and which of them this box chose.

    Each op counts once for a data type and an instruction set. State: "checked" means that the
    tests run it, on such a processor or under an emulator; "timed", that it was also measured here.

    \b
    Example:
      claw ops
      claw ops --measure
      CLAW_OPS_PROFILE="gemv_int=avx2 ahead=4096" claw ops
    """
    tuning.for_worker(None)  # what cannot be read is said before anything is measured
    profile = measure() if again else tuning.kept(tuning.box())
    found = listing(profile)
    if as_json:
        output.print_json(found["ops"])
        return
    _table(found)
    _summary(found, profile)
    if wanted := overrides():
        print(f"overridden by {output.clean(wanted)}")
