"""Shared memory as the core sees it: memfds that several processes map.

A **segment** is shared by one pair (client, worker incarnation) for life: a mapping once given
cannot be taken back, so nobody else may ever see these pages. Small leases share a segment, large
ones have one of their own. Which pages are free is one integer with a bit for each: there is no
list to keep in order, and what is returned has joined its neighbours by itself
(``docs/decisions/008``). **Weights** belong to the kernel and are mapped by any worker that has
their key. What becomes of both is in ``shared``.
"""

from dataclasses import dataclass, field

from clawai.kernel import limits
from clawai.sdk import wire

PAGE = 4096
Holder = tuple[str, int]
"""Who maps memory: ``client`` or ``worker``, and its number."""


@dataclass(slots=True)
class Memory:
    """One memfd."""

    id: int
    size: int
    worker: int
    """Of the pair; of weights, who fills them."""
    client: int = 0
    """Of the pair; 0: these are weights."""
    rights: wire.Rights = "rw"
    """Of the worker of the pair."""
    key: tuple[str, ...] = ()
    """Of weights: what is in them."""
    state: str = "shared"
    since: int = 0
    """When it was last in use, or was asked back."""
    maps: set[Holder] = field(default_factory=set)
    free: int = 0
    """A bit for each page that is not lent."""
    leases: dict[int, wire.Lease] = field(default_factory=dict)
    """By generation, what the client holds."""
    returned: dict[int, wire.Lease] = field(default_factory=dict)
    """What the client has returned, and running tasks still use."""
    generation: int = 0
    """Of the next lease; none is ever used twice."""

    def __post_init__(self) -> None:
        self.maps.add(("worker", self.worker))
        if self.client:
            self.maps.add(("client", self.client))
            self.free = (1 << self.size // PAGE) - 1

    @property
    def in_use(self) -> bool:
        """Weights while somebody maps them, a segment while somebody uses pages of it."""
        return bool(self.leases or self.returned if self.client else self.maps)

    @property
    def idle(self) -> bool:
        """Nobody uses it now, but somebody may, at once."""
        return self.state == "shared" and not self.in_use

    def lend(self, pages: int) -> wire.Lease | None:
        """A lease of so many pages, if they are free: a small one must not hold a large segment."""
        left_over = self.size - pages * PAGE
        roomy = self.size <= limits.SLAB or left_over <= self.size * limits.LEFT_OVER
        first = find(self.free, pages)
        if not roomy or first < 0:
            return None
        self.free &= ~(((1 << pages) - 1) << first)
        where = {"segment": self.id, "offset": first * PAGE, "length": pages * PAGE}
        lease = wire.Lease(**where, generation=self.generation, rights=self.rights)
        self.leases[self.generation] = lease
        self.generation += 1
        return lease

    def allows(self, lease: wire.Lease, client: int, worker: int) -> bool:
        """Whether a lease is the client's, for this worker's incarnation, current, in bounds."""
        lent = self.leases.get(lease.generation)
        if lent is None or (self.client, self.worker) != (client, worker):
            return False
        ends, end = lent.offset + lent.length, lease.offset + lease.length
        return lent.offset <= lease.offset and end <= ends and lease.rights in ("r", self.rights)

    def take_back(self, generation: int) -> None:
        """End a lease that was returned."""
        lease = self.returned.pop(generation)
        self.free |= ((1 << lease.length // PAGE) - 1) << lease.offset // PAGE


def find(free: int, pages: int) -> int:
    """The first page of the lowest run of ``pages`` set bits, -1 if there is none.

    After each step a bit is set where a run of ``run`` begins; the runs double.
    """
    run = 1
    while run < pages and free:
        longer = min(run, pages - run)
        free &= free >> longer
        run += longer
    return (free & -free).bit_length() - 1
