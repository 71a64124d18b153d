"""The daemon's end of the recorder: the process that writes what must outlive the daemon.

Each record of the job journal goes there and is carried out when the recorder says that it is safe
on the disk. A recorder that dies is started again and told again what it had not confirmed; where
that fails, or the disk is full, the tasks concerned fail loudly: only what is safe is promised.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.kernel.child import Child, Then
from clawai.kernel.core import Core
from clawai.kernel.journal import Journal
from clawai.kernel.loop import Loop
from clawai.kernel.mail import to_client
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

PROGRAM = ["-P", "-m", "clawai.kernel.recorder"]
_encode = msgspec.msgpack.Encoder(enc_hook=ev.hide).encode
_job = msgspec.msgpack.Decoder(tuple[ev.Submitted, wire.Raw, tuple[bytes, ...]]).decode


@dataclass
class Records:
    """The one recorder of this daemon."""

    loop: Loop
    core: Core
    """Its tasks are looked at."""
    log: Callable[[str, str], None]
    config: Any
    """As plain values, for the recorder."""
    carry: Callable[[Any], None]
    """Carries out one instruction."""
    made_of: tuple[Any, ...]
    """What the core was."""
    waiting: dict[int, ev.Record] = field(default_factory=dict)
    """What the recorder has not confirmed, in order."""
    last: int = 0

    def __post_init__(self) -> None:
        self.child = Child(self.loop, "recorder", PROGRAM, self._ended)
        enabled = self.config["journal"]["enabled"]
        self.journal = Journal(self.core, self.made_of, self.child.offer, enabled)
        told: dict[str, Callable[..., None]] = {"safe": self._safe, "again": self._again}
        self.child.handlers = told | {"lost": self.journal.lose, "log": self.log}

    def start(self) -> None:
        """Start the recorder, and tell it what no other has confirmed."""
        self.child.start()
        jobs = {task.asked.job for task in self.core.state.tasks.values()}
        jobs |= {told.asked.job for told in self.waiting.values()}
        self.child.send("hello", self.config, sorted(jobs))
        for number, told in self.waiting.items():
            self._write(number, told)

    def _ended(self) -> None:
        self.log("error", "the recorder process died")
        self.journal.lose()
        if self.child.heard:
            self.start()
            return
        # Nor would another live: what waits fails. What comes of that tries one more.
        waiting, self.waiting = self.waiting, {}
        for told in waiting.values():
            self._fail(told, ClawError("interrupted", "the job journal cannot be written"))

    # The job journal.

    def record(self, told: ev.Record) -> None:
        """Write one record; its ``then`` is carried out when it is safe."""
        self.last += 1
        self.waiting[self.last] = told
        if self.child.link:
            self._write(self.last, told)
        else:
            self.start()

    def _write(self, number: int, told: ev.Record) -> None:
        frames: tuple[bytes, ...] = ()
        message: Any = None
        if told.kind == "accept":
            body = told.asked.body
            message = told.asked, body.message, body.frames
        elif told.kind == "end":
            message, frames = to_client(told.then)
        self.child.send(told.kind, number, told.asked.job, _encode(message), frames)

    def _safe(self, number: int, problem: list[Any] | None) -> None:
        told = self.waiting.pop(number)
        if problem:
            self._fail(told, ClawError(*problem))
            return
        self.carry(told.then)

    def _fail(self, told: ev.Record, error: ClawError) -> None:
        """End a task whose record is not safe: unaccepted, not run, or without its result."""
        asked, inner = told.asked, told.then
        if told.kind == "accept":
            self.loop.happen(ev.CancelAsked(asked.client, asked.request))
        elif told.kind == "end":
            self.carry(ev.Reply(asked.client, wire.error_message(error, asked.request)))
        else:  # nothing of its batch runs
            while isinstance(inner, ev.Record):
                inner = inner.then
            body = ev.Hidden(wire.error_message(error))
            for number, _, _ in inner.tasks:
                self.loop.happen(ev.Output(inner.worker, number, "error", body))

    def _again(self, packed: bytes) -> None:
        """A job that an earlier daemon left; its request is its number in the journal."""
        asked, params, frames = _job(packed)
        body = ev.Hidden(wire.Raw(bytes(params)), frames)
        self.loop.happen(msgspec.structs.replace(asked, body=body))

    def refused(self, message: wire.Message) -> None:
        """The answer to nobody: a job that came back was not taken, or has ended."""
        if isinstance(message, wire.Error) and self.child.link:
            self.child.send("refused", message.id, _encode(message))

    def ask(self, principal: str, verb: str, job: str, then: Then) -> None:
        """What a client wants to know of jobs, or to do to one; ``then`` gets the answer."""
        tasks = [task.asked for task in self.core.state.tasks.values()]
        live = [asked for asked in tasks if asked.job == job and asked.principal == principal]
        for asked in live if verb == "job-cancel" else ():
            self.loop.happen(ev.CancelAsked(asked.client, asked.request))
        if not self.child.link:
            self.start()
        if verb == "timeline" and self.journal.on:
            self.journal.flush(self.core.state.now)  # up to now
        self.child.ask("ask", principal, verb, job, bool(live), then=then)
