"""The recorder's loop: reads what the daemon says, writes it, and says what is safe.

From the daemon:

- ``hello(config, live)``: the first. What has no end in the journal and does not live is
  recovered.
- ``accept(number, job, submitted, ())``, ``start(number, job, nil, ())``, ``end(number, job,
  outcome, frames)``: answered by ``safe(number, None or the error)`` in their order. A job whose
  acceptance was not safe has an end as well, which is answered by the same error.
- ``refused(number, error)``: the core did not take a job that was sent with ``again``.
- ``ask(question, principal, verb, job, lives)``: answered by ``answer(question, data)`` or
  ``refuse(question, error)``. The verb ``timeline`` has seconds as the job.
- ``begin(head, snapshot)``, ``events(data)``, ``crash(name)``: the event journal.

To the daemon, besides: ``again(submitted)`` (a job, with what runs its operation now), ``lost()``
(the event journal has to begin again), ``log(level, text)``; one of these lines once it is ready.
"""

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.kernel.link import Link
from clawai.kernel.recorder.past import Past
from clawai.kernel.recorder.ring import Ring
from clawai.kernel.recorder.store import Store, Written
from clawai.kernel.replay.code import ours
from clawai.kernel.steward.registry import Registry
from clawai.sdk import jobs, paths, wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_fields, error_from

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
    question: int
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
        self.past: Past | None = None
        self.poller = select.poll()
        self.unkept: dict[str, ClawError] = {}
        """Jobs whose acceptance is not safe: the daemon ends them with that."""
        self.owed: dict[str, ClawError] = {}
        """Ends that the disk did not take."""
        self.registry = Registry()
        self.recovery = Recovery()
        self.waiters: list[Waiter] = []
        self._group: list[Written] = []

    def refuse(self, error: ClawError | OSError) -> None:
        """Keep nothing, and say why to whoever wants something kept."""
        self.problem = _typed(error)

    def say(self, level: str, text: str) -> None:
        """A line of the kernel's log."""
        self.link.send("log", level, text)

    def answer(self, question: int, data: Any) -> None:
        """Answer what a client has asked: with data, or with the error that stands for it."""
        if isinstance(data, ClawError):
            self.link.send("refuse", question, error_fields(data))
        else:
            self.link.send("answer", question, _encode(data))

    # The loop.

    def run(self) -> None:
        """Serve until the daemon is gone, and write all that it said."""
        alone = select.poll()
        alone.register(self.link, select.POLLIN)
        self.poller.register(self.link, select.POLLIN)
        alive = True
        while alive:
            busy = self.waiters or self.recovery.later or self.owed
            child = self.ring.child if self.ring else None
            ready = self.poller.poll(100 if busy or child else None)
            if self.past and self.past.link and self.past.link.fileno() in dict(ready):
                self.past.ready()
            for _ in range(GROUP):
                if not alone.poll(0):
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
        if self.past:
            self.past.close()

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
            why = self._kept(record, problem)
            if why:
                data = [why.code, why.message, None, None, why.hint]
            self.link.send("safe", record.number, data)
        if any(record.kind == "end" for record in group):
            self._wake()
            self._send_again()

    def _kept(self, record: Written, problem: ClawError | None) -> ClawError | None:
        """Why a record is not safe, and what is to be remembered of that."""
        if record.kind == "accept" and problem:
            self.unkept[record.job] = problem
        elif record.kind == "end" and record.job in self.unkept:
            return self.unkept.pop(record.job)
        elif record.kind == "end" and problem:
            self.owed[record.job] = problem
        return problem

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
            self.past = Past(folder, self._watch, self.link.send)
        self.registry.folders = tuple(Path(folder) for folder in config["plugin_dirs"])
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
        self.say("debug", "the recorder is ready")
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
            found = self.store.unfinished(number)
            if found is None:
                continue
            recovery.with_core.add(number)
            asked, params, frames = found
            try:
                self.link.send("again", _encode((self._resolved(asked), params, frames)))
            except ClawError as error:
                self._not_taken(number, asked.job, error)

    def _resolved(self, asked: ev.Submitted) -> ev.Submitted:
        """A job with what runs its operation today.

        Raises:
            ClawError: nothing does.
        """
        try:
            batch = asked.priority == "batch"
            found = self.registry.resolve(asked.op, asked.spec.model, batch)
        except (TypeError, ValueError, OverflowError, OSError) as error:
            # Whatever stands in a manifest must not end the recorder.
            raise ClawError("bad_config", f"the operation cannot be looked up: {error}") from error
        return msgspec.structs.replace(asked, spec=found["spec"], batch=found["batch"])

    def _refused(self, number: int, packed: bytes) -> None:
        """The core did not take a recovered job."""
        found = self.store.unfinished(number) if self.store else None
        error = error_from(wire.decode([packed], wire.ToClient))
        self.recovery.with_core.discard(number)
        if found is not None and error.code != "kernel_stopped":
            self._not_taken(number, found[0].job, error)
            self._send_again()

    def _not_taken(self, number: int, job: str, error: ClawError) -> None:
        """A recovered job does not run now: later perhaps, or never."""
        self.recovery.with_core.discard(number)
        if error.code in TRY_AGAIN:
            after = (error.retry_after_ms or 1000) / 1000
            self.recovery.later.append((time.monotonic() + after, number))
        elif self.store and not self.store.fail(job, error):
            self.owed[job] = error

    # What clients ask.

    def _ask(self, question: int, principal: str, verb: str, job: str, live: bool) -> None:
        try:
            if verb == "timeline":
                self._timeline(question, principal, job)
                return
            if self.store is None:
                raise self.problem or ClawError("bad_state", "the recorder was not greeted")
            if verb == "job-wait":
                jobs.find(self.store.database, principal, job)
                until = time.monotonic() + WAIT_S
                self.waiters.append(Waiter(until, question, principal, job))
                return
            data = self._done(self.store, principal, verb, job, live)
        except ClawError as error:
            data = error
        self.answer(question, data)

    def _timeline(self, question: int, principal: str, seconds: str) -> None:
        if principal != f"uid:{os.getuid()}":
            raise ClawError("not_permitted", "only the owner of the box sees what ran", principal)
        if self.past is None:
            raise self.problem or ClawError(
                "bad_state",
                "the event journal is off, of which the timeline is read",
                hint="set enabled = true under [journal] in config.toml, then: claw down",
            )
        self.past.ask(question, seconds)

    def _watch(self, link: Link, wanted: bool) -> None:
        if wanted:
            self.poller.register(link, select.POLLIN)
        else:
            self.poller.unregister(link)

    def _done(self, store: Store, principal: str, verb: str, job: str, live: bool) -> Any:
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
            found: Any
            try:
                found = jobs.find(self.store.database, waiter.principal, waiter.job)
                if found["ended"] is None and now < waiter.until:
                    waiting.append(waiter)
                    continue
            except ClawError as error:
                found = error
            self.answer(waiter.question, found)
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
