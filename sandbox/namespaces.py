"""Leave the host's namespaces. Two orders, one result: no capability over anything of the host.

A root daemon's stage makes the mount, network, process, IPC, host name and cgroup namespaces and
the private root as real root (only root reaches a venv under /root), gives up root, then enters a
user namespace that owns none of them. An ordinary user enters the user namespace first, because
that is what lets it make the others.
"""

import os
from pathlib import Path

from clawai.sandbox import mounts, privileges
from clawai.sandbox import syscalls as sc
from clawai.sandbox.policy import Policy
from clawai.sandbox.programs import Programs

INSIDE_ID = 65534
_HOST_NAME = "claw"  # the box's own stays outside
_ALL_BUT_USER = (
    sc.CLONE_NEWNS
    | sc.CLONE_NEWNET
    | sc.CLONE_NEWPID
    | sc.CLONE_NEWIPC
    | sc.CLONE_NEWUTS
    | sc.CLONE_NEWCGROUP
)


def enter(policy: Policy, visible: list[str], uid: int, programs: Programs | None = None) -> bool:
    """Enter new namespaces and the private root; the process namespace holds the next child.

    Returns:
        Whether a user namespace was entered; False only for a daemon that was root where the
        system forbids user namespaces (its worker has given up root all the same).
    """
    groups, programs = device_groups(policy), programs or Programs()
    proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.geteuid() == 0:
            sc.unshare(_ALL_BUT_USER)
            sc.set_host_name(_HOST_NAME)
            mounts.build_root(policy, visible, uid, programs)
            privileges.drop_root(uid, groups)
            try:
                _enter_user_namespace(proc)
            except OSError:
                return False
        else:
            _enter_user_namespace(proc, also=_ALL_BUT_USER)
            sc.set_host_name(_HOST_NAME)
            mounts.build_root(policy, visible, INSIDE_ID, programs)
        return True
    finally:
        os.close(proc)


def device_groups(policy: Policy) -> set[int]:
    """The groups that a root daemon's worker keeps: those that open its declared devices."""
    found = (Path(path).stat() for path in policy.devices)
    return {each.st_gid for each in found if each.st_gid and each.st_mode & 0o060}


def _enter_user_namespace(proc: int, also: int = 0) -> None:
    uid, gid = os.geteuid(), os.getegid()
    # After a setuid the files below /proc/self belong to root until the process is dumpable.
    sc.prctl(sc.PR_SET_DUMPABLE, 1)
    sc.unshare(sc.CLONE_NEWUSER | also)
    _write(proc, "setgroups", "deny")
    _write(proc, "uid_map", f"{INSIDE_ID} {uid} 1")
    _write(proc, "gid_map", f"{INSIDE_ID} {gid} 1")
    sc.prctl(sc.PR_SET_DUMPABLE, 0)


def _write(folder: int, name: str, text: str) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
