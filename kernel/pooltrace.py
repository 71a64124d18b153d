"""A seeded trace of borrows and returns: what `claw bench pool` asks of the pool, fixed beforehand.

Each pair (one client, one worker) borrows at random moments (a Poisson process), sizes log-uniform
between ``SMALLEST`` and ``LARGEST``, and returns each lease after an exponential time. The rate is
such that all pairs together would hold ``DEMAND`` of the budget on average if none were refused.
Time is counted in mean lifetimes. A pair's trace depends on the seed and its own number only, so
that models can be added one by one. The daemon does not load this module.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

PAIRS = 8
SMALLEST = 4 << 10
LARGEST = 256 << 20
BUDGET = 8 << 30
"""Of the 8 to 16 GB boxes that this is for."""
DEMAND = 1.3
LENGTH = 10.0
"""Mean lifetimes; the first refusal comes after one or two."""
SEEDS = range(20)

MEAN = (LARGEST - SMALLEST) / math.log(LARGEST / SMALLEST)
"""Bytes, of the log-uniform distribution."""
RATE = DEMAND * BUDGET / MEAN / PAIRS
"""Borrows of one pair in a mean lifetime."""


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """One borrow (``size`` bytes) or return (0) of a lease."""

    when: float
    lease: int
    """Unique in a trace."""
    pair: int
    size: int


def of_pair(seed: int, pair: int, length: float = LENGTH) -> Iterator[Step]:
    """What one pair does, borrow and return of each lease in turn, not in order of time."""
    rng = random.Random(f"pool {seed} {pair}")
    when, number = rng.expovariate(RATE), 0
    while when < length:
        size = round(SMALLEST * (LARGEST / SMALLEST) ** rng.random())
        lease = pair << 32 | number
        yield Step(when, lease, pair, size)
        yield Step(when + rng.expovariate(1.0), lease, pair, 0)
        when += rng.expovariate(RATE)
        number += 1


def trace(seed: int, pairs: int = PAIRS, length: float = LENGTH) -> list[Step]:
    """The steps of the first ``pairs`` pairs in order of time."""
    return sorted(step for pair in range(pairs) for step in of_pair(seed, pair, length))


def peak(steps: list[Step]) -> int:
    """Most bytes that are held at one time."""
    held: dict[int, int] = {}
    most = total = 0
    for step in steps:
        change = step.size or -held.pop(step.lease)
        if step.size:
            held[step.lease] = step.size
        total += change
        most = max(most, total)
    return most
