"""Models that take arrays, as their doors see them: by name and version, arrays in and out."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy
from starlette.requests import Request

from clawai.plugins.gateway import catalogue
from clawai.plugins.gateway.answers import later
from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.keys import permit, require_owner
from clawai.sdk import wire
from clawai.sdk.context import Tensor, view
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front

Array = numpy.ndarray[Any, Any]
INFER, DESCRIBE = "tensor.infer", "tensor.describe"
FORMAT = "onnx"
_KEPT = 256
"""Descriptions that are kept, of so many files."""


class Told(msgspec.Struct, frozen=True):
    """An input or an output of a model."""

    name: str
    dtype: str
    """numpy's name; ``|S`` is text of any length."""
    shape: tuple[int, ...]
    """-1: any size."""


class Described(msgspec.Struct, frozen=True):
    """What a model takes and gives."""

    platform: str
    inputs: tuple[Told, ...]
    outputs: tuple[Told, ...]


@dataclass(frozen=True, slots=True)
class Version:
    """A stored model, as one version of what is served under a name."""

    name: str
    number: int
    stored: str
    """Its own name."""
    state: str
    row: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Urgency:
    """How a run is asked for."""

    priority: wire.Priority = "interactive"
    deadline: float | None = None
    behalf: str = ""


class Models:
    """Those that are stored here and take arrays."""

    def __init__(self, kernel: Front) -> None:
        self._kernel = kernel
        self._kept: dict[tuple[Any, ...], Described] = {}

    async def all(self) -> list[Version]:
        """Every version of every one, by name, the newest first."""
        rows = await catalogue.models(self._kernel)
        found = [
            Version(
                row["serves"] or row["name"], row["version"] or 1, row["name"], row["state"], row
            )
            for row in rows
            if row["format"] == FORMAT
        ]
        return sorted(found, key=lambda each: (each.name, -each.number))

    async def versions(self, name: str) -> list[Version]:
        """The versions of one, the newest first.

        Raises:
            BadRequest: 404, with the nearest names.
        """
        every = await self.all()
        found = [each for each in every if each.name == name]
        if not found:
            names = sorted({each.name for each in every})
            near = difflib.get_close_matches(name, names, 3, 0.5) or names[:20]
            there = f"there are: {', '.join(near)}" if near else "none is stored here"
            text = f"no model {name[:80]!r} that takes tensors is stored here; {there}"
            raise BadRequest(text, "model", status=404)
        return found

    async def version(self, name: str, number: str = "") -> Version:
        """One version; without a number the newest.

        Raises:
            BadRequest: 404.
        """
        found = await self.versions(name)
        if not number:
            return found[0]
        for each in found:
            if str(each.number) == number:
                return each
        there = ", ".join(str(each.number) for each in found)
        raise BadRequest(f"{name} has no version {number[:20]!r}; it has {there}", status=404)

    async def described(self, model: Version, urgency: Urgency) -> Described:
        """What one takes and gives; it is loaded for that if it never was.

        Raises:
            ClawError: it cannot be, or its key does not say so.
        """
        permit("operations", DESCRIBE)  # what is kept is asked of nobody
        key = model.stored, model.row["sha256"], model.row["pulled_at"], model.row["bytes"]
        if (found := self._kept.get(key)) is None:
            result = await self._call(DESCRIBE, {}, model, urgency)
            found = msgspec.convert(result.value, Described)
            if model.row["sha256"]:
                while len(self._kept) >= _KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = found
        return found

    async def run(
        self,
        model: Version,
        arrays: Mapping[str, Array],
        urgency: Urgency,
        wanted: Sequence[str] | None = None,
    ) -> dict[str, Array]:
        """The outputs that are wanted, or all.

        Raises:
            ClawError: what became of it.
        """
        inputs = {
            name: Tensor(array.dtype.str, array.shape, frame=at)
            for at, (name, array) in enumerate(arrays.items())
        }
        frames = [array.tobytes() for array in arrays.values()]
        params = {"inputs": msgspec.to_builtins(inputs)}
        if wanted is not None:
            params["outputs"] = list(wanted)
        result = await self._call(INFER, params, model, urgency, frames)
        told = msgspec.convert(result.value, dict[str, Tensor])
        return {name: _array(each, result.frames) for name, each in told.items()}

    async def load(self, model: Version, urgency: Urgency) -> None:
        """Have it in memory.

        Raises:
            ClawError: it cannot be.
        """
        await self._call(DESCRIBE, {}, model, urgency)

    async def unload(self, model: Version, urgency: Urgency) -> None:
        """Let go of it, once nobody uses it.

        Raises:
            ClawError: not_permitted.
        """
        await require_owner("unload", "tensor.*")
        if model.state != "stored":
            await self._call(DESCRIBE, {}, model, urgency, keep_alive=0.0)

    async def _call(
        self,
        op: str,
        params: Mapping[str, Any],
        model: Version,
        urgency: Urgency,
        frames: Sequence[bytes] = (),
        keep_alive: float | None = None,
    ) -> Any:
        task = await self._kernel.submit(
            op,
            params,
            model=model.stored,
            priority=urgency.priority,
            deadline=urgency.deadline,
            frames=frames,
            keep_alive=keep_alive,
            behalf=urgency.behalf,
        )
        try:
            return await task.result()
        except BaseException:
            if not task.done:  # whoever asked has gone
                later(task.cancel())
            raise


