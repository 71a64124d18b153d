"""The means of rungs 2 and 3 of the preemption ladder: which of them work on this box, measured.

Urgent work must not wait behind bulk work that never yields. What makes the system prefer one
process to another differs from box to box, and a file that takes a write may do nothing. So each
means is tried: a burner in the group "bulk" and a waker in the group "main" share one core for a
tenth of a second, and a means is taken only if the burner then really stands back.

    report = probe((0, 1, 2, 3, 4), "auto", owner=daemon_pid)   # half a second at most
    lift(daemon_pid, report.means)
    enter("bulk", report.means)      # in a launcher after its setsid; its children inherit it
    clean(report.means)              # when all workers are gone

The means (``means`` has how each is applied), in the order in which they are tried: "cgroup2" (a
delegated folder), "cgroup1" (the cpu controller), "autogroup" (all bulk work in one session, whose
weight is lowered; needs no privilege), "nice" (the same for single processes, where no autogroup is
in the way), "realtime" (FIFO for what is not bulk; only where the owner granted it).

Measuring takes too long for a process that others wait for, so it is also a
program, which prints the report as one line of JSON:

    python -I -B -m clawai.kernel.steward.ladder MEANS RUNGS OWNER MEMORY    # for the steward
    python -I -B -m clawai.kernel.steward.ladder [MEANS [RUNGS]]             # for `claw doctor`

RUNGS is like 0,1,2,3,4. With OWNER (the daemon's pid) what was made stays, and the daemon is
lifted; MEMORY is the file in which the verdict is kept for the next start. Without, all of it is
removed again.

"none" means that nothing tells the groups apart, to show what the others are worth: then the
launchers must share one session (``apart`` is false), as a session has a weight of its own.

Refuses to take a means by its files alone, and to raise anything above the owner's other programs
without a grant: bulk work is lowered instead.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from clawai.kernel.steward import means as mechanisms
from clawai.kernel.steward.means import ORDER, Means, Refused, clean, enter, lift
from clawai.sandbox import syscalls as sc

__all__ = ["ORDER", "Effect", "Means", "Report", "apart", "clean", "enter", "lift", "probe"]

RUNGS = (0, 1, 2, 3, 4)
BULK_KEEPS = 0.2
"""A means works if bulk work keeps at most this part of a core that urgent work wants (a tick or
two of the short measurement; in the long run the weights leave it 2 % or less)..."""
LESS_BY = 0.5
"""...and at most this part of what it took without..."""
LEAST_MS = 20.0
"""...seen over at least so much processor time."""
_SLEEP_NS = 2_000_000
_EVIDENCE = 0.5
"""Part of the measuring time that both together must have computed; on a busy box it takes longer.
A tick is 4 ms, and a verdict on a handful of them would be a guess."""
_GRACE_S = 0.25
"""So much longer at most. Then a child that was not told to end ends by itself."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What one arrangement did to an urgent process that shares a core with a bulk one."""

    bulk_share: float
    """Of the core, while the urgent process wanted all of it; about 0.5 without any means."""
    wake_p50_us: float
    """From the time at which it wanted to wake until it ran."""
    wake_max_us: float
    contended_ms: float
    """Processor time that both got while both wanted all of it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What is in force, and why. Plain values only: it travels as msgpack or JSON."""

    means: Means
    rungs: tuple[int, ...]
    effect: Effect | None = None
    """With the means; None if rung 2 is off."""
    without: Effect | None = None
    stop_us: float | None = None
    """From the signal until a process that computes has stopped; None if rung 3 is off."""
    refused: dict[str, str] = field(default_factory=dict)
    """Means to why it was not taken."""
    advice: tuple[str, ...] = ()
    """What the owner could grant for more."""

    def as_dict(self) -> dict[str, Any]:
        """For a message."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Report":
        """Back from a message or a file."""
        effects = {
            key: Effect(**plain[key]) if plain.get(key) else None for key in ("effect", "without")
        }
        return cls(
            means=Means(**plain["means"]),
            rungs=tuple(plain["rungs"]),
            stop_us=plain.get("stop_us"),
            refused=dict(plain.get("refused", {})),
            advice=tuple(plain.get("advice", ())),
            **effects,
        )


def probe(
    rungs: Sequence[int] = RUNGS,
    wanted: str = "auto",
    *,
    owner: int | None = None,
    budget_s: float = 0.3,
) -> Report:
    """Find the first means with a real effect.

    Args:
        rungs: which rungs are on; without 2 nothing is tried.
        wanted: a means by name: only that is tried; "none" tries nothing.
        owner: the daemon, whose pid names what is created; default: this process.
        budget_s: of measuring for each means that can be applied at all.

    Returns:
        A report whose means is "none" if nothing works. What it created for a means that was not
        taken is gone again.
    """
    owner = owner or os.getpid()
    mechanisms.clean_stale()
    refused: dict[str, str] = {}
    taken, effect, without = Means("none"), None, None
    if 2 in rungs and wanted != "none":
        seconds = budget_s / 3  # so long with, so long without, the rest for making processes
        without = measure(Means("none"), seconds)
        for kind in ORDER if wanted == "auto" else (wanted,):
            try:
                made = mechanisms.make(kind, owner, granted=wanted == kind)
            except (Refused, OSError) as error:
                refused[kind] = str(error)
                continue
            try:
                effect = measure(made, seconds)
                if works(effect, without):
                    taken = made
                    break
                refused[kind] = _no_effect(effect)
            except (OSError, ValueError) as error:
                refused[kind] = f"could not be measured: {error}"
            clean(made)
            effect = None
    return Report(
        means=taken,
        rungs=tuple(rungs),
        effect=effect,
        without=without,
        stop_us=measure_stop() if 3 in rungs else None,
        refused=refused,
        advice=mechanisms.advice(taken, refused) if 2 in rungs else (),
    )


def apart(rungs: Sequence[int], wanted: str) -> bool:
    """Whether the launchers of main and bulk lead sessions of their own (see the module)."""
    return 2 in rungs and wanted != "none"


def works(effect: Effect, without: Effect) -> bool:
    """Whether a means did what it is for."""
    limit = min(BULK_KEEPS, LESS_BY * without.bulk_share)
    return effect.contended_ms >= LEAST_MS and effect.bulk_share <= limit


def _no_effect(effect: Effect) -> str:
    return f"no effect: bulk work kept {effect.bulk_share:.0%} of a core that urgent work wanted"


# Measuring.


def measure(made: Means, seconds: float) -> Effect:
    """Let a burner in bulk and a waker in main share one core for ``seconds``.

    Raises:
        OSError: a process could not be made, or could not enter its group.
        ValueError: the waker said nothing.
    """
    cores = os.sched_getaffinity(0)
    # Both are born on that core: the system remembers for a while that a group has computed on
    # another one, and gives it less here.
    os.sched_setaffinity(0, {max(cores)})
    try:
        burner = _Child(lambda child: _burn(child, made, time.monotonic() + seconds + 2 * _GRACE_S))
        try:
            burner.ready()
            waker = _Child(lambda child: _wake(child, made, seconds, burner.pid))
            try:
                waker.ready()
                said = waker.read()
            finally:
                waker.end()
        finally:
            burner.end()
    finally:
        os.sched_setaffinity(0, cores)
    return Effect(**json.loads(said))


def measure_stop() -> float | None:
    """How long a computing process runs on after SIGSTOP through its pidfd, in microseconds."""
    end = time.monotonic() + _GRACE_S
    burner = _Child(lambda child: _burn(child, Means("none"), end))
    handle = -1
    try:
        burner.ready()
        handle = os.pidfd_open(burner.pid)
        began = time.perf_counter_ns()
        signal.pidfd_send_signal(handle, signal.SIGSTOP)
        os.waitid(os.P_PID, burner.pid, os.WSTOPPED)
        return round((time.perf_counter_ns() - began) / 1000, 1)
    except OSError:
        return None
    finally:
        if handle >= 0:
            os.close(handle)
        burner.end()


class _Child:
    """A fork that says "+" when it is where it should be, and then one line."""

    def __init__(self, work: Any) -> None:
        reading, writing = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _run(work, writing, parent)
        os.close(writing)
        self._reading = reading

    def ready(self) -> None:
        """Wait until it is in its group.

        Raises:
            OSError: what kept it from that.
        """
        if os.read(self._reading, 1) != b"+":
            raise OSError(0, self.read().decode(errors="replace") or "a child ended")

    def read(self) -> bytes:
        """All that it says until it ends."""
        said = b""
        while data := os.read(self._reading, 4096):
            said += data
        return said

    def end(self) -> None:
        """Kill and reap it."""
        os.close(self._reading)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _run(work: Any, writing: int, parent: int) -> None:
    """The life of a child; never returns into the parent's code."""
    try:
        # One that is stopped when its parent is killed would stay for ever.
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        work(writing)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(writing, f"-{error}".encode())
    finally:
        os._exit(0)


