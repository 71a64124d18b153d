"""Tools for the tests of plugins: run operations in this process, with a clock that you move.

    kernel = FakeKernel("examples/hello")
    assert kernel.call("hello.greet", {"name": "Ada"}).value == "Hello, Ada!"

Parameters, results and errors go through the same checks and the same msgpack as on the wire, hooks
are called as in a worker, and a plugin whose manifest and operations differ is refused as a worker
would refuse it. What is fake: no process, no sandbox, no queue; a model's operations need the real
kernel. An exception that is no ``ClawError`` passes through, so that a test shows where it comes
from. ``clawai.sdk.sandboxed`` has the same interface, and runs the plugin for real.

    tasks = kernel.batch("vision.classify", [{"pixels": a}, {"pixels": b}])

Time is a ``FakeClock`` if one is given: deadlines and ``ctx.remaining`` go by it, and each
checkpoint of the plugin takes ``clock.step`` seconds.

    kernel = FakeKernel("examples/hello", clock=FakeClock(step=0.5))
    task = kernel.submit("long.work", deadline=kernel.clock.monotonic() + 2, cancel_at=3)

What a plugin asks of others, the test gives it: ``kernel.children`` answers its child tasks,
``kernel.config`` and ``kernel.secrets`` are what its owner would have set.

    kernel.children["llm.tokenize"] = lambda text: {"count": len(text)}

With pytest, the fixtures ``claw`` and ``claw_clock`` are these (``clawai.sdk.pytest_plugin``).
"""

import importlib
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from clawai.sdk import hooks, wire
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

__all__ = ["FakeClock", "FakeKernel", "FakeTask", "RealClock"]


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
    logs: list[tuple[str, str]] = field(default_factory=list)
    """Level and text of each line that it wrote with ``ctx.log``; of the fake kernel only."""

    chunked: Callable[[], None] = lambda: None
    """Called after each chunk that was not yielded."""

    def __iter__(self) -> Iterator[Event]:
        """The events in order, as a client's task gives them."""
        return iter(self.events)

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

    def chunk(self, task: int, data: wire.Raw) -> None:
        """Note a piece of a stream that was not yielded."""
        self.events.append(Event("chunk", data=unpack(data)))
        self.chunked()


