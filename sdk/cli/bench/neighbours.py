"""How much of this box other processes used during a measurement, from the kernel's own counts.

A thread pool that waits at barriers loses far more than its neighbours take, and not every peer
loses the same, so figures taken beside other work compare nothing. The share is part of a report.
"""

import os
from collections.abc import Sequence
from pathlib import Path

LIMIT = 0.1
"""Above this share a report warns."""


class Neighbours:
    """Counts from its making on; ``pids`` are the processes that are measured.

    So are this one and all that have ended below it.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = [os.getpid(), *pids]
        self._start = self._read()

    def share(self) -> float:
        """The part of all processor time that others used, 0 to 1."""
        total, busy, ours = (
            now - then for now, then in zip(self._read(), self._start, strict=True)
        )
        return max(0.0, min(1.0, (busy - ours) / total)) if total else 0.0

    def _read(self) -> tuple[int, int, int]:
        """Ticks of the box, of its work, and of the processes that are measured."""
        first = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
        # user nice system idle iowait irq softirq steal; guest time is in user already (proc(5)).
        spent = [int(word) for word in first.split()[1:9]]
        times = os.times()
        ended = times.children_user + times.children_system
        ours = sum(map(ticks_of, self._pids)) + int(ended * os.sysconf("SC_CLK_TCK"))
        return sum(spent), sum(spent) - spent[3] - spent[4], ours


def ticks_of(pid: int) -> int:
    """Processor time of one process, in ticks (fields utime and stime of proc(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return int(fields[11]) + int(fields[12])
