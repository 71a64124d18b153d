"""Reads safetensors files: the header is a stranger's JSON, so each figure in it is checked.

The format: eight bytes with the header's length (little endian), the header, then the tensors'
bytes. Source: the specification in the README of huggingface/safetensors.
"""

import math
from typing import Annotated, Any

import msgspec

from clawai.sdk.errors import ClawError

HEADER = 16 << 20
"""Bytes that a header may have."""
TENSORS = 1 << 16
SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
"""Bytes of an element."""
_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]


class Told(msgspec.Struct, frozen=True):
    """What the header says of a tensor."""

    dtype: str
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=16)]
    data_offsets: tuple[_Size, _Size]


class SafeTensor(msgspec.Struct, frozen=True):
    """One tensor, row-major."""

    dtype: str
    """As the format names it: F32, BF16, ..."""
    shape: tuple[int, ...]
    data: memoryview


def read(file: memoryview) -> dict[str, SafeTensor]:
    """The tensors of a mapped file, as views of it.

    Raises:
        ClawError: bad_model.
    """
    size = int.from_bytes(file[:8], "little") if len(file) >= 8 else 0
    if not 2 <= size <= min(HEADER, len(file) - 8):
        allowed = f"2 to {min(HEADER, max(len(file) - 8, 0))}"
        raise ClawError("bad_model", "bytes of the header of a safetensors file", size, allowed)
    try:
        header = msgspec.json.decode(file[8 : 8 + size], type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        told = {name: msgspec.json.decode(raw, type=Told) for name, raw in header.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ClawError("bad_model", f"the header of a safetensors file: {error}") from None
    if len(told) > TENSORS:
        raise ClawError("bad_model", "tensors of a safetensors file", len(told), TENSORS)
    data = file[8 + size :]
    return {name: _tensor(name, each, data) for name, each in told.items()}


def _tensor(name: str, told: Told, data: memoryview) -> SafeTensor:
    begin, end = told.data_offsets
    nbytes: Any = SIZES.get(told.dtype)
    if nbytes is None:
        text = f"the type of the tensor {name[:80]!r}"
        raise ClawError("bad_model", text, told.dtype[:20], sorted(SIZES))
    if not begin <= end <= len(data) or end - begin != nbytes * math.prod(told.shape):
        text = f"the tensor {name[:80]!r} does not fit its place in the file"
        got = [told.dtype, list(told.shape), [begin, end]]
        raise ClawError("bad_model", text, got, f"within {len(data)} bytes")
    return SafeTensor(told.dtype, told.shape, data[begin:end])
