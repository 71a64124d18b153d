"""How each means of rung 2 is made, entered and removed. ``ladder`` decides which one is taken.

A means lowers the group "bulk" below everything else of the owner ("realtime" raises "main"
instead). Folders of cgroups carry the pid of the daemon: two daemons never share one, and what a
killed one left is removed by the next (an empty folder of a dead pid can be removed by rmdir only
if no process is in it, so nothing that lives is ever lost).

Refuses a cgroup that was not handed to us: systemd owns its tree, and only a unit with
``Delegate=`` says that we may build below ours.
"""

import contextlib
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from clawai.sandbox.cgroups import WEIGHT, stand_back
from clawai.sandbox.syscalls import set_slice, takes_slices

ORDER = ("cgroup2", "cgroup1", "autogroup", "nice", "realtime")
PREFIX = "clawai-"
LOWEST_NICE = 19
SHARES = 15
"""Of cgroup v1, where a process has 1024: what nice 19 weighs. The least (2) gains nothing more for
urgent work. Where groups can be idle (``stand_back``) they weigh 3."""
BULK_SLICE_US = 500
"""A program keeps the processor for so long although one is woken that has more right to it; the
scheduler's own slice, 1.4 ms on two processors, is looked at when the clock ticks."""
FIFO_MAIN, FIFO_DAEMON = 1, 2
"""The daemon above the workers that it feeds, both below everything else that is realtime."""
REALTIME_S = 2
"""A worker that the daemon has raised for a moment (``kernel.boost``) dies when it has computed for
so long without a wait and is still raised: nobody else would stop it."""
_AUTOGROUP = Path("/proc/self/autogroup")
_AUTOGROUP_PATIENCE_S = 2.0
_CAP_SYS_NICE = 23


