"""What each worker may hold and use, all its processes together: bounded, watched, said in words.

Where the system counts for us (``sandbox.cgroups``) a worker is born in groups of its own: a hard
bound of its memory, of its processes and threads, and of its processor time. Beside that, and alone
where there are no such groups, a watchdog looks at the private memory of every worker four times a
second: one that is above what it declared at two looks in a row is killed, and its clients read how
much it held. Processor time without groups is a duty cycle: a worker that has used more than its
share over a second is stopped until the balance is even.

Nothing is looked at while no worker lives. One look costs a few microseconds a worker (it rereads
open files of /proc); for workers that may start programs, where the system does not count them,
every other second all processes of the box are gone through.

Suspending and slowing down use the same signal, so both go through ``hold``: a worker goes on when
nobody wants it stopped.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clawai.kernel.limits import MIB, SECOND
from clawai.kernel.steward import limits
from clawai.kernel.steward.log import LogFile
from clawai.kernel.steward.means import Means
from clawai.sandbox import cgroups
from clawai.sandbox.policy import Policy

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = SECOND // os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Ward:
    """One worker that is watched."""

    title: str
    policy: Policy
    cage: cgroups.Cage | None = None
    pid: int = 0
    stage: int = 0
    """Its outer process, which leads the process group of a worker with programs."""
    shared: int = 0
    """Bytes of segments and weights that it was given."""
    above: int = 0
    """Looks in a row that found it above its bound."""
    words: str = ""
    """Why it was killed."""
    holds: set[str] = field(default_factory=set)
    """Who wants it stopped."""
    credit: float = 0.0
    """Processor time that it may still use at once, in nanoseconds."""
    used: int = 0
    looked: int = 0
    due: int = 0
    slowed: bool = False
    """It was, at least once: that is logged once."""
    files: dict[str, int] = field(default_factory=dict)

    @property
    def family(self) -> bool:
        """Whether it may be several processes."""
        return bool(self.policy.programs)

    def bound(self) -> int:
        """Bytes that its group may hold, given segments and the stage included."""
        own = self.policy.resident_bytes
        return own + self.policy.tmp_bytes + limits.CAGE_SLACK + self.shared if own else 0


@dataclass
class Cages:
    """All of them."""

    log: LogFile
    send: Callable[[int, int], None]
    """Signals a worker, all its processes."""
    daemon: int
    wards: dict[int, Ward] = field(default_factory=dict)
    places: cgroups.Places = field(default_factory=cgroups.Places)
    _bulk: cgroups.Places = field(default_factory=cgroups.Places)
    _leaving: list[cgroups.Cage] = field(default_factory=list)
    _due: int | None = None

    def open(self, means: Means) -> None:
        """Find out what bounds there are, now that the weight groups are made."""
        base = Path(means.folder).parent if means.kind == "cgroup2" else None
        self.places = self._bulk = cgroups.find(base)
        if means.kind == "cgroup1" and "cpu" in self.places.folders:
            # Below the group of their lane, whose weight they keep.
            folders = self.places.folders | {"cpu": Path(means.folder)}
            self._bulk = replace(self.places, folders=folders)
        cgroups.clean_stale(self.places)
        kinds = {name: self.places.kind(name) or "watched" for name in ("memory", "pids", "cpu")}
        said = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        self.log.write("info", f"limits of workers: {said}")

    def add(self, worker: int, title: str, policy: Policy, lane: str) -> list[str]:
        """Watch a worker that is about to be started; the files that put it into its groups."""
        ward = self.wards[worker] = Ward(title, policy)
        bounds = cgroups.Bounds(
            ward.bound(), policy.max_threads + limits.CAGE_PROCESSES, policy.cpu
        )
        places = self._bulk if lane == "bulk" else self.places
        name = f"{cgroups.PREFIX}{self.daemon}-{worker}"
        try:
            ward.cage = cgroups.make(places, name, bounds, lane == "bulk")
        except OSError as error:
            self.log.write("error", f"worker {worker} {title}: no groups for it: {error}")
            return []
        return ward.cage.procs()

    def given(self, worker: int, size: int) -> None:
        """A worker gets shared memory: its group may be charged with as much more."""
        if ward := self.wards.get(worker):
            ward.shared += size
            if ward.cage and ward.policy.resident_bytes:
                ward.cage.bound_memory(ward.bound())

    def started(self, worker: int, pid: int, stage: int) -> None:
        """A worker runs."""
        if ward := self.wards.get(worker):
            ward.pid, ward.stage = pid, stage
            now = time.monotonic_ns()
            ward.looked, ward.due = now, now + limits.CAGE_LOOK
            ward.credit = ward.policy.cpu * SECOND
            self._due = min(self._due or ward.due, ward.due)

    def gone(self, worker: int, why: str) -> str:
        """Forget a worker; why it ended, in our words if it was for a limit."""
        ward = self.wards.pop(worker, None)
        if ward is None:
            return why
        for handle in ward.files.values():
            os.close(handle)
        if ward.cage:
            if not ward.words and ward.policy.resident_bytes and ward.cage.out_of_memory():
                bound = ward.policy.resident_bytes // MIB
                ward.words = f"killed: reached the hard bound of its {bound} MiB of memory"
            if not ward.cage.remove():
                self._leaving.append(ward.cage)
        if not self.wards:
            cgroups.remove_soon(self._leaving)
        return ward.words or why

    def throttled(self, worker: int) -> int:
        """Nanoseconds for which a worker's own bound of processor time has held it back."""
        ward = self.wards.get(worker)
        return ward.cage.throttled() if ward and ward.cage else 0

    def hold(self, worker: int, who: str, stopped: bool) -> None:
        """Have a worker stopped for ``who``, or no more for that one."""
        if (ward := self.wards.get(worker)) is None:
            return
        before = bool(ward.holds)
        (ward.holds.add if stopped else ward.holds.discard)(who)
        if bool(ward.holds) != before:
            self.send(worker, signal.SIGSTOP if ward.holds else signal.SIGCONT)

    def end(self) -> None:
        """Remove every group; all workers are gone."""
        for worker in list(self.wards):
            self.gone(worker, "")
        cgroups.remove_soon(self._leaving)

    # The watchdog.

    def next_timer(self) -> int | None:
        """When to look next; None while no worker lives."""
        return self._due

    def expire(self, now: int) -> None:
        """Look at those that are due."""
        if self._due is None or now < self._due:
            return
        for worker, ward in list(self.wards.items()):
            if ward.pid and now >= ward.due:
                self._look(worker, ward, now)
        self._leaving = [cage for cage in self._leaving if not cage.remove()]
        self._due = min((ward.due for ward in self.wards.values() if ward.pid), default=None)

    def _look(self, worker: int, ward: Ward, now: int) -> None:
        alone = not (ward.family and self._uncounted(ward))
        ward.due = now + (limits.CAGE_LOOK if alone else limits.CAGE_SCAN)
        members = [ward.pid] if alone else self._family(ward)
        if ward.policy.resident_bytes and not ward.words:
            self._weigh(worker, ward, members)
        if ward.policy.cpu and not (ward.cage and "cpu" in ward.cage.folders):
            self._slow(worker, ward, members, now)

    def _uncounted(self, ward: Ward) -> bool:
        folders = ward.cage.folders if ward.cage else {}
        return "memory" not in folders or bool(ward.policy.cpu and "cpu" not in folders)

    def _weigh(self, worker: int, ward: Ward, members: list[int]) -> None:
        held = None
        if ward.family and ward.cage and (counted := ward.cage.private_bytes()) is not None:
            held = counted - self._private(ward, ward.stage)
        if held is None:
            held = sum(self._private(ward, pid) for pid in members)
        bound = ward.policy.resident_bytes
        ward.above = ward.above + 1 if held > bound else 0
        if ward.above >= limits.CAGE_LASTING:
            ward.words = f"killed: used {held // MIB} MiB of {bound // MIB} MiB of memory"
            self.log.write("warning", f"worker {worker} {ward.title}: {ward.words}")
            self.send(worker, signal.SIGKILL)

    def _slow(self, worker: int, ward: Ward, members: list[int], now: int) -> None:
        """Stop who has used more than its processors over a second, until it is even."""
        share = ward.policy.cpu
        used = sum(self._time(ward, pid) for pid in members)
        spent, passed = max(0, used - ward.used), now - ward.looked
        ward.used, ward.looked = used, now
        ward.credit = min(share * SECOND, ward.credit + share * passed - spent)
        if ward.credit < 0:
            rest = min(SECOND, int(-ward.credit / share))
            ward.due = now + max(rest, limits.CAGE_LEAST_STOP)
            if not ward.slowed:
                text = f"uses more than {share:g} of a second a second: it is slowed down"
                self.log.write("info", f"worker {worker} {ward.title} {text}")
                ward.slowed = True
        self.hold(worker, "cpu", ward.credit < 0)

    # What the system says of one process.

    def _private(self, ward: Ward, pid: int) -> int:
        """Pages that no file and no shared memory is behind (proc(5): resident less shared)."""
        words = self._read(ward, f"{pid}/statm").split()
        return (int(words[1]) - int(words[2])) * _PAGE if len(words) > 2 else 0

    def _time(self, ward: Ward, pid: int) -> int:
        """Nanoseconds of processor time, that of its ended children included."""
        fields = self._read(ward, f"{pid}/stat").rpartition(b")")[2].split()
        return sum(map(int, fields[11:15])) * _TICK

    def _family(self, ward: Ward) -> list[int]:
        """Every process of a worker with programs: they share the process group of its stage."""
        group, found = str(ward.stage).encode(), []
        for name in os.listdir("/proc"):  # noqa: PTH208
            if name.isdigit():
                with contextlib.suppress(OSError):
                    handle = os.open(f"/proc/{name}/stat", os.O_RDONLY | os.O_CLOEXEC)
                    fields = os.read(handle, 1024).rpartition(b")")[2].split(None, 3)
                    os.close(handle)
                    if fields[2] == group and int(name) != ward.stage:
                        found.append(int(name))
        for name in list(ward.files):
            if int(name.partition("/")[0]) not in (*found, ward.pid, ward.stage):
                os.close(ward.files.pop(name))
        return found

    def _read(self, ward: Ward, name: str) -> bytes:
        """The beginning of a file of /proc, which stays open; empty when it has gone."""
        try:
            if name not in ward.files:
                ward.files[name] = os.open(f"/proc/{name}", os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(ward.files[name], 1024, 0)
        except OSError:
            return b""


def describe(places: cgroups.Places) -> dict[str, Any]:
    """What is in force, for listings."""
    return {name: places.kind(name) or "watchdog" for name in cgroups.CONTROLLERS}