def _array(told: Tensor, frames: Sequence[bytes]) -> Array:
    if told.frame is None or not 0 <= told.frame < len(frames):
        raise ClawError("worker_failed", "the engine names an array that it has not sent")
    return view(told, memoryview(frames[told.frame]))


def urgency_of(request: Request) -> Urgency:
    """What the headers say.

    Raises:
        BadRequest: a header says what there is not.
    """
    from clawai.plugins.gateway.door import who
    from clawai.plugins.gateway.openai import urgency

    priority, deadline = urgency(request, None, None)
    return Urgency(priority, deadline, who(request))


# JSON to arrays.

_DEPTH = 16
_KINDS = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float), "S": (str, bytes)}
_WORDS = {"b": "true or false", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}


def flat(value: Any, where: str) -> tuple[list[Any], tuple[int, ...]]:
    """Nested lists as one list, and their shape.

    Raises:
        BadRequest: they are of different lengths, or too deep.
    """
    shape: list[int] = []
    level = [value]
    while level and isinstance(level[0], list):
        size = len(level[0])
        if not all(isinstance(each, list) and len(each) == size for each in level):
            raise BadRequest(f"{where}: lists of different lengths make no tensor", where)
        shape.append(size)
        if len(shape) > _DEPTH:
            raise BadRequest(f"{where}: more than {_DEPTH} lists within each other", where)
        level = [item for each in level for item in each]
    return level, tuple(shape)


def made(items: list[Any], shape: Sequence[int], dtype: str, where: str) -> Array:
    """An array of plain values, none of them of another kind than the type's.

    Raises:
        BadRequest: one is, or there are more or fewer than the shape says.
    """
    kind = numpy.dtype(dtype).kind
    allowed = _KINDS[kind]
    for each in items:
        # To Python True is a number; to everybody else it is none.
        if not isinstance(each, allowed) or (isinstance(each, bool) and kind != "b"):
            words = _WORDS.get(kind, "text")
            raise BadRequest(f"{where} takes {words}, got {str(each)[:40]!r}", where)
    try:
        if kind == "S":
            return texts([e if isinstance(e, bytes) else e.encode() for e in items], shape, where)
        return numpy.array(items, dtype).reshape(tuple(shape))
    except (OverflowError, ValueError, UnicodeEncodeError) as error:
        raise BadRequest(f"{where}: {error}", where) from None


def texts(items: Sequence[bytes], shape: Sequence[int], where: str) -> Array:
    """Texts as an array of their longest, filled up with zeros.

    Raises:
        BadRequest: one ends with a zero, which could not be told from what fills it up.
    """
    width = max([1, *map(len, items)])
    if any(each.endswith(b"\0") for each in items):
        raise BadRequest(f"{where}: a text that ends with a zero byte does not travel", where)
    if width * len(items) > wire.MAX_MESSAGE:
        raise BadRequest(f"{where}: {len(items)} texts of up to {width} bytes are too much", where)
    return numpy.array(items, f"|S{width}").reshape(tuple(shape))


def plain(array: Array) -> Any:
    """Numbers as nested lists, each as short as its type allows."""
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        # 0.1 as it is written in this type, not as the next number of a larger one.
        array = array.astype("U").astype("<f8")
    return array.tolist()
