"""Who computes now, in one worker: tasks take turns at the model, the most urgent first.

A turn is one token, or as much of a prompt as a slice of time allows; between two, the task with
the highest class goes on, then the one with the nearest deadline, then the one whose last turn is
longest ago. Whoever comes with a higher class has the running one leave between two ops. Every task
keeps its own KV cache, so one that went on later answers what it would have answered alone.
"""

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.model.driver import Left, Plan, Sequence

SLICE = 0.02
"""Seconds until a turn ends for an equal one that waits: a prompt is cut, a token is shorter."""
LOOK = 0.02
"""Seconds between two looks of a waiting task at its control word."""


@dataclass(eq=False, slots=True)
class Seat:
    """A task at the model: its sequence, its rank and its control word."""

    turns: "Turns"
    sequence: Sequence
    rank: int
    deadline: float
    checkpoint: Callable[[], None]
    """Obeys the control word: returns, waits or raises, as ``Context.checkpoint``."""
    control: memoryview | None
    last: int = 0
    """Number of its last turn."""
    spent: int = 0
    """Nanoseconds of all its turns."""
    called: threading.Event = field(default_factory=threading.Event)

    @property
    def key(self) -> tuple[int, float, int]:
        """Lower is sooner."""
        return self.rank, self.deadline, self.last

    def run(self, tokens: list[int], *, all_logits: bool = False) -> Any:
        """Append ``tokens``, in as many turns as it takes; as ``Sequence.run``.

        Raises:
            Stopped: the control word said so.
        """
        go_on: Callable[[], Any] = lambda: self.sequence.run(tokens, all_logits=all_logits)  # noqa: E731
        while True:
            self.turns.take(self)
            try:
                return go_on()
            except Left:
                go_on = self.sequence.resume
            finally:
                self.turns.give(self)

    def must_obey(self) -> bool:
        """Whether the control word says anything but go."""
        return self.control is not None and bool(self.control[0] & 0xFF)


class Turns:
    """The sequences of a plan, and the order in which those that wait run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        """Guards all below."""
        self._free = list(reversed(plan.sequences))
        self._holder: Seat | None = None
        self._since = 0
        self._waiting: list[Seat] = []
        self._count = 0

    @contextmanager
    def seat(
        self,
        control: memoryview | None = None,
        checkpoint: Callable[[], None] = lambda: None,
        priority: wire.Priority = "interactive",
        deadline: float | None = None,
    ) -> Any:
        """A sequence of one's own, empty, for the time of a task."""
        with self._lock:
            if not self._free:
                most = len(self._plan.sequences)
                raise ClawError("overloaded", "every sequence of the model is in use", allowed=most)
            sequence = self._free.pop()
        try:
            sequence.start(control)
            rank = wire.PRIORITIES.index(priority)
            due = float("inf") if deadline is None else deadline
            yield Seat(self, sequence, rank, due, checkpoint, control)
        finally:
            with self._lock:
                self._free.append(sequence)

    def take(self, seat: Seat) -> None:
        """Wait for the turn of ``seat``, or for what its control word says."""
        while True:
            seat.checkpoint()
            with self._lock:
                if self._holder is None:
                    self._begin(seat)
                    return
                seat.called.clear()
                self._waiting.append(seat)
                self._press()
            if self._called(seat):
                return

    def _called(self, seat: Seat) -> bool:
        """Wait while there is nothing to obey; whether it is the turn of ``seat`` now."""
        while not seat.called.wait(LOOK):
            with self._lock:
                if self._holder is seat:
                    return True
                if seat.must_obey():
                    self._waiting.remove(seat)
                    return False
                self._press()
        return True

    def _press(self) -> None:
        """Have the holder leave if one that waits is to go first."""
        assert self._holder is not None
        first = min(self._waiting, key=lambda seat: seat.key)
        equal = first.rank == self._holder.rank and time.monotonic_ns() - self._since >= SLICE * 1e9
        if first.rank < self._holder.rank or equal:
            self._plan.preempt(True)

    def _begin(self, seat: Seat) -> None:
        self._count += 1
        seat.last = self._count
        self._holder, self._since = seat, time.monotonic_ns()

    def give(self, seat: Seat) -> None:
        """End the turn of ``seat``: the most urgent one that waits is called."""
        with self._lock:
            assert self._holder is seat
            self._plan.preempt(False)
            seat.spent += time.monotonic_ns() - self._since
            self._holder = None
            if self._waiting:
                following = min(self._waiting, key=lambda each: each.key)
                self._waiting.remove(following)
                self._begin(following)
                following.called.set()
