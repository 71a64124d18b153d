"""Limits that the kernel counts over all processes of one worker: memory, number, processor time.

    places = find()                       # which controllers we may use here, each tried out
    cage = make(places, "claw-worker-1-7", Bounds(memory=1 << 28, processes=66, cpu=0.5))
    cage.enter(stage_pid)                 # before it forks the worker, which is then born inside
    cage.bound_memory(bytes); cage.private_bytes(); cage.out_of_memory()
    cage.remove()                         # once nothing lives in there: True

Version 1 as root, each controller in a tree of its own; version 2 where a part of the tree was
delegated to us and holds no processes itself. An ordinary user without a delegated part has none
of this: whoever starts workers then watches their memory and time itself.

    python -I -m clawai.sandbox.cgroups   ->  {"memory": "cgroup1", "pids": "cgroup1", "cpu": ""}

Charged to a worker's group are the pages that it touches first, also those of shared memory that it
was given: whoever gives it some raises the bound by as much.
"""

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from clawai.sandbox import syscalls as sc

CONTROLLERS = ("memory", "pids", "cpu")
PREFIX = "claw-worker-"
_PERIOD_US = 100_000
_LEAST_QUOTA_US = 1000
WEIGHT = 1
"""Of a group of version 2 that stands back and cannot be idle; others have 100. The least."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """For one worker, all its processes together; 0 means none."""

    memory: int = 0
    processes: int = 0
    cpu: float = 0.0


@dataclass(frozen=True, slots=True)
class Places:
    """The folder in which groups can be made, by controller; and the version of each."""

    folders: dict[str, Path] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)

    def kind(self, controller: str) -> str:
        """ "cgroup1", "cgroup2", or nothing."""
        return self.kinds.get(controller, "")


@dataclass(slots=True)
class Cage:
    """The groups of one worker."""

    places: Places
    folders: dict[str, Path]

    def enter(self, pid: int) -> None:
        """Put a process in; what it forks later is in, too.

        Raises:
            OSError: the system refuses it, or the process has gone.
        """
        for folder in dict.fromkeys(self.folders.values()):
            _write(folder / "cgroup.procs", str(pid))

    def procs(self) -> list[str]:
        """The files into which the number of a process is written to put it in."""
        return [str(folder / "cgroup.procs") for folder in dict.fromkeys(self.folders.values())]

    def bound_memory(self, size: int) -> None:
        """Change the bound."""
        if folder := self.folders.get("memory"):
            name = "memory.max" if self._second("memory") else "memory.limit_in_bytes"
            with contextlib.suppress(OSError):  # it holds more already: the next look tells
                _write(folder / name, str(size))

    def private_bytes(self) -> int | None:
        """Memory that no file and no segment is behind; None where it is not counted."""
        if folder := self.folders.get("memory"):
            found = _values(folder / "memory.stat")
            return found.get("anon" if self._second("memory") else "total_rss")
        return None

    def throttled(self) -> int:
        """Nanoseconds for which its bound of processor time has held it back, on all processors."""
        if folder := self.folders.get("cpu"):
            found = _values(folder / "cpu.stat")
            return found.get("throttled_time", 1000 * found.get("throttled_usec", 0))
        return 0

    def out_of_memory(self) -> bool:
        """Whether the system killed something in here for the bound."""
        if folder := self.folders.get("memory"):
            name = "memory.events" if self._second("memory") else "memory.oom_control"
            return _values(folder / name).get("oom_kill", 0) > 0
        return False

    def remove(self) -> bool:
        """Remove the groups; False while something still lives in one."""
        for controller, folder in list(self.folders.items()):
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                continue
            del self.folders[controller]
        return not self.folders

    def _second(self, controller: str) -> bool:
        return self.places.kind(controller) == "cgroup2"


def find(base2: Path | None = None) -> Places:
    """Where groups can be made, tried out by making one.

    Args:
        base2: a delegated folder of version 2 without processes of its own.
    """
    places = Places()
    for controller in CONTROLLERS:
        folder = _own_folder(controller)
        if folder is not None and os.access(folder, os.W_OK):
            places.folders[controller], places.kinds[controller] = folder, "cgroup1"
        elif base2 is not None and _enable(base2, controller):
            places.folders[controller], places.kinds[controller] = base2, "cgroup2"
    for controller in list(places.folders):
        one = Places(
            {controller: places.folders[controller]}, {controller: places.kinds[controller]}
        )
        try:
            bounds = Bounds(memory=1 << 26, processes=8, cpu=1.0)
            make(one, f"{PREFIX}{os.getpid()}-try", bounds).remove()
        except OSError:
            del places.folders[controller], places.kinds[controller]
    return places


def make(places: Places, name: str, bounds: Bounds, bulk: bool = False) -> Cage:
    """Make the groups of one worker, those that it has a bound for.

    Args:
        bulk: it stands back for everybody else. Matters in version 2 only, where a worker's group
            stands beside that of its lane and would otherwise weigh as much as any.

    Raises:
        OSError: the system refuses one; nothing is left behind.
    """
    cage = Cage(places, {})
    wanted = {"memory": bounds.memory, "pids": bounds.processes, "cpu": bounds.cpu}
    try:
        for controller, value in wanted.items():
            if value and controller in places.folders:
                folder = places.folders[controller] / name
                folder.mkdir(exist_ok=True)
                cage.folders[controller] = folder
                for file, text in _settings(controller, places.kind(controller), bounds):
                    _write(folder / file, text)
        second = [each for name, each in cage.folders.items() if places.kind(name) == "cgroup2"]
        for folder in dict.fromkeys(second) if bulk else ():
            stand_back(folder, "cpu.weight", WEIGHT)
    except OSError:
        cage.remove()
        raise
    return cage


def stand_back(folder: Path, name: str, least: int) -> None:
    """Have a group stand back for all others.

    By weight, where those in it have short slices (``syscalls.takes_slices``). Else as idle work
    (Linux 5.15), or whoever is woken would wait for the next tick of the clock now and then, up to
    4 ms. A processor that runs idle work only counts as free, to idle work as well: what is woken
    queues there although another has nothing to do at all. By weight it finds that one.

    Args:
        name, least: the file and the value of its weight.

    Raises:
        OSError: the system refuses it.
    """
    if not sc.takes_slices():
        try:
            _write(folder / "cpu.idle", "1")  # its weight can then not be set any more
            return
        except OSError:  # there are no idle groups
            pass
    _write(folder / name, str(least))


def _settings(controller: str, kind: str, bounds: Bounds) -> list[tuple[str, str]]:
    """Which files get what."""
    quota = max(_LEAST_QUOTA_US, int(bounds.cpu * _PERIOD_US))
    match controller, kind:
        case "memory", "cgroup1":
            return [("memory.limit_in_bytes", str(bounds.memory))]
        case "memory", _:
            return [("memory.max", str(bounds.memory)), ("memory.oom.group", "1")]
        case "cpu", "cgroup1":
            return [("cpu.cfs_period_us", str(_PERIOD_US)), ("cpu.cfs_quota_us", str(quota))]
        case "cpu", _:
            return [("cpu.max", f"{quota} {_PERIOD_US}")]
    return [("pids.max", str(bounds.processes))]


def clean_stale(places: Places) -> None:
    """Remove the groups of daemons that are dead; one in which something lives stays."""
    for base in dict.fromkeys(places.folders.values()):
        # Those of a lane with a group of its own lie in there.
        for place in (base, *_folders(base)):
            for folder in _folders(place):
                pid = folder.name.removeprefix(PREFIX).partition("-")[0]
                if folder.name.startswith(PREFIX) and pid.isdigit() and not _lives(pid):
                    with contextlib.suppress(OSError):
                        folder.rmdir()


def _lives(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


def _folders(base: Path) -> list[Path]:
    """In ``base``, which may be gone: other daemons make and remove theirs meanwhile."""
    try:
        with os.scandir(base) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _own_folder(controller: str) -> Path | None:
    """Our group in the tree of one controller of version 1."""
    path = None
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, names, place = line.split(":", 2)
        if controller in names.split(","):
            path = place
    for line in _read(Path("/proc/self/mounts")).splitlines():
        _, place, kind, options, *_ = line.split()
        if path is not None and kind == "cgroup" and controller in options.split(","):
            return Path(place.replace("\\040", " ")) / path.lstrip("/")
    return None


def _enable(base: Path, controller: str) -> bool:
    """Hand a controller of version 2 down to the groups in ``base``."""
    if controller not in _read(base / "cgroup.controllers").split():
        return False
    with contextlib.suppress(OSError):
        _write(base / "cgroup.subtree_control", f"+{controller}")
    return controller in _read(base / "cgroup.subtree_control").split()


def _values(path: Path) -> dict[str, int]:
    words = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    # Unbuffered, in one write: these files act at each write and say what they think of it at once.
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def remove_soon(cages: list[Cage], patience_s: float = 0.2) -> None:
    """Remove groups whose last processes are ending; waits a little for them."""
    until = time.monotonic() + patience_s
    while cages and time.monotonic() < until:
        cages[:] = [cage for cage in cages if not cage.remove()]
        if cages:
            time.sleep(0.005)


def main() -> None:
    """Print which controllers bound a worker here."""
    found = find()
    print(json.dumps({name: found.kind(name) for name in CONTROLLERS}))


if __name__ == "__main__":
    main()
