"""Who computes now, in one worker: tasks take turns at the model, the most urgent first.

A turn is as much of a prompt as a slice of time allows, or a step: a token for each task of a class
that has its next one ready, in one pass over the weights. Between two turns the highest class goes
on; in it, steps and prompts alternate, so that prompts delay running answers by one slice a token
and are delayed by one step a slice; then the nearest deadline, then whose last turn is longest ago.
Whoever comes with a higher class has the running turn leave between two ops; classes never share a
step, so what is urgent does not pay for the rest.

After a step the next one waits for those of the last that are not back yet (they choose their
tokens and send them), for a quarter of the time that the step took at most. A lone task waits for
nobody.

A sequence that is free keeps the tokens of its last task. A task whose prompt begins with tokens
that a task of the same principal has left takes that sequence and computes only what is new;
another's are never looked at, so that nobody can learn from his times what somebody else asked.

Every task keeps its own KV cache, and a token gets the same bits alone and in a step: an answer
does not depend on what ran beside it, or on when it was interrupted.
"""

import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from clawai.plugins.engine.bell import Bell
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.model.driver import Batch, Left, Plan, Sequence

SLICE = 0.02
"""Seconds until a turn ends for an equal one that waits: a prompt is cut, a token is shorter."""
LOOK = 0.02
"""Seconds between two looks of a waiting task at its control word."""
GATHER = 0.25
"""Part of the time of a step for which the next one waits for tasks that are not back."""


WORTH = 16
"""So many tokens are worth taking a sequence that holds them, and losing the rest of it."""
TokenIds = Tokens[int]


def alike(held: TokenIds, prompt: TokenIds) -> int:
    """How many tokens two lists begin with in common."""
    most = min(len(held), len(prompt))
    if list(held[:most]) == list(prompt[:most]):
        return most
    return next(at for at in range(most) if held[at] != prompt[at])


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
                    # A driver may not look: its sequences need not have it.
                    self.likeliest = getattr(self.sequence, "likeliest", None)
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


@dataclass(slots=True)
class Rank:
    """What is remembered of a class of tasks."""

    seats: int = 0
    """How many tasks it has."""
    stepped: bool = False
    """Its last turn was a step."""
    absent: set[Seat] = field(default_factory=set)
    """Were in its last step and are not back."""
    until: int = 0
    """When it waits for them no longer."""


