"""How a plugin says what it does: typed functions become operations.

    from clawai.sdk import operation

    @operation("hello.greet")
    def greet(name: str = "world") -> str:
        return f"Hello, {name}!"

The signature is the schema: parameters are checked against it before the function runs, unknown
ones are refused. A parameter annotated ``Context`` is not part of the schema; the worker fills it.
A generator streams: what it yields are chunks, what it returns is the result.

Work that is cheaper together takes the tasks of several callers in one call:

    class Picture(Params):
        pixels: Tensor
        labels: int = 1

    @batched("vision.classify")
    def classify(pictures: list[Picture], batch: Batch) -> list[dict]:
        arrays = [task.array(picture.pixels) for task, picture in zip(batch, pictures)]
        ...

``Picture`` is the schema of one task; nobody who calls it sees the batch. It returns one result for
each, in order; a ``ClawError`` among them fails that one only, one that is raised fails all.
"""

import inspect
import socket
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, overload

import msgspec

from clawai.sdk import schema, wire
from clawai.sdk.context import Batch, Cancelled, Context, Outlet, Tensor, Yielded, view
from clawai.sdk.errors import ClawError
from clawai.sdk.hookspecs import hookimpl, hookspec

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from clawai.sdk.model.dtypes import DType
    from clawai.sdk.model.loaded import LoadedModel

__all__ = [
    "Batch",
    "Cancelled",
    "Context",
    "Operation",
    "Outlet",
    "Params",
    "Tensor",
    "Yielded",
    "batched",
    "hookimpl",
    "hookspec",
    "operation",
    "view",
]


