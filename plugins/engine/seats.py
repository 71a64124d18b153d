"""A task at the model: what it has run, what it runs next, and the answer that it is writing.

The thread of a task runs its prompt (``Seat.run``) and then hands out what is written behind it
(``Seat.write``). Who says the next token is a ``Writer``; it may be asked by the thread of any task
that has run a step for all of them (``turns``).
"""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from clawai.plugins.engine.bell import Bell
from clawai.sdk.model.driver import Batch, Left, Sequence

HANDFUL = 64
"""Tokens that an answer is ahead of its own thread at most: who sends slowly is waited for."""


def likeliest(sequence: Sequence) -> int | None:
    """Of the logits of its last run. A driver may not look: its sequences need not have it."""
    found: int | None = getattr(sequence, "likeliest", None)
    return found


class Writer(Protocol):
    """Says the tokens of an answer. One call at a time, from any task's thread."""

    @property
    def gap(self) -> float:
        """Seconds from one handful of tokens to the next; 0: each comes by itself."""

    @property
    def plain(self) -> bool:
        """Choosing takes next to no time: others wait for it."""

    def choose(self, logits: Any, likeliest: int | None) -> list[int]:
        """The next tokens by these rows of logits: one, or more where drafts were right."""

    def next(self) -> list[int]:
        """What is to be run for the following ones: a token, and drafts; nothing: it is over."""


Said = tuple[list[int], list[int]]
"""The tokens that a writer has said, and what is to be run for the next."""


class Order(Protocol):
    """What a seat asks of the turns (``turns.Turns``)."""

    def take(self, seat: "Seat") -> bool:
        """Wait for its turn. False: there is none, but something else to do."""

    def give(self, seat: "Seat", *, left: bool = False) -> None:
        """End its turn."""

    def step(self, seat: "Seat") -> bool:
        """Run the step of its crew. Whether the next turn is its own, too."""

    def lap(self, seat: "Seat") -> None:
        """The time until here is its own; it still has the turn."""

    def keeps(self, seat: "Seat") -> bool:
        """Whether the next turn is its own, too."""

    def add(self, seat: "Seat", tokens: list[int], pending: list[int]) -> None:
        """These of its answer are chosen, and those are to be run."""

    def handful(self, seat: "Seat") -> list[int] | None:
        """The tokens that are due; None: its answer is over."""

    def withdraw(self, seat: "Seat") -> None:
        """Nothing more of its answer is to be run."""

    def joins(self, seat: "Seat") -> bool:
        """Whether its token can be computed together with others'."""

    def seated(self, rank: int) -> int:
        """How many tasks of a class there are."""


@dataclass(eq=False, slots=True)
class Crew:
    """Tasks whose next tokens are computed in one step; any of them may run it on."""

    batch: Batch
    rows: "list[Seat | None]"
    """None: the task has ended."""
    running: bool = True
    begun: bool = False

    def step(self) -> list[Any]:
        """Logits of each row, or None; ``Left`` as from ``Batch``."""
        if self.begun:
            return self.batch.resume()
        self.begun = True
        members = [seat for seat in self.rows if seat]
        return self.batch.run(
            [seat.sequence for seat in members], [seat.token or 0 for seat in members]
        )


