"""What one call of each op is given when ``claw bench ops`` times it: the parts of a case.

A module a group of families (``timed_language``, ``timed_images``, ``timed_arrays``), each with a
table CASES: the name of an op to a function that makes its case. One typical shape each, that of a
real model, said in ``about``. Numbers are ordinary ones: no NaN, no infinity, nothing so small that
a processor takes longer for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Maker = Callable[[], "Case"]
Args = tuple[Any, ...]

HIDDEN, FFN, HEAD, VOCABULARY = 2048, 8192, 64, 128256
"""Of Llama 3.2 1B."""
WIDTH = 4096
"""Of Llama 3.1 8B: what is short is timed on it, or a call would cost more than the op."""


@dataclass(frozen=True, slots=True)
class Out:
    """An output of ``n`` elements, or scratch, which does not count as moved."""

    n: int
    dtype: Any = np.float32
    scratch: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """Arguments in the order of ``ops.def``, and what the call does with them."""

    about: str
    """Whose shape it is."""
    args: Args
    """Arrays (inputs), ``Out`` and numbers."""
    cold: bool = False
    """Its large arrays come from memory: a model does not find them in a cache."""
    ops: float = 0
    """A multiply and an add are two; 0: it computes little."""
    unit: str = ""
    """What computes it: "fma" (float32) or "int8"."""
    reads: int | None = None
    """Bytes moved; None: all inputs and outputs, once each."""

    @property
    def moved(self) -> int:
        """Bytes read and written, once each."""
        if self.reads is not None:
            return self.reads
        return sum(nbytes(a) for a in self.args if not (isinstance(a, Out) and a.scratch))


def nbytes(arg: Any) -> int:
    """Bytes of an argument; 0 of a number."""
    if isinstance(arg, Out):
        return arg.n * int(np.dtype(arg.dtype).itemsize)
    return int(arg.nbytes) if isinstance(arg, np.ndarray) else 0


def _rng() -> np.random.Generator:
    return np.random.default_rng(2029)


def floats(n: int, low: float = -2.0, high: float = 2.0) -> Array:
    """float32, none of them tiny."""
    x: Array = _rng().uniform(low, high, n).astype(np.float32)
    x[np.abs(x) < 1e-3] = 1e-3
    return x


def codes(n: int, dtype: Any = np.int8) -> Array:
    """All codes of a byte or of 16 bits but the lowest of signed ones."""
    limits = np.iinfo(dtype)
    found: Array = _rng().integers(limits.min + (limits.min < 0), limits.max + 1, n, dtype)
    return found


def integers(n: int, low: int, high: int) -> Array:
    """int32 of low..high - 1."""
    return _rng().integers(low, high, n, np.int32)


def ordinary(n: int, dtype: Any = np.uint8) -> Array:
    """Bytes that are ordinary numbers in any float format, and any code: of packed weights."""
    size = n * int(np.dtype(dtype).itemsize)
    found: Array = _rng().integers(0x20, 0x40, size, np.uint8).view(dtype)
    return found


def Y(n: int) -> Out:  # noqa: N802 - as the lists of ops.def call it
    """An output of floats."""
    return Out(n)


def bytes_out(n: int) -> Out:
    """An output of bytes."""
    return Out(n, np.uint8)


def scratch(n: int, dtype: Any = np.float32) -> Out:
    """What an op works in."""
    return Out(n, dtype, scratch=True)


def over(n: int, *extra: float, about: str, cold: bool = False, inputs: int = 1) -> Maker:
    """(x..., n, numbers..., y), of n floats each: most ops on floats one by one."""

    def make() -> Case:
        return Case(about, (*[floats(n) for _ in range(inputs)], n, *extra, Y(n)), cold)

    return make


def case(about: str, *args: Any, **more: Any) -> Case:
    """A case whose arguments are written out."""
    return Case(about, args, **more)
