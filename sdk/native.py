"""Plugins in C and C++: the Python half of their host, inside the sandboxed worker.

A shared object is loaded by ``csrc/host.c``, which checks all that it says of itself and offers it
the functions of ``clawai.h``; each of its operations becomes an ``Operation`` here, with its static
table of parameters as the schema. So parameters are checked, results sent and errors told exactly
as for Python. The interpreter's lock is not held while the plugin's code runs.

Refused, each with the next step: a file outside of the plugin's folder, one for another processor,
one that needs a library or a symbol that is not there, one without ``claw_entry``, one that is
built for a newer ``clawai.h`` than this.
"""

import contextlib
import keyword
import os
import re
import struct
import sys
import time
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from clawai.sdk import wire
from clawai.sdk._native import ffi, lib
from clawai.sdk.context import Cancelled, Context, Tensor, Yielded
from clawai.sdk.errors import ClawError
from clawai.sdk.hookspecs import hookimpl
from clawai.sdk.plugin import Operation
from clawai.sdk.runner import RESULT, fits

I64, F64, BOOL, STR, BYTES, TENSOR = range(1, 7)
_TYPES: dict[int, Any] = {I64: int, F64: float, BOOL: bool, STR: str, BYTES: bytes, TENSOR: Tensor}
_HAS_DEFAULT, _IS_OPTIONAL, _HAS_RANGE = 1, 2, 4
_OK, _FAILED, _STOPPED, _YIELDED = range(4)
_LEVELS = ("debug", "info", "warning", "error")
_PARAM = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MACHINES = {"x86_64": 62, "aarch64": 183}
_NEVER = ffi.new("uint32_t *")
"""A control word that asks for nothing."""

DTYPES = {
    "b1": 0x001,
    "i1": 0x101,
    "i2": 0x102,
    "i4": 0x104,
    "i8": 0x108,
    "u1": 0x201,
    "u2": 0x202,
    "u4": 0x204,
    "u8": 0x208,
    "f2": 0x302,
    "f4": 0x304,
    "f8": 0x308,
}
_LONG = {"bool": "b1", "?": "b1"} | {
    f"{name}{8 * size}": f"{letter}{size}"
    for name, letter, sizes in (("int", "i", "1248"), ("uint", "u", "1248"), ("float", "f", "248"))
    for size in map(int, sizes)
}


class Library:
    """A loaded shared object.

    Args:
        path: of the file, inside of its plugin's folder.

    Raises:
        ClawError: bad_config or bad_version, with the next step.
    """

    def __init__(self, path: Path) -> None:
        _check_file(path)
        error = ffi.new("native_error *")
        self.path = path
        self._handle = lib.native_open(os.fsencode(path), error)
        if self._handle == ffi.NULL:
            raise _refused(path, _text(error.code), _text(error.message))
        self._states: list[bool] = []

    @property
    def version(self) -> tuple[int, int]:
        """Of ``clawai.h`` that it was built with."""
        number = lib.native_version(self._handle)
        return number >> 16, number & 0xFFFF

    def operations(self, settings: Any = None, threads: int = 1) -> list[Operation]:
        """Its operations, each with its state made.

        Args:
            settings: the plugin's configuration, as ``Context.config`` has it.
            threads: with which the worker was started.

        Raises:
            ClawError: bad_config for a wrong description; what ``create`` failed with.
        """
        found = []
        for index in range(lib.native_count(self._handle)):
            told = lib.native_operation(self._handle, index)
            name = _text(told.name)
            try:
                found.append(_operation(self, index, name, told))
            except (TypeError, ValueError, OverflowError) as error:
                text = f"{self.path.name}: operation {name!r}: {error}"
                raise ClawError("bad_config", text) from None
            with _Call(self._handle, index, threads) as call:
                call.settings(settings)
                call.outcome(lib.native_create(self._handle, call.raw))
        return found

    def run(self, index: int, kinds: Sequence[int], values: Sequence[Any], context: Context) -> Any:
        """Run a task.

        Raises:
            ClawError: what it failed with. Cancelled, Yielded: as it was asked to.
        """
        with _Call(self._handle, index, context.most_threads, context) as call:
            call.settings(getattr(context, "config", None))
            call.parameters(kinds, values)
            began = time.perf_counter_ns()
            lib.native_run(call.raw)
            context.compute_us += (time.perf_counter_ns() - began) // 1000
            result = call.outcome(call.raw.status)
            context.reply_frames += call.frames()
            return result

    def close(self) -> None:
        """Unload it. A worker never does: it ends at once, as it may at any time."""
        lib.native_close(self._handle)


