"""The world's own books: what was asked and how it ended, kept apart from the core's tables.

What they prove at every event: each request has exactly one end, and nothing overtakes a more
urgent task of the same service unless it has aged. What they report: waits,
ends, inversions, estimates.
"""

from collections import Counter
from dataclasses import dataclass, field

from clawai.kernel import limits
from clawai.sdk import wire

CLASSES = wire.PRIORITIES
RANK = {name: rank for rank, name in enumerate(CLASSES)}


class BrokenError(Exception):
    """The core broke a promise; the message says which."""


def top_class_after(priority: wire.Priority) -> int:
    """Nanoseconds after which a task of this class counts as critical."""
    below = CLASSES[1 : RANK[priority] + 1]
    return sum(limits.PROMOTE[name] for name in below)


def best_rank(rank: int, waited: int) -> int:
    """The highest class that a task can have aged to."""
    while rank > 0 and waited >= limits.PROMOTE[CLASSES[rank]]:
        waited -= limits.PROMOTE[CLASSES[rank]]
        rank -= 1
    return rank


@dataclass(slots=True)
class Ask:
    """One request as its client sees it."""

    client: int
    request: int
    rank: int
    key: tuple[str, str, str]
    at: int
    kind: str = "submit"
    stream: int = 0
    work: int = 0
    fault: str = ""
    task: int = 0
    waiting: bool = False
    """Accepted and not on a worker."""
    ran_at: int = -1
    estimate: int | None = None
    job: bool = False
    skew: int = 0
    """Of the kernel's clock when it asked."""


@dataclass(slots=True)
class Tally:
    """The figures of one class."""

    asked: int = 0
    waits: list[int] = field(default_factory=list)
    totals: list[int] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    overtaken: int = 0
    """Times that a task of a lower class began while one of this class waited for its service."""
    longest_overtaken: int = 0
    longest_held: int = 0
    """Held on its worker without a break, for the sake of higher classes."""
    estimates: list[tuple[int, int]] = field(default_factory=list)
    """What was promised and what it came to, milliseconds."""


class Books:
    """All requests, open and ended."""

    def __init__(self, ordered: bool = True) -> None:
        self.ordered = ordered
        """Rung 0 of the ladder is in use: without it the classes are not told apart."""
        self.open: dict[int, Ask] = {}
        self.by_task: dict[int, Ask] = {}
        self.waiting: dict[tuple[str, str, str], list[int]] = {}
        self.tallies = [Tally() for _ in CLASSES]
        self.ended = 0

    def ask(self, ask: Ask) -> None:
        """A client has sent a request."""
        self.open[ask.request] = ask
        if ask.kind == "submit":
            self.tallies[ask.rank].asked += 1

    def accepted(self, ask: Ask, message: wire.Accepted) -> None:
        """The core has queued it."""
        if ask.task:
            raise BrokenError(f"request {ask.request} was accepted twice")
        ask.task = message.task
        ask.estimate = message.estimate_ms
        self.by_task[message.task] = ask
        self._wait(ask)

    def _wait(self, ask: Ask) -> None:
        ask.waiting = True
        counts = self.waiting.get(ask.key)
        if counts is None:
            counts = self.waiting[ask.key] = [0, 0, 0, 0]
        counts[ask.rank] += 1

    def _leave(self, ask: Ask) -> None:
        if ask.waiting:
            ask.waiting = False
            self.waiting[ask.key][ask.rank] -= 1

    def requeued(self, task: int) -> None:
        """Its worker is gone, or gave it back; it waits again if it has not ended."""
        ask = self.by_task.get(task)
        if ask is not None and not ask.waiting:
            self._wait(ask)

    def dispatched(self, task: int, now: int, skew: int, first: bool) -> Ask:
        """It begins to run; ``first`` of those in one message: the others may come along with it.

        ``now`` is the world's time, and the kernel's is ahead of it by ``skew``.

        Raises:
            BrokenError: if it overtook a more urgent one that waited for the same service.
        """
        ask = self.by_task.get(task)
        if ask is None or not ask.waiting:
            raise BrokenError(f"task {task} runs, and does not wait: {ask}")
        self._leave(ask)
        waited = now - ask.at
        counts = self.waiting[ask.key]
        for rank in range(ask.rank):
            if counts[rank]:
                tally = self.tallies[rank]
                tally.overtaken += 1
                tally.longest_overtaken = max(tally.longest_overtaken, waited)
                if first and self.ordered and best_rank(ask.rank, waited + skew - ask.skew) > rank:
                    raise BrokenError(
                        f"task {task} ({CLASSES[ask.rank]}, waited {waited / limits.SECOND:.3f} s) "
                        f"overtook {counts[rank]} {CLASSES[rank]} of {ask.key}"
                    )
        if ask.ran_at < 0:
            ask.ran_at = now
            tally = self.tallies[ask.rank]
            tally.waits.append(waited)
            if ask.estimate is not None:
                tally.estimates.append((ask.estimate, waited // limits.MS))
        return ask

    def end(self, ask: Ask, how: str, now: int) -> None:
        """The one end of a request: done, or the code of an error."""
        del self.open[ask.request]
        self.ended += 1
        if ask.kind != "submit":
            return
        if ask.task:
            self.by_task.pop(ask.task, None)
            self._leave(ask)
        tally = self.tallies[ask.rank]
        tally.ends[how] += 1
        tally.totals.append(now - ask.at)


def percentile(values: list[int], share: float) -> float:
    """Of nanoseconds, in milliseconds; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] / limits.MS, 3)
