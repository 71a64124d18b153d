"""Who computes now, in one worker: tasks take turns at the model, the most urgent first.

A turn is as much of a prompt as a slice of time allows, or a step: a token for each task of a class
that has its next one ready, in one pass over the weights. Between two turns the highest class goes
on; in it, steps and prompts alternate, so that prompts delay running answers by one slice a token
and are delayed by one step a slice; then the nearest deadline, then whose last turn is longest ago.
Whoever comes with a higher class has the running turn leave between two ops; classes never share a
step, so what is urgent does not pay for the rest.

An answer that takes the likeliest token has it chosen by the thread that ran the step, which goes
on with the next one at once. The tasks' own threads sleep, and are called for a handful of tokens
at a time: they make text of them behind the steps. Any of them may run the steps; who has a handful
leaves that to one that sleeps. Where a choice takes long (a draw) the task's thread makes it: the
next step waits for those of the last that are not back yet, for a quarter of the time that the step
took at most. A lone task waits for nobody.

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

from clawai.plugins.engine import seats
from clawai.plugins.engine.seats import Crew, Said, Seat, likeliest
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.model.driver import Left, Plan, Sequence

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
            False: there is no turn, for the step that it had joined was run by another, or there
            are tokens that it is to hand out.
        """
        while self._holder is not seat:  # it may be: the one that ran a step is not called
            seat.checkpoint()
            with self._lock:
                self._ranks[seat.rank].absent.discard(seat)
                if seat.wanted:
                    return False
                seat.called.clear()
                seat.parked = True
                if not (seat.crew and seat.crew.running):  # that of a held one may be on
                    self._wait(seat)
                if (mine := self._turn_of(seat)) is not None:
                    return mine
            if (mine := self._called(seat)) is not None:
                return mine
        return True

    def _wait(self, seat: Seat) -> None:
        """It waits for a turn, if it does not already."""
        if seat not in self._waiting:
            self._waiting.append(seat)

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
        if self._holder is seat or seat.wanted:
            seat.parked = False
            return self._holder is seat
        self._press()
        return None

    def _patience(self, seat: Seat) -> float:
        """Seconds until a waiting one has to look again."""
        rank, now = self._ranks[seat.rank], time.monotonic_ns()
        if rank.absent and rank.until > now:
            return min(LOOK, (rank.until - now) / 1e9 + 1e-4)
        if seat.writer and seat.crew and seat.crew.running:
            # The step looks at its control word, and who runs it calls it for a handful.
            return max(LOOK, (seat.due - now) / 1e9)
        return LOOK

    def _first(self) -> Seat | None:
        """Who goes next of those that wait, if any may."""
        for number in sorted({seat.rank for seat in self._waiting}):
            rank = self._ranks[number]
            group = self._able([seat for seat in self._waiting if seat.rank == number])
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

    def _able(self, group: list[Seat]) -> list[Seat]:
        """Those of one class whose next run some thread is there for."""
        free = self._batches and any(s.parked and s.token is not None and not s.crew for s in group)
        return [
            seat
            for seat in group
            if seat.parked
            or (seat.crew and any(mate and mate.parked for mate in seat.crew.rows))
            or (free and not seat.crew and seat.token is not None)
        ]

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
        if seat.crew is None and seat.token is not None:
            self._recruit(seat)
        self._waiting.remove(seat)
        self._count += 1
        if crew := seat.crew:
            crew.running = True
            for mate in crew.rows:
                if mate:
                    mate.last = self._count
                    if mate is not seat and mate in self._waiting:
                        self._waiting.remove(mate)
            # Any member can run the step, and the caller's thread is awake.
            ready = [mate for mate in crew.rows if mate and mate.parked]
            seat = caller if caller in ready else seat if seat in ready else ready[0]
        self._holder, self._since = seat, time.monotonic_ns()
        seat.last = self._count
        self._ranks[seat.rank].stepped = seat.one
        if seat is not caller:
            seat.called.set()

    def _recruit(self, seat: Seat) -> None:
        """All of its class that have a token ready join its step."""
        ready = [
            mate
            for mate in self._waiting
            if mate.rank == seat.rank and mate.token is not None and mate.crew is None
        ]
        if len(ready) > 1 and self._batches:
            batch = self._batches.pop()
            # Itself first, then those whose threads sleep: one of them will run it.
            ready.sort(key=lambda mate: (mate is not seat, not mate.parked))
            crew = Crew(batch, [*ready[: batch.most]])
            for mate in ready[: batch.most]:
                mate.crew = crew

    def give(self, seat: Seat, *, left: bool = False) -> None:
        """End the turn of ``seat``: the most urgent one that waits is called."""
        with self._lock:
            took = self._end()
            seat.spent += took
            others = any(
                mate.rank == seat.rank and mate.token is not None for mate in self._waiting
            )
            if seat.one and not left and others:
                self._gather(seat.rank, {seat}, took)
            self._next()

    def lap(self, seat: Seat) -> None:
        """The time until here is its own; it still has the turn."""
        now = time.monotonic_ns()
        seat.spent += now - self._since
        self._since = now

    def keeps(self, seat: Seat) -> bool:
        """Whether the next turn is its own, too: nobody waits, and it has nothing else to do."""
        with self._lock:
            if self._waiting or seat.wanted or seat.must_obey():
                return False
            self._count += 1
            seat.last = self._count
            self._ranks[seat.rank].stepped = seat.one
            return True

    def add(self, seat: Seat, tokens: list[int], pending: list[int]) -> None:
        """These of its answer are chosen, and those are to be run."""
        with self._lock:
            seat.fresh += tokens
            seat.pend(pending)

    def handful(self, seat: Seat) -> list[int] | None:
        """The tokens that are due, if there are any; None: the answer is over."""
        with self._lock:
            if seat.pending and not seat.ripe:
                return []
            if not seat.pending and not seat.fresh:
                return None
            tokens, seat.fresh = seat.fresh, []
            return tokens

    def step(self, seat: Seat) -> bool:
        """Run the step of its crew. Returns whether the next turn is its own, too."""
        crew, outcome, failed = seat.crew, None, True
        said: dict[Seat, Said] = {}
        assert crew is not None
        try:
            outcome = crew.step()
            # Here, while the others sleep: numpy lets go of the interpreter, and they would all
            # stand in line for it twice. Between two steps a core has nothing else to do.
            for mate, logits in zip(crew.rows, outcome, strict=True):
                if mate and logits is not None:
                    found = likeliest(mate.sequence)
                    mate.likeliest = int(logits[-1].argmax()) if found is None else found
                    writer = mate.writer
                    if writer and writer.plain:
                        said[mate] = mate.chosen(writer, logits)
            failed = False
        except Left:
            failed = False
        except Exception:  # each tries alone, and whose fault it is hears of it
            for mate in crew.rows:
                if mate:
                    mate.token = None
        finally:
            with self._lock:
                self._ended(seat, crew, [None] * len(crew.rows) if failed else outcome, said)
        return self._holder is seat

    def _ended(
        self, seat: Seat, crew: Crew, outcome: list[Any] | None, said: dict[Seat, Said]
    ) -> None:
        """A crew's step has ended, or left: who goes on, and with what."""
        took = self._end()
        for mate in crew.rows:
            if mate:
                mate.spent += took
        for mate, (tokens, pending) in said.items():
            if mate.writer:
                mate.fresh += tokens
                mate.pend(pending)
        if self._lasts(seat, crew, said):
            crew.begun, self._holder, self._since = False, seat, time.monotonic_ns()
            return
        crew.running = False
        if outcome is None:
            self._waiting += [mate for mate in crew.rows if mate and mate.parked]
        else:
            self._settle(crew, outcome, said, took)
            self._lead(seat)
        self._lock.notify_all()
        self._next(seat)
        seat.parked = False

    def _lasts(self, seat: Seat, crew: Crew, said: dict[Seat, Said]) -> bool:
        """Whether the same crew takes the next step: all of it goes on, and nobody else waits."""
        if self._waiting or len(said) < len(crew.rows) or seat.wanted:
            return False
        for mate in said:
            if not mate.writer or mate.token is None or len(mate.fresh) >= seats.HANDFUL:
                return False
        self._count += 1
        for mate in said:
            mate.last = self._count
            self._call(mate)
        return True

    def _call(self, seat: Seat) -> None:
        """Wake its thread if there is something for it to do."""
        if seat.parked and seat.wanted:
            seat.parked = False
            seat.called.set()

    def _end(self) -> int:
        """Nobody has a turn. Returns how long it took."""
        self._plan.preempt(False)
        self._holder = None
        return time.monotonic_ns() - self._since

    def _settle(self, crew: Crew, outcome: list[Any], said: dict[Seat, Said], took: int) -> None:
        """Dissolve a crew: who has said its token goes on, the others are told of theirs."""
        crew.batch.forget()  # it may have failed
        self._batches.append(crew.batch)
        done = set()
        for mate, logits in zip(crew.rows, outcome, strict=True):
            if mate is None:
                continue
            mate.crew = None
            if mate in said and mate.writer:
                if mate.pending and len(mate.fresh) < seats.HANDFUL:
                    self._waiting.append(mate)
            else:
                mate.logits, mate.told = logits, True
                if logits is not None:
                    done.add(mate)
                    rank = mate.rank
            self._call(mate)
        if done:
            self._gather(rank, done, took)

    def _lead(self, seat: Seat) -> None:
        """Whether the one that has run a step is there for the next: not if it has a handful.

        Unless the others are at theirs: it comes later then, by as long again.
        """
        seat.parked = seat in self._waiting
        if seat.parked and seat.ripe:
            others = [mate for mate in self._waiting if mate.writer and mate is not seat]
            there = any(mate.parked for mate in others)
            seat.parked = bool(others) and not there and time.monotonic_ns() < seat.late

    def _gather(self, rank: int, absent: set[Seat], took: int) -> None:
        if self._joint:
            self._ranks[rank].absent = absent
            self._ranks[rank].until = time.monotonic_ns() + int(GATHER * took)
            # One that waits already must see that it may begin then.
            for mate in self._waiting:
                if mate.rank == rank and mate.parked:
                    mate.called.set()
                    break

    def withdraw(self, seat: Seat) -> None:
        """Nothing more of its answer is to be run."""
        with self._lock:
            self._quit(seat)

    def _quit(self, seat: Seat) -> None:
        """It leaves the step that it is in, maybe in the middle: the others go on without it."""
        seat.writer = None  # whoever runs the step does not have it join the next one
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
        if seat in self._waiting:
            self._waiting.remove(seat)
        seat.pending, seat.fresh, seat.logits = [], [], None
        seat.told = seat.begun = False

    def _leave(self, seat: Seat) -> None:
        """Its task has ended."""
        self._quit(seat)
        self._ranks[seat.rank].absent.discard(seat)
        self._next()
