"""The worker's side of the wall: loads one plugin inside the sandbox and runs its operations.

The sandbox calls ``main`` when every layer is in force. Any thread that has nothing to do waits for
the wire, and the one that reads a task runs it itself: no task is handed from thread to thread, and
while it computes the next message wakes another, so that a cancel and a ping are heard at any time.
There is one thread more than slots. Nothing of a plugin may count on the thread that it runs in.
"""

import contextlib
import gc
import importlib
import mmap
import os
import select
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from clawai.sdk import hooks, wire
from clawai.sdk.errors import ClawError
from clawai.sdk.home import Home, read_secrets
from clawai.sdk.net import Network
from clawai.sdk.packed import DATA_AT, Packed, envelope
from clawai.sdk.plain import error_message
from clawai.sdk.plugin import operations_of, require_declared
from clawai.sdk.runner import Job, Runner
from clawai.sdk.weights import fill_weights, map_weights
from clawai.sdk.zmtp import Connection

if TYPE_CHECKING:
    from pluggy import PluginManager

    from clawai.sdk.children import Children
    from clawai.sdk.session import Session

_READ = 256 * 1024
Frame = bytes | memoryview
_JOIN = 16 * 1024
"""Messages up to so many bytes are copied together: one buffer costs less to send than many."""


def prepare(args: dict[str, Any]) -> None:
    """Called before ``main``, and before new executable memory may be forbidden."""
    if library := args.get("library"):
        from clawai.sdk import native

        native.prepare(library)


