"""A segment of the pool: pages that one client and one worker share, and which of them are lent.

A segment is a memfd of one pair (client, worker incarnation) for life: a mapping once given cannot
be taken back, so nobody else may ever see these pages. Small leases share a segment, large ones
have one of their own. Which pages are free is one integer with a bit for each: there is no list to
keep in order, and what is returned has joined its neighbours by itself (``docs/decisions/008``).
"""

from dataclasses import dataclass, field

from clawai.sdk import wire

PAGE = 4096


@dataclass(slots=True)
class Lent:
    """One lease."""

    lease: wire.Lease
    pins: int = 0
    """Running tasks that use it."""
    returned: bool = False
    """Its client is done with it; it ends with the last of these tasks."""


@dataclass(slots=True)
class Segment:
    """See the module."""

    id: int
    client: int
    worker: int
    size: int
    rights: wire.Rights
    """Of the worker."""
    state: str = "new"
    free: int = 0
    """A bit for each page that is not lent."""
    leases: dict[int, Lent] = field(default_factory=dict)
    """By generation."""
    generation: int = 0
    """Of the next lease; none is ever used twice."""
    client_maps: bool = True
    worker_maps: bool = True
    since: int = 0
    """When it became idle, or its holders were asked to unmap it."""

    def __post_init__(self) -> None:
        self.free = (1 << self.size // PAGE) - 1

    def lend(self, first: int, pages: int) -> wire.Lease:
        """A lease of pages that are free."""
        self.free &= ~(((1 << pages) - 1) << first)
        where = {"segment": self.id, "offset": first * PAGE, "length": pages * PAGE}
        lease = wire.Lease(**where, generation=self.generation, rights=self.rights)
        self.leases[self.generation] = Lent(lease)
        self.generation += 1
        return lease

    def take_back(self, generation: int) -> None:
        """End a lease."""
        lease = self.leases.pop(generation).lease
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
