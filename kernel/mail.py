"""Between the core, which knows headers only, and the messages of the wire.

What a ``Fault`` says to people stands in ``texts.json``, by its key: the message, a hint, and the
code where that is not the key.
"""

import os
from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.sdk import wire
from clawai.sdk.errors import ClawError


def _texts() -> dict[str, dict[str, str]]:
    with open(os.path.join(os.path.dirname(__file__), "texts.json"), "rb") as file:  # noqa: PTH118, PTH120, PTH123
        return msgspec.json.decode(file.read(), type=dict[str, dict[str, str]])


TEXTS = _texts()


def error(fault: ev.Fault) -> ClawError:
    """A fault in words."""
    text = TEXTS[fault.key]
    wait = (fault.retry_ms or 0) // 1000
    why = in_words(fault.because)[:2000]
    parts = {"what": fault.what, "because": why, "allowed": fault.allowed, "wait_s": wait}
    message, hint = text["message"].format(**parts), text.get("hint", "").format(**parts)
    details = fault.got, fault.allowed, hint, fault.retry_ms
    return ClawError(text.get("code", fault.key), message, *details)


def in_words(why: Any) -> str:
    """A reason that the core holds (a ``Fault``, a ``Hidden`` or text) as text."""
    return error(why).message if isinstance(why, ev.Fault) else str(why)


def to_client(told: ev.Pass) -> tuple[Any, tuple[bytes, ...]]:
    """The message under the id of the request, with the kernel's view of state and times."""
    word, request = told.word, told.request
    if isinstance(word, ev.Fault):
        word = ev.Hidden(wire.error_message(error(word)))
    message, frames = word.message, word.frames
    if isinstance(message, wire.Chunk):
        return wire.Chunk(id=request, data=message.data), frames
    if isinstance(message, wire.Progress):
        done, note = message.fraction, message.note
        return wire.Progress(id=request, state="running", fraction=done, note=note), frames
    times = _times(told.times, message.timings)
    if isinstance(message, wire.Done):
        return wire.Done(id=request, result=message.result, timings=times), frames
    return msgspec.structs.replace(message, id=request, timings=times, incarnation=0), frames


def _times(times: tuple[int, int, int] | None, said: dict[str, int]) -> dict[str, int]:
    """Where the time went, in microseconds; a worker's own figures are cut to what is possible."""
    if times is None:
        return {}
    queue, load, ran = times
    left = ran // 1000
    compute = min(left, max(0, said.get("compute_us", 0)))
    plugin = min(left - compute, max(0, said.get("plugin_us", 0)))
    return {
        "queue_us": queue // 1000,
        "load_us": load // 1000,
        "compute_us": compute,
        "plugin_us": plugin,
        "wire_us": left - compute - plugin,
    }


def to_worker(told: ev.Dispatch) -> tuple[wire.Message, tuple[bytes, ...]]:
    """What a worker is told of the tasks that it is to run, with their payload."""
    number, asked, left = told.tasks[0]
    if len(told.tasks) == 1:
        run = wire.Run(
            id=number,
            op=asked.op,
            params=asked.body.message,
            slot=told.slot,
            remaining_ms=left,
            priority=asked.priority,
            leases=asked.leases,
            principal=asked.principal,
        )
        return run, asked.body.frames
    items = [
        wire.BatchItem(
            id=number,
            params=asked.body.message,
            frames=len(asked.body.frames),
            remaining_ms=left,
            priority=asked.priority,
            leases=asked.leases,
        )
        for number, asked, left in told.tasks
    ]
    frames = tuple([frame for _, asked, _ in told.tasks for frame in asked.body.frames])
    return wire.Batch(op=asked.op, slot=told.slot, items=tuple(items)), frames


def from_worker(worker: int, frames: list[bytes]) -> ev.Event:
    """What a worker says, as an event.

    Raises:
        ClawError: bad_message, or bad_worker if it speaks for another incarnation.
    """
    message = wire.decode(frames, wire.FromWorker)
    if message.incarnation != worker:
        raise ClawError("bad_worker", "another incarnation", message.incarnation, worker)
    if kind := _OUTPUTS.get(type(message)):
        payload = tuple(frames[1:])
        if kind == "error":
            message, payload = wire.error_message(message, message.id), ()
        number = -1 if message.id is None else message.id
        size = len(message.data) + sum(map(len, payload)) if kind == "chunk" else 0
        return ev.Output(worker, number, kind, ev.Hidden(message, payload), size)
    if isinstance(message, wire.Unready):
        return ev.WorkerUnready(worker, ev.Hidden(wire.error_message(message)))
    event, *fields = _EVENTS[type(message)]
    made: ev.Event = event(worker, *[getattr(message, field) for field in fields])
    return made


_OUTPUTS: dict[type, Any] = {
    kind: kind.__name__.lower()
    for kind in (wire.Progress, wire.Chunk, wire.Done, wire.Error, wire.Yielded)
}
_EVENTS: dict[type, tuple[Any, ...]] = {
    wire.Reserve: (ev.WorkerReserved, "bytes", "weights", "weights_bytes"),
    wire.Ready: (ev.WorkerReady, "slots"),
    wire.Dropped: (ev.WorkerDropped, "segment"),
    wire.Filled: (ev.WorkerFilled,),
    wire.Pong: (ev.WorkerAnswered,),
}
"""What a worker says of itself: the event, and which fields that has."""
