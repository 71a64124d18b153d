"""The worker's host in a real process: control words, batches, pings, and stopping at any time."""

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk import wire
from clawai.sdk.plain import unpack
from host_process import HostProcess

CODE = """
import hashlib, sys, threading, time
from clawai.sdk import Batch, ClawError, Context, Params, Tensor, batched, operation

together = threading.Barrier(2)

@operation("t.passed")
def passed(ctx: Context) -> int:
    ctx.checkpoint()
    return time.monotonic_ns()

@operation("t.once")
def once(ctx: Context) -> int:
    ctx.checkpoint()
    return time.monotonic_ns()

@operation("t.spin")
def spin(ctx: Context):
    yield "begun"
    while True:
        ctx.checkpoint()

@operation("t.pieces")
def pieces(ctx: Context, count: int):
    for number in range(count):
        yield number
    return count

@operation("t.python")
def python(ctx: Context) -> str:
    ctx.progress(None, "begun")
    while not ctx.stopped:
        pass
    return "stopped"

@operation("t.native")
def native(ctx: Context) -> str:
    ctx.progress(None, "begun")
    block = bytes(1 << 20)
    while not ctx.stopped:
        hashlib.sha256(block)
    return "stopped"

@operation("t.both")
def both(ctx: Context) -> int:
    together.wait()
    return ctx.task

@operation("t.threads")
def threads(ctx: Context) -> int:
    return ctx.threads

@operation("t.leaves")
def leaves() -> None:
    sys.exit(3)

@operation("t.odd")
def odd() -> object:
    return object()

class Item(Params):
    x: int
    raises: str = ""

@batched("t.sum")
def total(items: list[Item], batch: Batch) -> list:
    kinds = {each.raises for each in items}
    if "value" in kinds:
        raise ValueError("no")
    if "claw" in kinds:
        raise ClawError("bad_params", "none of them", got=7)
    if "short" in kinds:
        return [0]
    if "hold" in kinds:
        batch[0].progress(None, "begun")
        while not batch[1].stopped:
            time.sleep(0.001)
        batch.checkpoint()
    results = []
    for item, ctx in zip(items, batch, strict=True):
        frames = [bytes(frame).decode() for frame in ctx.frames]
        if item.x < 0:
            results.append(ClawError("bad_params", "negative", got=item.x))
        else:
            ctx.reply_frames.extend(ctx.frames)
            results.append([item.x, len(items), frames, ctx.priority])
    return results
"""
NAMES = ["passed", "once", "spin", "pieces", "python", "native", "both", "threads", "leaves", "odd"]


@pytest.fixture
def host(tmp_path: Path) -> Any:
    with HostProcess(
        tmp_path,
        "t_ops",
        CODE,
        [f"t.{name}" for name in [*NAMES, "sum"]],
        idempotent=["t.passed", "t.spin", "t.sum", "t.pieces"],
        batches=["t.sum"],
        slots=2,
        threads=2,
    ) as process:
        yield process


# Control words.


def test_a_held_task_waits_and_goes_on(host: HostProcess) -> None:
    host.page.set(0, wire.HOLD)
    host.send(host.run(1, "t.passed"))
    host.ping()
    released = time.monotonic_ns()
    host.page.set(0, wire.GO | 1 << 8)
    assert host.value(1) > released


def test_a_held_task_can_be_ended_or_given_back(host: HostProcess) -> None:
    for word, kind in ((wire.STOP, wire.Error), (wire.YIELD, wire.Yielded)):
        host.page.set(0, wire.HOLD)
        host.send(host.run(1, "t.passed"))
        host.ping()
        host.page.set(0, word)
        assert host.next(kind).id == 1
        host.page.set(0, wire.GO)
    host.send(host.run(2, "t.passed"))
    assert host.value(2)


def test_only_what_can_begin_anew_is_given_back(host: HostProcess) -> None:
    host.page.set(0, wire.YIELD | 2 << 8)
    host.send(host.run(1, "t.passed"))
    assert host.next(wire.Yielded).id == 1
    host.send(host.run(2, "t.once"))
    assert host.value(2), "not idempotent: it goes on"
    host.send(host.run(3, "t.pieces", {"count": 2}))
    assert [unpack(host.next(wire.Chunk).data) for _ in range(2)] == [0, 1]
    assert host.value(3) == 2, "it has streamed: it goes on"