class _Call:
    """One call, and everything that has to live as long as it."""

    def __init__(
        self, handle: Any, index: int, threads: int, context: Context | None = None
    ) -> None:
        self._context = context
        self._kept: list[Any] = []
        self._views: list[Any] = []
        self._error: ClawError | None = None
        raw = self.raw = ffi.new("native_call *")
        self._self = ffi.new_handle(self)
        raw.library, raw.operation, raw.control = handle, index, _NEVER
        raw.most_threads, raw.deadline_ns = threads, -1
        raw.most_result, raw.most_frame = RESULT, wire.MAX_MESSAGE // 2
        raw.user = self._self
        raw.chunk, raw.progress, raw.log = lib.claw_chunk_, lib.claw_progress_, lib.claw_log_
        if context:
            raw.control = self._view(context.control, "uint32_t[]")
            raw.may_yield = context.may_yield
            if type(context).checkpoint is not Context.checkpoint:
                raw.look = lib.claw_look_  # of a test, which counts them
            left = context.remaining()
            if left is not None:
                raw.deadline_ns = time.monotonic_ns() + round(min(max(0.0, left), 9e8) * 1e9)

    def __enter__(self) -> "_Call":
        return self

    def __exit__(self, *_: object) -> None:
        lib.native_release(self.raw)
        # Now, not when they are collected: a segment is unmapped only when nothing views it, and
        # the collector may clear a view before what it exports to.
        for view in self._views:
            ffi.release(view)

    def _keep(self, data: Any) -> Any:
        self._kept.append(data)
        return data

    def _view(self, buffer: Any, kind: str = "char[]") -> Any:
        view = ffi.from_buffer(kind, buffer)
        self._views.append(view)
        return view

    def settings(self, found: Any) -> None:
        """The plugin's configuration: what of it C can take."""
        if not isinstance(found, Mapping) or not found:
            return
        table = self._keep(ffi.new("native_setting[]", len(found)))
        for row, (name, value) in zip(table, found.items(), strict=True):
            row.name = self._keep(ffi.new("char[]", str(name).encode()))
            if isinstance(value, bool):
                row.type, row.i64 = BOOL, value
            elif isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
                row.type, row.i64 = I64, value
            elif isinstance(value, float):
                row.type, row.f64 = F64, value
            elif isinstance(value, str):
                row.type, row.text = STR, self._keep(ffi.new("char[]", value.encode()))
        self.raw.settings, self.raw.setting_count = table, len(found)

    def parameters(self, kinds: Sequence[int], values: Sequence[Any]) -> None:
        """The checked parameters, in the order of the table.

        Raises:
            ClawError: bad_params, for a tensor that does not fit its memory.
        """
        table = self._keep(ffi.new("native_value[]", len(kinds)))
        tensors = self._keep(ffi.new("native_tensor[]", kinds.count(TENSOR)))
        self.raw.values, self.raw.tensors = table, tensors
        for row, kind, value in zip(table, kinds, values, strict=True):
            if value is None:
                continue
            row.given = 1
            if kind in (I64, BOOL):
                row.i64 = value
            elif kind == F64:
                row.f64 = value
            elif kind == TENSOR:
                place = self.raw.tensor_count
                self._tensor(tensors[place], value)
                self.raw.tensor_count = place + 1
                row.tensor = ffi.addressof(tensors[place].view)
            else:
                # Python ends every bytes object with a 0 that it does not count.
                data = value.encode() if kind == STR else value
                row.data, row.size = self._view(data), len(data)

    def _tensor(self, into: Any, tensor: Tensor) -> None:
        assert self._context
        buffer = self._context.memory(tensor)
        name = _LONG.get(tensor.dtype, tensor.dtype.lstrip("<=|"))
        dtype, shape = DTYPES.get(name, 0), tensor.shape
        size = bytes_of = dtype & 0xFF
        for length in shape:
            bytes_of *= length
        if not dtype:
            raise ClawError("bad_params", "not a dtype for C", tensor.dtype[:40], list(DTYPES))
        if len(shape) > 16 or min(shape, default=0) < 0 or max(shape, default=0) >= 1 << 48:
            raise ClawError("bad_params", "not a shape", got=list(shape[:17]))
        if bytes_of > len(buffer):
            text = "the array is larger than its buffer"
            raise ClawError("bad_params", text, got=bytes_of, allowed=len(buffer))
        data = self._view(buffer)
        if int(ffi.cast("uintptr_t", data)) % size:
            raise ClawError("bad_params", "the array is not aligned to its elements", got=size)
        strides = [size] * len(shape)
        for axis in range(len(shape) - 1, 0, -1):
            strides[axis - 1] = strides[axis] * max(shape[axis], 1)
        view = into.view
        view.struct_size, view.version = ffi.sizeof("claw_tensor"), _VERSION
        view.dtype, view.ndim, view.bytes = dtype, len(shape), bytes_of
        view.shape = self._keep(ffi.new("int64_t[]", shape))
        view.strides = self._keep(ffi.new("int64_t[]", strides))
        view.data = data
        view.writable = ffi.NULL if buffer.readonly else data
        into.lease = -1 if tensor.lease is None else tensor.lease
        into.room = len(buffer) if tensor.lease is None else self._room(tensor.lease)

    def _room(self, lease: int) -> int:
        assert self._context
        return self._context.leases[lease].length

    def outcome(self, status: int) -> wire.Raw:
        """The result.

        Raises:
            ClawError: what it failed with. Cancelled, Yielded: as it was asked to.
        """
        raw = self.raw
        if self._error:
            raise self._error
        if status == _FAILED:
            raise ClawError(_text(raw.error.code), _text(raw.error.message))
        if status == _STOPPED:
            raise Cancelled
        if status == _YIELDED:
            raise Yielded
        return wire.Raw(bytes(ffi.buffer(raw.result, raw.result_size)))

    def frames(self) -> list[bytes]:
        """The arrays of the result that lie in no lease."""
        whole = [self.raw.frames[number] for number in range(self.raw.frame_count)]
        return [bytes(ffi.buffer(frame.data, frame.size)) for frame in whole]

    # What it says while it runs.

    def chunk(self, data: wire.Raw) -> int:
        """Send a chunk; 1 if it cannot be sent."""
        assert self._context
        try:
            fits(data)
            self._context.may_yield = False
            self._context.outlet.chunk(self._context.task, data)
        except ClawError as error:
            self._error = error
            return 1
        return 0

    def look(self) -> None:
        """Let the context see it; what that asks for stands in the control word too."""
        if self._context:
            with contextlib.suppress(Cancelled, Yielded):
                self._context.checkpoint()

    def progress(self, fraction: float, note: str) -> None:
        """Tell the owner."""
        if self._context:
            self._context.progress(fraction if 0 <= fraction <= 1 else None, note)

    def log(self, level: str, text: str) -> None:
        """Through the context, if that has a log; else the worker's output, which is logged too."""
        told = getattr(self._context, "log", None)
        if callable(told):
            told(level, text)
        else:
            print(f"{level}: {text}", file=sys.stderr, flush=True)


