"""What benchmarks share: percentiles, and rounds that hit both sides alike."""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` percent of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]


def middle(values: Sequence[float], digits: int = 3) -> float:
    """The median, rounded."""
    return round(statistics.median(values), digits)


def interleaved(sides: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Each side once a round, in alternating order: a slower minute of the box hits them all."""
    for number in range(rounds):
        for side in sides if number % 2 else reversed(sides):
            yield number, side
