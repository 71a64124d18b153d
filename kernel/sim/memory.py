"""The memory that really exists in the world, to hold against the core's ledger."""

from dataclasses import dataclass, field

from clawai.kernel.sim.books import BrokenError


@dataclass(slots=True)
class Segment:
    """One memfd."""

    client: int
    worker: int
    size: int
    leases: set[int] = field(default_factory=set)
    """Generations that its client has not returned."""
    client_maps: bool = True


class Memory:
    """Counts bytes as processes, segments and weights objects come and go.

    ``take`` raises BrokenError when more would exist than the budget allows.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.real = 0
        self.peak = 0
        self.segments: dict[int, Segment] = {}
        self.objects: dict[int, int] = {}
        self.freeing: set[int] = set()
        self._of: dict[int, set[int]] = {}

    @property
    def other(self) -> int:
        """Bytes of segments and weights objects."""
        return sum(s.size for s in self.segments.values()) + sum(self.objects.values())

    def take(self, size: int) -> None:
        """More memory exists."""
        self.real += size
        self.peak = max(self.peak, self.real)
        if self.real > self.budget:
            raise BrokenError(f"{self.real} bytes exist, the budget is {self.budget}")

    def give(self, size: int) -> None:
        """Less memory exists."""
        self.real -= size

    def segment(self, number: int, client: int, worker: int, size: int) -> None:
        """A segment is made."""
        self.segments[number] = Segment(client, worker, size)
        self._of.setdefault(worker, set()).add(number)
        self.take(size)

    def lent(self, worker: int) -> list[int]:
        """Segments that clients use with this worker."""
        return [n for n in self._of.get(worker, ()) if self.segments[n].leases]

    def free(self, number: int) -> None:
        """A segment or weights object is to be given back."""
        segment = self.segments.get(number)
        if number in self.freeing or (segment is None and number not in self.objects):
            raise BrokenError(f"{number} is freed, and was before, or does not exist")
        if segment and segment.client_maps:
            raise BrokenError(f"segment {number} is freed, and its client maps it")
        self.freeing.add(number)

    def gone(self, number: int) -> None:
        """Its pages are back."""
        self.freeing.remove(number)
        if number in self.objects:
            self.give(self.objects.pop(number))
            return
        segment = self.segments.pop(number)
        self._of[segment.worker].discard(number)
        self.give(segment.size)

    def weights(self, number: int, size: int) -> None:
        """A weights object is made."""
        self.objects[number] = size
        self.take(size)

    def client_left(self, client: int) -> None:
        """A process that ended maps nothing."""
        for segment in self.segments.values():
            if segment.client == client:
                segment.client_maps = False
                segment.leases.clear()