def _settle(group: str, made: Means) -> None:
    """Go where a worker of this group would be."""
    if made.kind != "none":
        os.setsid()
    enter(group, made)


def _burn(writing: int, made: Means, end: float) -> None:
    _settle("bulk", made)
    os.write(writing, b"+")
    while time.monotonic() < end:
        pass


def _wake(writing: int, made: Means, seconds: float, burner: int) -> None:
    """Sleep and wake for a third of the time, then want the whole core for the rest.

    Not both at once: who sleeps now and then is owed a part of the core by any fair scheduler, and
    would seem to be preferred.
    """
    _settle("main", made)
    os.write(writing, b"+")
    end = time.monotonic() + seconds
    late: list[int] = []
    while not late or time.monotonic() < end - seconds * 2 / 3:
        due = time.monotonic_ns() + _SLEEP_NS
        time.sleep(_SLEEP_NS / 1e9)
        late.append(time.monotonic_ns() - due)
    clock = (~burner << 3) | 2  # the processor clock of another process, see clock_getcpuclockid(3)
    ours_before, theirs_before = time.thread_time_ns(), time.clock_gettime_ns(clock)
    enough, last = seconds * _EVIDENCE * 1e9, end + _GRACE_S
    ours = theirs = 0
    while (now := time.monotonic()) < end or (ours + theirs < enough and now < last):
        ours = time.thread_time_ns() - ours_before
        theirs = time.clock_gettime_ns(clock) - theirs_before
    late.sort()
    both = ours + theirs
    effect = Effect(
        bulk_share=round(theirs / both, 4) if both else 1.0,
        wake_p50_us=round(late[len(late) // 2] / 1000, 1),
        wake_max_us=round(late[-1] / 1000, 1),
        contended_ms=round(both / 1e6, 1),
    )
    os.write(writing, json.dumps(asdict(effect)).encode())


# What was found is kept: a box that has not changed is not measured again.


def remembered(path: Path, rungs: Sequence[int], wanted: str, owner: int) -> Report | None:
    """The report of an earlier start on this very box, its means made anew; None to probe."""
    mechanisms.clean_stale()
    try:
        kept = json.loads(path.read_bytes())
        if kept["for"] != fingerprint(rungs, wanted):
            return None
        report = Report.from_dict(kept["report"])
        kind = report.means.kind
        made = mechanisms.make(kind, owner, granted=wanted == kind)
    except (OSError, ValueError, KeyError, TypeError, Refused):
        return None
    return replace(report, means=made)


def remember(path: Path, report: Report, box: Sequence[Any]) -> None:
    """Keep a report with the ``fingerprint`` from before it was made.

    A folder that cannot be written only costs the next start its probe.
    """
    kept = {"for": list(box), "report": report.as_dict()}
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_text(json.dumps(kept), encoding="utf-8")
        draft.replace(path)


def fingerprint(rungs: Sequence[int], wanted: str) -> list[Any]:
    """What the verdict depends on."""
    return [1, list(rungs), wanted, sorted(os.sched_getaffinity(0)), *mechanisms.circumstances()]


def main(argv: Sequence[str]) -> None:
    """See the top of this module."""
    wanted = argv[0] if argv else "auto"
    rungs = [int(each) for each in argv[1].split(",") if each] if len(argv) > 1 else list(RUNGS)
    if len(argv) > 2:
        report = _for_daemon(wanted, rungs, int(argv[2]), Path(argv[3]))
    else:
        report = probe(rungs, wanted)
        clean(report.means)
    print(json.dumps(report.as_dict()), flush=True)


def _for_daemon(wanted: str, rungs: Sequence[int], owner: int, memory: Path) -> Report:
    report = remembered(memory, rungs, wanted, owner)
    if report is None:
        before = fingerprint(rungs, wanted)  # a means may move us to another group
        report = probe(rungs, wanted, owner=owner)
        if report.means.kind != "none" or 2 not in rungs:  # a busy hour must not decide for ever
            remember(memory, report, before)
    with contextlib.suppress(OSError):  # a daemon that just ended
        lift(owner, report.means)
    return report


if __name__ == "__main__":
    main(sys.argv[1:])
