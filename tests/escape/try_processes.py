"""Programs, children, and the processes of others."""

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import shutil
import signal
import socket
from typing import Any

from registry import Facts, Sighting, attempt, tell

_libc = ctypes.CDLL(None, use_errno=True)
KILL, OWN = signal.SIGRTMIN + 1, signal.SIGRTMIN + 2
GROUP = signal.SIGRTMIN + 20


def another_process(bait: Any, seen: Sighting) -> bool:
    """The message came from a process that is not the worker."""
    return seen.pid not in bait.workers


def _touch(facts: Facts, name: str) -> tuple[str, list[str]]:
    touch = shutil.which("touch") or "/usr/bin/touch"
    return touch, [touch, f"{facts['folder']}/{name}"]


@attempt(look=another_process)
def fork_process(facts: Facts) -> None:
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            tell(facts)
        os._exit(0)
    os.waitpid(pid, 0)


@attempt(lambda bait, _: bait.made("spawned"))
def run_program(facts: Facts) -> None:
    program, words = _touch(facts, "spawned")
    os.waitpid(os.posix_spawn(program, words, {}), 0)


@attempt(lambda bait, _: bait.made("shell"))
def run_shell(facts: Facts) -> None:
    os.system(f"touch {facts['folder']}/shell")


@attempt(lambda bait, _: bait.made("in-place"), alone=True)
def run_in_place(facts: Facts) -> None:
    program, words = _touch(facts, "in-place")
    os.execve(program, words, {})


@attempt(look=lambda _, seen: len(seen.text) > 0, alone=True)
def leave_session(facts: Facts) -> None:
    try:
        os.setsid()
    except PermissionError:
        # The leader of a group: a child of it may.
        if os.fork():
            os.wait()
            os._exit(0)
        os.setsid()
    tell(facts, "left")


@attempt(lambda bait, _: bait.pending(KILL))
def signal_sibling(facts: Facts) -> None:
    os.kill(facts["sibling"], KILL)


@attempt(lambda bait, _: bait.pending(GROUP))
def signal_group(_: Facts) -> None:
    # The group of the launcher, the daemon and every worker: it crosses process namespaces.
    os.kill(0, GROUP)


@attempt(lambda bait, _: bait.pending(OWN))
def own_sibling(facts: Facts) -> None:
    left, right = socket.socketpair()
    with left, right:
        fcntl.fcntl(left, 10, OWN)  # F_SETSIG
        fcntl.fcntl(left, fcntl.F_SETOWN, facts["sibling"])
        fcntl.fcntl(left, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        right.send(b"wake")
        select.select([], [], [], 0.05)


@attempt(lambda bait, _: bait.stage_stopped, alone=True)
def stop_stage(_: Facts) -> None:
    stage = os.getppid()
    if stage == 0:
        raise ProcessLookupError("the stage has no number in here")
    os.kill(stage, signal.SIGSTOP)


@attempt(lambda bait, _: os.getpriority(os.PRIO_PROCESS, bait.sibling) == 7)
def slow_sibling(facts: Facts) -> None:
    os.setpriority(os.PRIO_PROCESS, facts["sibling"], 7)


@attempt(look=lambda _, seen: seen.stat(19) == 5, alone=True)
def change_priority(facts: Facts) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, 5)
    tell(facts)


@attempt(lambda bait, _: os.sched_getscheduler(bait.sibling) == os.SCHED_BATCH)
def schedule_sibling(facts: Facts) -> None:
    os.sched_setscheduler(facts["sibling"], os.SCHED_BATCH, os.sched_param(0))


@attempt(lambda bait, _: os.sched_getscheduler(bait.demoted) == os.SCHED_OTHER)
def demote_sibling(facts: Facts) -> None:
    # To the ordinary class, which a library asks for itself: out of any that the owner gave.
    os.sched_setscheduler(facts["demoted"], os.SCHED_OTHER, os.sched_param(0))


@attempt(lambda _, evidence: evidence == [True, False])
def probe_processes(facts: Facts) -> list[bool]:
    found = []
    for pid in (facts["sibling"], 1 << 22):
        with contextlib.suppress(ProcessLookupError):
            found.append(os.sched_getscheduler(pid) >= 0)
        found += [False] * (pid == 1 << 22 and len(found) < 2)
    return found


@attempt(lambda bait, evidence: evidence == str(bait.file))
def link_of_sibling(facts: Facts) -> str:
    return os.readlink(f"/proc/{facts['sibling']}/fd/{facts['held']}")  # noqa: PTH115


@attempt(
    lambda bait, _: resource.prlimit(bait.sibling, resource.RLIMIT_NOFILE)[0] == 77, alone=True
)
def limit_sibling(facts: Facts) -> None:
    resource.prlimit(facts["sibling"], resource.RLIMIT_NOFILE, (77, 777))


def _stay(facts: Facts) -> None:
    """Ignore what can be ignored, leave if possible, disarm the death signal, and stay."""
    signal.alarm(60)  # of the control only: nobody else ends it when the run is broken off
    with contextlib.suppress(OSError):
        # Process 1 takes its children along when it ends: it stays itself.
        if os.getpid() != 1 and os.fork():
            os._exit(0)
        os.setsid()
        signal.alarm(60)
    _libc.prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=os.dup(facts["post"])) as post:
        tell(facts)
        os.close(facts["results"])
        while post.recv(1):
            tell(facts, "still here", wait=False)


@attempt(survives="daemon", alone=True, ends=True)
def outlive_daemon(facts: Facts) -> None:
    _stay(facts)


@attempt(survives="stage", alone=True, ends=True)
def outlive_stage(facts: Facts) -> None:
    _stay(facts)