def main(
    fds: dict[str, int], args: dict[str, Any], prepared: "PluginManager | None" = None
) -> None:
    """Serve until the kernel says stop or is gone.

    Args:
        prepared: knows the plugin and its drivers already.
    """
    # Into a pipe it would be kept until there is much of it, and whoever watches would see nothing.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    host = Host(fds, args, prepared)
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

    def __init__(
        self, fds: dict[str, int], args: dict[str, Any], prepared: "PluginManager | None" = None
    ) -> None:
        self.args = args
        self.incarnation: int = args["incarnation"]
        self.model: dict[str, Any] = args["model"]
        self.model_fd = fds.get("model", -1)
        self.threads: int = args["threads"]
        self.context: int = args["context"]
        self.network = Network.of_worker(fds, args)
        self._sock = socket.socket(fileno=fds["wire"])
        self._leases = socket.socket(fileno=fds["leases"])
        page = mmap.mmap(fds["control"], mmap.PAGESIZE, prot=mmap.PROT_READ)
        self.control = memoryview(page).cast("I")
        self._zmtp = Connection(max_frames=wire.MAX_FRAMES, max_bytes=wire.MAX_MESSAGE)
        self._sending = threading.Lock()
        self._segments: dict[int, mmap.mmap] = {}
        self._segment_lock = threading.Lock()
        self._dropping: set[int] = set()
        self._newest = 0
        """Number of the last segment that came."""
        self._weights: tuple[int, int, int] | None = None
        """Descriptor, size and begin of a weights object that came and is not mapped yet."""
        self._packed_fd = fds.get("packed", -1)
        self._packed: Packed | None = None
        self._inbox: deque[list[bytes]] = deque()
        self._told: wire.Granted | wire.Sealed | None = None
        self.home = Home(
            args["plugin"],
            config=MappingProxyType(args.get("config", {})),
            secrets=read_secrets(fds["secrets"]) if "secrets" in fds else {},
            folder=args.get("data", ""),
            children=_children(fds["children"]) if "children" in fds else None,
            front=_front(fds["front"]) if "front" in fds else None,
            output=1,
        )
        self._runner = Runner(self, args.get("idempotent", ()))
        self._plugins = prepared or hooks.manager()
        self._prepared = prepared is not None
        self._begun = False
        """The plugin has started, and is told when it ends."""
        # Who waits for what: see serve.
        self._jobs: deque[Job] = deque()
        self._reading = threading.Lock()
        self._counting = threading.Lock()
        self._threads = self._busy = 0
        self._buffer = memoryview(bytearray(_READ))

    # Start.

    def load(self) -> None:
        """Import the plugin and its drivers, let it load its model, and say ready."""
        if ops := self.args.get("ops"):  # for the driver, which is imported now
            from clawai.sdk.tuning import VARIABLE

            os.environ[VARIABLE] = ops
        modules = [importlib.import_module(name) for name in self._module_names()]
        if library := self.args.get("library"):
            from clawai.sdk import native

            self._plugins.register(native.plugin(library))
        if not self._prepared:
            hooks.register(self._plugins, modules)
        self._plugins.check_pending()
        self._plugins.hook.claw_start(worker=self)
        self._begun = True
        self._collect(modules)
        ready = wire.Ready(
            version=wire.VERSION,
            incarnation=self.incarnation,
            slots=self.args["slots"],
            operations=wire.pack([op.info() for op in self._runner.operations.values()]),
        )
        self.send(ready)

    def _module_names(self) -> list[str]:
        own = [] if self.args.get("library") else [self.args["module"]]
        return [*self.args["drivers"], *own]

    def _collect(self, modules: list[ModuleType]) -> None:
        """All operations, which must be those of the manifest."""
        found = [op for module in modules for op in operations_of(vars(module))]
        found += [op for ops in self._plugins.hook.claw_operations() for op in ops]
        self._runner.operations = {op.name: op for op in found}
        require_declared(
            self.args["plugin"], found, self.args["operations"], self.args.get("batches", ())
        )

    def reserve(self, size: int) -> None:
        """Ask the kernel for memory and wait until it is charged."""
        self.send(wire.Reserve(bytes=size, incarnation=self.incarnation))
        self._wait(wire.Granted)

    def notes(self) -> memoryview | None:
        """What an earlier worker left beside its weights; see ``clawai.sdk.plugin.Start``."""
        if self._packed is None and self._packed_fd >= 0 and self.args.get("shares", True):
            try:
                self._packed = Packed.read(self._packed_fd)
            except (OSError, ClawError) as error:
                print(error, file=sys.stderr)
                os.close(self._packed_fd)
                self._packed_fd = -1
        return None if self._packed is None else self._packed.notes

    def weights(
        self,
        layout: str,
        nbytes: int,
        private: int,
        fill: Callable[[memoryview], None],
        notes: bytes | memoryview = b"",
    ) -> memoryview | None:
        """Ask for weights that outlive this worker; see ``clawai.sdk.plugin.Start``."""
        if not self.args.get("shares", True):  # nobody else runs our code: they are our own
            self.reserve(private + nbytes)
            return None
        packed = self._packed
        if packed and (packed.layout, packed.nbytes, packed.notes) != (layout, nbytes, notes):
            packed = None
        behind = envelope(layout, notes) if notes and not packed else b""
        whole = packed.whole if packed else nbytes + len(behind)
        self.send(
            wire.Reserve(
                bytes=private, weights=layout, weights_bytes=whole, incarnation=self.incarnation
            )
        )
        granted = self._wait(wire.Granted)
        if not granted.weights:
            return None
        while self._weights is None:
            self._descriptor("the weights object never came", None)
        fd, size, begin = self._weights
        if size < whole:
            raise ClawError("worker_failed", "the weights object is too small", size, whole)
        try:
            if granted.weights == "fill":
                if packed and self.args.get("packed_huge"):
                    # The kernel sees that nothing was written, and takes the file for the object.
                    os.close(fd)
                    fd, begin = os.dup(self._packed_fd), DATA_AT
                else:
                    behind = behind or (envelope(layout, notes) if notes else b"")
                    fill_weights(fd, nbytes, packed.copy if packed else fill, behind)
                self.send(wire.Filled(incarnation=self.incarnation))
                self._wait(wire.Sealed)
            return map_weights(fd, nbytes, begin)
        finally:
            os.close(fd)
            self._weights = None
            self._let_packed_go()

    def _let_packed_go(self) -> None:
        if self._packed_fd >= 0:
            os.close(self._packed_fd)
        self._packed_fd, self._packed = -1, None

    def _wait(self, kind: type[Any]) -> Any:
        """Handle what comes until a message of ``kind`` does. Only while the plugin loads."""
        self._told = None
        while not isinstance(self._told, kind):
            while not self._inbox:
                try:
                    count = self._sock.recv_into(self._buffer)
                except OSError:
                    self._exit()
                self._received(count)
            self._handle(self._inbox.popleft())
        return self._told

    def listener(self, port: int) -> socket.socket:
        """The listening socket of a port that plugin.toml asks for."""
        return self.network.listener(port)

    def driver(self, device: str) -> Any:
        """The first driver that a plugin offers for ``device``."""
        return hooks.open_device(self._plugins, device)

    def load_model(self) -> Any:
        """The worker's model, from the plugin that knows its format."""
        return hooks.load_model(self._plugins, self.model_fd)

    def quantize(self, weights: Any, dtype: Any, importance: Any = None) -> Any:
        """A matrix in the blocks of ``dtype``, from the plugin that can make them."""
        return hooks.quantize(self._plugins, weights, dtype, importance)

    def unready(self, error: ClawError) -> NoReturn:
        """Tell the kernel why this worker cannot serve, and end."""
        told = error_message(error)
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

    def send(self, message: wire.Message, frames: Sequence[Frame] = ()) -> None:
        """Send one message; threads take turns."""
        self._transmit(self._zmtp.message(wire.encode(message, frames)))

    def send_all(self, messages: Iterable[tuple[wire.Message, Sequence[Frame]]]) -> None:
        """Send several messages in one piece."""
        buffers: list[Any] = []
        for message, frames in messages:
            buffers += self._zmtp.message(wire.encode(message, frames))
        self._transmit(buffers)

    def _transmit(self, buffers: Sequence[Any]) -> None:
        left = [memoryview(buffer) for buffer in buffers if len(buffer)]
        if sum(map(len, left)) <= _JOIN:
            left = [memoryview(b"".join(left))]
        with self._sending:
            while left:
                try:
                    sent = self._sock.sendmsg(left[:256])
                except OSError:
                    self._exit()
                while left and sent >= len(left[0]):
                    sent -= len(left.pop(0))
                if sent:
                    left[0] = left[0][sent:]

    def serve(self) -> NoReturn:
        """Take messages until the kernel says stop or is gone."""
        # Edge-triggered: one message wakes one thread, and none has to say that it has read it.
        self._poll = select.epoll()
        self._poll.register(self._sock, select.EPOLLIN | select.EPOLLET)
        self._more = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._more, select.EPOLLIN | select.EPOLLET)
        while self._inbox:  # what came with the last word of the load
            self._handle(self._inbox.popleft())
        self._threads = 1
        self._spare()
        self._listen()

    def _spare(self) -> None:
        """See to it that a thread listens while this one computes."""
        with self._counting:
            needed = self._threads - self._busy < 2 and self._threads <= self.args["slots"]
            self._threads += needed
        if needed:
            try:
                threading.Thread(target=self._listen, name="listener", daemon=True).start()
            except RuntimeError:  # the plugin has used up its threads: try at the next task
                with self._counting:
                    self._threads -= 1

    def _listen(self) -> NoReturn:
        """What every thread does: run what there is, else wait for more."""
        try:
            while True:
                while self._jobs:
                    self._work()
                self._poll.poll()
                with self._reading:
                    self._read()
        except BaseException:  # of ours: no task may be left without an answer in silence
            traceback.print_exc()
            self._exit(1)

    def _read(self) -> None:
        """Take what has come. Tasks become jobs, everything else is handled at once."""
        while True:
            try:
                count = self._sock.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return  # another thread was faster
            except OSError:
                self._exit()
            self._received(count)
            while self._inbox:
                self._handle(self._inbox.popleft())
            if count < len(self._buffer):
                return

    def _received(self, count: int) -> None:
        if not count:
            self._exit()
        self._inbox.extend(self._zmtp.receive(self._buffer[:count]))
        if due := self._zmtp.outgoing():
            self._transmit([due])

    def _work(self) -> None:
        """Run one job, if no other thread has taken it."""
        try:
            job = self._jobs.popleft()
        except IndexError:
            return
        with self._counting:
            self._busy += 1
        self._spare()
        if self._jobs:
            os.eventfd_write(self._more, 1)  # wakes a thread for the next one
        self._runner.run(job)
        with self._counting:
            self._busy -= 1
        if self._dropping:
            gc.collect()  # the views of a failed operation may hang on its traceback
            self._unmap()

    def _handle(self, frames: list[bytes]) -> None:
        message = wire.decode(frames, wire.ToWorker)
        match message:
            case wire.Run() | wire.Batch():
                self._jobs.append(self._runner.job(message, frames[1:]))
            case wire.Cancel():
                self._runner.cancel(message.id)
            case wire.Granted() | wire.Sealed():
                self._told = message
            case wire.Ping():
                self.send(wire.Pong(seq=message.seq, incarnation=self.incarnation))
            case wire.Drop():
                self._drop(message.segment)
            case wire.Stop():
                self._end()

    def _end(self) -> NoReturn:
        """End in good order: the plugin may still say something."""
        try:
            if self._begun:
                self._plugins.hook.claw_stop()
        except BaseException:
            traceback.print_exc()
        self._exit()

    def _exit(self, code: int = 0) -> NoReturn:
        """End at once: other threads may be in the middle of an operation."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    # Segments.

    def segment(self, number: int) -> mmap.mmap:
        """The mapping of a segment; its descriptor was sent before the first task that uses it."""
        with self._segment_lock:
            while number not in self._segments:
                if number <= self._newest:
                    # Dropped before its task began: its client has left. They come in order.
                    raise ClawError("no_lease", "the segment has ended", got=number)
                self._descriptor("the segment never came", number)
            return self._segments[number]

    def _descriptor(self, missing: str, got: int | None) -> None:
        """Take the next descriptor: of a segment, or of a weights object."""
        data, fds, _, _ = socket.recv_fds(self._leases, 4096, 1)
        if not fds:
            raise ClawError("no_lease", missing, got=got)
        told = msgspec.msgpack.decode(data)
        if "weights" in told:
            self._weights = fds[0], told["bytes"], told.get("at", 0)
            return
        self._newest = told["segment"]
        access = mmap.ACCESS_READ if told.get("rights") == "r" else mmap.ACCESS_WRITE
        self._segments[told["segment"]] = mmap.mmap(fds[0], told["bytes"], access=access)
        os.close(fds[0])

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

    def progress(self, task: int, fraction: float | None, note: str) -> None:
        """Pass an operation's progress on."""
        told = wire.Progress(
            id=task,
            fraction=None if fraction is None else float(fraction),
            note=str(note)[:2000],
            incarnation=self.incarnation,
        )
        self.send(told)

    def chunk(self, task: int, data: wire.Raw) -> None:
        """Pass a piece of an operation's stream on."""
        self.send(wire.Chunk(id=task, data=data, incarnation=self.incarnation))


def _children(fd: int) -> "Children":
    """The way to other operations; what it is made of is loaded only where there is one."""
    from clawai.sdk.children import Children

    return Children(fd)


def _front(fd: int) -> "tuple[int, Session]":
    """The way to ask for others."""
    from clawai.sdk.session import Session

    return fd, Session()
