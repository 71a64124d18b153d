"""The worker's side of the wall: loads one plugin inside the sandbox and runs its operations.

The sandbox calls ``main`` when every layer is in force. The main thread reads the wire; each slot
has a thread that runs its tasks, so that a cancel and a ping are heard while an operation computes.
"""

import gc
import importlib
import mmap
import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Generator, Sequence
from types import ModuleType
from typing import Any, NoReturn

import msgspec
import pluggy

from clawai.sdk import hookspecs, wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plugin import Cancelled, Context, Operation, operations_of
from clawai.sdk.zmtp import Connection

_READ = 256 * 1024


def main(fds: dict[str, int], args: dict[str, Any]) -> None:
    """Serve until the kernel says stop or is gone."""
    host = Host(fds, args)
    try:
        host.load()
    except ClawError as error:
        host.unready(error)
    except BaseException as error:  # a plugin that calls sys.exit has failed too
        traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}:{last.lineno}"  # noqa: PTH119
        text = f"the plugin {args['plugin']} failed to start: {type(error).__name__}: {error}"
        host.unready(ClawError("worker_failed", f"{text} ({where})"[:4000]))
    host.serve()


class Host:
    """One worker: its plugin, its slots and its side of the wire."""

    def __init__(self, fds: dict[str, int], args: dict[str, Any]) -> None:
        self.args = args
        self.incarnation: int = args["incarnation"]
        self.model: dict[str, Any] = args["model"]
        self.model_fd = fds.get("model", -1)
        self.threads: int = args["threads"]
        self.context: int = args["context"]
        self._sock = socket.socket(fileno=fds["wire"])
        self._leases = socket.socket(fileno=fds["leases"])
        page = mmap.mmap(fds["control"], mmap.PAGESIZE, prot=mmap.PROT_READ)
        self.control = memoryview(page).cast("I")
        self._zmtp = Connection(b"PAIR", max_frames=wire.MAX_FRAMES, max_bytes=wire.MAX_MESSAGE)
        self._sending = threading.Lock()
        self._segments: dict[int, mmap.mmap] = {}
        self._segment_lock = threading.Lock()
        self._dropping: set[int] = set()
        self._newest = 0
        """Number of the last segment that came."""
        self._inbox: list[list[bytes]] = []
        self._slots: dict[int, queue.SimpleQueue[tuple[wire.Run, tuple[bytes, ...]]]] = {}
        self._operations: dict[str, Operation] = {}
        self._plugins = pluggy.PluginManager("clawai")
        self._granted = False
        self._transmit([self._zmtp.outgoing()])

    # Start.

    def load(self) -> None:
        """Import the plugin and its drivers, let it load its model, and say ready."""
        self._plugins.add_hookspecs(hookspecs)
        modules = [importlib.import_module(name) for name in self._module_names()]
        for module in modules:
            # A plugin with state is an object that its module names.
            self._plugins.register(getattr(module, "claw_plugin", module))
        self._plugins.check_pending()
        self._plugins.hook.claw_start(worker=self)
        self._collect(modules)
        ready = wire.Ready(
            version=wire.VERSION,
            incarnation=self.incarnation,
            slots=self.args["slots"],
            operations=tuple(operation.info() for operation in self._operations.values()),
        )
        self.send(ready)

    def _module_names(self) -> list[str]:
        return [*self.args["drivers"], self.args["module"]]

    def _collect(self, modules: list[ModuleType]) -> None:
        """All operations, which must be those of the manifest."""
        found = [op for module in modules for op in operations_of(vars(module))]
        found += [op for ops in self._plugins.hook.claw_operations() for op in ops]
        self._operations = {op.name: op for op in found}
        declared = set(self.args["operations"])
        if set(self._operations) != declared:
            raise ClawError(
                "bad_config",
                f"{self.args['plugin']}: the operations differ from those of plugin.toml",
                got=sorted(self._operations),
                allowed=sorted(declared),
                hint="each @operation needs an [[operation]] in plugin.toml and the reverse",
            )

    def reserve(self, size: int) -> None:
        """Ask the kernel for memory and wait until it is charged."""
        self.send(wire.Reserve(bytes=size, incarnation=self.incarnation))
        while not self._granted:
            self._handle(self._next())

    def driver(self, device: str) -> Any:
        """The first driver that a plugin offers for ``device``."""
        driver = self._plugins.hook.claw_driver(device=device)
        if driver is None:
            raise ClawError("worker_failed", f"no plugin of this worker drives {device!r}")
        return driver

    def unready(self, error: ClawError) -> NoReturn:
        """Tell the kernel why this worker cannot serve, and end."""
        told = wire.error_message(error)
        self.send(
            wire.Unready(
                incarnation=self.incarnation,
                code=told.code,
                message=told.message,
                got=told.got,
                allowed=told.allowed,
                hint=told.hint,
            )
        )
        self._exit()

    # The wire.

    def send(self, message: wire.Message, frames: list[bytes] | tuple[bytes, ...] = ()) -> None:
        """Send one message; threads take turns."""
        self._transmit(self._zmtp.message(wire.encode(message, frames)))

    def _transmit(self, buffers: list[Any]) -> None:
        left = [memoryview(buffer) for buffer in buffers if len(buffer)]
        with self._sending:
            while left:
                try:
                    sent = self._sock.sendmsg(left[:64])
                except OSError:
                    self._exit()
                while left and sent >= len(left[0]):
                    sent -= len(left.pop(0))
                if sent:
                    left[0] = left[0][sent:]

    def _next(self) -> list[bytes]:
        while not self._inbox:
            try:
                data = self._sock.recv(_READ)
            except OSError:
                self._exit()
            if not data:
                self._exit()
            self._inbox = self._zmtp.receive(data)
            if due := self._zmtp.outgoing():
                self._transmit([due])
        return self._inbox.pop(0)

    def serve(self) -> NoReturn:
        """Take messages until the kernel says stop or is gone."""
        while True:
            self._handle(self._next())

    def _handle(self, frames: list[bytes]) -> None:
        message = wire.decode(frames, wire.ToWorker)
        match message:
            case wire.Run():
                self._slot(message.slot).put((message, tuple(frames[1:])))
            case wire.Granted():
                self._granted = True
            case wire.Ping():
                self.send(wire.Pong(seq=message.seq, incarnation=self.incarnation))
            case wire.Drop():
                self._drop(message.segment)
            case wire.Stop():
                self._exit()
            case _:
                pass  # a cancel: the control word has told the operation already

    def _exit(self) -> NoReturn:
        """End at once: other threads may be in the middle of an operation."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    # Segments.

    def segment(self, number: int) -> mmap.mmap:
        """The mapping of a segment; its descriptor was sent before the first task that uses it."""
        with self._segment_lock:
            while number not in self._segments:
                if number <= self._newest:
                    # Dropped before its task began: its client has left. They come in order.
                    raise ClawError("no_lease", "the segment has ended", got=number)
                data, fds, _, _ = socket.recv_fds(self._leases, 4096, 1)
                if not fds:
                    raise ClawError("no_lease", "the segment never came", got=number)
                told = msgspec.msgpack.decode(data)
                self._newest = told["segment"]
                self._segments[told["segment"]] = mmap.mmap(fds[0], told["bytes"])
                os.close(fds[0])
            return self._segments[number]

    def _drop(self, number: int) -> None:
        self.segment(number)
        self._dropping.add(number)
        self._unmap()

    def _unmap(self) -> None:
        """Unmap what is to be dropped and say so; what an operation still views, after it.

        Said too early, the operation's next write would look like one to memory taken back.
        """
        dropped = []
        with self._segment_lock:
            for number in sorted(self._dropping):
                try:
                    self._segments[number].close()
                except BufferError:
                    continue
                self._dropping.remove(number)
                del self._segments[number]
                dropped.append(number)
        for number in dropped:
            self.send(wire.Dropped(segment=number, incarnation=self.incarnation))

    # Tasks.

    def _slot(self, number: int) -> "queue.SimpleQueue[tuple[wire.Run, tuple[bytes, ...]]]":
        if number not in self._slots:
            self._slots[number] = queue.SimpleQueue()
            thread = threading.Thread(
                target=self._work, args=(self._slots[number],), name=f"slot {number}", daemon=True
            )
            thread.start()
        return self._slots[number]

    def _work(self, inbox: "queue.SimpleQueue[tuple[wire.Run, tuple[bytes, ...]]]") -> None:
        while True:
            run, frames = inbox.get()
            self._run(run, frames)
            if self._dropping:
                gc.collect()  # the views of a failed operation may hang on its traceback
                self._unmap()

    def progress(self, task: int, fraction: float | None, note: str) -> None:
        """Pass an operation's progress on."""
        told = wire.Progress(
            id=task,
            fraction=None if fraction is None else float(fraction),
            note=str(note)[:2000],
            incarnation=self.incarnation,
        )
        self.send(told)

    def _run(self, run: wire.Run, frames: tuple[bytes, ...]) -> None:
        started = time.perf_counter_ns()
        deadline = None if run.remaining_ms is None else time.monotonic() + run.remaining_ms / 1000
        context = Context(
            task=run.id,
            outlet=self,
            control=self.control[run.slot : run.slot + 1],
            deadline=deadline,
            priority=run.priority,
            frames=frames,
            leases=run.leases,
        )
        try:
            value = self._call(run, context)
            result = wire.pack(value)
            self._fits(result, context.reply_frames)
        except Cancelled:
            self.send(self._error(run, ClawError("cancelled", "the operation stopped as asked")))
        except ClawError as error:
            self.send(self._error(run, error))
        except BaseException as error:  # sys.exit in an operation must not end its slot in silence
            traceback.print_exc()
            text = f"{run.op} raised {type(error).__name__}: {error}"[:4000]
            told = ClawError("worker_failed", text, hint="`claw logs` shows the traceback")
            self.send(self._error(run, told))
        else:
            total = (time.perf_counter_ns() - started) // 1000
            timings = {
                "compute_us": context.compute_us,
                "plugin_us": max(0, total - context.compute_us),
            }
            done = wire.Done(
                id=run.id, result=result, timings=timings, incarnation=self.incarnation
            )
            self.send(done, context.reply_frames)

    def _error(self, run: wire.Run, error: ClawError) -> wire.Error:
        return wire.error_message(error, run.id, self.incarnation)

    def _call(self, run: wire.Run, context: Context) -> Any:
        operation = self._operations.get(run.op)
        if operation is None:
            raise ClawError("unknown_operation", "this worker does not offer it", got=run.op)
        result = operation.function(**operation.arguments(run.params, context))
        return self._stream(run, result) if isinstance(result, Generator) else result

    def _stream(self, run: wire.Run, generator: Generator[Any, None, Any]) -> Any:
        """Send what the operation yields; its return value is the result."""
        try:
            while True:
                try:
                    piece = next(generator)
                except StopIteration as stop:
                    return stop.value
                data = wire.pack(piece)
                self._fits(data)
                self.send(wire.Chunk(id=run.id, data=data, incarnation=self.incarnation))
        finally:
            generator.close()

    def _fits(self, result: wire.Raw, frames: Sequence[bytes] = ()) -> None:
        size = len(bytes(result)) + sum(map(len, frames))
        if size > wire.MAX_MESSAGE - 4096 or len(bytes(result)) > wire.MAX_HEADER - 4096:
            raise ClawError(
                "too_large",
                "the result does not fit one message",
                got=size,
                allowed=wire.MAX_HEADER - 4096,
                hint="stream it in chunks, or return it in a lease",
            )
