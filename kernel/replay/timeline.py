"""What ran when, and why each task waited: read off the state of a core that is being replayed.

Nothing is guessed. After every event the queue of each service is looked at as the scheduler has
just left it, and so is each task that runs; what is new is written down with the time of the event.
The queue of a service has one reason at a time, so a task that waits has that of its queue: it
stands there once, however many wait (``clawai.sdk.timeline`` puts the two together).

A span is ``[begin, end, phase, why, others, worker, slot, threads]``; times are nanoseconds of the
journal's clock, and ``end`` is None for what goes on. A wait is ``[begin, end, why, others,
text]``.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel.core import Core
from clawai.kernel.queue import NEVER
from clawai.kernel.replay.run import Step
from clawai.kernel.state import LEAVING, Service, Slot, State, Task, Worker

FORMAT = 1
MOST_TASKS = 20_000
"""Tasks that have ended and are remembered, the latest."""
MOST_WAITS = 20_000
"""Of one service, the latest."""
MOST_SPANS = 2_000
"""Of one task, the latest."""
BLOCKERS = 16
"""Others that are named for one wait."""

Wait = list[Any]
Span = list[Any]


def waits(state: State, service: Service) -> tuple[str, tuple[int, ...], str]:
    """Why the tasks in a queue are not running: the reason, others that it is about, a text."""
    worker = service.worker
    if worker is None:
        return _no_worker(state, service)
    if worker.state in LEAVING:
        return "ending", (), worker.why
    if worker.state == "starting":
        return "starting", (), ""
    if worker.state == "waiting":
        filling = worker.wanted and _filled_by_another(state, worker)
        return ("weights", (), "") if filling else ("memory", _holders(state, worker), "")
    if worker.state == "loading":
        return "loading", (), ""
    if worker.stale and not any(task.children for task in worker.tasks()):
        return "replaced", _numbers(worker.tasks()), ""
    if worker.suspended:
        return "suspended", (), "owner" if service.held else "box"
    free = [slot for slot in worker.slots if not slot.tasks]
    if not free:
        return "behind", _numbers(worker.tasks()), ""
    if service.batching.waits(len(service.queue), state.now) and service.queue.best():
        return "batching", _numbers(worker.tasks()), ""
    if len(free) == 1 and len(worker.slots) > 1 and service.spec.model:
        return "reserved", _numbers(worker.tasks()), ""
    return "unknown", (), ""


def _no_worker(state: State, service: Service) -> tuple[str, tuple[int, ...], str]:
    if state.now < service.retry_at:
        return "later", (), ""
    if state.now < service.quarantined_until:
        return "quarantine", (), ""
    if service.key in state.hungry:
        return "memory", _holders(state, None), ""
    return "unknown", (), ""


def _filled_by_another(state: State, worker: Worker) -> bool:
    """Whether it waits for weights that another worker is writing, not for bytes."""
    wish = worker.wanted
    return bool(wish and wish.weights) and any(
        held.state == "filling" and held.worker != worker.id and not held.client
        for held in state.memory.values()
    )


def _holders(state: State, but: Worker | None) -> tuple[int, ...]:
    """The tasks of those that hold memory and cannot be asked for it back now."""
    holding = [each for each in state.workers.values() if each is not but and each.running]
    return _numbers(task for each in holding for task in each.tasks())


def _numbers(tasks: Iterable[Task]) -> tuple[int, ...]:
    return tuple(sorted(task.id for task in tasks)[:BLOCKERS])


def runs(state: State, slot: Slot, task: Task) -> tuple[str, str, tuple[int, ...]]:
    """What a task that was dispatched does: phase, why, and others that it is about."""
    worker, first = slot.worker, slot.first()
    if task.state != "running":
        return "ending", task.state, ()
    if worker.suspended:
        return "suspended", "owner" if worker.service.held else "box", ()
    if worker.threads < 0 and worker.spec.cooperative:
        return "held", *_instead(state, worker)
    if first.ahead:
        return "held", "client", ()
    if first.yielding:
        queue = worker.service.queue
        waiting = queue.classes[queue.best()].tasks.values() if queue else ()
        return "running", "making_way", _numbers(waiting)
    if task.children:
        return "running", "children", _numbers(task.children.values())
    return "running", "", ()


def _instead(state: State, held: Worker) -> tuple[str, tuple[int, ...]]:
    """Who has the processors that a held worker would use: its equals, or those above it."""
    sharing = [each for each in state.computing.values() if each.spec.cooperative]
    granted = [each for each in sharing if each.threads > 0 and each is not held]
    equals = [each for each in granted if each.best() == held.best()]
    others = equals or [each for each in granted if each.best() < held.best()]
    why = "turn" if equals else "behind"
    return why, _numbers(task for each in others for task in each.tasks())


class Timeline:
    """The last ``window`` nanoseconds of a journal that is replayed step by step."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.begins = self.now = 0
        """Before ``begins`` nothing is known."""
        self.run = 0
        """Which chain of the journal this is: numbers of tasks begin anew in each daemon."""
        self.newest = 0
        """The last task that is known."""
        self.live: dict[int, Row] = {}
        self.running: dict[int, Row] = {}
        """Of these, those that were dispatched."""
        self.ended: deque[Row] = deque()
        self.queues: dict[tuple[int, tuple[str, str, str]], deque[Wait]] = {}
        self.workers: dict[int, Process] = {}
        self.left: deque[Process] = deque()

    def begin(self, core: Core, now: int) -> None:
        """A new chain: what was open has ended with the daemon, or cannot be followed further."""
        for number in list(self.live):
            self._end(number, "lost")
        for number in list(self.workers):
            self._gone(number)
        for found in self.queues.values():
            _close(found, self.now)
        if now < self.now or not self.run:  # the first, or the box was started again
            self.ended.clear()
            self.left.clear()
            self.queues.clear()
            self.begins = now
        self.run, self.now = self.run + 1, now
        self.newest = core.state.last.get("task", 0)
        for task in core.state.tasks.values():
            self._new(task)
        self._look(core.state)

    def saw(self, core: Core, step: Step) -> None:
        """One event, and what the core made of it."""
        self.now = core.state.now
        event = step.event
        says = type(event) is ev.Output and event.kind in ("chunk", "progress")
        if isinstance(event, ev.WorkerAnswered | ev.WorkerWaited) or (
            says and all(type(told) is ev.Pass for told in step.told)
        ):
            return  # of what is looked at here, nothing has changed
        self._tasks(core.state)
        self._at_once(step.told)
        self._look(core.state)
        self._forget()

    # Tasks.

    def _tasks(self, state: State) -> None:
        newest = state.last.get("task", 0)
        for number in range(self.newest + 1, newest + 1):
            if task := state.tasks.get(number):
                self._new(task)
        self.newest = newest
        if len(self.live) != len(state.tasks):
            for number in sorted(self.live.keys() - state.tasks.keys()):
                self._end(number, self.live[number].task.state)

    def _new(self, task: Task) -> None:
        self.newest = max(self.newest, task.id)
        row = self.live[task.id] = Row(self.run, task, task.attempts)
        if task.state == "queued":
            row.spans.append([max(task.submitted, self.begins), None, "queued", "", (), 0, 0, 0])

    def _end(self, number: int, how: str) -> None:
        row = self.live.pop(number)
        self.running.pop(number, None)
        _close(row.spans, self.now)
        row.end, row.how = self.now, how
        self.ended.append(row)

    def _at_once(self, told: list[Any]) -> None:
        """Tasks that went back to the queue and were taken from it again in no time."""
        for instruction in told:
            said = instruction
            while type(said) is ev.Record:
                said = said.then
            for number, _, _ in said.tasks if type(said) is ev.Dispatch else ():
                if row := self.running.get(number):
                    _close(row.spans, self.now)
                    row.spans.append([self.now, self.now, "queued", "preempted", (), 0, 0, 0])

    # What the scheduler has left.

    def _look(self, state: State) -> None:
        for row in list(self.running.values()):
            if row.task.state == "queued":
                del self.running[row.task.id]
                why = "preempted" if row.task.attempts < row.attempts else "worker_died"
                _say(row.spans, self.now, ["queued", why, (), 0, 0, 0])
        for service in state.services.values():
            self._queue(state, service)
        for worker in state.workers.values():
            self._worker(state, worker)
        for number in self.workers.keys() - state.workers.keys():
            self._gone(number)

    def _queue(self, state: State, service: Service) -> None:
        key = self.run, service.key
        found = self.queues.get(key)
        if not service.queue:
            if found:
                _close(found, self.now)
            return
        if found is None:
            found = self.queues[key] = deque(maxlen=MOST_WAITS)
        _say(found, self.now, list(waits(state, service)))

    def _worker(self, state: State, worker: Worker) -> None:
        found = self.workers.get(worker.id)
        if found is None:
            found = self.workers[worker.id] = Process(self.run, worker)
        mode = "suspended" if worker.suspended else worker.state
        if mode == "ready":
            mode = "busy" if worker.running else "idle"
        _say(found.spans, self.now, [mode])
        for slot in worker.running.values():
            for task in slot.tasks.values():
                row = self.running[task.id] = self.live[task.id]
                row.attempts = task.attempts
                where = worker.id, slot.number, max(0, worker.threads)
                _say(row.spans, self.now, [*runs(state, slot, task), *where])

    def _gone(self, number: int) -> None:
        found = self.workers.pop(number)
        _close(found.spans, self.now)
        found.end = self.now
        self.left.append(found)

    def _forget(self) -> None:
        """Let go of what ended before the window, and of the oldest if there is too much."""
        self.begins = max(self.begins, self.now - self.window)
        ended: deque[Any]
        for ended in (self.ended, self.left):
            while ended and (len(ended) > MOST_TASKS or ended[0].end <= self.begins):
                ended.popleft()
        for found in self.queues.values():
            while found and (found[0][1] or self.now) < self.begins:
                found.popleft()

    # What is told.

    def told(self, seconds: float, most: int, now: int = 0) -> dict[str, Any]:
        """The last ``seconds`` as plain values, times since ``begins``; see ``sdk.timeline``.

        Args:
            most: tasks, the latest; how many others there were is told.
            now: what goes on has gone on until then.
        """
        self.now = max(self.now, now)
        self._forget()
        since = max(self.begins, self.now - int(seconds * 1e9))
        tasks = [row for row in self.ended if row.end > since] + list(self.live.values())
        tasks.sort(key=lambda row: (row.run, row.task.id))
        kept = tasks[-most:]
        first = min([since, *(row.task.submitted for row in kept)])
        keys = sorted(self.queues.keys() | {row.key for row in kept})
        places = {key: place for place, key in enumerate(keys)}
        processes = (*self.left, *self.workers.values())
        return {
            "format": FORMAT,
            "begins": since,
            "now": self.now - since,
            "left_out": len(tasks) - len(kept),
            "queues": [
                {
                    "run": run,
                    **dict(zip(("plugin", "model", "lane"), key, strict=True)),
                    "waits": _shifted(self.queues.get((run, key), ()), since, first),
                }
                for run, key in keys
            ],
            "workers": [
                {"run": each.run, "id": each.worker.id, "plugin": each.worker.spec.plugin}
                | {"model": each.worker.spec.model, "lane": each.worker.spec.lane}
                | {"slots": len(each.worker.slots), "spans": _shifted(each.spans, since, since)}
                for each in processes
                if each.end > since
            ],
            "tasks": [row.told(places[row.key], since) for row in kept],
        }