@dataclass(eq=False, slots=True)
class Seat:
    """A task at the model: its sequence, its rank and its control word."""

    turns: Order
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
    called: Bell = field(default_factory=Bell)
    tokens: list[int] = field(default_factory=list)
    """What it has put into its sequence, the beginning that was there included."""
    # What follows is guarded by the lock of ``turns``.
    one: bool = False
    """It wants a single token, not a prompt."""
    token: int | None = None
    """With which it can join a step."""
    crew: Crew | None = None
    """The step that it has joined."""
    parked: bool = False
    """Its thread waits to be called."""
    told: bool = False
    """Its step has ended; ``logits`` are its own, None if it was taken out."""
    logits: Any = None
    likeliest: int | None = None
    """The first of the likeliest tokens by the last row of its last logits; None: not known."""
    writer: Writer | None = None
    """Of the answer that is being written."""
    pending: list[int] = field(default_factory=list)
    """What the answer runs next; empty: it is over."""
    begun: bool = False
    """A run of it has left, outside of a step."""
    fresh: list[int] = field(default_factory=list)
    """Tokens of the answer that its thread has not been given."""
    due: int = 0
    """When it is to have them, on ``time.monotonic_ns``'s clock."""
    late: int = 0
    """When it is to have them at the latest, if others have theirs."""
    fault: Exception | None = None
    """What its writer failed with."""

    @property
    def key(self) -> tuple[int, float, int]:
        """Lower is sooner."""
        return self.rank, self.deadline, self.last

    def run(self, tokens: list[int], *, all_logits: bool = False) -> Any:
        """Append ``tokens``, in as many turns as it takes; as ``Sequence.run``.

        Raises:
            Stopped: the control word said so.
        """
        self.tokens += tokens
        go_on: Callable[[], Any] = lambda: self.sequence.run(tokens, all_logits=all_logits)  # noqa: E731
        self.one = len(tokens) == 1 and not all_logits
        self.token = tokens[0] if self.one and self.turns.joins(self) else None
        self.likeliest = None
        while True:
            mine = self.turns.take(self)
            if mine and self.crew is None:
                self.token = None  # begun alone, it is finished alone
                left = False
                try:
                    logits = go_on()
                    self.likeliest = likeliest(self.sequence)
                    return logits
                except Left:
                    go_on, left = self.sequence.resume, True
                finally:
                    self.turns.give(self, left=left)
            else:
                if mine:
                    self.turns.step(self)
                if self.told:
                    self.told = False
                    logits, self.logits = self.logits, None
                    if logits is not None:
                        return logits

    def write(self, writer: Writer, logits: Any) -> Generator[list[int], None, None]:
        """The tokens of an answer in handfuls, while the next ones are on their way.

        Args:
            writer: who says them.
            logits: of the last run, its last row alone: (1, vocabulary).

        Raises:
            Stopped: the control word said so.
            Exception: what the writer raised, or a run.
        """
        yield from self._parts(writer, writer.choose(logits, self.likeliest))
        try:
            self.writer, self.fault = writer, None
            self.pend(writer.next())  # not earlier: the first token was on its way
            while (tokens := self.turns.handful(self)) is not None:
                yield from self._parts(writer, tokens)
                if not tokens:
                    self._turn(writer)
            if self.fault:
                raise self.fault
        finally:
            self.turns.withdraw(self)

    def _parts(self, writer: Writer, tokens: list[int]) -> Iterator[list[int]]:
        """A handful as it is handed out, and when the next one is due."""
        if not tokens:
            return
        gap = int(writer.gap * 1e9)
        self.due = time.monotonic_ns() + gap
        self.late = self.due + gap
        if gap:
            yield tokens
        else:
            yield from ([token] for token in tokens)

    def pend(self, tokens: list[int]) -> None:
        """These are to be run next."""
        self.pending = tokens
        self.tokens[self.sequence.position :] = tokens
        self.one = len(tokens) == 1
        self.token = tokens[0] if self.one and self.turns.joins(self) else None

    def chosen(self, writer: Writer, logits: Any) -> Said:
        """The tokens that the writer makes of them, and what is to be run for the next.

        A fault of it ends the answer.
        """
        try:
            tokens = writer.choose(logits, self.likeliest)
            return tokens, writer.next()
        except Exception as fault:
            self.fault = fault
            return [], []

    @property
    def wanted(self) -> bool:
        """Whether its thread has something to do other than to run its next tokens."""
        if self.told or self.writer is None:
            return self.told
        return not self.pending or self.ripe

    @property
    def ripe(self) -> bool:
        """Whether it has a handful of tokens that is due."""
        count = len(self.fresh)
        return count > 0 and (count >= HANDFUL or time.monotonic_ns() >= self.due)

    def _turn(self, writer: Writer) -> None:
        """Have its next tokens run, by itself or by another."""
        if len(self.pending) > 1 and not (self.begun or self.alone):
            self.pend(writer.next())
        mine = self.turns.take(self)
        while mine and self.crew:
            mine = self.turns.step(self)
        if mine:
            self._alone(writer)
        elif self.told:
            self.told = False
            logits, self.logits = self.logits, None
            if logits is not None:
                self.turns.add(self, *self.chosen(writer, logits))

    def _alone(self, writer: Writer) -> None:
        """Run its next tokens, and those behind them while nobody waits."""
        goes_on = True
        while goes_on:
            goes_on, logits = False, None
            try:
                logits = self._ran()
                if logits is not None and writer.plain:
                    self.turns.lap(self)
                    self.turns.add(self, *self.chosen(writer, logits))
                    logits = None
                    goes_on = self.turns.keeps(self)
            finally:
                if not goes_on:
                    self.turns.give(self, left=self.begun)
        if logits is not None:
            self.turns.add(self, *self.chosen(writer, logits))

    def _ran(self) -> Any:
        """The logits of its next tokens; None: the run has left."""
        go_on, self.begun = self.begun, False
        self.token = None  # begun alone, it is finished alone
        try:
            if go_on:
                logits = self.sequence.resume()
            else:
                logits = self.sequence.run(self.pending, all_logits=len(self.pending) > 1)
        except Left:
            self.begun = True
            return None
        self.likeliest = likeliest(self.sequence)
        return logits

    def rewind(self, position: int) -> None:
        """Forget the tokens from ``position`` on."""
        self.sequence.rewind(position)
        del self.tokens[position:]

    @property
    def alone(self) -> bool:
        """Whether no other task of its class has a seat: nobody's token could share its runs."""
        return self.turns.seated(self.rank) == 1

    def must_obey(self) -> bool:
        """Whether the control word says anything but go."""
        return self.control is not None and bool(self.control[0] & 0xFF)
