"""What the kernel answers to the query ``timeline``, in words, as pieces, and as a Perfetto trace.

The answer (``clawai.kernel.replay.timeline`` makes it) holds times in nanoseconds since ``begins``,
which is a time of day:

- ``tasks``: each with ``begin``, ``end`` (None: it goes on), ``how`` it ended, and ``spans``:
  ``[begin, end, phase, why, others, worker, slot, threads]``, one after the other without a gap.
  A phase is queued, running, held, suspended or ending.
- ``queues``: each with ``waits``: ``[begin, end, why, others, text]``. At any time all that wait in
  a queue do so for the same reason, which is why it stands there and not with each task.
- ``workers``: each with ``spans``: ``[begin, end, state]``.

``pieces`` puts tasks and queues together. The trace is in the JSON trace event format
(docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU), which ui.perfetto.dev,
its command line and Chromium open.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

WORDS = {
    "queued": {
        "": "",
        "behind": "behind",
        "starting": "for a worker to start",
        "loading": "for the model to load",
        "memory": "for memory",
        "weights": "for weights that another worker loads",
        "batching": "batching",
        "reserved": "for a place that is not kept for urgent tasks",
        "replaced": "for its worker to be replaced",
        "ending": "for a worker to end",
        "suspended": "its worker is suspended",
        "later": "another load comes first",
        "quarantine": "its plugin kept dying",
        "unknown": "for the scheduler",
        "forgotten": "too long ago to say",
    },
    "running": {
        "": "",
        "children": "for its child tasks",
        "making_way": "was asked to make way",
    },
    "held": {
        "behind": "held: the processors go to",
        "turn": "held: equals have their turn",
        "client": "held: its client does not read",
    },
    "suspended": {
        "owner": "suspended by the owner",
        "box": "suspended: the box is busy",
    },
    "ending": {"cancelling": "being cancelled", "expiring": "past its deadline"},
}
"""Of each phase and reason."""
AGAIN = {"preempted": "preempted", "worker_died": "its worker died"}
"""Why a task is in the queue once more."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What a task did for a while."""

    begin: int
    end: int
    phase: str
    why: str = ""
    others: tuple[int, ...] = ()
    """Tasks that it is about: those that it waits for or makes way for."""
    text: str = ""
    again: str = ""
    """For the first piece back in the queue: preempted, worker_died."""
    worker: int = 0
    slot: int = 0
    threads: int = 0

    def words(self) -> str:
        """For people."""
        said = WORDS.get(self.phase, {}).get(self.why, self.why)
        if self.others and self.why in ("behind", "turn", "batching", "children", "making_way"):
            said += f" {', '.join(map(str, self.others))}"
        if self.why == "suspended":
            said = WORDS["suspended"].get(self.text, said)
        return said


def pieces(told: dict[str, Any], task: dict[str, Any]) -> list[Piece]:
    """The life of a task, as far as it is known: one piece after the other, without a gap."""
    found: list[Piece] = []
    for begin, ended, phase, why, others, *where in task["spans"]:
        end = told["now"] if ended is None else ended
        if phase != "queued":
            found.append(Piece(begin, end, phase, why, tuple(others), "", "", *where))
            continue
        if begin == end and why:
            found.append(Piece(begin, end, phase, again=why))
            continue
        waited = list(_waited(told["queues"][task["queue"]]["waits"], begin, end))
        if why and waited:
            waited[0] = replace(waited[0], again=why)
        found += waited
    return found


def _waited(waits: list[Any], begin: int, end: int) -> Iterator[Piece]:
    """What a queue waited for between two times."""
    at = begin
    for place in range(max(0, bisect_right(waits, begin, key=lambda w: w[0]) - 1), len(waits)):
        since, until, why, others, text = waits[place]
        until = end if until is None else min(until, end)
        if since >= end:
            break
        if until <= at:
            continue
        if since > at:
            yield Piece(at, since, "queued", "forgotten")
            at = since
        yield Piece(at, until, "queued", why, tuple(others), text)
        at = until
    if at < end:
        yield Piece(at, end, "queued", "forgotten")


def reasons(found: Iterable[Piece]) -> list[tuple[str, int]]:
    """What a task did instead of running, in words, and for how long: the longest first."""
    kinds: dict[tuple[str, str, str], tuple[dict[int, int], int]] = {}
    for piece in found:
        if piece.phase == "running":
            continue
        key = piece.phase, piece.why, piece.text
        others, took = kinds.setdefault(key, ({}, 0))
        for each in piece.others:
            others[each] = others.get(each, 0) + piece.end - piece.begin
        kinds[key] = others, took + piece.end - piece.begin
    rows = []
    for (phase, why, text), (others, took) in kinds.items():
        longest = sorted(others, key=lambda each: (-others[each], each))
        said = Piece(0, 0, phase, why, tuple(longest[:3]), text).words()
        if len(longest) > 3 and said.endswith(str(longest[2])):
            said += f" and {len(longest) - 3} more"
        rows.append((said, took))
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def title(told: dict[str, Any], task: dict[str, Any]) -> str:
    """Names a queue for people: plugin, model, and its lane if that is not the main one."""
    queue = told["queues"][task["queue"]]
    lane = f"({queue['lane']})" if queue["lane"] != "main" else ""
    return " ".join(filter(None, (queue["plugin"], queue["model"], lane)))


