"""Tools for the tests of plugins: run operations in this process, with a clock that you move.

    kernel = FakeKernel("examples/hello")
    assert kernel.call("hello.greet", {"name": "Ada"}).value == "Hello, Ada!"

Parameters, results and errors go through the same checks and the same msgpack as on the wire, and
a plugin whose manifest and operations differ is refused as a worker would refuse it. What is fake:
no process, no sandbox, no queue; a model's operations need the real kernel. An exception that is
no ``ClawError`` passes through, so that a test shows where it comes from.

    tasks = kernel.batch("vision.classify", [{"pixels": a}, {"pixels": b}])
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Plugin, read_plugin
from clawai.sdk.plain import unpack
from clawai.sdk.plugin import (
    Batch,
    Cancelled,
    Context,
    Operation,
    Yielded,
    operations_of,
    require_declared,
)
from clawai.sdk.session import Event, Result

__all__ = ["FakeClock", "FakeKernel", "FakeTask"]


@dataclass
class FakeClock:
    """Time in nanoseconds that moves only when it is told to."""

    now: int = 0

    def advance(self, seconds: float) -> int:
        """Move on, and return the new time."""
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds}")
        self.now += round(seconds * 1e9)
        return self.now

    def monotonic(self) -> float:
        """Seconds, as ``time.monotonic`` gives them."""
        return self.now / 1e9


@dataclass
class FakeTask:
    """What came of one call: its events in order, and its end."""

    events: list[Event] = field(default_factory=list)
    end: Result | ClawError | Yielded | None = None
    """Yielded: it gave itself back to the queue, as its control word asked."""
    chunked: Callable[[], None] = lambda: None
    """Called after each chunk that was not yielded."""

    def result(self) -> Result:
        """The result.

        Raises:
            ClawError: what ended the task.
            Yielded: it gave itself back.
        """
        if isinstance(self.end, Result):
            return self.end
        assert self.end is not None
        raise self.end

    @property
    def chunks(self) -> list[Any]:
        """What the operation yielded."""
        return [event.data for event in self.events if event.kind == "chunk"]

    # The outlet of the context.

    def progress(self, task: int, fraction: float | None, note: str) -> None:
        """Note progress."""
        self.events.append(Event("progress", state="running", fraction=fraction, note=note))

    def segment(self, number: int) -> Any:
        """There are no segments here."""
        raise ClawError("no_lease", "the fake kernel has no segments; send frames", got=number)

    def chunk(self, task: int, data: wire.Raw) -> None:
        """Note a piece of a stream that was not yielded."""
        self.events.append(Event("chunk", data=unpack(data)))
        self.chunked()


class FakeKernel:
    """Loads one plugin folder and runs its operations here.

    Args:
        folder: holds ``plugin.toml`` and the module that it names.

    Raises:
        ClawError: bad_config, if the manifest is wrong or differs from the operations.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()
        self.manifest: Plugin = read_plugin(self.folder)
        found = self._load()
        entries = self.manifest.operation
        batches = {entry.name for entry in entries if entry.batch > 1}
        name = self.manifest.plugin.name
        require_declared(name, found, [entry.name for entry in entries], batches)
        self.operations: dict[str, Operation] = {op.name: op for op in found}
        self._idempotent = {entry.name for entry in entries if entry.idempotent}
        self._largest = {entry.name: entry.batch for entry in entries}
        self._last = 0

    def _load(self) -> list[Operation]:
        identity = self.manifest.plugin
        if identity.language != "python":
            from clawai.sdk.native import Library

            return Library(self.folder / identity.module).operations()
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        return list(operations_of(vars(importlib.import_module(identity.module))))

    def submit(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        *,
        frames: Sequence[bytes] = (),
        deadline: float | None = None,
        stop_after: int | None = None,
        word: int = wire.GO,
        threads: int = 1,
    ) -> FakeTask:
        """Run an operation to its end.

        Args:
            deadline: on ``time.monotonic``'s clock, as the operation sees it.
            stop_after: set the control word after so many chunks, as a cancel would.
            word: what the control word asks from the beginning: ``wire.STOP`` or ``wire.YIELD``.
            threads: how many threads the operation is granted.
        """
        if word not in (wire.GO, wire.STOP, wire.YIELD):
            raise ValueError(f"nobody would take this control word back: {word}")
        task = FakeTask()
        control = memoryview(bytearray(4)).cast("I")
        control[0] = (wire.STOP if stop_after == 0 else word) | threads << 8
        context = self._context(op, task, control, frames)
        context.deadline = deadline
        task.chunked = lambda: _stop_after(task, control, stop_after)
        try:
            operation = self._operation(op)
            raw = wire.pack(dict(params or {}))
            if operation.batch:
                self._batch(operation, [raw], [context], [task])
                return task
            value = operation.function(**operation.arguments(raw, context))
            if operation.streams:
                value = self._stream(value, task, context, stop_after)
            task.end = _result(value, context)
        except Cancelled:
            task.end = _cancelled()
        except (ClawError, Yielded) as end:
            task.end = end
        return task

    def batch(
        self,
        op: str,
        params: Sequence[Mapping[str, Any]],
        *,
        frames: Sequence[Sequence[bytes]] = (),
        word: int = wire.GO,
    ) -> list[FakeTask]:
        """Run several tasks of a batch operation in one call, as the kernel may.

        Args:
            params: of each task.
            frames: payload frames of each task, if they have any.

        Raises:
            ClawError: bad_params, for more tasks than plugin.toml allows.
        """
        operation = self._operation(op)
        if not 0 < len(params) <= self._largest[op]:
            raise ClawError(
                "bad_params", f"tasks in a batch of {op}", len(params), f"1 to {self._largest[op]}"
            )
        control = memoryview(bytearray(4)).cast("I")
        control[0] = word
        tasks = [FakeTask() for _ in params]
        contexts = [
            self._context(op, task, control, frames[place] if frames else ())
            for place, task in enumerate(tasks)
        ]
        self._batch(operation, [wire.pack(dict(each)) for each in params], contexts, tasks)
        return tasks

    def _operation(self, op: str) -> Operation:
        if op not in self.operations:
            raise ClawError("unknown_operation", "no such operation", op, list(self.operations))
        return self.operations[op]

    def _context(
        self, op: str, task: FakeTask, control: memoryview, frames: Sequence[bytes]
    ) -> Context:
        self._last += 1
        may_yield = op in self._idempotent
        return Context(self._last, task, control, frames=tuple(frames), may_yield=may_yield)

    @staticmethod
    def _batch(
        operation: Operation,
        params: Sequence[wire.Raw],
        contexts: Sequence[Context],
        tasks: Sequence[FakeTask],
    ) -> None:
        items, good = [], []
        for place, raw in enumerate(params):
            try:
                items.append(operation.checked(raw))
                good.append(place)
            except ClawError as error:
                tasks[place].end = error
        if not items:
            return
        try:
            batch = Batch([contexts[place] for place in good])
            batch.checkpoint()
            results = operation.call_batch(items, batch)
        except (Cancelled, ClawError, Yielded) as end:
            results = [_cancelled() if isinstance(end, Cancelled) else end] * len(good)
        for place, value in zip(good, results, strict=True):
            failed = isinstance(value, ClawError | Yielded)
            tasks[place].end = value if failed else _result(value, contexts[place])

    def call(self, op: str, params: Mapping[str, Any] | None = None, **options: Any) -> Result:
        """Run an operation and return its result; see ``submit``."""
        return self.submit(op, params, **options).result()

    @staticmethod
    def _stream(generator: Any, task: FakeTask, context: Context, stop_after: int | None) -> Any:
        while True:
            try:
                piece = next(generator)
            except StopIteration as stop:
                return stop.value
            context.may_yield = False
            task.events.append(Event("chunk", data=unpack(wire.pack(piece))))
            _stop_after(task, context.control, stop_after)


def _stop_after(task: FakeTask, control: memoryview, chunks: int | None) -> None:
    if chunks is not None and len(task.chunks) >= chunks:
        control[0] = wire.STOP


def _result(value: Any, context: Context) -> Result:
    plain = unpack(wire.pack(value))
    return Result(plain, tuple(context.reply_frames), {"compute_us": context.compute_us})


def _cancelled() -> ClawError:
    return ClawError("cancelled", "the operation stopped as asked")
