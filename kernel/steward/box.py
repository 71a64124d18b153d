"""The listing ``box``: what this machine has and does, from /proc and /sys, as counters.

A plugin sees neither of the two. Rates are made by who asks twice; what cannot be read is left out.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clawai.sdk import device

PROC, SYS = Path("/proc"), Path("/sys")
SENSORS = 64
"""Of a kind at most."""


def box(pids: dict[int, int], profile: str, proc: Path = PROC, sys: Path = SYS) -> dict[str, Any]:
    """What can be seen now.

    Args:
        pids: of the workers.
        profile: the device profile that is in force.
    """
    model, isa = device.processor()
    idle, total = _ticks(proc)
    memory = _memory(proc)
    return {
        "seconds": time.monotonic(),
        "processor": model,
        "isa": isa,
        "profile": profile,
        "cores": len(os.sched_getaffinity(0)),
        "ticks_a_second": os.sysconf("SC_CLK_TCK"),
        "idle_ticks": idle,
        "total_ticks": total,
        "workers": {number: _spent(proc, pid) for number, pid in pids.items() if pid},
        "memory_bytes": memory.get("MemTotal", 0),
        "available_bytes": memory.get("MemAvailable", 0),
        "temperatures": [*_temperatures(sys)],
        "energy": [*_energy(sys)],
    }


def _ticks(proc: Path) -> tuple[int, int]:
    """Of all processors that were idle, and all."""
    try:
        line = (proc / "stat").read_text().split("\n", 1)[0]
        fields = [int(field) for field in line.split()[1:9]]
        return fields[3] + fields[4], sum(fields)
    except (OSError, ValueError, IndexError):
        return 0, 0


def _spent(proc: Path, pid: int) -> int:
    """Ticks that a process has used."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        return 0


def _memory(proc: Path) -> dict[str, int]:
    """Of /proc/meminfo, in bytes."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[:8]}
    except (OSError, ValueError, IndexError):
        return {}


def _temperatures(sys: Path) -> Iterator[dict[str, Any]]:
    """Of the thermal zones, in degrees Celsius."""
    for zone in sorted(sys.glob("class/thermal/thermal_zone*"))[:SENSORS]:
        try:
            degrees = int((zone / "temp").read_text()) / 1000
            yield {"name": (zone / "type").read_text().strip()[:64], "celsius": degrees}
        except (OSError, ValueError):
            continue


def _energy(sys: Path) -> Iterator[dict[str, Any]]:
    """Counters of what packages of processors have used, in microjoules; often for root only."""
    for zone in sorted(sys.glob("class/powercap/*:*"))[:SENSORS]:
        if zone.name.count(":") != 1:
            continue  # a part of a package, which counts it
        try:
            used = int((zone / "energy_uj").read_text())
            yield {"name": (zone / "name").read_text().strip()[:64], "microjoules": used}
        except (OSError, ValueError):
            continue