class Params(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The parameters of one task of a batch operation: make a subclass with the fields."""


class OperationInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operation as a worker announces it (``wire.Ready``)."""

    name: wire.Name
    summary: wire.Text = ""
    params: wire.Raw = wire.EMPTY_MAP
    """A JSON schema."""
    description: wire.Text = ""
    result: wire.Raw = wire.NIL
    """A JSON schema, or nil where the author does not say."""
    chunks: wire.Raw = wire.NIL
    """Of a stream: the same for each piece."""
    stream: bool = False
    batch: bool = False


@dataclass(frozen=True)
class Operation:
    """A function with its name and its parameters as a checked type."""

    name: str
    function: Callable[..., Any]
    params: type[msgspec.Struct]
    context_name: str | None
    """Of the parameter that takes the ``Context``, or the ``Batch``."""
    streams: bool
    summary: str
    items_name: str | None = None
    """Of a batch operation: the parameter that takes the list of parameters."""

    def info(self) -> OperationInfo:
        """What the kernel and clients are told of it, from its signature and its docstring."""
        return self._info

    @cached_property
    def _info(self) -> OperationInfo:
        # A method's parameters are those of the function behind it; a batch's those of its items.
        names = list(self.params.__struct_fields__)
        hints = _hints(self.function)
        doc = schema.parse_doc(inspect.getdoc(self.function), names)
        texts = schema.annotated_texts(hints)
        if self.batch:
            texts = schema.parse_doc(self.params.__doc__, names).params
            texts |= schema.annotated_texts(_hints(self.params))
        params = schema.with_texts(msgspec.json.schema(self.params), {**doc.params, **texts})
        given = schema.results(self.function, hints, self.batch)
        return OperationInfo(
            name=self.name,
            summary=self.summary,
            params=wire.pack(params),
            description=doc.text,
            stream=self.streams,
            batch=self.batch,
            **{key: wire.pack(value) for key, value in given.items() if value is not None},
        )

    @property
    def batch(self) -> bool:
        """Whether one call takes several tasks."""
        return self.items_name is not None

    def checked(self, raw: wire.Raw | bytes) -> Any:
        """Decode and check the parameters of one task.

        Raises:
            ClawError: bad_params, naming the field.
        """
        try:
            return msgspec.msgpack.decode(raw, type=self.params)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            fields = [f.encode_name for f in msgspec.structs.fields(self.params)]
            raise ClawError("bad_params", f"{self.name}: {error}"[:1000], allowed=fields) from None

    def arguments(self, raw: wire.Raw | bytes, context: Context | None) -> dict[str, Any]:
        """What the function is called with, for one task.

        Raises:
            ClawError: bad_params, naming the field.
        """
        checked = self.checked(raw)
        values = {name: getattr(checked, name) for name in self.params.__struct_fields__}
        if self.context_name:
            values[self.context_name] = context
        return values

    def call_batch(self, items: list[Any], batch: Batch) -> list[Any]:
        """Run a batch operation.

        Args:
            items: what ``checked`` gave for each task.
            batch: their contexts.

        Returns:
            A result or a ``ClawError`` for each.

        Raises:
            ClawError: worker_failed, if the function returned something else.
        """
        assert self.items_name
        values: dict[str, Any] = {self.items_name: items}
        if self.context_name:
            values[self.context_name] = batch
        results = self.function(**values)
        if not isinstance(results, list | tuple) or len(results) != len(items):
            count = len(results) if isinstance(results, list | tuple) else type(results).__name__
            raise ClawError(
                "worker_failed",
                f"{self.name} must return a list with one result for each task",
                got=count,
                allowed=len(items),
            )
        return list(results)


@overload
def operation(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
@overload
def operation(name: Callable[..., Any]) -> Callable[..., Any]: ...
def operation(name: str | Callable[..., Any]) -> Any:
    """Mark a function as an operation; without a name it is ``MODULE.FUNCTION``.

    It may run in any thread of its worker, and in as many at once as plugin.toml has slots.
    """
    if callable(name):
        function = name
        return operation(f"{function.__module__.rpartition('.')[2]}.{function.__name__}")(function)
    chosen = name

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__claw_operation__ = chosen  # type: ignore[attr-defined]
        return function

    return mark


def batched(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function that takes several tasks in one call as an operation.

    Its parameters are a list of a subclass of ``Params``, and if it likes a ``Batch``. How many
    tasks it may be given at once is ``batch`` of its ``[[operation]]`` in plugin.toml.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__claw_operation__ = name  # type: ignore[attr-defined]
        function.__claw_batched__ = True  # type: ignore[attr-defined]
        return function

    return mark


def build(name: str, function: Callable[..., Any]) -> Operation:
    """The operation of a function, from its signature.

    Raises:
        TypeError: a parameter has no annotation, or one that msgpack cannot carry; or a batch
            function has not the signature of one.
    """
    if getattr(function, "__claw_batched__", False):
        return _build_batched(name, function)
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
    streams = inspect.isgeneratorfunction(inspect.unwrap(function))
    return Operation(name, function, params, context_name, streams, _summary(function))


def _hints(thing: Any) -> dict[str, Any]:
    """The annotations of a function or a class; none of what has none that can be read."""
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except (TypeError, NameError):
        return {}


def _summary(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0][:500]


def _is_params(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Params)


def _build_batched(name: str, function: Callable[..., Any]) -> Operation:
    hints = typing.get_type_hints(function)
    items, batch, others = [], [], []
    for parameter in inspect.signature(function).parameters:
        hint = hints.get(parameter)
        inner = typing.get_args(hint)
        if hint is Batch:
            batch.append(parameter)
        elif typing.get_origin(hint) is list and _is_params(inner[0]):
            items.append((parameter, inner[0]))
        else:
            others.append(parameter)
    if len(items) != 1 or len(batch) > 1 or others:
        raise TypeError(
            f"{name}: a batch operation takes one list of a subclass of Params, and if it likes a "
            f"Batch; got {inspect.signature(function)}"
        )
    if inspect.isgeneratorfunction(inspect.unwrap(function)):
        raise TypeError(f"{name}: a batch operation cannot stream")
    (items_name, params), context_name = items[0], batch[0] if batch else None
    return Operation(name, function, params, context_name, False, _summary(function), items_name)


def operations_of(namespace: Mapping[str, Any] | object) -> Iterable[Operation]:
    """The marked functions of a module, or the marked methods of an object."""
    if isinstance(namespace, Mapping):
        values = [namespace[name] for name in sorted(namespace)]
    else:  # looked at first as it stands: a property must not run to show that it is none
        static = [(name, inspect.getattr_static(namespace, name)) for name in dir(namespace)]
        marked = [name for name, value in static if getattr(value, "__claw_operation__", None)]
        values = [getattr(namespace, name) for name in marked]
    for value in values:
        name = getattr(value, "__claw_operation__", None)
        if name and callable(value):
            yield build(name, value)


def require_declared(
    plugin: str, found: Sequence[Operation], declared: Iterable[str], batches: Iterable[str]
) -> None:
    """Refuse operations that are not those of the manifest.

    Raises:
        ClawError: bad_config.
    """
    names, allowed = sorted(op.name for op in found), sorted(declared)
    if names != allowed:
        raise ClawError(
            "bad_config",
            f"{plugin}: the operations differ from those of plugin.toml",
            got=names,
            allowed=allowed,
            hint="each @operation needs an [[operation]] in plugin.toml and the reverse",
        )
    alone = sorted(op.name for op in found if op.name in batches and not op.batch)
    if alone:
        raise ClawError(
            "bad_config",
            f"{plugin}: these have batch > 1 in plugin.toml but take one task at a time",
            got=alone,
            hint="mark their functions with @batched, or leave batch away",
        )


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
    args: Mapping[str, Any]
    """What else the kernel says of the worker, such as ``slots``: how many tasks run at once."""

    def reserve(self, size: int) -> None:
        """Ask the kernel to charge ``size`` bytes, and wait; call it once, before allocating.

        Raises:
            ClawError: never_fits.
        """

    def notes(self) -> memoryview | None:
        """What an earlier worker of the same code and model file gave ``weights``; None: nothing.

        They come from the disk, and from a worker that may have met a hostile model: decode them
        with the care that the model's file gets.
        """

    def weights(
        self,
        layout: str,
        nbytes: int,
        private: int,
        fill: Callable[[memoryview], None],
        notes: bytes | memoryview = b"",
    ) -> memoryview | None:
        """Ask for weights that outlive this worker, and wait; instead of ``reserve``.

        Args:
            layout: names how the bytes are laid out; another layout is another object.
            nbytes: how large the weights are.
            private: what the worker will hold beside them.
            fill: writes them; called only if nobody has yet. It must keep no view of the memory.
            notes: kept on the disk with the weights, for ``notes`` of those after this worker.

        Returns:
            The weights, for reading only. None: there is no object, and ``private + nbytes`` are
            charged as the worker's own memory.

        Raises:
            ClawError: worker_failed, if ``fill`` kept a view. (``never_fits`` ends the worker.)
        """

    def listener(self, port: int) -> socket.socket:
        """The listening socket of a port that ``permissions.listen`` asks for.

        Raises:
            ClawError: not_permitted.
        """

    def driver(self, device: str) -> Any:
        """The driver for a device.

        Raises:
            ClawError: worker_failed, if no plugin has one.
        """

    def load_model(self) -> "LoadedModel":
        """The worker's model, from the plugin that knows the format of its file.

        Raises:
            ClawError: bad_model, if nobody does or the file cannot be used.
        """

    def quantize(
        self,
        weights: "NDArray[float32]",
        dtype: "DType",
        importance: "NDArray[float32] | None" = None,
    ) -> Any:
        """A float32 matrix (rows, k) in the blocks of a GGUF type, as bytes or a view of them.

        Args:
            importance: how much the error of each column counts; None: all alike.

        Raises:
            ClawError: bad_params, if a weight is not finite or too large; worker_failed, if no
                plugin can make the type.
        """
