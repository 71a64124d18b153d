"""How a plugin says what it does: typed functions become operations.

    from clawai.sdk import operation

    @operation("hello.greet")
    def greet(name: str = "world") -> str:
        return f"Hello, {name}!"

The signature is the schema: parameters are checked against it before the function runs, unknown
ones are refused. A parameter annotated ``Context`` is not part of the schema; the worker fills it.
A generator streams: what it yields are chunks, what it returns is the result.
"""

import inspect
import mmap
import time
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, overload

import msgspec

from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.hookspecs import hookimpl, hookspec

if TYPE_CHECKING:
    import numpy

__all__ = ["Cancelled", "Context", "Operation", "Tensor", "hookimpl", "hookspec", "operation"]

INLINE = 64 * 1024
"""Bytes up to which an array travels as a frame although a lease could be had."""


class Cancelled(Exception):
    """The task is to stop; raised by ``Context.checkpoint``."""


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


@dataclass(slots=True)
class Context:
    """What an operation may ask for while it runs."""

    task: int
    outlet: Outlet
    control: memoryview
    """One word; not 0 means stop. C code may poll it between its steps."""
    deadline: float | None = None
    """On ``time.monotonic``'s clock."""
    priority: str = "interactive"
    frames: tuple[bytes, ...] = ()
    leases: tuple[wire.Lease, ...] = ()
    compute_us: int = 0
    """Time spent in the model; add to it, and the reply says where the time went."""
    reply_frames: list[bytes] = field(default_factory=list)

    @property
    def stopped(self) -> bool:
        """Whether the task is to stop."""
        return bool(self.control[0])

    def checkpoint(self) -> None:
        """Call often in long work: raises ``Cancelled`` when the task is to stop."""
        if self.control[0]:
            raise Cancelled

    def progress(self, fraction: float | None = None, note: str = "") -> None:
        """Tell the owner how far the task is, 0 to 1."""
        self.outlet.progress(self.task, fraction, note)

    def remaining(self) -> float | None:
        """Seconds until the deadline, or None."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def array(self, tensor: Tensor) -> "numpy.ndarray[Any, Any]":
        """The array that ``tensor`` names: a view, without a copy; writable in a lease with "rw".

        Raises:
            ClawError: bad_params, if it does not fit its frame or lease.
        """
        if tensor.lease is not None and 0 <= tensor.lease < len(self.leases):
            lease = self.leases[tensor.lease]
            whole = memoryview(self.outlet.segment(lease.segment))
            buffer = whole[lease.offset : lease.offset + lease.length]
            if lease.rights == "r":
                buffer = buffer.toreadonly()
        elif tensor.frame is not None and 0 <= tensor.frame < len(self.frames):
            buffer = memoryview(self.frames[tensor.frame])
        else:
            raise ClawError("bad_params", "a tensor names a frame or a lease of its own message")
        return view(tensor, buffer)

    def reply(self, array: "numpy.ndarray[Any, Any]", into: Tensor | None = None) -> Tensor:
        """Send an array with the result: in the lease of ``into`` if it fits there, else a frame.

        Raises:
            ClawError: too_large, if it fits neither.
        """
        dtype, shape = array.dtype.str, tuple(array.shape)
        if into is not None and into.lease is not None:
            room = self.leases[into.lease].length
            if array.nbytes <= room:
                target = Tensor(dtype, shape, lease=into.lease)
                view_of = self.array(target)
                if view_of.ctypes.data != array.ctypes.data:
                    view_of[...] = array
                return target
        if array.nbytes > wire.MAX_MESSAGE // 2 or len(self.reply_frames) >= wire.MAX_FRAMES - 1:
            raise ClawError(
                "too_large", "the array fits no frame", array.nbytes, wire.MAX_MESSAGE // 2
            )
        self.reply_frames.append(array.tobytes())
        return Tensor(dtype, shape, frame=len(self.reply_frames) - 1)


def view(tensor: Tensor, buffer: memoryview) -> "numpy.ndarray[Any, Any]":
    """``buffer`` as the array that ``tensor`` describes; both come from a stranger.

    Raises:
        ClawError: bad_params.
    """
    import numpy

    try:
        dtype = numpy.dtype(tensor.dtype)
    except Exception as error:  # numpy reads a text with commas or braces as Python
        raise ClawError("bad_params", "not a dtype", got=tensor.dtype[:40]) from error
    count = 1
    for size in tensor.shape:
        count *= max(size, 0)
    plain = dtype.itemsize and not (dtype.hasobject or dtype.names or dtype.subdtype)
    if not plain or min(tensor.shape, default=0) < 0:
        raise ClawError("bad_params", "not a plain fixed-size dtype or shape", got=tensor.dtype)
    if count * dtype.itemsize > len(buffer) or len(tensor.shape) > 16:
        raise ClawError(
            "bad_params",
            "the array is larger than its buffer",
            got=count * dtype.itemsize,
            allowed=len(buffer),
        )
    try:
        return numpy.frombuffer(buffer, dtype, count).reshape(tensor.shape)
    except ValueError as error:  # no elements, but sizes beside the 0 that are too large together
        raise ClawError("bad_params", "not a shape", got=list(tensor.shape)) from error


@dataclass(frozen=True, slots=True)
class Operation:
    """A function with its name and its parameters as a checked type."""

    name: str
    function: Callable[..., Any]
    params: type[msgspec.Struct]
    context_name: str | None
    streams: bool
    summary: str

    def info(self) -> wire.OperationInfo:
        """What the kernel and clients are told of it."""
        schema = msgspec.json.schema(self.params)
        return wire.OperationInfo(name=self.name, summary=self.summary, params=wire.pack(schema))

    def arguments(self, raw: wire.Raw | bytes, context: Context | None) -> dict[str, Any]:
        """Decode and check parameters.

        Raises:
            ClawError: bad_params, naming the field.
        """
        try:
            checked = msgspec.msgpack.decode(raw, type=self.params)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            fields = [f.encode_name for f in msgspec.structs.fields(self.params)]
            raise ClawError("bad_params", f"{self.name}: {error}"[:1000], allowed=fields) from None
        values = {name: getattr(checked, name) for name in self.params.__struct_fields__}
        if self.context_name:
            values[self.context_name] = context
        return values


@overload
def operation(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
@overload
def operation(name: Callable[..., Any]) -> Callable[..., Any]: ...
def operation(name: str | Callable[..., Any]) -> Any:
    """Mark a function as an operation; without a name it is ``MODULE.FUNCTION``."""
    if callable(name):
        function = name
        return operation(f"{function.__module__.rpartition('.')[2]}.{function.__name__}")(function)
    chosen = name

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__claw_operation__ = chosen  # type: ignore[attr-defined]
        return function

    return mark


def build(name: str, function: Callable[..., Any]) -> Operation:
    """The operation of a function, from its signature.

    Raises:
        TypeError: a parameter has no annotation, or one that msgpack cannot carry.
    """
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function, include_extras=True)
    fields: list[Any] = []
    context_name = None
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{name}: parameter {parameter.name!r} must be a plain named one")
        hint = hints.get(parameter.name)
        if hint is Context:
            context_name = parameter.name
        elif hint is None:
            raise TypeError(f"{name}: parameter {parameter.name!r} needs a type annotation")
        elif parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        else:
            fields.append((parameter.name, hint, parameter.default))
    params = msgspec.defstruct(
        name.replace(".", "_"), fields, kw_only=True, forbid_unknown_fields=True
    )
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    streams = inspect.isgeneratorfunction(inspect.unwrap(function))
    return Operation(name, function, params, context_name, streams, summary[:500])


def operations_of(namespace: Mapping[str, Any] | object) -> Iterable[Operation]:
    """The marked functions of a module, or the marked methods of an object."""
    names = namespace if isinstance(namespace, Mapping) else dir(namespace)
    for attribute in sorted(names):
        value = (
            namespace[attribute]
            if isinstance(namespace, Mapping)
            else getattr(namespace, attribute, None)
        )
        name = getattr(value, "__claw_operation__", None)
        if name and callable(value):
            yield build(name, value)


class Start(Protocol):
    """What a plugin is given once, before its worker is ready (hook ``claw_start``)."""

    model: Mapping[str, Any]
    """name, bytes, capability; empty for a tool."""
    model_fd: int
    """The model file, open for reading; -1 for a tool."""
    threads: int
    context: int
    control: memoryview
    """The whole control page, 32-bit words, one a slot."""

    def reserve(self, size: int) -> None:
        """Ask the kernel to charge ``size`` bytes, and wait; call it once, before allocating.

        Raises:
            ClawError: never_fits.
        """

    def driver(self, device: str) -> Any:
        """The driver for a device.

        Raises:
            ClawError: worker_failed, if no plugin has one.
        """