class Turns:
    """The sequences of a plan, and the order in which those that wait run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._batches = list(getattr(plan, "batches", ()))
        """Those that no crew has. A driver without any has tokens computed one by one."""
        self._joint = bool(self._batches)
        self._lock = threading.Condition()
        """Guards all below; notified when a crew stops running."""
        self._free = list(plan.sequences)
        """That was free longest is first."""
        self._kept: dict[int, tuple[str, list[int]]] = {}
        """By the identity of a sequence: for whom it holds which tokens."""
        self._holder: Seat | None = None
        self._since = 0
        self._waiting: list[Seat] = []
        self._count = 0
        self._ranks = [Rank() for _ in wire.PRIORITIES]

    @contextmanager
    def seat(
        self,
        control: memoryview | None = None,
        checkpoint: Callable[[], None] = lambda: None,
        priority: wire.Priority = "interactive",
        deadline: float | None = None,
        prompt: TokenIds = (),
        principal: str = "",
    ) -> Any:
        """A sequence of one's own for the time of a task.

        Args:
            control: its control word.
            checkpoint: obeys it, see ``Seat``.
            priority: its class.
            deadline: on ``time.monotonic``'s clock.
            prompt: what will be run first. The sequence may hold a beginning of it already, which
                is not to be run again (``Sequence.position``): never all of it, since the last
                token's logits are wanted.
            principal: who asked; without one nothing is kept for a later task.
        """
        with self._lock:
            if not self._free:
                most = len(self._plan.sequences)
                raise ClawError("overloaded", "every sequence of the model is in use", allowed=most)
            sequence, keep = self._best(prompt, principal)
            self._free.remove(sequence)
            self._kept.pop(id(sequence), None)
        seat = None
        try:
            sequence.start(control, *([keep] if keep else []))
            rank = wire.PRIORITIES.index(priority)
            due = float("inf") if deadline is None else deadline
            tokens = list(prompt[:keep])
            with self._lock:
                seat = Seat(self, sequence, rank, due, checkpoint, control, tokens=tokens)
                self._ranks[rank].seats += 1
            yield seat
        finally:
            with self._lock:
                if seat:
                    self._ranks[seat.rank].seats -= 1
                    self._leave(seat)
                    if principal:
                        held = seat.tokens[: sequence.position]
                        self._kept[id(sequence)] = principal, held
                self._free.append(sequence)

    def _best(self, prompt: TokenIds, principal: str) -> tuple[Sequence, int]:
        """The free sequence that holds most of a prompt, and how many tokens of it stay."""
        best, most = None, 0
        for sequence in self._free:
            owner, held = self._kept.get(id(sequence), ("", []))
            if owner and owner == principal:
                same = alike(held, prompt)
                if same > most:
                    best, most = sequence, same
        if best is None or most < WORTH:
            # One that holds nothing, else what has not been used for longest.
            empty = [each for each in self._free if id(each) not in self._kept]
            return (empty or self._free)[0], 0
        return best, min(most, len(prompt) - 1)

    def seated(self, rank: int) -> int:
        """How many tasks of a class there are."""
        return self._ranks[rank].seats

    def joins(self, seat: Seat) -> bool:
        """Whether its token can be computed together with others'."""
        return self._joint and seat.sequence.position < self._plan.context

    def take(self, seat: Seat) -> bool:
        """Wait for the turn of ``seat``, or for what its control word says.

        Returns:
            False: there is no turn, for the step that it had joined was run by another.
        """
        while True:
            seat.checkpoint()
            with self._lock:
                self._ranks[seat.rank].absent.discard(seat)
                if seat.told:
                    return False
                seat.called.clear()
                seat.parked = True
                if not (seat.crew and seat.crew.running):  # that of a held one may be on
                    self._waiting.append(seat)
                if (mine := self._turn_of(seat)) is not None:
                    return mine
            if (mine := self._called(seat)) is not None:
                return mine

    def _called(self, seat: Seat) -> bool | None:
        """Wait while there is nothing to obey, and for what ``take`` returns."""
        while True:
            seat.called.wait(self._patience(seat))
            with self._lock:
                seat.called.clear()
                if (mine := self._turn_of(seat)) is not None:
                    return mine
                if seat.must_obey() and seat in self._waiting:
                    self._waiting.remove(seat)
                    seat.parked = False
                    return None

    def _turn_of(self, seat: Seat) -> bool | None:
        """Whether it is its turn, or none will be; None: it waits, and others may have to go."""
        self._next(seat)
        if self._holder is seat or seat.told:
            seat.parked = False
            return self._holder is seat
        self._press()
        return None

    def _patience(self, seat: Seat) -> float:
        """Seconds until a waiting one has to look again."""
        rank = self._ranks[seat.rank]
        left = (rank.until - time.monotonic_ns()) / 1e9
        return min(LOOK, left + 1e-4) if rank.absent and left > 0 else LOOK

    def _first(self) -> Seat | None:
        """Who goes next of those that wait, if any may."""
        for number in sorted({seat.rank for seat in self._waiting}):
            rank = self._ranks[number]
            group = [seat for seat in self._waiting if seat.rank == number]
            steps = [seat for seat in group if seat.one] if self._joint else []
            if steps and rank.absent and time.monotonic_ns() < rank.until:
                steps = [seat for seat in steps if seat.crew or seat.token is None]
                group = [seat for seat in group if seat in steps or not seat.one]
            prompts = [seat for seat in group if not seat.one]
            if steps and prompts:
                group = prompts if rank.stepped else steps
            if group:
                return min(group, key=lambda seat: seat.key)
        return None

    def _press(self) -> None:
        """Have the holder leave if one that waits is to go first."""
        if (holder := self._holder) is None or (first := self._first()) is None:
            return
        late = holder.crew is None and time.monotonic_ns() - self._since >= SLICE * 1e9
        if first.rank < holder.rank or (first.rank == holder.rank and late):
            self._plan.preempt(True)

    def _next(self, caller: Seat | None = None) -> None:
        """Begin the next turn if nobody has one and one that waits may go."""
        if self._holder is not None or (seat := self._first()) is None:
            return
        self._waiting.remove(seat)
        if seat.crew is None and seat.token is not None:
            self._recruit(seat)
        if seat.crew and caller and caller in seat.crew.rows:
            seat = caller  # any member can run the step, and this one's thread is awake
        self._count += 1
        self._holder, self._since = seat, time.monotonic_ns()
        seat.last = self._count
        self._ranks[seat.rank].stepped = seat.one
        seat.called.set()
        if crew := seat.crew:
            crew.running = True
            for mate in crew.rows:
                if mate:
                    mate.last = self._count
                    if mate in self._waiting:
                        self._waiting.remove(mate)

    def _recruit(self, seat: Seat) -> None:
        """All of its class that have a token ready join its step."""
        ready = [
            mate
            for mate in self._waiting
            if mate.rank == seat.rank and mate.token is not None and mate.crew is None
        ]
        if ready and self._batches:
            batch = self._batches.pop()
            rows = [seat, *ready[: batch.most - 1]]
            crew = Crew(batch, list(rows))
            for mate in rows:
                mate.crew = crew

    def give(self, seat: Seat, *, left: bool = False) -> None:
        """End the turn of ``seat``: the most urgent one that waits is called."""
        with self._lock:
            took = self._end(seat)
            seat.spent += took
            others = any(
                mate.rank == seat.rank and mate.token is not None for mate in self._waiting
            )
            if seat.one and not left and others:
                self._gather(seat.rank, {seat}, took)
            self._next()

    def step(self, seat: Seat) -> None:
        """Run the step of its crew, which ends its turn; those whose token is done are told."""
        crew, outcome, failed = seat.crew, None, True
        assert crew is not None
        try:
            outcome = crew.step()
            # Here, while the others sleep: numpy lets go of the interpreter, and they would all
            # stand in line for it twice. Between two steps a core has nothing else to do.
            for mate, logits in zip(crew.rows, outcome, strict=True):
                if mate and logits is not None:
                    mate.likeliest = int(logits[-1].argmax())
            failed = False
        except Left:
            failed = False
        except Exception:  # each tries alone, and whose fault it is hears of it
            for mate in crew.rows:
                if mate:
                    mate.token = None
        finally:
            with self._lock:
                took = self._end(seat)
                for mate in crew.rows:
                    if mate:
                        mate.spent += took
                crew.running = False
                if failed:
                    crew.batch.forget()
                    outcome = [None] * len(crew.rows)
                if outcome is None:
                    self._waiting += [mate for mate in crew.rows if mate and mate.parked]
                else:
                    self._settle(crew, outcome, took)
                self._lock.notify_all()
                self._next()

    def _end(self, seat: Seat) -> int:
        """Nobody has a turn. Returns how long it took."""
        assert self._holder is seat
        self._plan.preempt(False)
        self._holder = None
        return time.monotonic_ns() - self._since

    def _settle(self, crew: Crew, outcome: list[Any], took: int) -> None:
        """Dissolve a crew and tell its members what came of their tokens."""
        self._batches.append(crew.batch)
        done = set()
        for mate, logits in zip(crew.rows, outcome, strict=True):
            if mate:
                mate.crew, mate.logits, mate.told = None, logits, True
                mate.called.set()
                if logits is not None:
                    done.add(mate)
                    rank = mate.rank
        if done:
            self._gather(rank, done, took)

    def _gather(self, rank: int, absent: set[Seat], took: int) -> None:
        if self._joint:
            self._ranks[rank].absent = absent
            self._ranks[rank].until = time.monotonic_ns() + int(GATHER * took)
            # One that waits already must see that it may begin then.
            for mate in self._waiting:
                if mate.rank == rank:
                    mate.called.set()
                    break

    def _leave(self, seat: Seat) -> None:
        """Its task has ended, maybe in the middle of a step: the others go on without it."""
        # A running step may use its sequence until it ends or looks at the control word.
        while seat.crew and seat.crew.running:
            self._lock.wait()
        if crew := seat.crew:
            seat.crew = None
            crew.batch.drop(seat.sequence)
            crew.rows = [None if mate is seat else mate for mate in crew.rows]
            if not any(crew.rows):
                crew.batch.forget()
                self._batches.append(crew.batch)
        self._ranks[seat.rank].absent.discard(seat)
        self._next()