@dataclass(slots=True, eq=False)
class Row:
    """One task."""

    run: int
    task: Task
    attempts: int
    spans: deque[Span] = field(default_factory=lambda: deque(maxlen=MOST_SPANS))
    end: int = NEVER
    how: str = ""
    """Its state at the end; lost: the kernel ended before."""

    @property
    def key(self) -> tuple[int, tuple[str, str, str]]:
        """Of its queue."""
        return self.run, self.task.service.key

    def told(self, queue: int, since: int) -> dict[str, Any]:
        """As plain values; ``queue``: the place of its queue."""
        asked = self.task.asked
        return {
            "run": self.run,
            "id": self.task.id,
            "op": asked.op,
            "queue": queue,
            "priority": asked.priority,
            "principal": asked.principal,
            "parent": asked.parent,
            "begin": self.task.submitted - since,
            "end": None if self.end == NEVER else self.end - since,
            "how": self.how,
            "spans": _shifted(self.spans, since, 0),
        }


@dataclass(slots=True, eq=False)
class Process:
    """One worker."""

    run: int
    worker: Worker
    spans: deque[Span] = field(default_factory=lambda: deque(maxlen=MOST_SPANS))
    end: int = NEVER


def _close(spans: deque[Any], when: int) -> None:
    if spans and spans[-1][1] is None:
        spans[-1][1] = when
        if spans[-1][0] == when:
            spans.pop()


def _say(spans: deque[Any], now: int, what: list[Any]) -> None:
    """Write down what holds from now on, if it is something else than before."""
    if spans and spans[-1][1] is None:
        if spans[-1][2:] == what:
            return
        _close(spans, now)
    if spans and spans[-1][1] == now and spans[-1][2:] == what:
        spans[-1][1] = None  # what was between took no time
    else:
        spans.append([now, None, *what])


def _shifted(spans: Iterable[Any], since: int, first: int) -> list[Any]:
    """Those that end after ``first``, with times since ``since``."""
    return [
        [begin - since, None if end is None else end - since, *rest]
        for begin, end, *rest in spans
        if end is None or end > first
    ]
