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
    """What is to come back."""

    def make_weights(self, told: ev.MakeMemory) -> None:
        """Have weights made, and passed to the worker that fills them."""
        self.steward.send("make_weights", told.memory, told.worker, told.size)

    def give_weights(self, told: ev.GiveMemory) -> None:
        """Have weights passed to a worker that maps them."""
        self.steward.send("give_weights", told.memory, told.worker)

    def free(self, told: ev.FreeMemory) -> None:
        """Have pages given back."""
        self.freeing.add(told.memory)
        self.steward.send("free", told.memory)

    def freed(self, number: int) -> None:
        """The steward says that pages are back."""
        if number in self.freeing:
            self.freeing.remove(number)
            self.loop.happen(ev.MemoryGone(number))

    def lost(self) -> None:
        """The steward has died, and every descriptor with it; so have all workers."""
        for number in list(self.freeing):
            self.freed(number)
        for held in list(self.core.state.memory.values()):
            if held.idle:  # weights: of a segment, one side is gone
                self.loop.happen(ev.MemoryGone(held.id))
