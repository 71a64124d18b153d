"""What ran when, and why it waited: in simulated runs, in directed ones, and of a real kernel."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawai.kernel import events as ev
from clawai.kernel.journal import BATCH, Journal
from clawai.kernel.recorder.ring import Ring
from clawai.kernel.replay.files import segments
from clawai.kernel.replay.follow import Follower
from clawai.kernel.replay.freeze import head, snapshot
from clawai.kernel.sim.scenario import read as scenario
from clawai.kernel.sim.world import World
from clawai.sdk import timeline, wire
from clawai.sdk.errors import ClawError
from core_bench import MIB, SECOND, Bench, output
from support import Kernel, parent_of, wait_until
from timeline_kit import Watched, assert_perfetto, assert_true, lives

ENGINE = ev.Spec("engine", "m", 100 * MIB, 0, 1, cooperative=True)


def watched(**options: Any) -> tuple[Bench, Watched]:
    bench = Bench(**options)
    bench.core = tapped = Watched(bench.core)  # type: ignore[assignment]
    return bench, tapped


def said(told: dict[str, Any], task: int) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(piece.phase, piece.why, piece.others) for piece in lives(told)[task]]


@pytest.mark.parametrize("name", ["chaos", "memory-squeeze", "rush-hour"])
def test_a_run_with_faults_is_told_without_a_gap(name: str) -> None:
    world = World(scenario(name), 7, 300)
    world.core = tapped = Watched(world.core)  # type: ignore[assignment]
    world.run()
    told = tapped.told()
    assert len(told["tasks"]) > 200
    assert_true(told)
    assert_perfetto(timeline.perfetto(told))
    kinds = Counter((p.phase, p.why) for mine in lives(told).values() for p in mine)
    assert len(kinds) > 8, "it is a run in which much happens"


def test_a_task_that_makes_way_says_for_whom_and_behind_whom_it_waits() -> None:
    bench, tapped = watched()
    bench.submit(1, ENGINE, priority="batch", idempotent=True)
    bench.pass_time(SECOND)
    worker = bench.ready(ENGINE)
    bench.pass_time(SECOND)
    bench.submit(2, ENGINE)
    bench.pass_time(SECOND // 10)
    bench.do(ev.Output(worker, 1, "yielded"))
    bench.pass_time(SECOND)
    bench.do(output(worker, wire.Done(id=2)))
    bench.pass_time(SECOND)
    bench.do(output(worker, wire.Done(id=1)))
    told = tapped.told()
    assert said(told, 1) == [
        ("queued", "starting", ()),
        ("running", "", ()),
        ("running", "making_way", (2,)),
        ("queued", "behind", (2,)),
        ("running", "", ()),
    ]
    assert lives(told)[1][3].again == "preempted"
    assert said(told, 2) == [("queued", "behind", (1,)), ("running", "", ())]
    assert timeline.reasons(lives(told)[1]) == [
        ("behind 2", SECOND),
        ("for a worker to start", SECOND),
    ]
    assert_true(told)
    events = timeline.perfetto(told)["traceEvents"]
    assert Counter(event["ph"] for event in events)["f"] == 1, "an arrow to where it goes on"


def test_memory_a_stop_and_equals_are_told_apart() -> None:
    bench, tapped = watched(budget=150 * MIB, cores=1)
    other = ev.Spec("other", "m", 100 * MIB, 0, 1, cooperative=True)
    bench.submit(1, ENGINE)
    worker = bench.ready(ENGINE)
    bench.submit(2, other)
    bench.pass_time(SECOND)
    bench.do(ev.Commanded(1, 9, "suspend", "engine"))
    bench.pass_time(SECOND)
    bench.do(ev.Commanded(1, 10, "resume", "engine"))
    bench.do(output(worker, wire.Done(id=1)))
    bench.do(ev.WorkerGone(worker, "it ended"))
    told = tapped.told()
    assert said(told, 1) == [("running", "", ()), ("suspended", "owner", ())]
    assert said(told, 2)[0] == ("queued", "memory", (1,))
    assert_true(told)

    bench, tapped = watched(cores=1)
    for number, spec in enumerate((ENGINE, other), 1):
        bench.submit(number, spec)
        bench.ready(spec)
    bench.pass_time(SECOND)
    bench.submit(3, ev.Spec("third", "m", 100 * MIB, 0, 1, cooperative=True), priority="batch")
    bench.ready(ev.Spec("third", "m", 100 * MIB, 0, 1, cooperative=True))
    bench.pass_time(SECOND)
    told = tapped.told()
    assert {("held", "turn", (2,)), ("running", "", ())} <= set(said(told, 1))
    assert ("held", "behind", (1,)) in said(told, 3)
    assert_true(told)


# A real kernel.

LOOKS = '''
import asyncio
from clawai.sdk import ClawError, Context, operation

@operation("NAME.look")
def look(ctx: Context) -> dict:
    """Ask what ran."""
    async def ask():
        async with ctx.front() as kernel:
            return await kernel.query("timeline:60")
    try:
        return asyncio.run(ask())
    except ClawError as error:
        return {"code": error.code, "hint": error.hint}
'''
FRONT = """
[permissions]
on_behalf_of = "it shows others what ran"
{more}
[permissions.operations]
"echo.*" = "it is one that asks"
"""
PERMIT = 'kernel = { timeline = "it shows what ran" }'


def follower(kernel: Kernel) -> int:
    found = [pid for pid, line in kernel.processes().items() if "replay.follow" in line]
    assert all("kernel.recorder" in kernel.processes()[parent_of(pid)] for pid in found)
    return found[0] if found else 0


def test_a_kernel_tells_what_ran_and_to_whom_it_may(shared_kernel: Kernel, tmp_path: Path) -> None:
    for name, more in (("viewer", PERMIT), ("blind", "")):
        code, extra = LOOKS.replace("NAME", name), FRONT.format(more=more)
        shared_kernel.plugin(name, code, {f"{name}.look": ""}, extra=extra)
    client = shared_kernel.client()
    long = client.submit("echo.count", {"upto": 10**6, "pause_ms": 1}, priority="batch")
    next(event for event in long if event.kind == "chunk")
    assert client.call("echo.say", {"text": "s3cret"}).value == "s3cret"
    told = client.query("timeline")
    assert "s3cret" not in json.dumps(told)
    mine = {task["op"]: task for task in told["tasks"]}
    assert mine["echo.say"]["how"] == "done" and mine["echo.count"]["end"] is None
    assert [p.phase for p in timeline.pieces(told, mine["echo.count"])][-1] == "running"
    assert_perfetto(json.loads(json.dumps(timeline.perfetto(told))))
    # It goes on from where it was, also when the process that reads the journal is killed.
    first = follower(shared_kernel)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: follower(shared_kernel) != first, "it is gone")
    long.cancel()
    list(long)
    again = {task["op"]: task for task in client.query("timeline:60")["tasks"]}
    assert again["echo.count"]["how"] == "cancelled"
    assert again["echo.say"]["id"] == mine["echo.say"]["id"]

    seen = client.call("viewer.look").value
    assert {task["op"] for task in seen["tasks"]} >= {"echo.say", "viewer.look"}
    refused = client.call("blind.look").value
    assert refused["code"] == "not_permitted" and "[permissions.kernel]" in refused["hint"]
    for seconds in ("0", "601", "x"):
        with pytest.raises(ClawError, match="no such stretch of time"):
            client.query(f"timeline:{seconds}")


class Ringed:
    """Kernels of one box, one after the other: what happens to each is in the same ring."""

    def __init__(self, folder: Path) -> None:
        self.ring = Ring(folder, BATCH, 3, lambda *_: None)
        self.follower = Follower(folder, lambda: self.bench.now)
        self.begin(1000 * SECOND)

    def begin(self, now: int) -> None:
        self.bench = Bench()
        self.bench.now = now
        core, journal = self.bench.core, Journal(self.bench.core, (), self.send, on=True)
        journal.on, journal.due = True, 0
        self.send("begin", head(0, 0, now), snapshot(core))
        handle = core.handle

        def noted(event: ev.Event, at: int) -> list[ev.Instruction]:
            told = handle(event, at)
            journal.note(event, at, told)
            journal.flush(at)
            return told

        core.handle = noted  # type: ignore[method-assign]

    def send(self, name: str, *data: bytes) -> bool:
        (self.ring.begin if name == "begin" else self.ring.add)(*data)
        while self.ring.child:
            self.ring.child.wait()
            assert self.ring.reap()
        return True

    def told(self) -> dict[str, Any]:
        return self.follower.told(600)


@pytest.fixture
def ringed(tmp_path: Path) -> Iterator[Ringed]:
    made = Ringed(tmp_path)
    yield made
    made.ring.close()
    made.follower.close()


def test_what_was_open_when_a_kernel_was_killed_is_lost(ringed: Ringed) -> None:
    ringed.bench.submit(1)
    ringed.bench.ready()
    ringed.bench.pass_time(SECOND)
    ringed.bench.do(ev.CancelAsked(1, 77))
    assert [task["how"] for task in ringed.told()["tasks"]] == [""]
    ringed.begin(ringed.bench.now + SECOND)
    ringed.bench.submit(1)
    ringed.bench.pass_time(SECOND)
    told = ringed.told()
    assert [(task["run"], task["how"]) for task in told["tasks"]] == [(1, "lost"), (2, "")]
    first, second = (timeline.pieces(told, task) for task in told["tasks"])
    assert first[-1].end == second[0].begin - SECOND, "it is known until the last event"
    assert (second[0].begin, second[-1].end) == (2 * SECOND, told["now"])
    assert_perfetto(timeline.perfetto(told))
    for _ in range(60):  # what ended before the window is forgotten
        ringed.bench.pass_time(10 * SECOND)
    assert [task["run"] for task in ringed.told()["tasks"]] == [2]


def test_who_asks_seldom_finds_a_ring_that_has_gone_on(ringed: Ringed) -> None:
    assert not ringed.told()["tasks"]
    worker, asked = 0, 0
    while len(segments(ringed.ring.folder)) < 3 or 1 in segments(ringed.ring.folder):
        asked += 1
        ringed.bench.submit(asked)
        worker = worker or ringed.bench.ready()
        ringed.bench.do(output(worker, wire.Done(id=asked)), after=SECOND)
    told = ringed.told()
    assert told["tasks"][-1]["id"] == asked and told["tasks"][-1]["how"] == "done"
    assert_true(told)
