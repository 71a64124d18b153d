"""Reads GGUF files (versions 2 and 3) without trusting them.

A model file comes from a stranger. The reader maps it read-only, checks every count, length and
offset against the bytes that are really there *before* it allocates or loops, and keeps nothing
but small descriptions: tensors and arrays are views of the map, strings are decoded when they are
asked for. It refuses, with the byte offset: big-endian files, version 1, duplicate names, nested
arrays, unknown types, tensors that overlap, are misaligned or leave the file.

A file that another process truncates while it is mapped kills the reader by SIGBUS; give it a file
that nobody else can write (the model store's, or a sealed memfd).

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import os
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, overload

from clawai.sdk.errors import ClawError
from clawai.sdk.model.dtypes import DType

MAX_KEYS = 4096
MAX_TENSORS = 65_536
MAX_NAME = 65_535
MAX_TENSOR_NAME = 64
MAX_STRING = 16 << 20
MAX_ELEMENTS = 4 << 20
"""Elements of all metadata arrays together (the largest vocabularies have about 1.5 million)."""
MAX_DIM = 1 << 40

MAGIC = b"GGUF"
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {
    code: struct.Struct(f"<{letter}")
    for code, letter in zip((0, 1, 2, 3, 4, 5, 6, _BOOL, 10, 11, 12), "BbHhIifBQqd", strict=True)
}
_U32, _U64 = _SCALARS[4], _SCALARS[10]


class ModelFileError(ClawError):
    """The model file cannot be used: says what, at which byte, what stood there, what may.

    Args:
        message: what is wrong.
        where: offset in the file, in bytes, or None where no single byte is at fault.
        got: what the file has.
        allowed: what it may have.
    """

    def __init__(
        self, message: str, where: int | None = None, got: Any = None, allowed: Any = None
    ) -> None:
        place = "" if where is None else f" (byte {where} of the file)"
        super().__init__("bad_model", message + place, got, allowed)
        self.plain = message
        self.where = where

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.plain, self.where, self.got, self.allowed)


class Strings(Sequence[str]):
    """A metadata array of strings, decoded one by one; iterating runs in file order."""

    def __init__(self, view: memoryview, start: int, offsets: Sequence[int]) -> None:
        self._view = view
        self._start = start
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._decode(at) for at in self._offsets[index]]
        return self._decode(self._offsets[index])

    def __iter__(self) -> Iterator[str]:
        return map(self._decode, self._offsets)

    def _decode(self, at: int) -> str:
        (length,) = _U64.unpack_from(self._view, at)
        return _text(self._view, at + 8, length)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies. ``shape`` is outermost first (GGUF stores it innermost first)."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    where: int
    """Offset of the tensor's description in the file, for errors."""
    start: int
    """Offset of the data in the file, in bytes."""
    nbytes: int
    data: memoryview = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class GGUF:
    """A parsed file. Views stay valid as long as any of them is referenced."""

    version: int
    metadata: Mapping[str, Any]
    """int, float, bool, str, ``Strings``, or a typed memoryview for arrays of numbers."""
    tensors: Mapping[str, TensorInfo]
    nbytes: int
    offsets: Mapping[str, int]
    """Where each metadata value lies in the file, for errors."""
    entries: Mapping[str, memoryview] = field(default_factory=dict, repr=False, compare=False)
    """Each metadata value as it stands in the file, its type before it: for who writes another."""

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """The metadata value of ``key``, which must be a ``kind``; ``default`` if it is missing.

        Raises:
            ModelFileError: the value has another type (a bool is no int here).
        """
        if key not in self.metadata:
            return default
        value = self.metadata[key]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ModelFileError(
                f"metadata {key} has the wrong type",
                self.offsets[key],
                type(value).__name__,
                " or ".join(each.__name__ for each in kinds),
            )
        return value


def read(source: int | str | os.PathLike[str]) -> GGUF:
    """Map ``source`` (a path, or a descriptor that stays the caller's) and parse its header.

    Raises:
        ModelFileError: the file is no regular file, or not a GGUF file that may be used.
        OSError: the path cannot be opened.
    """
    if isinstance(source, int):
        return parse(_map(source))
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return parse(_map(fd))
    finally:
        os.close(fd)


def is_gguf(path: Path) -> bool:
    """Whether the file starts with the GGUF magic."""
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def _map(fd: int) -> memoryview:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ModelFileError("a model must be a regular file", None, oct(status.st_mode))
    if status.st_size < 24:
        raise ModelFileError("the file ends inside of the header", 0, status.st_size, ">= 24 bytes")
    return memoryview(_File(fd, 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED))


class _File(mmap.mmap):
    """A file that is mapped here, for reading, so that what is let go can be read again."""


