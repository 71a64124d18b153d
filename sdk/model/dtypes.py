"""Element types of tensors, with their block geometry.

Quantized types follow ggml's block formats: ``block`` consecutive elements of the innermost
dimension share one record of ``nbytes`` bytes. The ids are those of the GGUF specification.
"""

from enum import IntEnum
from typing import NamedTuple


class Geometry(NamedTuple):
    """How a type is stored: ``block`` elements occupy ``nbytes`` bytes."""

    block: int
    nbytes: int


class DType(IntEnum):
    """Tensor element types, numbered as in GGUF."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    I32 = 26
    BF16 = 30

    @property
    def geometry(self) -> Geometry:
        """Elements and bytes of one block."""
        return GEOMETRY[self]

    def row_bytes(self, elements: int) -> int:
        """Bytes of one row of ``elements`` values.

        Raises:
            ValueError: if ``elements`` is not a whole number of blocks.
        """
        block, nbytes = GEOMETRY[self]
        if elements % block:
            raise ValueError(
                f"a row of {self.name} needs a multiple of {block} elements, got {elements}"
            )
        return elements // block * nbytes


GEOMETRY: dict[DType, Geometry] = {
    DType.F32: Geometry(1, 4),
    DType.F16: Geometry(1, 2),
    DType.BF16: Geometry(1, 2),
    DType.I32: Geometry(1, 4),
    DType.Q4_0: Geometry(32, 18),
    DType.Q4_1: Geometry(32, 20),
    DType.Q5_0: Geometry(32, 22),
    DType.Q5_1: Geometry(32, 24),
    DType.Q8_0: Geometry(32, 34),
    DType.Q4_K: Geometry(256, 144),
    DType.Q5_K: Geometry(256, 176),
    DType.Q6_K: Geometry(256, 210),
}
