"""Tools for the tests of plugins: run operations in this process, with a clock that you move.

    kernel = FakeKernel("examples/hello")
    assert kernel.call("hello.greet", {"name": "Ada"}).value == "Hello, Ada!"

Parameters, results and errors go through the same checks and the same msgpack as on the wire, hooks
are called as in a worker, and a plugin whose manifest and operations differ is refused as a worker
would refuse it. What is fake: no process, no sandbox, no queue; a model's operations need the real
kernel. An exception that is no ``ClawError`` passes through, so that a test shows where it comes
from. ``SandboxKernel`` has the same interface, and runs the plugin for real.

    tasks = kernel.batch("vision.classify", [{"pixels": a}, {"pixels": b}])

Time is a ``FakeClock`` if one is given: deadlines and ``ctx.remaining`` go by it, and each
checkpoint of the plugin takes ``clock.step`` seconds.

    kernel = FakeKernel("examples/hello", clock=FakeClock(step=0.5))
    task = kernel.submit("long.work", deadline=kernel.clock.monotonic() + 2, cancel_at=3)

With pytest, the fixtures ``claw`` and ``claw_clock`` are these (``clawai.sdk.pytest_plugin``).
"""

import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from clawai.sdk import develop, hookspecs, wire
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

if TYPE_CHECKING:
    from clawai.sdk import schema

__all__ = ["FakeClock", "FakeKernel", "FakeTask", "RealClock", "SandboxKernel"]


@dataclass
class FakeClock:
    """Time in nanoseconds that moves only when it is told to."""

    now: int = 0
    step: float = 0.0
    """Seconds that each checkpoint of a plugin takes."""

    def advance(self, seconds: float) -> int:
        """Move on, and return the new time."""
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds}")
        self.now += round(seconds * 1e9)
        return self.now

    def monotonic(self) -> float:
        """Seconds, as ``time.monotonic`` gives them."""
        return self.now / 1e9


class RealClock:
    """The same for the real kernel: it cannot be told, so ``advance`` waits."""

    step = 0.0

    def advance(self, seconds: float) -> int:
        """Wait, and return the time."""
        time.sleep(seconds)
        return time.monotonic_ns()

    def monotonic(self) -> float:
        """Seconds, as ``time.monotonic`` gives them."""
        return time.monotonic()


@dataclass
class FakeTask:
    """What came of one call: its events in order, and its end."""

    events: list[Event] = field(default_factory=list)
    end: Result | ClawError | Yielded | None = None
    """Yielded: it gave itself back to the queue, as its control word asked."""

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

    @property
    def progressed(self) -> list[float | None]:
        """How far it said that it was, each time, 0 to 1."""
        events = (event for event in self.events if event.kind == "progress")
        return [event.fraction for event in events if event.fraction is not None or event.note]

    # The outlet of the context.

    def progress(self, task: int, fraction: float | None, note: str) -> None:
        """Note progress."""
        self.events.append(Event("progress", state="running", fraction=fraction, note=note))

    def segment(self, number: int) -> Any:
        """There are no segments here."""
        raise ClawError("no_lease", "the fake kernel has no segments; send frames", got=number)


class _Context(Context):
    """A context that says when the plugin looks at its control word."""

    look: Callable[["_Context"], None]

    def checkpoint(self) -> None:
        self.look(self)
        super().checkpoint()


class _Start:
    """What ``claw_start`` is given: a tool's worker, whose memory is always granted."""

    def __init__(self, manifest: Plugin) -> None:
        self.model: dict[str, Any] = {}
        self.model_fd = -1
        self.threads = 1
        self.context = 2048
        self.args: dict[str, Any] = {"slots": manifest.limits.slots}
        self.control = memoryview(bytearray(4 * manifest.limits.slots)).cast("I")
        self.reserved = 0

    def reserve(self, size: int) -> None:
        """Note what the plugin asks for."""
        self.reserved = size

    def weights(self, *_: Any) -> None:
        """There are no objects that outlive it."""

    def driver(self, device: str) -> Any:
        """There are no other plugins."""
        raise ClawError("worker_failed", f"no plugin of this worker drives {device!r}")


