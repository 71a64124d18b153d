"""What tasks have taken: the median run time of each (operation, model, size), and of batches.

The size is a power of two of the bytes that came with the task. The last ``limits.SAMPLES`` runs
count, so that a box that has become slower is believed soon.
"""

from collections import deque
from dataclasses import dataclass, field

from clawai.kernel import limits

Key = tuple[str, str, int]


@dataclass(slots=True)
class Costs:
    """Of a bounded number of keys, the last used; in nanoseconds."""

    known: dict[Key, deque[int]] = field(default_factory=dict)

    def learn(self, key: Key, took: int) -> None:
        """Note that a task of ``key`` ran for ``took`` nanoseconds."""
        self.known[key] = seen = self.known.pop(key, None) or deque(maxlen=limits.SAMPLES)
        seen.append(took)
        if len(self.known) > limits.COSTS:
            del self.known[next(iter(self.known))]

    def p50(self, key: Key) -> int:
        """Median run time; 0 if nothing is known."""
        seen = self.known.get(key)
        return sorted(seen)[len(seen) // 2] if seen else 0


@dataclass(slots=True)
class Batching:
    """How large the batches of a service should be, by what its batches have taken.

    Run time is taken as ``fixed + each * n``, fitted through what batches of one and larger ones
    took. After a batch has ended its owners are likely to ask again: if that saves more than it
    costs, the next one waits for them, as long as they keep coming.
    """

    took: dict[int, float] = field(default_factory=dict)
    """Size to run time: the shortest lately, as a busy box makes everything look dear."""
    expected: int = 0
    """Size that the next batch may reach if those whose tasks have ended come back."""
    until: int = 0
    """It waits no longer than this."""
    last: int = 0
    """It waits no longer than this, even while tasks keep coming."""

    def fixed(self) -> float:
        """What a batch takes before its first item."""
        if len(self.took) < 2:
            return 0.0
        small, large = min(self.took), max(self.took)
        each = (self.took[large] - self.took[small]) / (large - small)
        return max(0.0, self.took[small] - max(0.0, each) * small)

    def estimate(self, size: int) -> int:
        """Run time of a batch of ``size``; 0 while nothing is known."""
        if not self.took:
            return 0
        near = min(self.took, key=lambda known: abs(known - size))
        fixed = self.fixed()
        return int(fixed + (self.took[near] - fixed) / near * size)

    def ended(self, size: int, took: int, queued: int, most: int, now: int) -> None:
        """A batch has ended while ``queued`` others waited."""
        self.took[size] = min(float(took), self.took.get(size, took) * limits.FORGET)
        self.expected = min(most, size + queued)
        worth = size + queued > 1 and self.fixed() > 4 * limits.LINGER
        self.until = now + limits.LINGER if worth else 0
        self.last = now + int(self.fixed() / 2)

    def arrived(self, now: int) -> None:
        """One more task has come: while they do, it is worth waiting for the next."""
        if now < self.until:
            self.until = min(now + limits.LINGER, self.last)

    def waits(self, queued: int, now: int) -> bool:
        """Whether the next batch is not to begin yet."""
        return queued < self.expected and now < self.until