def let_go(data: memoryview) -> None:
    """Unmap the whole pages of a tensor that was read to its end; who reads it again maps them.

    A model that is packed into private memory would else be resident twice. Nothing happens to
    data that is no view of a file which was mapped here.
    """
    if isinstance(data.obj, _File):
        import numpy as np  # whoever packs has it; others only read headers

        start, whole = (np.frombuffer(each, np.uint8).ctypes.data for each in (data, data.obj))
        first = -(-(start - whole) // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (start - whole + data.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            data.obj.madvise(mmap.MADV_DONTNEED, first, last - first)


def parse(view: memoryview) -> GGUF:
    """Parse a whole file that is already in memory (bytes, format "B").

    Raises:
        ModelFileError: see the module's docstring.
    """
    if bytes(view[:4]) != MAGIC:
        raise ModelFileError("not a GGUF file", 0, bytes(view[:4]), MAGIC)
    cursor = _Cursor(view, 4)
    version = cursor.number(_U32, "the version")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in (1, 2, 3)
        what = "a big-endian GGUF file" if swapped else "an unsupported GGUF version"
        raise ModelFileError(what, 4, version, "2 or 3, little-endian")
    tensor_count = cursor.count("tensors", MAX_TENSORS, least_bytes=24)
    key_count = cursor.count("metadata keys", MAX_KEYS, least_bytes=13)
    metadata, offsets, entries = _metadata(cursor, key_count)
    file = GGUF(version, metadata, {}, len(view), offsets, entries)
    tensors = _tensors(cursor, tensor_count, alignment(file))
    return GGUF(version, metadata, tensors, len(view), offsets, entries)


class _Cursor:
    """A position in the file; every step checks the bytes that are left first."""

    __slots__ = ("at", "elements", "view")

    def __init__(self, view: memoryview, at: int) -> None:
        self.view = view
        self.at = at
        self.elements = 0

    def take(self, nbytes: int, what: str) -> int:
        """Move over ``nbytes`` and return where they start."""
        start = self.at
        if nbytes > len(self.view) - start:
            raise ModelFileError(
                f"{what} reaches beyond the end of the file", start, nbytes, len(self.view) - start
            )
        self.at = start + nbytes
        return start

    def number(self, kind: struct.Struct, what: str) -> Any:
        return kind.unpack_from(self.view, self.take(kind.size, what))[0]

    def count(self, what: str, most: int, least_bytes: int) -> int:
        """A count that is refused if that many of ``least_bytes`` cannot be in the file."""
        start = self.at
        got: int = self.number(_U64, f"the number of {what}")
        most = min(most, (len(self.view) - self.at) // least_bytes)
        if got > most:
            raise ModelFileError(f"more {what} than the file can hold", start, got, most)
        return got

    def string(self, what: str, most: int) -> str:
        start = self.at
        length = self.number(_U64, f"the length of {what}")
        if length > most:
            raise ModelFileError(f"{what} is too long", start, length, most)
        return _text(self.view, self.take(length, what), length)


def _text(view: memoryview, start: int, length: int) -> str:
    try:
        return str(view[start : start + length], "utf-8")
    except UnicodeDecodeError as error:
        raise ModelFileError("a string is not UTF-8", start + error.start) from None


def _metadata(
    cursor: _Cursor, count: int
) -> tuple[dict[str, Any], dict[str, int], dict[str, memoryview]]:
    metadata: dict[str, Any] = {}
    offsets: dict[str, int] = {}
    entries: dict[str, memoryview] = {}
    for _ in range(count):
        start = cursor.at
        key = cursor.string("a metadata key", MAX_NAME)
        if key in metadata:
            raise ModelFileError("a metadata key stands twice", start, key)
        kind = cursor.number(_U32, f"the type of {key}")
        offsets[key] = cursor.at
        metadata[key] = _value(cursor, kind, key)
        entries[key] = cursor.view[offsets[key] - 4 : cursor.at].toreadonly()
    return metadata, offsets, entries


def _value(cursor: _Cursor, kind: int, key: str) -> Any:
    start = cursor.at
    if kind == _STRING:
        return cursor.string(f"the value of {key}", MAX_STRING)
    if kind == _ARRAY:
        return _array(cursor, key)
    if kind not in _SCALARS:
        raise ModelFileError(f"unknown type of metadata {key}", start - 4, kind, "0 to 12")
    value = cursor.number(_SCALARS[kind], f"the value of {key}")
    if kind != _BOOL:
        return value
    if value > 1:
        raise ModelFileError(f"metadata {key} is no boolean", start, value, "0 or 1")
    return bool(value)


def _array(cursor: _Cursor, key: str) -> Strings | memoryview:
    start = cursor.at
    kind = cursor.number(_U32, f"the element type of {key}")
    if kind == _ARRAY:
        raise ModelFileError(
            f"metadata {key} is a nested array", start, "array", "0 to 8, 10 to 12"
        )
    if kind != _STRING and kind not in _SCALARS:
        raise ModelFileError(f"unknown element type of {key}", start, kind, "0 to 8, 10 to 12")
    size = 8 if kind == _STRING else _SCALARS[kind].size
    most = MAX_ELEMENTS - cursor.elements
    count = cursor.count(f"elements of {key}", most, least_bytes=size)
    cursor.elements += count
    if kind == _STRING:
        return _strings(cursor, count, key)
    begin = cursor.take(count * size, f"the elements of {key}")
    letter = "?" if kind == _BOOL else _SCALARS[kind].format[1:]
    view = cursor.view[begin : cursor.at].toreadonly()
    if kind == _BOOL and any(byte > 1 for byte in view):
        raise ModelFileError(f"metadata {key} has elements that are no booleans", begin)
    return view.cast("B").cast(letter)  # type: ignore[call-overload,no-any-return]


def _strings(cursor: _Cursor, count: int, key: str) -> Strings:
    """Walk over the strings; only their offsets are kept, 8 bytes each."""
    view, at, end = cursor.view, cursor.at, len(cursor.view)
    offsets = memoryview(bytearray(8 * count)).cast("Q")
    length_at = _U64.unpack_from
    for index in range(count):
        if at + 8 > end:
            raise ModelFileError(f"{key}[{index}] reaches beyond the end of the file", at)
        offsets[index] = at
        (length,) = length_at(view, at)
        at += 8
        if length > MAX_NAME or length > end - at:
            most = min(MAX_NAME, end - at)
            raise ModelFileError(f"{key}[{index}] is too long", at - 8, length, most)
        at += length
    start, cursor.at = cursor.at, at
    return Strings(view, start, offsets)


def alignment(file: GGUF) -> int:
    """Of the data of each tensor, in bytes.

    Raises:
        ModelFileError: it is no power of 2, or out of range.
    """
    found: int = file.get("general.alignment", int, 32)
    if not 8 <= found <= 65_536 or found & (found - 1):
        where = file.offsets["general.alignment"]
        raise ModelFileError("bad general.alignment", where, found, "a power of 2, 8 to 65536")
    return found


def _tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    found = [_described(cursor) for _ in range(count)]
    base = -(-cursor.at // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for where, name, shape, dtype, offset in found:
        if name in tensors:
            raise ModelFileError("a tensor's name stands twice", where, name)
        tensors[name] = _placed(cursor.view, where, name, shape, dtype, base, offset, alignment)
    _no_overlap(tensors)
    return tensors


def _described(cursor: _Cursor) -> tuple[int, str, tuple[int, ...], DType, int]:
    where = cursor.at
    name = cursor.string("a tensor's name", MAX_TENSOR_NAME)
    start = cursor.at
    rank = cursor.number(_U32, f"the rank of {name}")
    if not 1 <= rank <= 4:
        raise ModelFileError(f"bad number of dimensions of tensor {name}", start, rank, "1 to 4")
    start = cursor.take(8 * rank, f"the shape of {name}")
    shape = struct.unpack_from(f"<{rank}Q", cursor.view, start)[::-1]
    if not all(1 <= dim <= MAX_DIM for dim in shape):
        raise ModelFileError(f"bad shape of tensor {name}", start, shape, f"1 to {MAX_DIM} each")
    start = cursor.at
    code = cursor.number(_U32, f"the type of {name}")
    try:
        dtype = DType(code)
    except ValueError:
        known = {each.name: each.value for each in DType}
        raise ModelFileError(f"unsupported type of tensor {name}", start, code, known) from None
    return where, name, shape, dtype, cursor.number(_U64, f"the offset of {name}")


def _placed(
    view: memoryview,
    where: int,
    name: str,
    shape: tuple[int, ...],
    dtype: DType,
    base: int,
    offset: int,
    alignment: int,
) -> TensorInfo:
    if offset % alignment:
        raise ModelFileError(f"misaligned tensor {name}", where, offset, f"multiple of {alignment}")
    block, size = dtype.geometry
    if shape[-1] % block:
        allowed = f"a multiple of {block}, for {dtype.name}"
        raise ModelFileError(f"tensor {name} has a broken row", where, shape[-1], allowed)
    # Python's integers do not overflow, so the product of hostile dimensions is simply too large.
    nbytes = prod(shape) // block * size
    start = base + offset
    if start + nbytes > len(view):
        raise ModelFileError(
            f"tensor {name} reaches beyond the end of the file", where, start + nbytes, len(view)
        )
    data = view[start : start + nbytes].toreadonly()
    return TensorInfo(name, shape, dtype, where, start, nbytes, data)


def _no_overlap(tensors: Mapping[str, TensorInfo]) -> None:
    end, before = 0, ""
    for tensor in sorted(tensors.values(), key=lambda each: each.start):
        if tensor.start < end:
            raise ModelFileError(f"tensors {before} and {tensor.name} overlap", tensor.where)
        end, before = tensor.start + tensor.nbytes, tensor.name