class _Context(Context):
    """A context whose kernel is the test: it sees every look at the control word, and answers."""

    look: Callable[["_Context"], None]
    kernel: "FakeKernel"

    def checkpoint(self) -> None:
        self.look(self)
        super().checkpoint()

    def log(self, level: str, text: str) -> None:
        """Note a line of the log."""
        assert isinstance(self.outlet, FakeTask)
        self.outlet.logs.append((level, text))

    @property
    def config(self) -> Mapping[str, Any]:
        """What the test has set, else the defaults of plugin.toml."""
        return self.kernel.config

    @property
    def data(self) -> Path:
        """A folder that ends with the kernel."""
        return self.kernel.data

    def secret(self, key: str) -> str:
        """What the test has given."""
        if key not in self.kernel.secrets:
            raise ClawError("not_permitted", "no secret of this name", got=key)
        return self.kernel.secrets[key]

    def submit(  # type: ignore[override]  # it gives a task that has ended already
        self, op: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> "FakeTask":
        """A child task, answered by the function that the test gives for ``op``."""
        self.checkpoint()
        return self.kernel.child(op, dict(params or {}))

    def call(self, op: str, params: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """The result of a child task."""
        return self.submit(op, params, **options).result().value


class _Start:
    """What ``claw_start`` is given: a tool's worker, whose memory is always granted."""

    def __init__(self, manifest: Plugin, plugins: pluggy.PluginManager) -> None:
        self._plugins = plugins
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

    def notes(self) -> None:
        """Nobody was here before."""

    def weights(self, *_: Any) -> None:
        """There are no objects that outlive it."""

    def driver(self, device: str) -> Any:
        """Only the plugin's own: there are no other plugins."""
        return hooks.open_device(self._plugins, device)

    def load_model(self) -> Any:
        """There is no model."""
        return hooks.load_model(self._plugins, self.model_fd)

    def quantize(self, weights: Any, dtype: Any, importance: Any = None) -> Any:
        """Only what the plugin itself can make."""
        return hooks.quantize(self._plugins, weights, dtype, importance)


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
        self._plugins = hooks.manager()
        found = self._load()
        entries = self.manifest.operation
        batches = {entry.name for entry in entries if entry.batch > 1}
        name = self.manifest.plugin.name
        require_declared(name, found, [entry.name for entry in entries], batches)
        self.operations: dict[str, Operation] = {op.name: op for op in found}
        self._idempotent = {entry.name for entry in entries if entry.idempotent}
        self._largest = {entry.name: entry.batch for entry in entries}
        self._last = 0
        self._data: tempfile.TemporaryDirectory[str] | None = None
        self.reset()

    def _load(self) -> list[Operation]:
        """Import the plugin and start it, as a worker's host does; its operations."""
        if self.manifest.plugin.language != "python":
            from clawai.sdk import native

            module: Any = native.Plugin(native.Library(self.folder / self.manifest.plugin.module))
        else:
            module = _imported(self.folder, self.manifest.plugin.module)
        self._plugins.register(getattr(module, "claw_plugin", module))
        self._plugins.check_pending()
        self._plugins.hook.claw_start(worker=_Start(self.manifest, self._plugins))
        found = list(operations_of(vars(module)))
        return found + [op for ops in self._plugins.hook.claw_operations() for op in ops]

    def reset(self) -> None:
        """Forget what a test has set."""
        self.children: dict[str, Callable[..., Any]] = {}
        """By operation: what answers a child task, called with its parameters by name. A generator
        streams; a ``ClawError`` that is raised fails the child."""
        raw = tomllib.loads((self.folder / "plugin.toml").read_text(encoding="utf-8"))
        self.config: dict[str, Any] = {
            key: table.get("default") for key, table in raw.get("config", {}).items()
        }
        self.secrets: dict[str, str] = {}

    @property
    def data(self) -> Path:
        """The plugin's data folder, which ends with this kernel."""
        if self._data is None:
            self._data = tempfile.TemporaryDirectory(prefix="claw-data-")
        return Path(self._data.name)

    def child(self, op: str, params: dict[str, Any]) -> FakeTask:
        """Answer a child task, if the manifest permits it."""
        allowed = list(self.manifest.permissions.operations)
        if not any(
            op == each or (each[-2:] == ".*" and op.startswith(each[:-1])) for each in allowed
        ):
            hint = "name it under [permissions.operations] in plugin.toml, with the reason"
            raise ClawError("not_permitted", "this plugin may not call it", op, allowed, hint)
        if op not in self.children:
            known = list(self.children)
            hint = f'kernel.children["{op}"] = a function of its parameters'
            raise ClawError("unknown_operation", "no test answers this", op, known, hint)
        task = FakeTask()
        try:
            value = self.children[op](**unpack(wire.pack(params)))
            if isinstance(value, Generator):
                value = self._pieces(value, task)
            task.end = Result(unpack(wire.pack(value)), (), {})
        except ClawError as error:
            task.end = error
        return task

    @staticmethod
    def _pieces(generator: Generator[Any, None, Any], task: FakeTask) -> Any:
        while True:
            try:
                task.events.append(Event("chunk", data=unpack(wire.pack(next(generator)))))
            except StopIteration as stop:
                return stop.value

    def close(self) -> None:
        """Have the plugin end in good order (``claw_stop``)."""
        self._plugins.hook.claw_stop()
        if self._data is not None:
            self._data.cleanup()
            self._data = None

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
        task.chunked = lambda: _stop_after(task, control, stop_after)
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
        if isinstance(value, Generator):
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
        made.kernel = self
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
            _stop_after(task, context.control, stop_after)
            context.checkpoint()


def _stop_after(task: FakeTask, control: memoryview, chunks: int | None) -> None:
    if chunks is not None and len(task.chunks) >= chunks:
        control[0] = wire.STOP


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


def _result(value: Any, context: Context) -> Result:
    plain = unpack(wire.pack(value))
    frames = tuple(map(bytes, context.reply_frames))
    return Result(plain, frames, {"compute_us": context.compute_us})


def _cancelled() -> ClawError:
    return ClawError("cancelled", "the operation stopped as asked")


def _late() -> ClawError:
    return ClawError("deadline_passed", "the deadline passed before the task had ended")
