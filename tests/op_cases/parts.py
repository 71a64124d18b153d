"""What makers of test cases share: the form of a case, sizes and contents by kind.

A maker takes (rng, kind): "small", "odd", "large" are sizes; "extreme" holds the largest codes that
the integer sums must survive; "weird" holds NaN, infinities and denormals (no reference: targets
are compared with each other, and nothing may be read or written out of bounds).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
KINDS = ("small", "odd", "large", "extreme", "weird")


@dataclass
class Case:
    """Arguments in order (arrays, numbers, or ``Out`` shapes) and what the outputs must be."""

    args: list[Any]
    expected: list[Array] = field(default_factory=list)
    scale: float | None = None
    """What the tolerance is relative to; None: the largest magnitude of the reference."""
    exact: bool = False
    """The reference itself must be met bit for bit."""


@dataclass
class Out:
    """An output array, or scratch (not compared)."""

    shape: tuple[int, ...] | int
    dtype: Any = np.float32
    scratch: bool = False


Maker = Callable[[np.random.Generator, str], "Case"]


def pick(kind: str, small: int, odd: int, large: int) -> int:
    return {"small": small, "odd": odd, "large": large, "extreme": large, "weird": odd}[kind]


def floats(rng: np.random.Generator, kind: str, *shape: int) -> Array:
    x = rng.standard_normal(shape).astype(np.float32)
    if kind == "extreme":
        x *= 1e4
    if kind == "weird":
        specials = np.array([np.nan, np.inf, -np.inf, 1e-40, -1e-44, 0.0, -0.0, 3e38], np.float32)
        x.reshape(-1)[:: max(1, x.size // 16)] = np.resize(
            specials, x.reshape(-1)[:: max(1, x.size // 16)].size
        )
    return x


def largest(totals: Array) -> float:
    finite = totals[np.isfinite(totals)]
    return float(finite.max()) if finite.size else 1.0