# Perfetto.


def perfetto(told: dict[str, Any]) -> dict[str, Any]:
    """The JSON trace: a process for each queue, a thread for each slot, and each task's waits."""
    events: list[dict[str, Any]] = []
    lanes = _Lanes(events)
    for place, queue in enumerate(told["queues"]):
        name = " ".join(filter(None, (queue["plugin"], queue["model"], queue["lane"])))
        run = f" (run {queue['run']})" if len({q["run"] for q in told["queues"]}) > 1 else ""
        events.append(_named("process_name", place + 1, 0, name + run))
        events.append(_meta("process_sort_index", place + 1, 0, sort_index=place))
    for task in told["tasks"]:
        _task_events(told, task, lanes)
    _worker_events(told, events)
    events.sort(key=lambda event: event.get("ts", -1.0))
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"begins_unix_ns": str(told["begins"]), "left_out": told["left_out"]},
    }


class _Lanes:
    """Threads of a process for what runs: a slot has as many as its batches have tasks."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self.events = events
        self.until: dict[tuple[int, int, int, int], int] = {}
        self.numbers: dict[tuple[int, int, int, int], int] = {}

    def thread(self, process: int, piece: Piece) -> int:
        """One on which nothing runs at that time."""
        lane = 0
        key = process, piece.worker, piece.slot, lane
        while self.until.get(key, piece.begin) > piece.begin:
            lane += 1
            key = process, piece.worker, piece.slot, lane
        self.until[key] = piece.end
        if key not in self.numbers:
            number = self.numbers[key] = len(self.numbers) + 1
            name = f"worker {piece.worker} slot {piece.slot}" + (f" +{lane}" if lane else "")
            self.events.append(_named("thread_name", process, number, name))
        return self.numbers[key]


def _task_events(told: dict[str, Any], task: dict[str, Any], lanes: _Lanes) -> None:
    process, name = task["queue"] + 1, f"{task['id']} {task['op']}"
    mark = f"{task['run']}.{task['id']}"
    same = {"cat": "task", "id2": {"local": mark}, "pid": process, "tid": 0}  # a row of its process
    found = pieces(told, task)
    if not found:
        return
    facts = {"class": task["priority"], "for": task["principal"], "ended": task["how"] or "not yet"}
    add = lanes.events.append
    add({"ph": "b", "name": name, "ts": _us(found[0].begin), "args": facts, **same})
    before: tuple[Piece, int] | None = None
    for piece in found:
        if piece.phase == "queued":
            why = {"others": list(piece.others), "detail": piece.text}
            waits = {"name": piece.words() or AGAIN[piece.again], **same}
            add({"ph": "b", "ts": _us(piece.begin), "args": why, **waits})
            add({"ph": "e", "ts": _us(piece.end), **waits})
            continue
        thread = lanes.thread(process, piece)
        shown = name if piece.phase == "running" and not piece.why else f"{name}: {piece.words()}"
        place = {"pid": process, "tid": thread}
        add(
            {"ph": "X", "cat": piece.phase, "name": shown, "ts": _us(piece.begin)}
            | {"dur": _us(piece.end - piece.begin), **place}
            | {"args": {"task": task["id"], "threads": piece.threads, "others": list(piece.others)}}
        )
        if before and before[0].end < piece.begin:  # an arrow from where it was stopped
            flow = {"cat": "resume", "name": "resumed", "id": f"{mark}.{piece.begin}"}
            add({"ph": "s", "ts": _us(before[0].begin), "pid": process, "tid": before[1], **flow})
            add({"ph": "f", "bp": "e", "ts": _us(piece.begin), **place, **flow})
        before = piece, thread
    add({"ph": "e", "name": name, "ts": _us(found[-1].end), **same})


def _worker_events(told: dict[str, Any], events: list[dict[str, Any]]) -> None:
    """What workers did, as a process of its own."""
    process = len(told["queues"]) + 1
    events.append(_named("process_name", process, 0, "workers"))
    for number, worker in enumerate(told["workers"], 1):
        name = " ".join(filter(None, (str(worker["id"]), worker["plugin"], worker["model"])))
        events.append(_named("thread_name", process, number, name))
        for begin, ended, state in worker["spans"]:
            end = told["now"] if ended is None else ended
            events.append(
                {"ph": "X", "cat": "worker", "name": state, "ts": _us(begin)}
                | {"dur": _us(end - begin), "pid": process, "tid": number}
            )


def _meta(kind: str, process: int, thread: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": args}


def _named(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return _meta(kind, process, thread, name=name)


def _us(nanoseconds: int) -> float:
    return nanoseconds / 1000
