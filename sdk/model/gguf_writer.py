"""Writes GGUF files (version 3): a header, then the data of each tensor in the same order.

    tensors = [NewTensor("token_embd.weight", (49152, 576), DType.Q8_0)]
    for piece in header({"general.architecture": encoded("llama")}, tensors):
        file.write(piece)
    for tensor in tensors:
        file.write(data)
        file.write(padding(tensor.nbytes, alignment))

Nothing is written here: a header is pieces of bytes, so that a file can as well be a stream.
Metadata of another file is carried over as it stands there (``GGUF.entries``).

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from clawai.sdk.model.dtypes import DType

ALIGNMENT = 32
"""Of the data of each tensor, unless the metadata has ``general.alignment``."""
_BOOL, _I32, _U32, _F32, _STRING, _ARRAY, _U64, _I64 = 7, 5, 4, 6, 8, 9, 10, 11


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor of the file that is to be written; ``shape`` is outermost first."""

    name: str
    shape: tuple[int, ...]
    dtype: DType

    @property
    def nbytes(self) -> int:
        """Of its data, without padding."""
        return prod(self.shape[:-1]) * self.dtype.row_bytes(self.shape[-1])


def encoded(value: Any) -> bytes:
    """A metadata value as it stands in a file: its type, then itself.

    Args:
        value: bool, int, float (as float32), str, or a list of one of these.

    Raises:
        TypeError, OverflowError: it cannot be metadata.
    """
    if isinstance(value, list | tuple):
        kind = _array_kind(value)
        body = b"".join(_plain(kind, each) for each in value)
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + body
    kind = _kind(value)
    return struct.pack("<I", kind) + _plain(kind, value)


def padding(nbytes: int, alignment: int = ALIGNMENT) -> bytes:
    """What follows ``nbytes`` so that the next tensor is aligned."""
    return bytes(-nbytes % alignment)


def header(
    entries: Mapping[str, bytes | memoryview],
    tensors: Sequence[NewTensor],
    alignment: int = ALIGNMENT,
) -> Iterator[bytes | memoryview]:
    """The pieces of everything before the data of the first tensor.

    Args:
        entries: each metadata value as ``encoded`` gives it.
        alignment: what ``general.alignment`` says, if it is among them.
    """
    yield b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries))
    size, offset = 24, 0
    for key, value in entries.items():
        yield (name := _text(key))
        yield value
        size += len(name) + len(value)
    for tensor in tensors:
        rank = len(tensor.shape)
        described = _text(tensor.name) + struct.pack(
            f"<I{rank}QIQ", rank, *reversed(tensor.shape), tensor.dtype, offset
        )
        offset += tensor.nbytes + len(padding(tensor.nbytes, alignment))
        size += len(described)
        yield described
    yield padding(size, alignment)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _kind(value: Any) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        if 0 <= value < 1 << 32:
            return _U32
        return _I64 if value < 0 else _U64
    for kind, python in ((_F32, float), (_STRING, str)):
        if isinstance(value, python):
            return kind
    raise TypeError(f"metadata must be bool, int, float, str or a list: {type(value).__name__}")


def _array_kind(values: Sequence[Any]) -> int:
    """One type for all elements; integers are int32, as tokenizers have theirs."""
    kinds = {_I32 if _kind(each) in (_U32, _U64, _I64) else _kind(each) for each in values}
    if len(kinds) > 1:
        raise TypeError("the elements of an array in metadata must be of one type")
    return kinds.pop() if kinds else _I32


def _plain(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _text(value)
    letter = {_BOOL: "?", _I32: "i", _U32: "I", _F32: "f", _U64: "Q", _I64: "q"}[kind]
    try:
        return struct.pack(f"<{letter}", value)
    except struct.error as error:
        raise OverflowError(f"metadata {value} is too large: {error}") from None