def _imported(folder: Path, name: str) -> ModuleType:
    """The module of a plugin, and not another of the same name that some test has imported."""
    sys.path[:] = [str(folder), *(each for each in sys.path if each != str(folder))]
    known = sys.modules.get(name)
    if known is not None and not Path(str(known.__file__)).is_relative_to(folder):
        for each in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
            del sys.modules[each]
    importlib.invalidate_caches()
    return importlib.import_module(name)


class FakeKernel:
    """Loads one plugin folder and runs its operations here.

    Args:
        folder: holds ``plugin.toml`` and the module that it names.
        clock: what deadlines go by; without one, the real time.

    Raises:
        ClawError: bad_config, if the manifest is wrong or differs from the operations.
    """

    sandboxed = False

    def __init__(self, folder: str | Path, clock: FakeClock | RealClock | None = None) -> None:
        self.folder = Path(folder).resolve()
        self.clock: FakeClock | RealClock = clock or RealClock()
        self.manifest: Plugin = read_plugin(self.folder)
        module = _imported(self.folder, self.manifest.plugin.module)
        self._plugins = pluggy.PluginManager("clawai")
        self._plugins.add_hookspecs(hookspecs)
        self._plugins.register(getattr(module, "claw_plugin", module))
        self._plugins.check_pending()
        self._plugins.hook.claw_start(worker=_Start(self.manifest))
        found = list(operations_of(vars(module)))
        found += [op for ops in self._plugins.hook.claw_operations() for op in ops]
        entries = self.manifest.operation
        batches = {entry.name for entry in entries if entry.batch > 1}
        name = self.manifest.plugin.name
        require_declared(name, found, [entry.name for entry in entries], batches)
        self.operations: dict[str, Operation] = {op.name: op for op in found}
        self._idempotent = {entry.name for entry in entries if entry.idempotent}
        self._largest = {entry.name: entry.batch for entry in entries}
        self._last = 0

    def close(self) -> None:
        """Have the plugin end in good order (``claw_stop``)."""
        self._plugins.hook.claw_stop()

    def __enter__(self) -> "FakeKernel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def describe(self, op: str) -> "schema.Described":
        """What an operation says of itself."""
        from clawai.sdk.cli.arguments import as_described

        return as_described(op, unpack(wire.pack(self._operation(op).info())))

    def submit(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        *,
        frames: Sequence[bytes] = (),
        deadline: float | None = None,
        stop_after: int | None = None,
        cancel_at: int | None = None,
        word: int = wire.GO,
        threads: int = 1,
    ) -> FakeTask:
        """Run an operation to its end.

        Args:
            deadline: on the kernel's clock. The task ends at the first checkpoint after it.
            stop_after: cancel it after so many chunks.
            cancel_at: cancel it at this checkpoint, 1 is the first. A stream has one after each
                chunk too.
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
        context.look = _Look(self.clock, cancel_at)
        try:
            self._run(op, params, task, context, stop_after)
        except Cancelled:
            late = deadline is not None and self.clock.monotonic() >= deadline
            task.end = _late() if late else _cancelled()
        except (ClawError, Yielded) as end:
            task.end = end
        return task

    def _run(
        self,
        op: str,
        params: Mapping[str, Any] | None,
        task: FakeTask,
        context: _Context,
        stop_after: int | None,
    ) -> None:
        operation = self._operation(op)
        raw = wire.pack(dict(params or {}))
        if operation.batch:
            self._batch(operation, [raw], [context], [task])
            return
        value = operation.function(**operation.arguments(raw, context))
        if isinstance(value, Iterator) and hasattr(value, "send"):
            value = self._stream(value, task, context, stop_after)
        task.end = _result(value, context)

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
    ) -> _Context:
        self._last += 1
        made = _Context(self._last, task, control, frames=tuple(frames))
        made.may_yield = op in self._idempotent
        made.clock = self.clock.monotonic
        made.look = _Look(self.clock, None)
        return made

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
            if stop_after is not None and len(task.chunks) >= stop_after:
                context.control[0] = wire.STOP
            context.checkpoint()


class _Look:
    """What happens when a plugin looks at its control word: time passes, a cancel comes."""

    def __init__(self, clock: FakeClock | RealClock, cancel_at: int | None) -> None:
        self.clock, self.cancel_at, self.count = clock, cancel_at, 0

    def __call__(self, context: _Context) -> None:
        self.count += 1
        if isinstance(self.clock, FakeClock):
            self.clock.advance(self.clock.step)
        late = context.deadline is not None and self.clock.monotonic() >= context.deadline
        if late or self.count == self.cancel_at:
            context.control[0] = wire.STOP


class SandboxKernel:
    """Runs the plugin in the real sandbox, by a kernel of its own; as ``FakeKernel`` else.

    What only a fake can do is refused: a control word, a number of threads. ``cancel_at`` cancels
    as soon as the task runs, and tasks of a batch come together or not, as the kernel decides.
    """

    sandboxed = True

    def __init__(self, folder: str | Path) -> None:
        from clawai.sdk.cli.bench.private import Private

        self.folder = Path(folder).resolve()
        self.clock = RealClock()
        self.manifest: Plugin = read_plugin(self.folder)
        self._open = contextlib.ExitStack()
        try:
            self.kernel = self._open.enter_context(Private('[preemption]\nmeans = "none"\n'))
            if not develop.is_bundled(self.folder):
                self._open.enter_context(develop.Session(self.folder, self.kernel.folder))
            self.client = self.kernel.client()
            listed = self.client.query("plugins")
            if problem := listed["problems"].get(str(self.folder)):
                raise ClawError("bad_config", problem)
        except BaseException:
            self.close()
            raise

    def submit(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        *,
        frames: Sequence[bytes] = (),
        deadline: float | None = None,
        stop_after: int | None = None,
        cancel_at: int | None = None,
        word: int = wire.GO,
        threads: int = 1,
    ) -> FakeTask:
        """Run an operation to its end; see ``FakeKernel.submit``."""
        if word not in (wire.GO, wire.STOP) or threads != 1:
            raise ClawError(
                "bad_params",
                "only the fake kernel sets a control word or threads",
                hint="mark the test with @pytest.mark.claw_fake",
            )
        left = None if deadline is None else deadline - self.clock.monotonic()
        task = self.client.submit(op, params, frames=frames, deadline=left)
        if stop_after == 0 or word == wire.STOP:
            task.cancel()
        return self._follow(task, stop_after, cancel_at is not None)

    def _follow(self, task: Any, stop_after: int | None, at_once: bool) -> FakeTask:
        seen = FakeTask()
        for event in task:
            if event.kind == "chunk" or event.fraction is not None or event.note:
                seen.events.append(event)
            runs = event.kind == "chunk" or event.state == "running"
            if (at_once and runs) or (stop_after is not None and len(seen.chunks) == stop_after):
                task.cancel()
        try:
            seen.end = task.result()
        except ClawError as error:
            seen.end = error
        return seen

    def batch(
        self,
        op: str,
        params: Sequence[Mapping[str, Any]],
        *,
        frames: Sequence[Sequence[bytes]] = (),
    ) -> list[FakeTask]:
        """Run several tasks at the same time."""
        tasks = [
            self.client.submit(op, each, frames=frames[place] if frames else ())
            for place, each in enumerate(params)
        ]
        return [self._follow(task, None, False) for task in tasks]

    def call(self, op: str, params: Mapping[str, Any] | None = None, **options: Any) -> Result:
        """Run an operation and return its result; see ``submit``."""
        return self.submit(op, params, **options).result()

    def describe(self, op: str) -> "schema.Described":
        """What an operation says of itself."""
        from clawai.sdk.cli.arguments import ask

        return ask(self.client, op)

    def log(self) -> str:
        """What kernel and plugin have said so far."""
        return self.kernel.log()

    def close(self) -> None:
        """End the plugin and the kernel, and remove its folders."""
        self._open.close()

    def __enter__(self) -> "SandboxKernel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _result(value: Any, context: Context) -> Result:
    plain = unpack(wire.pack(value))
    return Result(plain, tuple(context.reply_frames), {"compute_us": context.compute_us})


def _cancelled() -> ClawError:
    return ClawError("cancelled", "the operation stopped as asked")


def _late() -> ClawError:
    return ClawError("deadline_passed", "the deadline passed before the task had ended")
