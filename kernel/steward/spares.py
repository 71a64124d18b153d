"""A worker without a model, ready before somebody asks for one.

Most of what an engine's start costs is the same for every model: a process, its sandbox, the
plugin's code. A second after a launcher has started one, it makes a spare, which has all of that
and waits inside of its sandbox for orders. The next worker of the same plugin with the same policy
is that process; it gets its descriptors and arguments over the socket on which it waits, and its
groups then. One that does not fit, or has died, is nobody's loss: a worker is started as before.

One a launcher, of about 17 MB that are its own.
"""

import json
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clawai.kernel.loop import Loop
from clawai.kernel.steward.nursery import Nursery
from clawai.sandbox.forking import Zygote
from clawai.sandbox.launch import Spawned, spawn
from clawai.sandbox.policy import Policy, SandboxRefused

TARGET = "clawai.sdk.spare:main"
DELAY = 1.0
"""Seconds after a start: the worker that was wanted goes first."""
MAX_ORDER = 32 * 1024
"""Bytes of a message; an order with more is not given to a spare."""


@dataclass(slots=True)
class Spare:
    """One that waits, or is about to."""

    key: str
    spawned: Spawned
    sock: socket.socket


class Spares:
    """At most one spare of a launcher."""

    def __init__(self, loop: Loop, nursery: Nursery) -> None:
        self._loop = loop
        self._nursery = nursery
        self._spare: Spare | None = None
        self._wanted: tuple[float, dict[str, Any], bytes] | None = None
        """When to make one, and for what order."""

    def patience(self) -> float | None:
        """Seconds until ``make`` is to be called."""
        return None if self._wanted is None else max(0.0, self._wanted[0] - time.monotonic())

    def want(self, order: dict[str, Any], bpf: bytes) -> None:
        """Such a worker was started; the next one shall find a spare."""
        if order["spare"] and (self._spare is None or self._spare.key != _key(order)):
            self._wanted = time.monotonic() + DELAY, order, bpf

    def make(self) -> None:
        """Make the spare that is wanted, if it is time."""
        if self._wanted is None or self._wanted[0] > time.monotonic():
            return
        _, order, bpf = self._wanted
        self._wanted = None
        self._drop()

        def loaded(zygote: Zygote | None) -> None:
            if zygote and self._spare is None:
                self._spawn(order, bpf, zygote)

        self._nursery.want(order["forked"], loaded)

    def take(self, order: dict[str, Any], fds: Mapping[str, int]) -> Spawned | None:
        """The spare as the worker of an order; None: there is none that fits."""
        spare = self._spare
        if spare is None or not order["spare"] or spare.key != _key(order):
            return None
        if spare.spawned.worker_pidfd < 0:
            return None  # not yet in its sandbox
        told = json.dumps({"names": list(fds), "args": order["args"]}).encode()
        if len(told) > MAX_ORDER:
            return None
        self._forget()
        try:
            socket.send_fds(spare.sock, [told], list(fds.values()))
        except OSError:
            _end(spare)
            return None
        spare.sock.close()
        return spare.spawned

    def close(self) -> None:
        """End the one that waits."""
        self._wanted = None
        self._drop()

    def _spawn(self, order: dict[str, Any], bpf: bytes, zygote: Zygote) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        args = order["args"]
        with theirs:
            try:
                spawned = spawn(
                    TARGET,
                    Policy.from_dict(order["policy"]),
                    {"orders": theirs.fileno()},
                    bpf=bpf,
                    level=order["level"],
                    args={"modules": [*args["drivers"], args["module"]], "ops": args["ops"]},
                    uid=order["uid"],
                    import_paths=order["import_paths"],
                    start=zygote.start,
                )
            except (OSError, ValueError, SandboxRefused):
                ours.close()  # a worker that is wanted will say why
                return
        ours.setblocking(False)
        self._spare = Spare(_key(order), spawned, ours)
        self._loop.watch(spawned.status_fd, self._said)
        self._loop.watch(spawned.stage_pidfd, lambda _: self._drop())

    def _said(self, _: int) -> None:
        """Its stage reports; what matters is its pidfd, and its end."""
        assert self._spare
        reports = self._spare.spawned.read_status()
        if any(report.event in ("closed", "failed") for report in reports):
            self._drop()

    def _forget(self) -> None:
        assert self._spare
        for fd in (self._spare.spawned.status_fd, self._spare.spawned.stage_pidfd):
            self._loop.unwatch(fd)
        self._spare = None

    def _drop(self) -> None:
        if spare := self._spare:
            self._forget()
            _end(spare)


def _key(order: Mapping[str, Any]) -> str:
    """What a spare and the worker that it becomes have in common."""
    same = ("spare", "policy", "level", "uid", "import_paths", "forked")
    args = order["args"]
    return json.dumps(
        [[order[name] for name in same], args["drivers"], args["module"], args["ops"]],
        sort_keys=True,
    )


def _end(spare: Spare) -> None:
    spare.sock.close()
    try:
        signal.pidfd_send_signal(spare.spawned.stage_pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended by itself
    spare.spawned.stage.wait()
    spare.spawned.close()