def test_a_task_that_streams_can_be_held_between_its_pieces(host: HostProcess) -> None:
    host.page.set(0, wire.HOLD)
    host.send(host.run(1, "t.pieces", {"count": 2}))
    assert host.next(wire.Chunk).id == 1
    host.ping()
    host.page.set(0, wire.GO)
    assert host.next(wire.Chunk).id == 1
    assert host.value(1) == 2
    host.send(host.run(2, "t.spin"))
    assert unpack(host.next(wire.Chunk).data) == "begun"
    host.page.set(0, wire.STOP)
    assert host.next(wire.Error).code == "cancelled"


def test_threads_are_granted_through_the_word(host: HostProcess) -> None:
    host.send(host.run(1, "t.threads"))
    assert host.value(1) == 2, "as many as it was started with"
    host.page.set(0, 7 << 8)
    host.page.set(1, 1 << 8)
    host.send(host.run(2, "t.threads"))
    assert host.value(2) == 7
    host.send(host.run(3, "t.threads", slot=1))
    assert host.value(3) == 1


def test_a_task_that_is_to_stop_before_it_begins_never_runs(host: HostProcess) -> None:
    host.page.set(0, wire.STOP)
    host.send(host.run(1, "t.threads"))
    assert host.next(wire.Error).code == "cancelled"


# What the host hears while an operation computes.


@pytest.mark.parametrize("op", ["t.python", "t.native"])
def test_pings_and_cancels_are_heard_while_it_computes(host: HostProcess, op: str) -> None:
    host.send(host.run(1, op))
    assert host.next(wire.Progress).note == "begun"
    for _ in range(3):
        host.ping()
    host.send(host.run(2, "t.threads", slot=1))
    assert host.value(2) == 2, "the other slot is free"
    host.page.set(0, wire.STOP)
    assert host.value(1) == "stopped"
    host.page.set(0, wire.GO)
    host.send(host.run(3, op))
    assert host.next(wire.Progress).id == 3
    host.send(wire.Cancel(id=3))
    assert host.next(wire.Error).code == "cancelled", "the message is enough"


def test_tasks_that_come_together_run_together(host: HostProcess) -> None:
    for first in (1, 11, 21):
        host.send(
            host.run(first, "t.both"), wire.Ping(seq=5), host.run(first + 1, "t.both", slot=1)
        )
        assert host.next(wire.Pong).seq == 5
        assert {host.next(wire.Done).id for _ in range(2)} == {first, first + 1}


def test_no_task_is_lost_however_they_come(host: HostProcess) -> None:
    """Each wake-up of the waiting threads counts: a lost one is a task without an answer."""
    order = random.Random(5)
    free, open_tasks, ended = [0, 1], dict[int, int](), 0
    for number in range(1, 1501):
        both = len(free) == 2 and order.random() < 0.5
        group = [number, number + 10_000] if both else [number]
        messages: list[wire.Message] = []
        for task in group:
            open_tasks[task] = free.pop()
            messages.append(host.run(task, "t.threads", slot=open_tasks[task]))
        if order.random() < 0.2:
            messages.insert(order.randrange(len(messages) + 1), wire.Cancel(id=77))
        host.send(*messages)
        while open_tasks and (not free or order.random() < 0.5):
            free.append(open_tasks.pop(host.next(wire.Done).id))
            ended += 1
    while open_tasks:
        open_tasks.pop(host.next(wire.Done).id)
        ended += 1
    assert ended >= 1500


@pytest.mark.parametrize("op", ["", "t.python", "t.native", "hold"])
def test_stopped_from_outside_it_goes_on_exactly(host: HostProcess, op: str) -> None:
    if op == "hold":
        host.page.set(0, wire.HOLD)
        host.send(host.run(1, "t.passed"))
        host.ping()
    elif op:
        host.send(host.run(1, op))
        assert host.next(wire.Progress).id == 1
    host.signal(signal.SIGSTOP)
    host.send(host.run(2, "t.threads", slot=1))
    resumed = time.monotonic_ns()
    host.signal(signal.SIGCONT)
    assert host.value(2) == 2
    host.ping()
    if op == "hold":
        host.page.set(0, wire.GO)
        assert host.value(1) > resumed
    elif op:
        host.page.set(0, wire.STOP)
        assert host.value(1) == "stopped"


