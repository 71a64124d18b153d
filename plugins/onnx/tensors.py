"""Arrays of the wire and of ONNX Runtime, each in the other's form."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from clawai.sdk.errors import ClawError

NAMES = {
    "tensor(bool)": "|b1",
    "tensor(uint8)": "|u1",
    "tensor(uint16)": "<u2",
    "tensor(uint32)": "<u4",
    "tensor(uint64)": "<u8",
    "tensor(int8)": "|i1",
    "tensor(int16)": "<i2",
    "tensor(int32)": "<i4",
    "tensor(int64)": "<i8",
    "tensor(float16)": "<f2",
    "tensor(float)": "<f4",
    "tensor(double)": "<f8",
    "tensor(string)": "|S",
}
"""ONNX Runtime's name of a type to numpy's; a text is UTF-8, filled up with zeros."""


def dtype(kind: str) -> str:
    """numpy's name of a type; "" if arrays of it do not travel."""
    return NAMES.get(kind, "")


def shape(told: Sequence[Any]) -> list[int]:
    """The sizes of an array, -1 where any is taken."""
    return [each if isinstance(each, int) and each >= 0 else -1 for each in told]


def taken(name: str, array: "numpy.ndarray[Any, Any]", told: Mapping[str, Any]) -> Any:
    """An input as ONNX Runtime takes it.

    Args:
        told: what the model says of it, as ``tensor.describe`` shows it.

    Raises:
        ClawError: bad_params, if it is of another type or shape.
    """
    wanted, got = told["dtype"], array.dtype.str
    sizes = told["shape"]
    fits = len(sizes) == array.ndim and all(
        size in (-1, here) for size, here in zip(sizes, array.shape, strict=True)
    )
    if not fits:
        raise ClawError(
            "bad_params",
            f"the input {name!r} has another shape than the model takes",
            list(array.shape),
            sizes,
            "-1 stands for any size",
        )
    if wanted == "|S" and array.dtype.kind == "S":
        return _texts(name, array)
    if wanted != got and array.dtype != numpy.dtype(wanted or "V"):
        raise ClawError("bad_params", f"the input {name!r} has another type", got, wanted)
    # What lies in memory that its client can write is looked at once: a run must see one value.
    return numpy.array(array, wanted, order="C")


def _texts(name: str, array: "numpy.ndarray[Any, Any]") -> Any:
    try:
        texts = [each.decode() for each in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        text = f"the input {name!r} is text, and one of its elements is no UTF-8"
        raise ClawError("bad_params", text, str(error)) from None
    return numpy.array(texts, object).reshape(array.shape)


def given(array: Any) -> "numpy.ndarray[Any, Any]":
    """An output as the wire takes it.

    Raises:
        ClawError: bad_model, if the wire has no form for it.
    """
    if not isinstance(array, numpy.ndarray):
        raise ClawError("bad_model", "an output of the model is no array", type(array).__name__)
    if array.dtype.kind in "OU":
        texts = [str(each).encode() for each in array.ravel().tolist()]
        width = max([1, *map(len, texts)])
        return numpy.array(texts, f"|S{width}").reshape(array.shape)
    return numpy.ascontiguousarray(array)
