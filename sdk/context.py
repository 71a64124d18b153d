"""What an operation may ask for while it runs: its control word, its arrays, its deadline.

A worker never decides for itself when to stop, wait or give its task back: it looks at a word that
the kernel writes and it can only read. ``Context.checkpoint`` obeys that word. What a stranger
names as an array is checked against the bytes that are really there.
"""

import functools
import math
import mmap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import msgspec

from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.home import NOTHING, Home
from clawai.sdk.loglines import Level
from clawai.sdk.net import Caller, Listener, network_of

if TYPE_CHECKING:
    import socket

    import httpx
    import numpy

    from clawai.sdk.children import Line
    from clawai.sdk.client import Task
    from clawai.sdk.front import Front

F = TypeVar("F", bound="Front")
__all__ = ["Batch", "Cancelled", "Context", "Outlet", "Tensor", "Yielded", "view"]

_FRAME = wire.MAX_MESSAGE // 2
"""Bytes of an array that is sent in a frame."""
_PAUSES = (0.0002, 0.002)
"""Seconds between two looks of a held task at its word: the first pause, and the longest. A page
that is mapped for reading only can wake nobody."""


class Cancelled(Exception):
    """The task is to stop; raised by ``Context.checkpoint``."""


class Yielded(Exception):
    """The task goes back to its queue and begins anew later; raised by ``Context.checkpoint``.

    Only for a task that can: its operation is idempotent and it has streamed nothing yet.
    """


