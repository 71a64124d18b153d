"""The matrices of `claw bench gemm`: both sides make the same from a shape, and check themselves.

``y = x w^T`` with m rows of x and n of w, k long. Codes fill their whole range; scales are
multiples of a power of two, so that scale times zero point is exact in float16, as GGUF keeps it.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from clawai.sdk.errors import ClawError

GROUP = 32
"""Weights that share a scale."""
CHECKED = 4
"""Rows of the int4 result that are compared with float64."""


@dataclass(frozen=True)
class Shape:
    """m x k x n, as it is written."""

    m: int
    k: int
    n: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Read ``128x4096x4096``.

        Raises:
            ClawError: bad_params: it is not three such numbers.
        """
        try:
            m, k, n = map(int, text.lower().split("x"))
        except ValueError:
            m = k = n = 0
        if not (1 <= m <= 256 and 1 <= k <= 16384 and 1 <= n <= 65536) or k % GROUP or n % 16:
            raise ClawError(
                "bad_params",
                "the shape of a product is MxKxN",
                got=text,
                allowed=["M in 1..256", "K in 32..16384, by 32", "N in 16..65536, by 16"],
                hint="for example --shape 128x4096x4096",
            )
        return cls(m, k, n)

    def __str__(self) -> str:
        return f"{self.m}x{self.k}x{self.n}"

    @property
    def operations(self) -> int:
        """A multiply and an add are two."""
        return 2 * self.m * self.k * self.n


class Case:
    """The numbers of one shape."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def _rng(self, number: int) -> Any:
        return np.random.default_rng((number, self.shape.m, self.shape.k, self.shape.n))

    @cached_property
    def bytes(self) -> Any:
        """uint8 (m, k): activations of the int8 product."""
        return self._rng(0).integers(0, 256, (self.shape.m, self.shape.k), np.uint8)

    @cached_property
    def weights(self) -> Any:
        """int8 (n, k): its weights."""
        return self._rng(1).integers(-128, 128, (self.shape.n, self.shape.k), np.int8)

    @cached_property
    def floats(self) -> Any:
        """float32 (m, k): activations of the int4 products."""
        return self._rng(2).standard_normal((self.shape.m, self.shape.k), np.float32)

    @cached_property
    def codes(self) -> Any:
        """uint8 (n, k / 32, 32): their weights, 0..15."""
        size = (self.shape.n, self.shape.k // GROUP, GROUP)
        return self._rng(3).integers(0, 16, size, np.uint8)

    @cached_property
    def scales(self) -> Any:
        """float16 (n, k / 32)."""
        size = self.codes.shape[:2]
        return (self._rng(4).integers(64, 128, size) / 8192).astype(np.float16)

    def zeros(self, symmetric: bool) -> Any:
        """uint8 (n, k / 32): the code that stands for 0."""
        size = self.codes.shape[:2]
        return (
            np.full(size, 8, np.uint8)
            if symmetric
            else self._rng(5).integers(0, 16, size, np.uint8)
        )

    def error(self, y: Any, symmetric: bool) -> float:
        """Root of the mean square error of an int4 result's first rows, as a part of theirs."""
        codes = self.codes.astype(np.float32) - self.zeros(symmetric)[..., None]
        w = (codes * self.scales[..., None].astype(np.float32)).reshape(self.shape.n, -1)
        exact = self.floats[:CHECKED].astype(np.float64) @ w.T
        return float(np.sqrt(((y[:CHECKED] - exact) ** 2).mean() / (exact**2).mean()))


def digest(sums: Any) -> str:
    """Of an int32 result."""
    return hashlib.sha256(np.ascontiguousarray(sums, np.int32).tobytes()).hexdigest()
