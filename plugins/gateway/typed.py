"""The Open Inference Protocol's types, and arrays as the bytes that it says.

Numbers are little-endian, row by row. Of a text, four bytes tell its length before it.
"""

import math
import struct
from collections.abc import Sequence

import numpy

from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.tensors import Array, texts

DATATYPES = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BYTES": "|S",
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_LENGTH = struct.Struct("<I")


def datatype(dtype: str) -> str:
    """The protocol's name of numpy's type."""
    return "BYTES" if dtype.startswith("|S") else _NAMES[dtype]


def of_bytes(raw: memoryview | bytes, kind: str, shape: Sequence[int], where: str) -> Array:
    """An array of its bytes.

    Raises:
        BadRequest: there are more or fewer than its shape needs.
    """
    count = math.prod(shape)
    if kind == "BYTES":
        return _texts(memoryview(raw), count, shape, where)
    dtype = numpy.dtype(DATATYPES[kind])
    if count * dtype.itemsize != len(raw):
        text = f"{where}: {len(raw)} bytes for {list(shape)} of {kind}"
        raise BadRequest(f"{text}, which are {count * dtype.itemsize}", where)
    if kind == "BOOL" and bytes(raw).translate(None, b"\0\1"):
        raise BadRequest(f"{where}: a byte of BOOL is 0 or 1", where)
    return numpy.frombuffer(raw, dtype).reshape(tuple(shape))


def _texts(raw: memoryview, count: int, shape: Sequence[int], where: str) -> Array:
    items: list[bytes] = []
    at = 0
    while at + 4 <= len(raw) and len(items) < count:
        size = _LENGTH.unpack_from(raw, at)[0]
        if size > len(raw) - at - 4:
            break
        items.append(bytes(raw[at + 4 : at + 4 + size]))
        at += 4 + size
    if at != len(raw) or len(items) != count:
        text = f"{where}: {len(items)} whole texts in {len(raw)} bytes for {list(shape)} of BYTES"
        raise BadRequest(text, where)
    return texts(items, shape, where)


def to_bytes(array: Array) -> bytes:
    """The bytes of an array."""
    if array.dtype.kind != "S":
        return array.tobytes()
    return b"".join(_LENGTH.pack(len(each)) + each for each in array.ravel().tolist())


def best(array: Array, most: int) -> Array:
    """Triton's classification: of each row the ``most`` highest, as ``SCORE:PLACE``.

    Raises:
        BadRequest: texts have no highest.
    """
    if array.dtype.kind == "S" or array.ndim < 1:
        raise BadRequest("classification is for an output of numbers", "outputs")
    rows = array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array.reshape(1, -1)
    order = numpy.argsort(-rows.astype("<f8"), axis=1, kind="stable")[:, :most]
    items = [
        f"{rows[row, place]:f}:{place}".encode()
        if rows.dtype.kind == "f"
        else f"{int(rows[row, place])}:{place}".encode()
        for row, places in enumerate(order)
        for place in places
    ]
    shape = (*array.shape[:-1], order.shape[1])
    return texts(items, shape, "outputs")
