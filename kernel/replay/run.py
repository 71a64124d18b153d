"""Feed the events of a journal to a core and compare what it answers with what the daemon did."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from clawai.kernel.core import Core
from clawai.kernel.journal import answer
from clawai.kernel.replay import thaw
from clawai.kernel.replay.code import ours
from clawai.kernel.replay.files import Entry, Head, Snapshot
from clawai.sdk.errors import ClawError

CONTEXT = 8
"""Events before a difference that are shown with it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One event that was replayed."""

    number: int
    now: int
    event: Any
    told: list[Any]
    recorded: tuple[int, list[str]] | None
    """Checksum and names of the instructions in the field."""
    sum: int
    broke: str = ""
    """What the core raised."""

    @property
    def same(self) -> bool:
        """Whether the core did what it did in the field."""
        if self.recorded is None or self.broke:
            return self.recorded is None and bool(self.broke)
        return self.recorded == (self.sum, self.names)

    @property
    def names(self) -> list[str]:
        """Of the instructions."""
        return answer(self.told, 0)[1]


def _made(head: Head) -> Core:
    if head.core is None:
        raise ClawError("bad_config", "neither a snapshot nor what the core was made of")
    return Core(*head.core)


@dataclass
class Replay:
    """A core that goes through a journal."""

    core: Core | None = None
    number: int = 0
    sum: int = 0
    now: int = 0
    last: deque[Step] = field(default_factory=lambda: deque(maxlen=CONTEXT))
    other_code: bool = False
    """It was made by another version of the core: a difference need not be a fault."""
    runs: int = 0
    """Chains of events: a journal has more than one where it began again."""

    def steps(self, parts: Iterable[Snapshot | Entry]) -> Iterator[Step]:
        """Each event in turn. After one that is not the same, what follows means nothing.

        Raises:
            ClawError: bad_config, if what the file holds cannot be replayed.
        """
        for part in parts:
            if isinstance(part, Snapshot):
                self.restore(part)
            elif self.core is None:
                raise ClawError("bad_config", "the journal does not begin with a snapshot")
            else:
                yield self.step(self.core, part)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot, unless it stands where we are already."""
        head = snapshot.head
        self.other_code = self.other_code or head.code != ours()
        if self.core and (head.number, head.sum) == (self.number, self.sum):
            return  # of a segment in the middle of a chain: we are there already
        self.core = thaw.core(snapshot.data) if snapshot.data else _made(head)
        self.number, self.sum, self.now = head.number, head.sum, head.now
        self.last.clear()
        self.runs += 1

    def step(self, core: Core, entry: Entry) -> Step:
        """One event."""
        event = thaw.event(entry.event)
        self.number += 1
        self.now = entry.now
        told: list[Any] = []
        broke = ""
        try:
            told = core.handle(event, entry.now)
            self.sum = answer(told, self.sum)[0]
        except Exception as error:  # whatever the core may raise is what we are looking for
            broke = f"{type(error).__name__}: {error}"
        step = Step(self.number, entry.now, event, told, entry.answer, self.sum, broke)
        self.last.append(step)
        return step