@ffi.def_extern(error=1)  # type: ignore[untyped-decorator]
def claw_chunk_(user: Any, data: Any, size: int) -> int:
    """A chunk of a stream."""
    sent: int = ffi.from_handle(user).chunk(wire.Raw(bytes(ffi.buffer(data, size))))
    return sent


@ffi.def_extern()  # type: ignore[untyped-decorator]
def claw_progress_(user: Any, fraction: float, note: Any) -> None:
    """Progress of a task."""
    ffi.from_handle(user).progress(fraction, _text(note, 2000))


@ffi.def_extern()  # type: ignore[untyped-decorator]
def claw_look_(user: Any) -> None:
    """A checkpoint under a fake kernel."""
    ffi.from_handle(user).look()


@ffi.def_extern()  # type: ignore[untyped-decorator]
def claw_log_(user: Any, level: int, text: Any) -> None:
    """A line for the log."""
    name = _LEVELS[level] if 0 <= level < len(_LEVELS) else "info"
    ffi.from_handle(user).log(name, _text(text, 4000))


_VERSION = lib.CLAW_VERSION_MAJOR << 16 | lib.CLAW_VERSION_MINOR


def _text(data: Any, most: int = 8192) -> str:
    return bytes(ffi.string(data, most)).decode("utf-8", "replace")


