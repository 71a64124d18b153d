"""A plugin that fails in the way that it is told to."""

import collections
import ctypes
import itertools
import os
import socket
import threading
import time

from clawai.sdk.plugin import operation

HEAVY = False  # the benchmark writes True into half of the copies
if HEAVY:
    import numpy  # noqa: F401


@operation("victim.fine")
def fine(n: int) -> int:
    """Say ``n`` back."""
    return n


@operation("victim.fail")
def fail(kind: str) -> None:
    """Fail as ``kind`` says; what comes back is an error or nothing."""
    KINDS[kind]()


def _segfault() -> None:
    ctypes.string_at(8)


def _hang() -> None:
    # In C, with the interpreter's lock held: no other thread of the worker runs either.
    collections.deque(itertools.repeat(0), maxlen=0)


def _nap() -> None:
    time.sleep(600)


def _memory() -> None:
    held = []
    while True:
        held.append(b"x" * (1 << 20))


def _descriptors() -> None:
    while True:
        os.dup(0)


def _threads() -> None:
    for _ in range(100_000):
        threading.Thread(target=_nap, daemon=True).start()


def _sockets() -> list[socket.socket]:
    """The worker's stream to the kernel, found as an attacker would: by trying descriptors."""
    found = []
    for fd in range(3, 1024):
        try:
            each = socket.socket(fileno=fd)
        except OSError:
            continue
        if each.type == socket.SOCK_STREAM:
            found.append(each)
        else:
            each.detach()
    return found


def _close() -> None:
    found = _sockets()
    for each in found:
        each.shutdown(socket.SHUT_RDWR)
    if found:
        _nap()


def _garbage() -> None:
    found = _sockets()
    for each in found:
        each.sendall(os.urandom(4096))
    if found:
        _nap()


KINDS = {
    "segv": _segfault,
    "abort": os.abort,
    "hang": _hang,
    "nap": _nap,
    "memory": _memory,
    "descriptors": _descriptors,
    "threads": _threads,
    "closed": _close,
    "garbage": _garbage,
}