class Refused(Exception):
    """This means cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Means:
    """A means that was made."""

    kind: str
    """One of ``ORDER``, or none."""
    folder: str = ""
    """Of the bulk group, where the means has folders."""
    main: str = ""
    """Of the main group, if that has one too."""


def make(kind: str, owner: int, *, granted: bool = False) -> Means:
    """Prepare a means for the daemon ``owner``.

    Args:
        granted: the configuration asks for this very means, which for "realtime" is a grant.

    Raises:
        Refused, OSError: it cannot be had.
    """
    match kind:
        case "none":
            return Means("none")
        case "cgroup2":
            return _make_cgroup2(owner)
        case "cgroup1":
            return _make_cgroup1(owner)
        case "autogroup":
            return _make_autogroup()
        case "nice":
            return Means("nice")
        case "realtime":
            return _make_realtime(granted)
    raise Refused(f"no such means: {kind!r}; allowed: auto, none, {', '.join(ORDER)}")


def enter(group: str, means: Means) -> None:
    """Put the calling process, and so its future children, into "main" or "bulk".

    Call it in a process that leads a session of its own (after setsid).

    Raises:
        OSError: the system refuses it.
    """
    if group == "main" and means.kind != "realtime":
        most = REALTIME_S * 1_000_000
        hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
        if hard == resource.RLIM_INFINITY or hard > most:  # who starts us may have a lower one
            resource.setrlimit(resource.RLIMIT_RTTIME, (most, most))
    if group == "bulk":
        match means.kind:
            case "cgroup2" | "cgroup1":
                _write(Path(means.folder, "cgroup.procs"), str(os.getpid()))
            case "autogroup":
                _lower_session()
            case "nice":
                os.setpriority(os.PRIO_PROCESS, 0, LOWEST_NICE)
        if means.folder and takes_slices():
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            set_slice(BULK_SLICE_US)
        elif means.kind not in ("none", "realtime"):
            # What wakes up is then sent to a processor that runs bulk work only, as to an idle one,
            # and not made to wait on another behind whoever computes there. Takes no privilege.
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    elif means.kind == "realtime":
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_MAIN))
    elif means.main:
        _write(Path(means.main, "cgroup.procs"), str(os.getpid()))


def lift(daemon: int, means: Means) -> None:
    """Put the daemon where it is scheduled at once; for most means that is where it is.

    Raises:
        OSError: the system refuses it.
    """
    if means.kind == "realtime":
        os.sched_setscheduler(daemon, os.SCHED_FIFO, os.sched_param(FIFO_DAEMON))
    elif means.main:
        _write(Path(means.main, "cgroup.procs"), str(daemon))


def clean(means: Means) -> None:
    """Remove what ``make`` created. A group that still has processes stays for ``clean_stale``."""
    if means.folder:
        _remove(Path(means.folder))


def clean_stale() -> None:
    """Remove the groups that daemons left which are dead."""
    for base in _bases():
        with contextlib.suppress(OSError):
            for folder in base.iterdir():
                pid = folder.name.removeprefix(PREFIX)
                if folder.name.startswith(PREFIX) and pid.isdigit() and not _alive(int(pid)):
                    _remove(folder)


def _remove(folder: Path) -> None:
    # A process that was just killed leaves its group a moment after its parent has reaped it.
    for _ in range(20):
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.005)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


# cgroups.


def _own_groups() -> dict[str, str]:
    """Controllers (or "" for version 2) to the path of our group, from /proc/self/cgroup."""
    found = {}
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, names, path = line.split(":", 2)
        found.update(dict.fromkeys(names.split(","), path))
    return found


def _mounts() -> list[tuple[str, str, Path]]:
    """Kind, options and place of every mounted cgroup tree."""
    found = []
    for line in _read(Path("/proc/self/mounts")).splitlines():
        _, place, kind, options, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            found.append((kind, options, Path(place.replace("\\040", " "))))
    return found


def own_folder(kind: str, controller: str = "cpu") -> Path | None:
    """Our group in the tree of version 2 ("cgroup2"), or in that of a controller ("cgroup1")."""
    groups = _own_groups()
    path = groups.get("" if kind == "cgroup2" else controller)
    for name, options, place in _mounts():
        if name == "cgroup2" if kind == "cgroup2" else controller in options.split(","):
            return place / path.lstrip("/") if path is not None else None
    return None


def _bases() -> list[Path]:
    """Folders in which ``make`` may have created something."""
    own = own_folder("cgroup2")
    bases = [each for each in (own, own.parent if own else None, own_folder("cgroup1")) if each]
    return [base for base in bases if base.is_dir()]


def _make_cgroup1(owner: int) -> Means:
    base = own_folder("cgroup1")
    if base is None or not base.is_dir():
        raise Refused("the cpu controller of cgroup v1 is not mounted here")
    if not os.access(base, os.W_OK):
        raise Refused(f"{base} may not be written by uid {os.geteuid()}")
    folder = base / f"{PREFIX}{owner}"
    folder.mkdir(exist_ok=True)
    try:
        stand_back(folder, "cpu.shares", SHARES)
    except OSError:
        _remove(folder)
        raise
    return Means("cgroup1", str(folder))


def _make_cgroup2(owner: int) -> Means:
    own = own_folder("cgroup2")
    if own is None or not own.is_dir():
        raise Refused("cgroup v2 is not mounted here")
    base = next((each for each in (own, own.parent) if _delegated(each)), None)
    if base is None:
        raise Refused(f"{own} was not delegated to uid {os.geteuid()}")
    if "cpu" not in _read(base / "cgroup.controllers").split():
        raise Refused(f"the cpu controller is not handed to {base}")
    main = ""
    # Only the root of the whole tree may hold processes beside groups with controllers.
    if base == own and (base / "cgroup.type").exists():
        aside = base / f"{PREFIX}main"
        aside.mkdir(exist_ok=True)
        for pid in _read(base / "cgroup.procs").split():
            with contextlib.suppress(ProcessLookupError):
                _write(aside / "cgroup.procs", pid)
        main = str(aside)
    _write(base / "cgroup.subtree_control", "+cpu")
    folder = base / f"{PREFIX}{owner}"
    folder.mkdir(exist_ok=True)
    try:
        stand_back(folder, "cpu.weight", WEIGHT)
    except OSError:
        _remove(folder)
        raise
    return Means("cgroup2", str(folder), main)


def _delegated(folder: Path) -> bool:
    """Whether whoever manages the tree has given this part of it to us."""
    procs = folder / "cgroup.procs"
    if not (folder / "cgroup.controllers").exists() or not os.access(procs, os.W_OK):
        return False
    if not os.access(folder, os.W_OK):
        return False
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    # Without systemd there is nobody else who would manage it: a container, or a bare system.
    return not Path("/run/systemd/system").exists()


# Sessions, processes, classes.


def _make_autogroup() -> Means:
    if not _AUTOGROUP.exists():
        raise Refused("this system has no autogroups (CONFIG_SCHED_AUTOGROUP)")
    if _read(Path("/proc/sys/kernel/sched_autogroup_enabled")).strip() == "0":
        raise Refused("autogroups are switched off: sysctl kernel.sched_autogroup_enabled")
    return Means("autogroup")


def _lower_session() -> None:
    """Give this session the least weight; the system takes about ten such writes a second."""
    until = time.monotonic() + _AUTOGROUP_PATIENCE_S
    while True:
        try:
            _write(_AUTOGROUP, str(LOWEST_NICE))
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def _make_realtime(granted: bool) -> Means:
    limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    if 0 <= limit < FIFO_DAEMON and not (granted and _may_raise()):
        raise Refused(f"not granted: RLIMIT_RTPRIO is {limit}, needed is {FIFO_DAEMON}")
    return Means("realtime")


def _may_raise() -> bool:
    """Whether we hold CAP_SYS_NICE."""
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_NICE & 1)
    return False


# What the owner could do.


def advice(taken: Means, refused: dict[str, str]) -> tuple[str, ...]:
    """How to get a stronger means than the one that was taken; empty if there is nothing to say."""
    said = []
    if taken.kind != "realtime" and not _may_raise():
        said.append(
            "for critical tasks before all other programs: CAP_SYS_NICE (packaging/clawai.service)"
        )
    if taken.kind in ("cgroup2", "cgroup1"):
        return tuple(said)
    if taken.kind == "none":
        said.append("urgent work waits behind bulk work on this box")
        if "autogroup" in refused and "switched off" in refused["autogroup"]:
            said.append("as root: sysctl -w kernel.sched_autogroup_enabled=1")
    if Path("/run/systemd/system").exists():
        if os.geteuid() == 0:
            said.append("systemd-run --unit=clawai -p Delegate=cpu claw serve")
        else:
            said.append("systemd-run --user --scope -p Delegate=yes claw serve")
        said.append("for good: packaging/clawai.service (Delegate=cpu, LimitRTPRIO=)")
    elif taken.kind in ("none", "nice", "realtime"):
        said.append("as root: a writable cgroup with the cpu controller for the kernel's user")
    return tuple(said)


def circumstances() -> list[str]:
    """What decides whether a means works: another boot, system, group or limit is another box."""
    return [
        _read(Path("/proc/sys/kernel/random/boot_id")).strip(),
        os.uname().release,
        str(os.geteuid()),
        _read(Path("/proc/self/cgroup")),
        _read(Path("/proc/sys/kernel/sched_autogroup_enabled")).strip(),
        str(resource.getrlimit(resource.RLIMIT_RTPRIO)),
        str(_may_raise()),
    ]


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
