"""What an ONNX file says of itself, read without running anything: a bounded walk through it.

A file is a protocol buffer (ModelProto of onnx.proto). Only what decides about it is read: which
version it is, what it takes and gives, how large its weights are, and whether it asks for other
files, which no model here may. Refused: what is cut off, nested deeper than ``LEVELS``, has more
fields than ``FIELDS``, or keeps its weights elsewhere.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clawai.sdk.errors import ClawError

LIMIT = (1 << 31) - 1
"""Bytes of a protocol buffer; a larger model keeps its weights elsewhere."""
LEVELS = 24
"""Graphs and attributes within each other."""
FIELDS = 4_000_000
_EXTERNAL = 1

# Numbers of the fields that are followed: message to {field: message}.
_INNER = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
}
_LOCATION, _ELSEWHERE = 14, 13
"""Of a tensor: where it lies, and how it is found there."""


@dataclass(slots=True)
class Header:
    """What was found."""

    ir_version: int = 0
    producer: str = ""
    opset: int = 0
    """Of the standard operators."""
    nodes: int = 0
    weights: int = 0
    """Bytes of all tensors that the file holds."""
    domains: list[str] = field(default_factory=list)
    """Of operators beside the standard ones."""


class _Walk:
    """One reading of a file."""

    def __init__(self, data: mmap.mmap | memoryview | bytes, where: str) -> None:
        self._data = data
        self._where = where
        self._left = FIELDS
        self.header = Header()

    def refuse(self, why: str, got: object = None, allowed: object = None) -> ClawError:
        return ClawError("bad_model", f"{self._where}: {why}", got, allowed)

    def _number(self, at: int, end: int) -> tuple[int, int]:
        """A varint, and where it ends."""
        value = shift = 0
        data = self._data
        while at < end and shift < 64:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise self.refuse("this is no ONNX file, or it is cut off", f"no number ends at {at}")

    def fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, kind and content of each field: the value, or begin and end."""
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise self.refuse("too many fields", f"over {FIELDS}", FIELDS)
            key, at = self._number(at, end)
            number, kind = key >> 3, key & 7
            if not number:
                raise self.refuse("this is no ONNX file", "a field without a number")
            if kind == 0:
                value, at = self._number(at, end)
                yield number, kind, value, at
                continue
            size = {1: 8, 5: 4}.get(kind, -1)
            if kind == 2:
                size, at = self._number(at, end)
            if size < 0 or size > end - at:
                raise self.refuse("this is no ONNX file, or it is cut off", f"field {number}")
            yield number, kind, at, at + size
            at += size

    def text(self, at: int, end: int) -> str:
        return bytes(self._data[at : min(end, at + 200)]).decode("utf-8", "replace")

    def model(self, end: int) -> Header:
        """The whole file."""
        header, graphs = self.header, 0
        for number, kind, low, high in self.fields(0, end):
            if (number, kind) == (1, 0):
                header.ir_version = low
            elif (number, kind) == (2, 2):
                header.producer = self.text(low, high)
            elif (number, kind) == (8, 2):
                self._opset(low, high)
            elif kind == 2 and number in _INNER["model"]:
                graphs += number == 7
                self._into(_INNER["model"][number], low, high, 1)
        if not header.ir_version or graphs != 1:
            got = f"version {header.ir_version}, {graphs} graphs"
            raise self.refuse("this is no ONNX model", got, "a version and one graph")
        return header

    def _opset(self, low: int, high: int) -> None:
        domain, version = "", 0
        for number, kind, begin, end in self.fields(low, high):
            if (number, kind) == (1, 2):
                domain = self.text(begin, end)
            elif (number, kind) == (2, 0):
                version = begin
        if domain in ("", "ai.onnx"):
            self.header.opset = version
        elif len(self.header.domains) < 32:
            self.header.domains.append(domain)

    def _into(self, message: str, low: int, high: int, level: int) -> None:
        if level > LEVELS:
            raise self.refuse("graphs within each other", f"over {LEVELS}", LEVELS)
        if message == "tensor":
            self._tensor(low, high)
            return
        self.header.nodes += message == "node"
        inner = _INNER[message]
        for number, kind, begin, end in self.fields(low, high):
            if kind == 2 and number in inner:
                self._into(inner[number], begin, end, level + 1)

    def _tensor(self, low: int, high: int) -> None:
        self.header.weights += high - low
        for number, kind, begin, _ in self.fields(low, high):
            if number == _ELSEWHERE or (number == _LOCATION and kind == 0 and begin == _EXTERNAL):
                raise self.refuse(
                    "it keeps weights in another file, which a model here cannot",
                    "external data",
                    "everything in one file, as onnx.save_model writes it by default",
                )


def read(source: int | Path, where: str = "") -> Header:
    """What a file says of itself.

    Args:
        source: its path, or a descriptor of it.

    Raises:
        ClawError: bad_model.
    """
    fd = source if isinstance(source, int) else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        name = where or ("the model" if isinstance(source, int) else str(source))
        if not 16 <= size <= LIMIT:
            raise ClawError("bad_model", f"{name}: no ONNX file has this size", size, LIMIT)
        with mmap.mmap(fd, size, prot=mmap.PROT_READ) as data:
            return _Walk(data, name).model(size)
    finally:
        if not isinstance(source, int):
            os.close(fd)


def is_onnx(head: bytes) -> bool:
    """Whether a file that begins with ``head`` may be one: it says its version first.

    Every exporter writes the fields in their order; the whole is checked by ``read``.
    """
    return len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 64 and head[2] & 7 in (0, 2)
