"""Memory that others hold: what the core says of it goes to the steward, whose answers are events.

The steward makes, passes, seals and empties the memfds (``clawai.kernel.steward.memory``). How a
segment is made is told in ``clients``, since its client has to wait for it.
"""

from dataclasses import dataclass, field

from clawai.kernel import events as ev
from clawai.kernel.core import Core
from clawai.kernel.loop import Loop
from clawai.kernel.stewardship import Steward


@dataclass
class Memory:
    """What the core waits for."""

    loop: Loop
    steward: Steward
    core: Core
    freeing: set[int] = field(default_factory=set)
    """Segments whose pages are to come back."""

    def free(self, told: ev.FreeSegment) -> None:
        """Have the pages of a segment given back; the core says it again when a worker that was in
        the way is gone."""
        self.freeing.add(told.segment)
        self.steward.send("free", told.segment)

    def freed(self, segment: int) -> None:
        """The steward says that the pages of a segment are back."""
        if segment in self.freeing:
            self.freeing.remove(segment)
            self.loop.happen(ev.SegmentGone(segment))

    def seal_weights(self, told: ev.SealWeights) -> None:
        """Have every write forbidden; while somebody maps it for writing, the system refuses."""

        def sealed(answer: object) -> None:
            self.loop.happen(ev.WeightsSealed(told.weights, told.worker, answer is True))

        self.steward.ask("seal_weights", told.weights, then=sealed)

    def drop_weights(self, told: ev.DropWeights) -> None:
        """Have one let go that nobody maps."""

        def gone(answer: object) -> None:
            self.loop.happen(ev.WeightsGone(told.weights))

        self.steward.ask("drop_weights", told.weights, then=gone)

    def lost(self) -> None:
        """The steward has died, and every descriptor with it; so have all workers."""
        for segment in list(self.freeing):
            self.freed(segment)
        for held in list(self.core.state.weights.values()):
            if held.state == "ready":
                self.loop.happen(ev.WeightsGone(held.id))