# Descriptions.


def _operation(library: Library, index: int, name: str, told: Any) -> Operation:
    params = [told.params[number] for number in range(told.param_count)]
    fields = [_field(param) for param in params]
    names, kinds = [field[0] for field in fields], [param.type for param in params]
    twice = sorted({each for each in names if names.count(each) > 1})
    if twice:
        raise ValueError(f"declared twice: {twice}")
    checked = msgspec.defstruct(
        re.sub(r"\W", "_", name), fields, kw_only=True, forbid_unknown_fields=True
    )

    def run(context_: Context, **values: Any) -> Any:
        return library.run(index, kinds, [values[each] for each in names], context_)

    run.__name__ = run.__qualname__ = name
    return Operation(name, run, checked, "context_", False, _text(told.description)[:500])


def _field(param: Any) -> Any:
    """A parameter as a field of the struct that checks it."""
    name, kind = _text(param.name), param.type
    if not _PARAM.fullmatch(name) or keyword.iskeyword(name) or name.endswith("_"):
        raise ValueError(f"a parameter cannot be called {name!r}; allowed: {_PARAM.pattern}")
    bounds: dict[str, Any] = {}
    if kind == I64:
        bounds = {"ge": -(1 << 63), "le": (1 << 63) - 1}
    if param.has & _HAS_RANGE:
        limits = (param.minimum, param.maximum)
        bounds = dict(zip(("ge", "le"), map(int, limits) if kind == I64 else limits, strict=True))
    annotated: Any = typing.Annotated
    meta = msgspec.Meta(description=_text(param.description) or None, **bounds)
    if param.has & _IS_OPTIONAL:
        return name, annotated[_TYPES[kind] | None, meta], None
    hint = annotated[_TYPES[kind], meta]
    if not param.has & _HAS_DEFAULT:
        return name, hint
    if kind in (BYTES, TENSOR):
        raise ValueError(f"{name}: bytes and tensors have no default; make them optional")
    values = {I64: param.i64, F64: param.f64, BOOL: bool(param.i64), STR: param.text}
    value = _text(values[kind]) if kind == STR else values[kind]
    return name, hint, value


