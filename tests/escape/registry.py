"""What an escape attempt is, and how its effect is seen from outside.

The trying half (``run``) goes through in the worker, with the standard library only. It may
``tell``: a message, and perhaps a descriptor that it got hold of, goes to the outside over one
inherited socket, and the sender waits there. The kernel itself attests who sent it, so the
outside looks at that process or that descriptor while the attempt still holds it (``look``). What
changes a file, a socket or another process is judged afterwards (``worked``), from the thing
itself. What a ``look`` may not see counts as an escape.
"""

import array
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MEMORY_BYTES = 96 << 20
ADDRESS_BYTES = 8 << 30
TMP_BYTES = 4 << 20
FILE_BYTES = 16 << 20
MAX_THREADS = 8
MAX_FDS = 64
WAIT, NO_WAIT = b"w", b"n"

Facts = Mapping[str, Any]
Try = Callable[[Facts], Any]
Judge = Callable[[Any, Any], bool]
"""(the bait, the evidence or the sighting) -> whether the effect is there."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One message of an attempt, as the outside got it."""

    name: str
    text: str
    pid: int
    """Of the sender, by the kernel, as the outside numbers it."""
    uid: int
    fds: tuple[int, ...]

    @property
    def link(self) -> str:
        """What the first descriptor leads to; empty without one."""
        return os.readlink(f"/proc/self/fd/{self.fds[0]}") if self.fds else ""  # noqa: PTH115

    def status(self, key: str) -> list[str]:
        """The words of a line of the sender's ``/proc/PID/status``."""
        with open(f"/proc/{self.pid}/status", encoding="ascii") as file:  # noqa: PTH123
            return next((line.split()[1:] for line in file if line.startswith(f"{key}:")), [])

    def stat(self, number: int) -> int:
        """A field of the sender's ``/proc/PID/stat``, numbered as proc(5) does."""
        with open(f"/proc/{self.pid}/stat", encoding="utf-8") as file:  # noqa: PTH123
            return int(file.read().rpartition(")")[2].split()[number - 3])


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt.

    ``alone``: it may end or change its process when it works. ``ends``: it may do so when it is
    stopped as well. ``strict``: it is for a profile without executable memory.
    """

    name: str
    group: str
    language: str
    run: Try
    look: Judge | None
    worked: Judge | None
    alone: bool = False
    ends: bool = False
    strict: bool = False
    survives: str = ""
    """Whose death it tries to outlive: "daemon" or "stage"."""


ATTEMPTS: dict[str, Attempt] = {}


def attempt(worked: Judge | None = None, **options: Any) -> Callable[[Try], Try]:
    """Register the function as an attempt in Python; its module's name says the group."""

    def register(function: Try) -> Try:
        group = function.__module__.removeprefix("try_")
        add(function.__name__, group, "Python", function, worked=worked, **options)
        return function

    return register


def add(
    name: str,
    group: str,
    language: str,
    run: Try,
    *,
    worked: Judge | None = None,
    look: Judge | None = None,
    **options: Any,
) -> None:
    """Register one attempt; it needs a ``look``, a ``worked``, or a death to survive."""
    assert name not in ATTEMPTS, f"two attempts are called {name}"
    assert worked or look or options.get("survives"), f"nothing judges {name}"
    ATTEMPTS[name] = Attempt(name, group, language, run, look, worked, **options)


def tell(facts: Facts, text: str = "", fds: tuple[int, ...] = (), *, wait: bool = True) -> None:
    """Inside: send a message and hold still until the outside has looked."""
    with socket.socket(fileno=os.dup(facts["post"])) as post:
        head = (WAIT if wait else NO_WAIT) + facts["name"].encode() + b"\0" + text.encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        post.sendmsg([head], rights)
        if wait:
            post.recv(1)


# Judges that several attempts share.


def is_secret(bait: Any, evidence: Any) -> bool:
    """The attempt says what only the outside knew; of a sighting, its text does."""
    return getattr(evidence, "text", evidence) == bait.secret


def is_open(*starts: str) -> Judge:
    """The descriptor that came out leads to something of that name."""
    return lambda _, seen: seen.link.startswith(starts)


def told(_: Any, seen: Sighting) -> bool:
    """The message itself is the effect: only what is forbidden could send it."""
    return bool(seen.name)


def unless_unreadable(judge: Judge) -> Judge:
    """What may not be looked at from outside counts as an escape."""

    def look(bait: Any, seen: Any) -> bool:
        try:
            return judge(bait, seen)
        except PermissionError:
            return True

    return look
