"""The recorder's loop: reads what the daemon says, writes it, and says what is safe.

From the daemon:

- ``hello(config, live)``: the first. What has no end in the journal and does not live is
  recovered.
- ``accept(number, job, submitted, ())``, ``start(number, job, nil, ())``, ``end(number, job,
  outcome, frames)``: answered by ``safe(number, None or the error)`` in their order.
- ``refused(number, error)``: the core did not take a job that was sent with ``again``.
- ``ask(client, request, principal, verb, job, lives)``: answered by ``reply(client, message)``.
- ``begin(head, snapshot)``, ``events(data)``, ``crash(name)``: the event journal.

To the daemon, besides: ``ready()``, ``again(submitted)``, ``lost()`` (the event journal has to
begin again), ``log(level, text)``.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clawai.kernel.link import Link
from clawai.kernel.recorder.ring import Ring
from clawai.kernel.recorder.store import Store, Written
from clawai.kernel.replay.code import ours
from clawai.sdk import jobs, paths, wire
from clawai.sdk.errors import ClawError

GROUP = 256
"""Messages that are read before what they said is written."""
WINDOW = 64
"""Recovered jobs that are with the core at a time."""
WAIT_S = 5.0
"""``job-wait`` is answered after that time at the latest."""
TRY_AGAIN = ("queue_full", "overloaded", "no_memory", "quarantined")
RECORDS = ("accept", "start", "end")
_encode = msgspec.msgpack.Encoder().encode


@dataclass
class Waiter:
    """A client that wants to know when a job has ended."""

    until: float
    client: int
    request: int
    principal: str
    job: str


@dataclass
class Recovery:
    """Jobs of earlier daemons that have to run."""

    todo: deque[int] = field(default_factory=deque)
    with_core: set[int] = field(default_factory=set)
    later: list[tuple[float, int]] = field(default_factory=list)


class Service:
    """See the module."""

    def __init__(self, sock: socket.socket, run: str) -> None:
        self.link = Link(sock, blocking=True)
        self.run_name = run
        self.store: Store | None = None
        self.problem: ClawError | None = None
        """Why there is no store."""
        self.ring: Ring | None = None
        self.owed: dict[str, ClawError] = {}
        """Ends that the disk did not take."""
        self.recovery = Recovery()
        self.waiters: list[Waiter] = []
        self._group: list[Written] = []

    def refuse(self, error: ClawError | OSError) -> None:
        """Keep nothing, and say why to whoever wants something kept."""
        self.problem = _typed(error)

    def say(self, level: str, text: str) -> None:
        """A line of the kernel's log."""
        self.link.send("log", level, text)

    def reply(self, client: int, message: wire.Message) -> None:
        """Answer a client."""
        self.link.send("reply", client, _encode(message))

    # The loop.

    def run(self) -> None:
        """Serve until the daemon is gone, and write all that it said."""
        poller = select.poll()
        poller.register(self.link, select.POLLIN)
        alive = True
        while alive:
            busy = self.waiters or self.recovery.later or self.owed
            child = self.ring.child if self.ring else None
            poller.poll(100 if busy or child else None)
            for _ in range(GROUP):
                if not poller.poll(0):
                    break
                message = self.link.receive()
                if message is None:
                    alive = False
                    break
                self._heard(message[0], message[1])
            self._write()
            self._later()
        if self.store:
            self.store.close()
        if self.ring:
            self.ring.close()

    def _heard(self, name: str, arguments: list[Any]) -> None:
        if name in RECORDS:
            number, job, packed, frames = arguments
            self._group.append(Written(name, number, job, packed, tuple(frames)))
            return
        if name != "events":
            self._write()  # what is asked sees what was said before
        _HEARD[name](self, *arguments)

    def _write(self) -> None:
        group, self._group = self._group, []
        if not group:
            return
        problems: list[ClawError | None] = [self.problem for _ in group]
        if self.store:
            problems = self.store.write(group)
        for record, problem in zip(group, problems, strict=True):
            data = None
            if problem:
                data = [problem.code, problem.message, None, None, problem.hint]
                if record.kind != "accept":
                    self.owed[record.job] = problem
            self.link.send("safe", record.number, data)
        if any(record.kind == "end" for record in group):
            self._wake()
            self._send_again()

    def _later(self) -> None:
        """What does not wait for the daemon."""
        now = time.monotonic()
        for job, problem in list(self.owed.items()):
            if self.store and (
                self.store.unfinished_number(job) is None or self.store.fail(job, problem)
            ):
                del self.owed[job]
        due = [number for when, number in self.recovery.later if when <= now]
        if due:
            self.recovery.later = [entry for entry in self.recovery.later if entry[0] > now]
            self.recovery.todo.extend(due)
            self._send_again()
        self._wake()
        child = self.ring.child if self.ring else None
        if self.ring and child and child.poll() is not None and not self.ring.reap():
            self._lose()
        if self.ring and self.ring.too_long:
            self.say(
                "warning", "the event journal begins again: it grew faster than it was replayed"
            )
            self._lose()

    # Jobs.

    def _hello(self, config: dict[str, Any], live: list[str]) -> None:
        if self.problem:
            self.say(
                "error", f"durable tasks are refused, and nothing is journalled: {self.problem}"
            )
            return
        journal = config["journal"]
        if journal["enabled"]:
            folder = paths.state_dir() / "journal"
            size = journal["mib"] << 20
            ours()  # the core as the daemon has just loaded it
            self.ring = Ring(folder, size, journal["segments"], self.say)
        kept = config["jobs"]
        try:
            self.store = Store(
                jobs.jobs_file(), kept["max_mib"] << 20, kept["keep_days"] * 86400.0,
                self.run_name, self.say,
            )  # fmt: skip
            self.recovery.todo.extend(self.store.recover(set(live)))
        except (ClawError, OSError) as error:
            self.refuse(error)
            self.say("error", f"durable tasks are refused: {self.problem}")
            return
        self.link.send("ready")
        if self.recovery.todo:
            self.say("info", f"{len(self.recovery.todo)} durable tasks go on")
        self._send_again()

    def _send_again(self) -> None:
        """Keep the core supplied with recovered jobs, not more than it takes."""
        if self.store is None:
            return
        recovery = self.recovery
        for number in list(recovery.with_core):
            if self.store.unfinished(number) is None:
                recovery.with_core.discard(number)
        while recovery.todo and len(recovery.with_core) < WINDOW:
            number = recovery.todo.popleft()
            if (asked := self.store.unfinished(number)) is not None:
                recovery.with_core.add(number)
                self.link.send("again", _encode(asked))

    def _refused(self, number: int, packed: bytes) -> None:
        """The core did not take a recovered job: later perhaps, or never."""
        self.recovery.with_core.discard(number)
        asked = self.store.unfinished(number) if self.store else None
        error = wire.error_from(wire.decode([packed], wire.ToClient))
        if asked is None or self.store is None or error.code == "kernel_stopped":
            return
        if error.code in TRY_AGAIN:
            after = (error.retry_after_ms or 1000) / 1000
            self.recovery.later.append((time.monotonic() + after, number))
        elif not self.store.fail(asked[0].job, error):
            self.owed[asked[0].job] = error
        self._send_again()

    # What clients ask.

    def _ask(
        self, client: int, request: int, principal: str, verb: str, job: str, live: bool
    ) -> None:
        try:
            if self.store is None:
                raise self.problem or ClawError("bad_state", "the recorder was not greeted")
            if verb == "job-wait":
                jobs.find(self.store.database, principal, job)
                until = time.monotonic() + WAIT_S
                self.waiters.append(Waiter(until, client, request, principal, job))
                return
            data = self._answer(self.store, principal, verb, job, live)
        except ClawError as error:
            self.reply(client, wire.error_message(error, request))
            return
        self.reply(client, wire.Answer(id=request, data=wire.pack(data)))

    def _answer(self, store: Store, principal: str, verb: str, job: str, live: bool) -> Any:
        database = store.database
        if verb == "jobs":
            return {"jobs": jobs.listing(database, principal)}
        if verb == "job":
            return jobs.show(database, principal, job, jobs.SHOWN)
        found = jobs.find(database, principal, job)
        if verb == "job-cancel":
            if found["ended"] is None and not live:
                error = ClawError("cancelled", "the task was cancelled by its owner")
                store.fail(job, error)
            return jobs.find(database, principal, job)
        if verb == "job-rm":
            if found["ended"] is None:
                hint = f"end it first: claw jobs cancel {job}"
                raise ClawError("bad_state", "the job has not ended", found["state"], hint=hint)
            store.forget(job)
            store.shrink()
            return found
        allowed = ["jobs", "job", "job-cancel", "job-rm", "job-wait"]
        raise ClawError("bad_params", "no such command", verb, allowed=allowed)

    def _wake(self) -> None:
        """Answer those whose job has ended, and those who have waited long."""
        if not self.waiters or self.store is None:
            return
        now, waiting = time.monotonic(), []
        for waiter in self.waiters:
            try:
                found = jobs.find(self.store.database, waiter.principal, waiter.job)
                if found["ended"] is None and now < waiter.until:
                    waiting.append(waiter)
                    continue
                message: wire.Message = wire.Answer(id=waiter.request, data=wire.pack(found))
            except ClawError as error:
                message = wire.error_message(error, waiter.request)
            self.reply(waiter.client, message)
        self.waiters = waiting

    # The event journal.

    def _begin(self, head: bytes, snapshot: bytes) -> None:
        self._with_ring(lambda ring: ring.begin(head, snapshot))

    def _events(self, data: bytes) -> None:
        self._with_ring(lambda ring: ring.add(data))

    def _crash(self, name: str) -> None:
        self._with_ring(lambda ring: ring.crash(name))

    def _with_ring(self, act: Callable[[Ring], None]) -> None:
        if self.ring is None:
            return
        try:
            act(self.ring)
        except OSError as error:
            self.say("error", f"the event journal cannot be written: {error}")
            self._lose()

    def _lose(self) -> None:
        if self.ring:
            self.ring.lose()
        self.link.send("lost")


def _typed(error: ClawError | OSError) -> ClawError:
    if isinstance(error, ClawError):
        return error
    return ClawError("disk_full", f"the job journal cannot be opened: {error}")


_HEARD: dict[str, Callable[..., None]] = {
    "hello": Service._hello,
    "refused": Service._refused,
    "ask": Service._ask,
    "begin": Service._begin,
    "events": Service._events,
    "crash": Service._crash,
}
