"""One arena for all activations: buffers that never live at the same time share bytes.

Greedy by size (Pisarchyk and Lee, 2020): the largest buffer first, each at the lowest offset that
collides with no buffer already placed whose life overlaps its own.
"""

from dataclasses import dataclass

ALIGN = 64


def align(n: int) -> int:
    """``n`` rounded up to a cache line."""
    return -(-n // ALIGN) * ALIGN


@dataclass(slots=True, eq=False)
class Buffer:
    """Bytes needed from step ``first`` to step ``last``, both included."""

    nbytes: int
    width: int
    """Elements from one token's row to the next."""
    first: int = -1
    last: int = -1
    offset: int = 0

    def touch(self, step: int) -> None:
        """Extend the life to ``step``."""
        if self.first < 0:
            self.first = step
        self.last = max(self.last, step)


def place(buffers: list[Buffer]) -> int:
    """Give each buffer its offset; returns the size of the arena in bytes."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: -b.nbytes):
        rivals = [b for b in placed if b.first <= buffer.last and buffer.first <= b.last]
        offset = 0
        for rival in sorted(rivals, key=lambda b: b.offset):
            if offset + buffer.nbytes <= rival.offset:
                break
            offset = max(offset, align(rival.offset + rival.nbytes))
        buffer.offset = offset
        placed.append(buffer)
    return max((align(b.offset + b.nbytes) for b in placed), default=0)
