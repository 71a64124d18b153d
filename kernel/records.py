"""The daemon's end of the recorder: the process that writes what must outlive the daemon.

Each record of the job journal goes there and is carried out when the recorder says that it is safe
on the disk. A recorder that dies is started again and told again what it had not confirmed; where
that fails, or the disk is full, the tasks concerned fail loudly: only what is safe is promised.
"""

import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.kernel.offers import Offers
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

PROGRAM = ["-P", "-m", "clawai.kernel.recorder"]
BEHIND = 64
"""With so many messages waiting for the recorder nothing of the event journal is added."""
PATIENCE_S = 5.0
_encode = msgspec.msgpack.Encoder().encode
_job = msgspec.msgpack.Decoder(ev.Submitted).decode


@dataclass
class Records:
    """The one recorder of this daemon."""

    loop: Loop
    offers: Offers
    config: Any
    """As plain values, for the recorder."""
    carry: Callable[[Any], None]
    """Carries out one instruction."""
    live: Callable[[], Iterable[ev.Submitted]]
    """What the tasks that the core has now were submitted as."""
    lost: Callable[[], None]
    """Something of the event journal is missing."""
    waiting: dict[int, ev.Record] = field(default_factory=dict)
    failed: dict[str, ClawError] = field(default_factory=dict)
    """Jobs that could not be kept: they end with this, which the recorder notes when it can."""
    last: int = 0
    link: Link | None = None
    pid: int = 0
    heard: bool = False
    """This recorder has said something: if it dies, another may do better."""

    def start(self) -> None:
        """Start the recorder, and tell it what no other has confirmed."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.set_inheritable(True)
        command = [sys.executable, *PROGRAM, str(theirs.fileno())]
        self.pid = os.posix_spawn(sys.executable, command, os.environ)
        theirs.close()
        self.link, self.heard = Link(ours), False
        self.loop.watch(ours.fileno(), self._ready)
        jobs = {told.job for told in self.waiting.values()} | {each.job for each in self.live()}
        self.send("hello", self.config, sorted(jobs))
        for number, told in self.waiting.items():
            self._write(number, told)

    def send(self, name: str, *arguments: Any) -> bool:
        """Tell the recorder something; False if there is none, or it is far behind."""
        link = self.link
        if link is None or (name == "events" and len(link.outbox) > BEHIND):
            return False
        link.send(name, *arguments)
        self.loop.rewatch(link.fileno(), link.mask)
        return True

    def _ready(self, mask: int) -> None:
        assert self.link
        if mask & select.EPOLLOUT:
            self.link.flush()
            self.loop.rewatch(self.link.fileno(), self.link.mask)
        if mask & ~select.EPOLLOUT:
            message = self.link.receive()
            if message is None:
                self._died()
                return
            self.heard = True
            _HEARD[message[0]](self, *message[1])

    def _died(self) -> None:
        self.close()
        self.offers.steward.log("error", "the recorder process died")
        self.lost()
        if self.heard:
            self.start()
            return
        waiting, self.waiting = self.waiting, {}
        for told in waiting.values():
            self.failed[told.job] = ClawError("interrupted", "the job journal cannot be written")
            self._fail(told)

    def close(self) -> None:
        """Let it write what it was told, and end."""
        if self.link:
            self.loop.unwatch(self.link.fileno())
            self.link.sock.settimeout(PATIENCE_S)
            self.link.flush()
            self.link.close()
            self.link = None
            pidfd = os.pidfd_open(self.pid)
            if not select.select([pidfd], [], [], PATIENCE_S)[0]:
                os.kill(self.pid, signal.SIGKILL)
            os.close(pidfd)
            os.waitpid(self.pid, 0)

    # The job journal.

    def record(self, told: ev.Record) -> None:
        """Write one record; its ``then`` is carried out when it is safe."""
        if told.job in self.failed:
            self._fail(told)
            return
        self.last += 1
        self.waiting[self.last] = told
        if self.link:
            self._write(self.last, told)
        else:
            self.start()

    def _write(self, number: int, told: ev.Record) -> None:
        packed = _encode(told.asked if told.kind == "accept" else told.outcome)
        self.send(told.kind, number, told.job, packed, told.frames)

    def _safe(self, number: int, problem: list[Any] | None) -> None:
        told = self.waiting.pop(number)
        if problem:
            self.failed.setdefault(told.job, ClawError(*problem))
            self._fail(told)
            return
        for instruction in told.then:
            self.carry(instruction)

    def _fail(self, told: ev.Record) -> None:
        """End a task whose record is not safe: unaccepted, not run, or without its result."""
        error, asked, inner = self.failed[told.job], told.asked, told.then[0]
        if told.kind == "accept":
            self.loop.happen(ev.CancelAsked(asked.client, asked.request))
        elif told.kind == "end":
            del self.failed[told.job]
            self.carry(ev.Reply(asked.client, wire.error_message(error, asked.request)))
        else:  # nothing of its batch runs
            while isinstance(inner, ev.Record):
                inner = inner.then[0]
            for item in getattr(inner.message, "items", (inner.message,)):
                self.loop.happen(ev.Output(inner.worker, wire.error_message(error, item.id)))

    def _again(self, packed: bytes) -> None:
        """A job that an earlier daemon left; its request is its number in the journal."""
        asked = _job(packed)
        key = asked.op, asked.spec.model, asked.priority == "batch"

        def resolved(said: Any) -> None:
            if isinstance(said, ClawError):
                self.refused(wire.error_message(said, asked.request))
            else:
                offer = self.offers.learn(key, said)
                now = {"spec": offer.spec, "batch": offer.batch, "body": tuple(asked.body)}
                self.loop.happen(msgspec.structs.replace(asked, **now))

        self.offers.steward.ask("resolve", *key, then=resolved)

    def refused(self, message: wire.Message) -> None:
        """The answer to nobody: a job that came back was not taken, or has ended."""
        if isinstance(message, wire.Error):
            self.send("refused", message.id, _encode(message))

    def ask(self, client: int, request: int, uid: int, verb: str, job: str) -> None:
        """What a client wants to know of jobs, or to do to one; the recorder answers it."""
        mine = f"uid:{uid}"
        live = [each for each in self.live() if each.job == job and each.principal == mine]
        for asked in live if verb == "job-cancel" else ():
            self.loop.happen(ev.CancelAsked(asked.client, asked.request))
        if not self.send("ask", client, request, mine, verb, job, bool(live)):
            error = ClawError("interrupted", "the job journal cannot be read")
            self.carry(ev.Reply(client, wire.error_message(error, request)))

    def _reply(self, client: int, packed: bytes) -> None:
        self.carry(ev.Reply(client, wire.decode([packed], wire.ToClient)))


_HEARD: dict[str, Callable[..., None]] = {
    "ready": lambda records: None,
    "safe": Records._safe,
    "again": Records._again,
    "reply": Records._reply,
    "lost": lambda records: records.lost(),
    "log": lambda records, level, text: records.offers.steward.log(level, text),
}
