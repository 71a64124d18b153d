"""Tools for the tests of plugins: run operations in this process, with a clock that you move.

    kernel = FakeKernel("examples/hello")
    assert kernel.call("hello.greet", {"name": "Ada"}).value == "Hello, Ada!"

Parameters, results and errors go through the same checks and the same msgpack as on the wire, and
a plugin whose manifest and operations differ is refused as a worker would refuse it. What is fake:
no process, no sandbox, no queue; a model's operations need the real kernel.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Plugin, read_plugin
from clawai.sdk.plugin import Cancelled, Context, Operation, operations_of
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
    end: Result | ClawError | None = None

    def result(self) -> Result:
        """The result.

        Raises:
            ClawError: what ended the task.
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
        if str(self.folder) not in sys.path:
            sys.path.insert(0, str(self.folder))
        module = importlib.import_module(self.manifest.plugin.module)
        self.operations: dict[str, Operation] = {op.name: op for op in operations_of(vars(module))}
        declared = {entry.name for entry in self.manifest.operation}
        if set(self.operations) != declared:
            raise ClawError(
                "bad_config",
                "the operations differ from those of plugin.toml",
                got=sorted(self.operations),
                allowed=sorted(declared),
            )
        self._last = 0

    def submit(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        *,
        frames: Sequence[bytes] = (),
        deadline: float | None = None,
        stop_after: int | None = None,
    ) -> FakeTask:
        """Run an operation to its end.

        Args:
            deadline: on ``time.monotonic``'s clock, as the operation sees it.
            stop_after: set the control word after so many chunks, as a cancel would.
        """
        self._last += 1
        task = FakeTask()
        control = memoryview(bytearray(4)).cast("I")
        if stop_after == 0:
            control[0] = 1
        context = Context(self._last, task, control, deadline, frames=tuple(frames))
        try:
            operation = self.operations.get(op)
            if operation is None:
                raise ClawError("unknown_operation", "no such operation", op, list(self.operations))
            arguments = operation.arguments(wire.pack(dict(params or {})), context)
            value = operation.function(**arguments)
            if operation.streams:
                value = self._stream(value, task, control, stop_after)
            plain = wire.unpack(wire.pack(value))
            task.end = Result(
                plain, tuple(context.reply_frames), {"compute_us": context.compute_us}
            )
        except Cancelled:
            task.end = ClawError("cancelled", "the operation stopped as asked")
        except ClawError as error:
            task.end = error
        return task

    def call(self, op: str, params: Mapping[str, Any] | None = None, **options: Any) -> Result:
        """Run an operation and return its result; see ``submit``."""
        return self.submit(op, params, **options).result()

    @staticmethod
    def _stream(generator: Any, task: FakeTask, control: memoryview, stop_after: int | None) -> Any:
        while True:
            try:
                piece = next(generator)
            except StopIteration as stop:
                return stop.value
            task.events.append(Event("chunk", data=wire.unpack(wire.pack(piece))))
            if stop_after is not None and len(task.chunks) >= stop_after:
                control[0] = 1
