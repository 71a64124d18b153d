"""What `claw doctor` says about preemption: each rung of the ladder, what it does here, and more.

The running kernel knows what it measured at its start; without one the same probe runs now, as a
program of its own (half a second). The command line never imports the kernel.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from clawai.sdk import config
from clawai.sdk.cli import output
from clawai.sdk.errors import ClawError

PROBE = ("-I", "-B", "-m", "clawai.kernel.steward.ladder")
PROBE_S = 30
_RUNGS = {
    0: ("order", "queue by class, deadline and age"),
    1: ("control", "word read between tokens, layers and tiles; microseconds"),
    2: ("weight", ""),
    3: ("stop", ""),
    4: ("kill", "what hangs; idempotent work runs again"),
}
_MEANS = {
    "cgroup2": "a delegated cgroup (v2) of the least weight for bulk work",
    "cgroup1": "a cgroup (v1) of the least weight for bulk work",
    "autogroup": "one session of the least weight for bulk work",
    "nice": "nice 19 for bulk work",
    "realtime": "the real-time class for what is not bulk work",
    "none": "none",
}


def report() -> tuple[dict[str, Any], str]:
    """The ladder's report, and who measured it.

    Raises:
        ClawError: worker_failed, if the probe cannot run.
    """
    if told := _of_kernel():
        return told, "the running kernel"
    chosen = config.load().preemption
    rungs = ",".join(map(str, chosen.rungs))
    done = subprocess.run(
        [sys.executable, *PROBE, chosen.means, rungs],
        capture_output=True,
        timeout=PROBE_S,
        check=False,
    )
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ClawError("worker_failed", "the probe of the ladder failed", got=said) from None
    return found, "measured now"


def _of_kernel() -> dict[str, Any] | None:
    """What the running kernel says; None without one, or while it still measures."""
    from clawai.sdk.client import Client

    try:
        with Client(timeout=2.0) as client:
            told: dict[str, Any] | None = client.query("status").get("preemption")
    except ClawError:
        return None
    return told if told and "means" in told else None


def summary(found: dict[str, Any]) -> str:
    """One line: the means and what it does."""
    kind = found["means"]["kind"]
    if 2 not in found["rungs"]:
        return "rung 2 is switched off: bulk work that never yields delays urgent work"
    if kind == "none":
        return "no means of preemption works here"
    return f"{kind}: {_effect(found)}"


def _effect(found: dict[str, Any]) -> str:
    with_it, without = found.get("effect"), found.get("without")
    if not with_it or not without:
        return "not measured"
    return (
        f"bulk work keeps {with_it['bulk_share']:.0%} of a core that urgent work wants "
        f"(without: {without['bulk_share']:.0%})"
    )


def rows(found: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Number, name, on or off, and what it does here: one row a rung."""
    does = {number: text for number, (_, text) in _RUNGS.items()}
    does[2] = _MEANS.get(found["means"]["kind"], found["means"]["kind"])
    if with_it := found.get("effect"):
        woken = f"woken after {with_it['wake_p50_us']:.0f} us (median)"
        does[2] += f"; {_effect(found)}; {woken}"
    if span := found.get("boost_ms"):
        does[2] += f"; critical tasks run before all other programs for {span} ms"
    stop = found.get("stop_us")
    does[3] = "SIGSTOP for suspensions of seconds" + (f"; stops in {stop:.0f} us" if stop else "")
    return [
        (str(number), name, "on" if number in found["rungs"] else "off", does[number])
        for number, (name, _) in _RUNGS.items()
    ]


def lines(found: dict[str, Any]) -> list[str]:
    """The rungs and the means that were refused, as a person reads them."""
    said = []
    for number, name, state, does in rows(found):
        shown = output.style(state.ljust(3), "green" if state == "on" else "yellow")
        text = output.wrapped(output.clean(does), 31) if state == "on" else ""
        said.append(f"{number} {name.ljust(8)} {shown} {text}".rstrip())
    for kind, why in found.get("refused", {}).items():
        text = output.wrapped(output.clean(f"{kind}: {why}"), 31)
        said.append(output.style(f"  refused      {text}", "dim"))
    return said


def pressure_files() -> tuple[str, str]:
    """What the files of PSI say, and what to do if there are none."""
    folder, found = Path("/proc/pressure"), []
    for name in ("cpu", "memory"):
        try:
            some = (folder / name).read_text(encoding="ascii").splitlines()[0].split()
        except (OSError, IndexError, UnicodeDecodeError):
            continue
        average = next((word[6:] for word in some if word.startswith("avg10=")), "?")
        found.append(f"{name} {average} %")
    if not found:
        advice = (
            "optional: the kernel option psi=1 also shows memory stalls; processors and memory "
            "are watched without it"
        )
        return "no pressure files (PSI)", advice
    return f"tasks waited, last 10 s: {', '.join(found)}", ""