def test_whatever_an_operation_does_it_has_one_answer(host: HostProcess) -> None:
    host.send(host.run(1, "t.leaves"))
    error = host.next(wire.Error)
    assert (error.id, error.code) == (1, "worker_failed")
    host.send(host.run(2, "t.odd"))
    assert host.next(wire.Error).code == "worker_failed"
    host.send(host.run(3, "t.missing"))
    assert host.next(wire.Error).code == "unknown_operation"
    host.send(host.run(4, "t.threads"))
    assert host.value(4) == 2


# Batches.


def batch(*items: dict[str, Any], op: str = "t.sum", first: int = 1) -> wire.Batch:
    made = [
        wire.BatchItem(
            id=first + place,
            params=wire.pack({key: each[key] for key in each if key not in ("frames", "priority")}),
            frames=each.get("frames", 0),
            priority=each.get("priority", "interactive"),
        )
        for place, each in enumerate(items)
    ]
    return wire.Batch(op=op, slot=0, items=tuple(made))


def test_each_task_of_a_batch_has_its_own_answer_and_frames(host: HostProcess) -> None:
    message = batch(
        {"x": 5, "frames": 2},
        {"x": -1, "frames": 1},
        {"y": 3},
        {"x": 6, "frames": 1, "priority": "batch"},
    )
    host.send(message, frames=[b"a", b"b", b"c", b"d"])
    host.receive()
    assert len(host.inbox) == 4, "all answers come in one piece"
    done = host.next(wire.Done, frames=2)
    assert (done.id, unpack(done.result)) == (1, [5, 3, ["a", "b"], "interactive"])
    assert host.frames == [b"a", b"b"]
    for number in (2, 3):
        error = host.next(wire.Error)
        assert (error.id, error.code) == (number, "bad_params")
    done = host.next(wire.Done, frames=1)
    assert (done.id, unpack(done.result)) == (4, [6, 3, ["d"], "batch"])
    assert host.frames == [b"d"]


def test_a_lone_task_is_a_batch_of_one(host: HostProcess) -> None:
    host.send(host.run(1, "t.sum", {"x": 2}), frames=[b"f"])
    assert unpack(host.next(wire.Done, frames=1).result) == [2, 1, ["f"], "interactive"]
    host.send(host.run(2, "t.sum", {"x": -2}))
    assert host.next(wire.Error).code == "bad_params"


@pytest.mark.parametrize(
    ("raises", "code"),
    [("value", "worker_failed"), ("claw", "bad_params"), ("short", "worker_failed")],
)
def test_what_a_batch_raises_ends_all_of_it(host: HostProcess, raises: str, code: str) -> None:
    host.send(batch({"x": 1}, {"x": 2, "raises": raises}))
    for number in (1, 2):
        error = host.next(wire.Error)
        assert (error.id, error.code) == (number, code)


def test_one_task_of_a_batch_is_cancelled_by_its_number(host: HostProcess) -> None:
    host.send(batch({"x": 1, "raises": "hold"}, {"x": 2}))
    assert host.next(wire.Progress).id == 1
    host.send(wire.Cancel(id=2))
    assert unpack(host.next(wire.Done).result)[:2] == [1, 2]
    assert host.next(wire.Error).code == "cancelled"


@pytest.mark.parametrize(("word", "kind"), [(wire.STOP, wire.Error), (wire.YIELD, wire.Yielded)])
def test_the_word_of_a_batch_is_for_all_of_it(host: HostProcess, word: int, kind: type) -> None:
    host.send(batch({"x": 1, "raises": "hold"}, {"x": 2}, {"x": 3}))
    assert host.next(wire.Progress).id == 1
    host.page.set(0, word)
    if word == wire.YIELD:
        host.send(wire.Cancel(id=2))  # ends its loop; the kernel knows that it has cancelled it
    ends = [host.next(kind) for _ in range(3)]
    assert [end.id for end in ends] == [1, 2, 3]


def test_a_batch_for_an_operation_that_takes_none_is_refused(host: HostProcess) -> None:
    host.send(batch({}, {}, op="t.threads"))
    for number in (1, 2):
        error = host.next(wire.Error)
        assert (error.id, error.code) == (number, "bad_worker")


def test_a_manifest_that_promises_batches_needs_a_batch_function(tmp_path: Path) -> None:
    code = (
        "from clawai.sdk import operation\n@operation('t.one')\ndef one() -> int:\n    return 1\n"
    )
    with HostProcess(tmp_path, "t_one", code, ["t.one"], batches=["t.one"], ready=False) as host:
        told = host.next(wire.Unready)
    assert (told.code, unpack(told.got)) == ("bad_config", ["t.one"])