def _check_file(path: Path) -> None:
    """Refuse what the loader would explain badly, or should not even see."""
    hint = f"build it: make -C {path.parent}"
    if not path.resolve().is_relative_to(path.parent.resolve()):
        text = f"{path.name} leads out of the plugin's folder"
        raise ClawError("bad_config", text, str(path.resolve()), hint="put the file itself there")
    try:
        with path.open("rb") as file:
            head, size = file.read(1 << 16), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ClawError("bad_config", f"{path.name}: {error.strerror}", hint=hint) from error
    if len(head) < 64 or head[:7] != b"\x7fELF\x02\x01\x01" or head[16] != 3:
        text = f"{path.name} is not a 64-bit shared object"
        raise ClawError("bad_config", text, head[:4], hint=f"link it with -shared; {hint}")
    if (whole := _loaded_bytes(head)) > size:  # the loader would map it, and die of SIGBUS
        text = f"{path.name} is cut short"
        raise ClawError("bad_config", text, got=size, allowed=whole, hint=f"{hint} clean all")
    machine, here = int.from_bytes(head[18:20], "little"), os.uname().machine
    if machine != _MACHINES.get(here, machine):
        names = {number: name for name, number in _MACHINES.items()}
        raise ClawError(
            "bad_config",
            f"{path.name} is built for another processor",
            got=names.get(machine, f"ELF machine {machine}"),
            allowed=here,
            hint=f"on this box: make -C {path.parent} clean all",
        )


def _loaded_bytes(head: bytes) -> int:
    """How long an ELF file must be for all that is mapped of it (gABI, program header)."""
    (at,) = struct.unpack_from("<Q", head, 32)
    entry, count = struct.unpack_from("<HH", head, 54)
    places = [at + entry * number for number in range(count)]
    inside = [place for place in places if place + 56 <= len(head)]
    if len(inside) < count:
        return 1 << 62
    parts = [struct.unpack_from("<IIQQQQ", head, place) for place in inside]
    return max((part[2] + part[5] for part in parts if part[0] == 1), default=1 << 62)


_LOADER: tuple[tuple[str, str], ...] = (
    (
        r"^(\S+): cannot open shared object file",
        "the library {0} is not in the sandbox: link it statically, or put it into the plugin's "
        "folder and link with -Wl,-rpath,'$ORIGIN'",
    ),
    (r"undefined symbol: (\S+)", "name the library that has {0} when you link (-l...)"),
    (r"version `(\S+)' not found", "it was built on a newer system: build it on this one"),
    (r"failed to map segment", "the plugin's folder is on a file system mounted noexec"),
    (
        r"exports no symbol claw_entry",
        "write CLAW_PLUGIN(&operation, ...) in one file, and do not hide it when you link",
    ),
)


def _refused(path: Path, code: str, message: str) -> ClawError:
    """Why it cannot be loaded, and what to do."""
    name, hint = path.name, "docs/plugin-c.md says what a plugin must export"
    if code == "bad_version":
        hint = "build it again with the header of this one (`claw plugin include-dir`)"
        hint += ", or update ClawAI"
    for pattern, advice in _LOADER:
        if match := re.search(pattern, message):
            hint = advice.format(*match.groups())
    text = f"{name}: {message.replace(f'{path}: ', '')}"
    return ClawError("bad_version" if code == "bad_version" else "bad_config", text, hint=hint)


# In a worker.


class Plugin:
    """What the plugin manager of a worker registers for one."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._operations: list[Operation] = []

    @hookimpl
    def claw_start(self, worker: Any) -> None:
        """Make the state of each operation."""
        args = worker.args
        self._operations = self._library.operations(args.get("config"), worker.threads)

    @hookimpl
    def claw_operations(self) -> Iterable[Operation]:
        """Its operations."""
        return self._operations


_prepared: dict[str, Library | ClawError] = {}


def prepare(path: str) -> None:
    """Load the shared object of this worker, before its sandbox forbids new executable memory.

    What is wrong with it is told by ``plugin``, when there is someone to tell.
    """
    lib.native_guard()
    try:
        _prepared[path] = Library(Path(path))
    except ClawError as error:
        _prepared[path] = error


def plugin(path: str) -> Plugin:
    """The plugin that ``prepare`` has loaded.

    Raises:
        ClawError: why it could not be.
    """
    if path not in _prepared:
        prepare(path)
    found = _prepared[path]
    if isinstance(found, ClawError):
        raise found
    return Plugin(found)
