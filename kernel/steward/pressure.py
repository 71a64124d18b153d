"""What other programs leave us of this box: processors and memory, watched at next to no cost.

    watch = Watch(budget_bytes, ours)      # ours: the pids of the daemon, launchers and workers
    watch.attend(True, now)                # False: there are no workers, nobody needs to know
    if found := watch.look(now):           # when watch.next_timer() has come
        cores, memory = found              # it has changed: tell the core

Processors: all of them, less what others use (from /proc/stat, our own processes subtracted; time
stolen by a hypervisor counts as others'). Memory: what is available now and what we hold
ourselves, less a reserve; never more than the budget. When tasks of the whole box
stall for memory (PSI) although little is left, it is cut further. Limits of a container count.

Looks four times a second while our processes compute, so that a change is told within a second, and
rereads open files only; once a second while they are idle; not at all without workers, unless the
box has less memory for us than the budget. A change is
told when it is larger than noise and lasts; a loss of memory at once.

Not done: PSI triggers, which an ordinary user may only have with windows of two seconds.

``python -m clawai.kernel.steward.pressure [SECONDS]`` shows what it sees, and what looking costs.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from clawai.kernel.steward.container import MemoryLimit, available_cores, memory_limit

_BUSY_NS, _IDLE_NS = 250_000_000, 1_000_000_000
_COMPUTING = 0.02
"""Part of a core that our processes use when somebody asks for something."""
_TICKS = os.sysconf("SC_CLK_TCK")
_MIB = 1 << 20
NOISE_CORES = 0.3
"""Others use that much of a core on a quiet box too; it is not worth dividing anew."""
STEP_CORES = 0.25
LEAST_CORES = 1.0
"""A fair scheduler gives one thread of ours about that much, whoever else wants the box."""
STEP_MEMORY = 32 * _MIB
RESERVE = 0.02
"""Of all memory stays free for what the system needs at the next moment."""
LASTING = 3
"""So many looks in a row must see a change before it is told (a loss of memory is, at once)."""
_STALLED, _SCARCE = 0.1, 0.2
"""Part of the time that the whole box stalled; part of the memory below which that counts."""
_SQUEEZE_LEAST = 0.5


@dataclass(frozen=True, slots=True)
class Look:
    """Counters at one moment, in ticks."""

    when: int
    busy: int
    ours: int


@dataclass
class Watch:
    """See the top of this module. Call everything from one thread, with ``time.monotonic_ns``."""

    budget: int
    ours: Callable[[], Iterable[int]]
    proc: Path = Path("/proc")
    cores: float = field(default_factory=available_cores)
    limit: MemoryLimit | None = field(default_factory=memory_limit)
    told: tuple[float, int] = (0.0, 0)
    """What was told last: processors, bytes."""
    outside: float = 0.0
    """Processors that others used when it was last looked at."""
    _due: int | None = None
    _computing: bool = True
    _files: dict[str, int] = field(default_factory=dict)
    _last: Look | None = None
    _left: list[float] = field(default_factory=list)
    _more_memory: int = 0
    _stall: tuple[int, int] = (0, 0)
    _squeeze: float = 1.0
    _pids: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.told = (self.cores, self.budget)

    def attend(self, needed: bool, now: int) -> None:
        """Look, or do not: call it whenever that may have changed.

        While less memory was told than there is to hand out, it goes on looking: perhaps no worker
        can start with that, and nobody would ever hear that the memory is back.
        """
        needed = needed or self.told[1] < self.budget
        if needed == (self._due is not None):
            return
        self._due = now if needed else None
        if not needed:
            self._last = None
            self._left.clear()
            self.close()

    def next_timer(self) -> int | None:
        """When ``look`` wants to be called; None while nobody needs it."""
        return self._due

    def look(self, now: int) -> tuple[float, int] | None:
        """Processors and bytes, if they have changed since they were told."""
        if self._due is None or now < self._due:
            return None
        cores = self._judge_cores(self._outside(now))
        memory = self._judge_memory(self._memory(now))
        self._due = now + (_BUSY_NS if self._computing else _IDLE_NS)
        if (cores, memory) == self.told:
            return None
        self.told = (cores, memory)
        return self.told

    def close(self) -> None:
        """Close every file; looking again opens them."""
        for handle in self._files.values():
            os.close(handle)
        self._files.clear()
        self._pids.clear()

    # Processors.

    def _outside(self, now: int) -> float | None:
        """Processors that others used since the last look; None at the first."""
        words = self._read("stat", 256).split(None, 9)
        # user nice system idle iowait irq softirq steal (proc(5)); guest time is in user already
        spent = [int(word) for word in words[1:9]]
        busy = sum(spent) - spent[3] - spent[4]
        pids = set(self.ours())
        if pids != self._pids:
            # Somebody's whole life would look like work of this moment: count anew.
            self._forget(self._pids - pids)
            self._pids = pids
            self._last, self._computing = None, True
        look = Look(now, busy, sum(map(self._ticks, pids)))
        last, self._last = self._last, look
        if last is None:
            return None
        ticks = (look.when - last.when) / 1e9 * _TICKS
        ours = look.ours - last.ours
        self._computing = ours > _COMPUTING * ticks
        self.outside = max(0.0, (look.busy - last.busy - ours) / ticks)
        return self.outside

    def _ticks(self, pid: int) -> int:
        """Processor time of one process of ours; 0 when it has gone."""
        fields = self._read(f"{pid}/stat", 1024).rpartition(b")")[2].split()
        return int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0

    def _judge_cores(self, outside: float | None) -> float:
        before = self.told[0]
        if outside is None:
            return before
        left = self.cores if outside < NOISE_CORES else self.cores - outside
        left = max(min(LEAST_CORES, self.cores), left)
        self._left = [*self._left, left][-LASTING:]
        lower = all(each <= before - STEP_CORES for each in self._left)
        higher = all(each >= before + STEP_CORES for each in self._left)
        if len(self._left) < LASTING or not (lower or higher):
            return before
        # The first of them may have seen only the end of a period.
        left = sum(self._left[1:]) / (LASTING - 1)
        return round(left / STEP_CORES) * STEP_CORES

    # Memory.

    def _memory(self, now: int) -> int:
        """Bytes of the budget that the box really has."""
        text = self._read("meminfo", 4096)
        total, free = _kib(text, b"MemTotal:"), _kib(text, b"MemAvailable:")
        if self.limit:
            free = min(free, self.limit.room())
        reserve = int(total * RESERVE)
        if free - reserve >= self.budget:  # nothing to divide, whoever holds the rest
            self._squeeze = 1.0
            return self.budget
        held = self._held(_kib(text, b"Shmem:"))
        real = max(0, free + held - reserve)
        self._press(now, scarce=free < total * _SCARCE)
        return min(self.budget, int(real * self._squeeze))

    def _held(self, shared: int) -> int:
        """Bytes that our processes hold and that would be free without them.

        Shared pages count once for each process here, so no more of them than there are in all.
        """
        private = mapped = 0
        for pid in self.ours():
            text = self._read(f"{pid}/status", 4096)
            private += _kib(text, b"RssAnon:")
            mapped += _kib(text, b"RssShmem:")
        return private + min(mapped, shared)

    def _press(self, now: int, scarce: bool) -> None:
        """Cut further while everybody waits for memory, and give it back slowly."""
        said = self._read("pressure/memory", 256).partition(b"full")[2]
        stalled_us = int(said.rpartition(b"total=")[2].split()[0]) if b"total=" in said else 0
        (then, before), self._stall = self._stall, (now, stalled_us)
        passed_us = (now - then) / 1000
        if scarce and then and stalled_us - before > passed_us * _STALLED:
            self._squeeze = max(_SQUEEZE_LEAST, self._squeeze * 0.95)
        else:
            self._squeeze = min(1.0, self._squeeze * 1.01)

    def _judge_memory(self, memory: int) -> int:
        before = self.told[1]
        if memory <= before - min(STEP_MEMORY, before):
            self._more_memory = 0
            return memory // _MIB * _MIB
        gain = memory >= before + STEP_MEMORY or (memory == self.budget and before < self.budget)
        self._more_memory = self._more_memory + 1 if gain else 0
        if self._more_memory < LASTING:
            return before
        self._more_memory = 0
        return memory if memory == self.budget else memory // _MIB * _MIB

    # Files.

    def _read(self, name: str, size: int) -> bytes:
        """The beginning of a file of /proc, which stays open; empty when it has gone."""
        try:
            handle = self._files.get(name)
            if handle is None:
                handle = os.open(self.proc / name, os.O_RDONLY | os.O_CLOEXEC)
                self._files[name] = handle
            return os.pread(handle, size, 0)
        except OSError:
            return b""

    def _forget(self, pids: set[int]) -> None:
        for pid in pids:
            for name in (f"{pid}/stat", f"{pid}/status"):
                if (handle := self._files.pop(name, -1)) >= 0:
                    os.close(handle)


def _kib(text: bytes, key: bytes) -> int:
    """A line like ``MemTotal:  24684096 kB`` in bytes; 0 if it is not there."""
    words = text.partition(key)[2].split(None, 1)
    return int(words[0]) * 1024 if words else 0


def main(seconds: float) -> None:
    """Watch with nothing of our own, and tell the cost."""
    budget = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 7 // 10
    watch = Watch(budget, lambda: [os.getpid()])
    print(f"of {watch.cores:g} cores and {budget / _MIB:.0f} MiB others leave us:")
    end = time.monotonic_ns() + int(seconds * 1e9)
    spent = looks = 0
    watch.attend(True, time.monotonic_ns())
    while (now := time.monotonic_ns()) < end:
        began = time.thread_time_ns()
        found = watch.look(now)
        spent += time.thread_time_ns() - began
        looks += 1
        if found:
            print(f"{found[0]:g} cores, {found[1] / _MIB:.0f} MiB", flush=True)
        due = watch.next_timer()
        assert due is not None
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
    watch.close()
    share = spent / seconds / 1e7
    print(f"{looks} looks, {spent / looks / 1000:.0f} us each: {share:.3f} % of a core")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