class Tensor(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where an array travels: in payload frame ``frame``, or in lease ``lease`` of the request."""

    dtype: str
    """numpy's name of a fixed-size type, such as "<f4"."""
    shape: tuple[int, ...]
    frame: int | None = None
    lease: int | None = None


class Outlet(Protocol):
    """Where a context sends what the operation says."""

    def progress(self, task: int, fraction: float | None, note: str) -> None:
        """Tell the owner how far the task is."""

    def segment(self, number: int) -> mmap.mmap:
        """The mapping of a segment that the kernel gave to this worker."""

    def chunk(self, task: int, data: wire.Raw) -> None:
        """Send a piece of a stream, for those who cannot yield it."""


@dataclass(slots=True)
class Context:
    """One task, as its operation sees it."""

    task: int
    outlet: Outlet
    control: memoryview
    """One word; ``wire.GO`` and its neighbours say what it means. C code may poll it too."""
    deadline: float | None = None
    """On ``time.monotonic``'s clock."""
    priority: wire.Priority = "interactive"
    frames: tuple[bytes, ...] = ()
    leases: tuple[wire.Lease, ...] = ()
    compute_us: int = 0
    """Time spent in the model; add to it, and the reply says where the time went."""
    reply_frames: list[bytes | memoryview] = field(default_factory=list)
    cancelled: bool = False
    """Set for one task of a batch, whose control word is that of the whole batch."""
    may_yield: bool = False
    """Whether it can begin anew; the host says so, and takes it back when the task streams."""
    most_threads: int = 1
    """With which the worker was started."""
    principal: str = ""
    """Who asked. What is kept of a task may serve the same one's next tasks, never another's."""
    home: Home = NOTHING
    """What its worker has of its own."""
    line: "Line | None" = None
    """Its child tasks, once it has any."""
    allocated: list[tuple[Any, int | None]] = field(default_factory=list)
    """Arrays of ``allocate``, and the lease of each."""
    clock: Callable[[], float] = time.monotonic
    """Of the deadline; tests have one that they move."""

    @property
    def stopped(self) -> bool:
        """Whether the task is to stop."""
        return self.cancelled or self.control[0] & 0xFF == wire.STOP

    @property
    def threads(self) -> int:
        """How many threads it may use now; the kernel changes this while the task runs."""
        return self.control[0] >> 8 & 0xFF or self.most_threads

    def checkpoint(self) -> None:
        """Call often in long work: obeys the kernel, and costs nothing while it asks for nothing.

        Waits here while a more urgent task uses the processor.

        Raises:
            Cancelled: the task is to stop. Let it pass.
            Yielded: the task is given back and will begin anew. Let it pass.
        """
        if self.cancelled or self.control[0] & 0xFF:
            self._obey()

    def _obey(self) -> None:
        pause, longest = _PAUSES
        while True:
            word = self.control[0] & 0xFF
            if self.cancelled or word == wire.STOP:
                raise Cancelled
            if word == wire.YIELD and self.may_yield:
                raise Yielded
            if word != wire.HOLD:
                return
            time.sleep(pause)
            pause = min(2 * pause, longest)

    def progress(self, fraction: float | None = None, note: str = "") -> None:
        """Tell the owner how far the task is, 0 to 1."""
        self.outlet.progress(self.task, fraction, note)

    @property
    def control_address(self) -> int:
        """Where the control word lies, for C code that polls it: a ``const volatile uint32_t *``.

        It is the worker's for as long as this lives; what it says, ``clawai.sdk.wire`` names.
        """
        from _cffi_backend import FFI

        ffi = FFI()
        return int(ffi.cast("uintptr_t", ffi.from_buffer(self.control)))

    # What the worker has of its own.

    def log(self, level: Level, text: str) -> None:
        """Write to the kernel's log, under the plugin's name and the task's number.

        Of more than a hundred lines a second the rest is left out, and counted.
        """
        self.home.log(level, text, self.task)

    @property
    def config(self) -> Mapping[str, Any]:
        """What the owner has set: the keys of ``[config.KEY]`` in plugin.toml, typed."""
        return self.home.config

    @property
    def data(self) -> Path:
        """A folder of the plugin's own that outlives its workers; ``data_mib`` says how large.

        Raises:
            ClawError: not_permitted, if plugin.toml has no ``data_mib``.
        """
        return self.home.data

    def secret(self, key: str) -> str:
        """A secret that the owner has given the plugin.

        Raises:
            ClawError: not_permitted, if there is none.
        """
        return self.home.secret(key)

    # Other operations.

    def submit(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        *,
        model: str = "",
        priority: wire.Priority | None = None,
        deadline: float | None = None,
        frames: Sequence[bytes | memoryview] = (),
    ) -> "Task":
        """Ask for another operation, as a child of this task; iterate over it for its events.

        It has this task's principal, its priority unless a lower one is given, and its deadline
        unless an earlier one is. It ends with this task at the latest.

        Args:
            priority: a lower one.
            deadline: seconds from now.

        Raises:
            ClawError: not_permitted, if plugin.toml does not name operation and model under
                ``[permissions]``. Waiting for it raises ``Cancelled`` or ``Yielded`` as
                ``checkpoint`` does.
        """
        if self.line is None:
            if self.home.children is None:
                raise ClawError(
                    "not_permitted",
                    "this plugin may call no operation",
                    got=op,
                    hint="name it under [permissions.operations] in plugin.toml, with the reason",
                )
            from clawai.sdk.children import Line

            self.line = Line(self.home.children, self)
        options: dict[str, Any] = {"model": model, "priority": priority, "deadline": deadline}
        return self.line.submit(op, params, frames=frames, **options)

    def call(self, op: str, params: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Ask for another operation and wait; its result. See ``submit``."""
        return self.submit(op, params, **options).result().value

    @overload
    def front(self) -> "Front": ...

    @overload
    def front(self, kind: type[F]) -> F: ...

    def front(self, kind: Any = None) -> Any:
        """The kernel's asynchronous client, to ask for others whom this plugin serves.

        One at a time. Its tasks are no children of this one; see ``clawai.sdk.front``.

        Args:
            kind: a class of the plugin's own, made of ``Front``.

        Raises:
            ClawError: not_permitted, if plugin.toml has no ``on_behalf_of`` or no operations.
        """
        if self.home.front is None:
            raise ClawError(
                "not_permitted",
                "this plugin may not act for others",
                hint="on_behalf_of in [permissions] of plugin.toml asks for it, with the reason",
            )
        from clawai.sdk.front import Front

        return (kind or Front)(*self.home.front)

    def connect(self, host: str, port: int, timeout: float = 30.0) -> "socket.socket":
        """A connected socket, made by the broker: ``permissions.network`` must ask for the host.

        Raises:
            ClawError: not_permitted; network, with ``reason`` (``clawai.sdk.net.NetworkError``).
            Cancelled: the task is to stop.
        """
        return network_of(self.outlet).connect(host, port, timeout, self.checkpoint)

    @property
    def http(self) -> "httpx.Client":
        """An HTTP client whose connections the broker makes; one for all tasks of the worker.

        Raises:
            ClawError: not_permitted; unsupported_system, if httpx is missing (``clawai[http]``).
        """
        return network_of(self.outlet).http

    def listener(self, port: int) -> "Listener":
        """The listening socket of a port that ``permissions.listen`` asks for.

        Raises:
            ClawError: not_permitted.
        """
        return network_of(self.outlet).listener(port)

    def shared_memory(self, name: str, peer: tuple[str, int]) -> int:
        """A descriptor of shared memory of this box, for reading and writing; the caller closes it.

        Args:
            name: of the file in ``/dev/shm``; ``permissions.shared_memory`` must ask for it.
            peer: address of a connection to a listener of this plugin. The memory is opened only
                if it belongs to the user who has made that.

        Raises:
            ClawError: not_permitted, bad_params; network, with ``reason``.
        """
        return network_of(self.outlet).shared_memory(name, peer)

    def caller(self, peer: tuple[str, int]) -> Caller:
        """Who has made a connection to a listener of this plugin, as the system knows it.

        Ask while it is open, and look afterwards whether it still is.

        Args:
            peer: its address, as ``accept`` has told it.

        Raises:
            ClawError: not_permitted; network, with ``reason``.
        """
        return network_of(self.outlet).caller(peer)

    def remaining(self) -> float | None:
        """Seconds until the deadline, or None."""
        return None if self.deadline is None else self.deadline - self.clock()

    def array(self, tensor: Tensor) -> "numpy.ndarray[Any, Any]":
        """The array that ``tensor`` names: a view, without a copy; writable in a lease with "rw".

        Raises:
            ClawError: bad_params, if it does not fit its frame or lease.
        """
        return view(tensor, self.memory(tensor))

    def memory(self, tensor: Tensor) -> memoryview:
        """The bytes of the frame or lease that ``tensor`` names; it may not fit them.

        Raises:
            ClawError: bad_params, if there is no such frame or lease.
        """
        if tensor.lease is not None and 0 <= tensor.lease < len(self.leases):
            lease = self.leases[tensor.lease]
            whole = memoryview(self.outlet.segment(lease.segment))
            buffer = whole[lease.offset : lease.offset + lease.length]
            return buffer.toreadonly() if lease.rights == "r" else buffer
        if tensor.frame is not None and 0 <= tensor.frame < len(self.frames):
            return memoryview(self.frames[tensor.frame])
        raise ClawError("bad_params", "a tensor names a frame or a lease of its own message")

    def allocate(
        self, shape: tuple[int, ...], dtype: str = "<f4", into: Tensor | None = None
    ) -> "numpy.ndarray[Any, Any]":
        """An array for a result, to be filled and given to ``reply``, which then copies nothing.

        It lies in the lease of ``into`` if the caller lent one for writing that is large enough;
        else in memory of the worker, and is sent as a frame. Its contents are not zeroed.

        Raises:
            ClawError: bad_params; too_large, if it fits no frame and the caller lent nothing.
        """
        import numpy

        wanted = Tensor(dtype, tuple(shape))
        empty = view(Tensor(dtype, (0,)), memoryview(b""))  # checks the dtype
        size = empty.itemsize * max(0, math.prod(wanted.shape))
        if into is not None and into.lease is not None and 0 <= into.lease < len(self.leases):
            lease = self.leases[into.lease]
            if lease.rights == "rw" and size <= lease.length:
                array = self.array(Tensor(dtype, wanted.shape, lease=into.lease))
                self.allocated.append((array, into.lease))
                return array
        if size > _FRAME:
            hint = "the caller can lend memory for it (Client.borrow) and name it in a parameter"
            raise ClawError("too_large", "bytes of an array in a frame", size, _FRAME, hint)
        array = view(wanted, numpy.empty(size, "|u1").data)
        self.allocated.append((array, None))
        return array

    def reply(self, array: "numpy.ndarray[Any, Any]", into: Tensor | None = None) -> Tensor:
        """Send an array with the result: in the lease of ``into`` if it fits there, else a frame.

        One of ``allocate`` is not copied, and must not be changed afterwards.

        Raises:
            ClawError: too_large, if it fits neither.
        """
        dtype, shape = array.dtype.str, tuple(array.shape)
        place = next((held for made, held in self.allocated if made is array), -1)
        if place is not None and place >= 0:
            return Tensor(dtype, shape, lease=place)
        if into is not None and into.lease is not None:
            room = self.leases[into.lease].length
            if array.nbytes <= room:
                target = Tensor(dtype, shape, lease=into.lease)
                view_of = self.array(target)
                if view_of.ctypes.data != array.ctypes.data:
                    view_of[...] = array
                return target
        if array.nbytes > _FRAME or len(self.reply_frames) >= wire.MAX_FRAMES - 1:
            raise ClawError("too_large", "the array fits no frame", array.nbytes, _FRAME)
        whole = place is None and array.nbytes > 0  # of ``allocate``
        self.reply_frames.append(array.data.cast("B") if whole else array.tobytes())
        return Tensor(dtype, shape, frame=len(self.reply_frames) - 1)


class Batch(Sequence[Context]):
    """The contexts of the tasks that one call of a batch operation serves, in the items' order."""

    def __init__(self, contexts: Sequence[Context]) -> None:
        self._contexts = tuple(contexts)

    def __len__(self) -> int:
        return len(self._contexts)

    @overload
    def __getitem__(self, index: int) -> Context: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Context, ...]: ...
    def __getitem__(self, index: int | slice) -> Context | tuple[Context, ...]:
        return self._contexts[index]

    @property
    def threads(self) -> int:
        """How many threads the batch may use now."""
        return self._contexts[0].threads

    def checkpoint(self) -> None:
        """As ``Context.checkpoint``, for all: ``Cancelled`` only when every task is to stop."""
        open_ones = (context for context in self._contexts if not context.cancelled)
        next(open_ones, self._contexts[0]).checkpoint()


def view(tensor: Tensor, buffer: memoryview) -> "numpy.ndarray[Any, Any]":
    """``buffer`` as the array that ``tensor`` describes; both come from a stranger.

    Raises:
        ClawError: bad_params.
    """
    dtype, from_buffer = _numpy(tensor.dtype)
    count = 1
    for size in tensor.shape:
        count *= max(size, 0)
    if min(tensor.shape, default=0) < 0:
        raise ClawError("bad_params", "not a shape", got=list(tensor.shape))
    if count * dtype.itemsize > len(buffer) or len(tensor.shape) > 16:
        raise ClawError(
            "bad_params",
            "the array is larger than its buffer",
            got=count * dtype.itemsize,
            allowed=len(buffer),
        )
    try:
        array: numpy.ndarray[Any, Any] = from_buffer(buffer, dtype, count)
        return array if tensor.shape == (count,) else array.reshape(tensor.shape)
    except ValueError as error:  # no elements, but sizes beside the 0 that are too large together
        raise ClawError("bad_params", "not a shape", got=list(tensor.shape)) from error


@functools.lru_cache(64)
def _numpy(name: str) -> "tuple[numpy.dtype[Any], Callable[..., Any]]":
    """The plain fixed-size type of a name, and what makes an array: looked up once for each name.

    Raises:
        ClawError: bad_params.
    """
    import numpy

    try:
        dtype = numpy.dtype(name)
    except Exception as error:  # numpy reads a text with commas or braces as Python
        raise ClawError("bad_params", "not a dtype", got=name[:40]) from error
    if not dtype.itemsize or dtype.hasobject or dtype.names or dtype.subdtype:
        raise ClawError("bad_params", "not a plain fixed-size dtype", got=name[:40])
    return dtype, numpy.frombuffer
