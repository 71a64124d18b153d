"""What the container that we run in allows, if it is smaller than the box.

Read once: a limit that is changed while the kernel runs is seen at its next start.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from clawai.kernel.steward.means import own_folder

_UNLIMITED = 1 << 60


def available_cores() -> float:
    """Processors that this process may use, the quota of its container included."""
    cores = float(len(os.sched_getaffinity(0)))
    if (folder := own_folder("cgroup2")) is not None:
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            return cores if quota == "max" else min(cores, int(quota) / int(period))
    if (folder := own_folder("cgroup1")) is not None:
        quota_us, period_us = (_number(folder / f"cpu.cfs_{x}_us") for x in ("quota", "period"))
        if quota_us and quota_us > 0 and period_us:
            return min(cores, quota_us / period_us)
    return cores


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The memory limit of our group."""

    most: int
    usage: Path
    details: Path

    def room(self) -> int:
        """Bytes below the limit; cached files are given back without pain."""
        used = _number(self.usage) or 0
        cached = 0
        with contextlib.suppress(OSError):
            for line in self.details.read_bytes().splitlines():
                if line.startswith((b"total_inactive_file ", b"inactive_file ")):
                    cached = int(line.split()[1])
        return max(0, self.most - used + cached)


def memory_limit() -> MemoryLimit | None:
    """The limit, if there is one."""
    for kind, most, usage in (
        ("cgroup2", "memory.max", "memory.current"),
        ("cgroup1", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        folder = own_folder(kind, "memory")
        limit = _number(folder / most) if folder else None
        if folder and limit is not None and limit < _UNLIMITED:
            return MemoryLimit(limit, folder / usage, folder / "memory.stat")
    return None


def _number(path: Path) -> int | None:
    """The number in a file; None for "max" or if there is no such file."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.lstrip("-").isdigit() else None
