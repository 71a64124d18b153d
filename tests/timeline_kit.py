"""A core whose timeline is written while it runs, and what must be true of any timeline."""

import itertools
from collections.abc import Iterator
from typing import Any

from clawai.kernel import events as ev
from clawai.kernel.replay.run import Step
from clawai.kernel.replay.timeline import Timeline
from clawai.sdk.timeline import Piece, pieces

FOR_EVER = 1 << 62


class Watched:
    """Stands for a core: the timeline sees each event as a replay would show it."""

    def __init__(self, core: Any) -> None:
        self.core = core
        self.timeline = Timeline(FOR_EVER)
        self.timeline.begin(core, core.state.now)

    def handle(self, event: ev.Event, now: int) -> list[ev.Instruction]:
        told: list[ev.Instruction] = self.core.handle(event, now)
        self.timeline.saw(self.core, Step(0, now, event, told, None, 0))
        return told

    def told(self) -> dict[str, Any]:
        return self.timeline.told(FOR_EVER / 1e9, 1 << 30)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)


def lives(told: dict[str, Any]) -> dict[int, list[Piece]]:
    """The pieces of each task, of one run of a kernel."""
    return {task["id"]: pieces(told, task) for task in told["tasks"]}


def assert_true(told: dict[str, Any]) -> None:
    """No gap in a life, no two tasks in one place, and nobody waits behind what does not run."""
    found = lives(told)
    places: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for task in told["tasks"]:
        mine = found[task["id"]]
        end = told["now"] if task["end"] is None else task["end"]
        assert sum(piece.end - piece.begin for piece in mine) == end - task["begin"], task
        assert [piece.begin for piece in mine[1:]] == [piece.end for piece in mine[:-1]]
        assert all(piece.words() is not None for piece in mine)
        assert not [piece for piece in mine if piece.why in ("unknown", "forgotten")], task
        for began, ended, where in visits(mine):
            places.setdefault(where, []).append((began, ended, task["id"]))
    for where, here in places.items():
        batches: dict[int, int] = {}
        for began, ended, _ in here:  # those of a batch begin together
            batches[began] = max(ended, batches.get(began, 0))
        times = sorted(batches.items())
        for (_, before), (began, _) in itertools.pairwise(times):
            assert before <= began, f"two at a time in {where}"
    for mine in found.values():
        for piece in mine:
            if piece.phase == "queued" and piece.why in ("behind", "reserved"):
                for other in piece.others:
                    held = [each for each in found[other] if each.phase != "queued"]
                    during = [e for e in held if e.begin < piece.end and e.end > piece.begin]
                    covered = sum(min(e.end, piece.end) - max(e.begin, piece.begin) for e in during)
                    assert covered == piece.end - piece.begin, (piece, other)


def visits(mine: list[Piece]) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """From when to when a task was in which slot of which worker."""
    open_: list[Any] = []
    for piece in mine:
        where = piece.worker, piece.slot
        if open_ and (piece.phase == "queued" or open_[2] != where):
            yield open_[0], open_[1], open_[2]
            open_ = []
        if piece.phase != "queued":
            open_ = [open_[0] if open_ else piece.begin, piece.end, where]
    if open_:
        yield open_[0], open_[1], open_[2]


def assert_perfetto(trace: dict[str, Any]) -> None:
    """A trace is as the format says: fields by phase, slices that nest, arrows with both ends."""
    assert set(trace) <= {"traceEvents", "displayTimeUnit", "otherData"}
    assert trace["displayTimeUnit"] == "ms"
    threads: dict[tuple[int, int], list[float]] = {}
    waits: dict[tuple[int, str], list[str]] = {}
    flows: dict[str, list[str]] = {}
    for event in trace["traceEvents"]:
        kind = event["ph"]
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        if kind == "M":
            assert event["name"] in ("process_name", "thread_name", "process_sort_index")
            assert event["args"]
            continue
        assert isinstance(event["ts"], float) and event["name"]
        if kind == "X":
            open_ = threads.setdefault((event["pid"], event["tid"]), [])
            end = event["ts"] + event["dur"]
            assert event["dur"] >= 0
            while open_ and open_[-1] <= event["ts"] + 1e-3:
                open_.pop()
            assert not open_, "slices on one thread do not overlap"
            open_.append(end)
        elif kind == "b":
            waits.setdefault((event["pid"], event["id2"]["local"]), []).append(event["name"])
        elif kind == "e":
            assert waits[event["pid"], event["id2"]["local"]].pop() == event["name"], "they nest"
        else:
            assert kind in ("s", "f"), kind
            flows.setdefault(event["id"], []).append(kind)
    assert threads and waits
    assert not any(waits.values()), "each wait that begins ends"
    assert all(ends == ["s", "f"] for ends in flows.values())
