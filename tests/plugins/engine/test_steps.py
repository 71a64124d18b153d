"""Joint steps of tasks at a model: who shares one, who leaves it, and that no answer changes."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from clawai.plugins.engine.generate import Request, Session
from clawai.plugins.engine.sampling import Sampling
from clawai.plugins.engine.seats import Seat
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.plugins.engine.turns import Turns
from clawai.sdk.context import Cancelled, Context
from clawai.sdk.model import llama
from clawai.sdk.model.driver import Plan, Stopped
from clawai.sdk.model.gguf import parse
from clawai.sdk.wire import GO, HOLD, STOP, Priority
from gguf_files import tiny_llama
from support import wait_until
from tiny_llama import compiled

FILE = parse(memoryview(tiny_llama(metadata={"llama.context_length": 256})))
GRAPH = llama.graph(FILE)
TOKENIZER = Tokenizer(FILE)
PROMPTS = [
    "the",
    "the stories of the sea " * 5,
    "all of it",
    "a" * 150,
    "of the",
    "sea",
    "to",
    "in",
]


# Nothing here refers in a circle: see ``Shared`` of the driver.


class Notes:
    """What is seen of joint steps."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []
        """The tokens of each, sorted."""
        self.gate: threading.Semaphore | None = None
        """Set: each waits for it before it begins."""
        self.entered = threading.Semaphore(0)
        self.pressed = threading.Event()
        """What runs is to leave."""


class Watched:
    """The real plan; what begins a joint step is noted, and waits for leave if the test says so."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.context, self.sequences = plan.context, plan.sequences
        self.close = plan.close
        self.notes = Notes()
        self.batches = tuple(WatchedBatch(self.notes, batch) for batch in plan.batches)

    def preempt(self, on: bool) -> None:
        self._plan.preempt(on)
        (self.notes.pressed.set if on else self.notes.pressed.clear)()


class WatchedBatch:
    def __init__(self, notes: Notes, batch: Any) -> None:
        self._notes, self._batch = notes, batch
        self.most, self.resume = batch.most, batch.resume
        self.drop, self.forget = batch.drop, batch.forget

    def run(self, sequences: Any, tokens: list[int]) -> list[Any]:
        self._notes.steps.append(sorted(tokens))
        if self._notes.gate:
            self._notes.entered.release()
            self._notes.gate.acquire()
        return self._batch.run(sequences, tokens)


@contextmanager
def plan_of(sequences: int, threads: int = 2) -> Iterator[Watched]:
    plan = Watched(compiled(GRAPH, context=256, threads=threads, sequences=sequences))
    try:
        yield plan
    finally:
        plan.close()


@contextmanager
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def word() -> memoryview:
    return memoryview(bytearray(4)).cast("I")


def task(control: memoryview) -> Callable[[], None]:
    return Context(task=1, outlet=None, control=control).checkpoint  # type: ignore[arg-type]


def alone(tokens: list[int]) -> list[Any]:
    with plan_of(1) as plan:
        return [plan.sequences[0].run([token]).copy() for token in tokens]


class Table:
    """Tasks that have a sequence each, and a step of the first two that is under way."""

    def __init__(self, plan: Watched, stack: ExitStack, threads: ThreadPoolExecutor) -> None:
        self.plan, self.stack, self.threads = plan, stack, threads
        self.turns = Turns(plan)
        self.controls = [word() for _ in plan.sequences]
        self.seats: list[Seat] = []

    def sit(self, *classes: Priority) -> None:
        for priority in classes:
            control = self.controls[len(self.seats)]
            seat = self.turns.seat(control, task(control), priority)
            self.seats.append(self.stack.enter_context(seat))

    def ask(self, number: int, tokens: list[int]) -> Future[Any]:
        def answer() -> Any:
            return self.seats[number].run(tokens)[-1].copy()

        return self.threads.submit(answer)

    def held_turn(self) -> Callable[[], None]:
        """Take the turn for a seat of its own, so that others wait; returns what ends it."""
        other = self.stack.enter_context(self.turns.seat(priority="critical"))
        assert self.turns.take(other)
        return lambda: self.turns.give(other)

    def waiting(self, count: int) -> None:
        wait_until(lambda: len(self.turns._waiting) == count, "they wait")


@contextmanager
def table(sequences: int, *classes: Priority) -> Iterator[Table]:
    with plan_of(sequences) as plan, pool() as threads, ExitStack() as stack:
        one = Table(plan, stack, threads)
        one.sit(*classes)
        yield one


def test_all_of_a_class_that_have_a_token_ready_share_a_step() -> None:
    wanted = alone([5])[0]
    with table(8, "normal", "normal", "batch", "normal", "batch", "interactive") as one:
        go = one.held_turn()
        ends = [one.ask(number, [5]) for number in range(6)]
        one.waiting(6)
        go()
        assert all(np.array_equal(end.result(10), wanted[-1]) for end in ends)
        assert one.plan.notes.steps == [[5, 5, 5], [5, 5]], "the lone one goes alone"
        best = [seat.likeliest for seat in one.seats[:6]]
        assert best == [int(wanted[-1].argmax())] * 6, "a step says it, and so does a run alone"
        logits = one.ask(0, [5]).result(10)
        assert one.seats[0].likeliest == int(logits.argmax()), "of the last run's logits"


def test_those_who_come_while_a_step_runs_are_in_the_next_with_those_of_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clawai.plugins.engine.turns.GATHER", 1e6)  # no machine is too slow
    with table(4, "normal", "normal", "normal") as one:
        go = one.held_turn()
        one.plan.notes.gate = threading.Semaphore(0)
        first = [one.ask(number, [number + 1]) for number in range(2)]
        one.waiting(2)
        go()
        one.plan.notes.entered.acquire()
        third = one.ask(2, [9])
        one.waiting(1)
        one.plan.notes.gate.release(9)
        for end in first:
            end.result(10)
        assert not third.done(), "it waits for those that choose their tokens"
        again = [one.ask(number, [number + 5]) for number in range(2)]
        for end in (third, *again):
            end.result(10)
    assert one.plan.notes.steps == [[1, 2], [5, 6, 9]]


def test_nobody_waits_long_for_one_that_does_not_come_back() -> None:
    with table(3, "normal", "normal") as one:
        go = one.held_turn()
        ends = [one.ask(number, [1]) for number in range(2)]
        one.waiting(2)
        go()
        for end in ends:
            end.result(10)
        one.ask(0, [2]).result(10)  # the other one's client is slow
        assert one.plan.notes.steps == [[1, 1]]


class Counting:
    """A writer of so many tokens: the likeliest ones, or what ``pick`` says of them."""

    def __init__(
        self, count: int, gap: float = 3600, plain: bool = True, pick: Callable[[int], int] = int
    ) -> None:
        self.left, self.gap, self.plain, self._pick = count, gap, plain, pick
        self.last = 0

    def choose(self, logits: Any, likeliest: int | None) -> list[int]:
        assert likeliest == int(logits[-1].argmax())
        self.last = self._pick(likeliest)
        self.left -= 1
        return [self.last]

    def next(self) -> list[int]:
        return [self.last] if self.left else []


class Endless(Counting):
    """One that goes on until it is over, in a context that has an end."""

    def __init__(self, seat: Seat, over: threading.Event) -> None:
        super().__init__(1000)
        self.seat, self._over = seat, over

    def next(self) -> list[int]:
        if self.seat.sequence.position > 200:
            self.seat.rewind(5)
        return [] if self._over.is_set() else [self.last]


def written(seat: Seat, writer: Counting, first: int = 5) -> list[list[int]]:
    return list(seat.write(writer, seat.run([first])[-1:]))


def written_alone(count: int, first: int = 5) -> list[int]:
    with plan_of(1) as plan, Turns(plan).seat() as seat:
        return [token for each in written(seat, Counting(count), first) for token in each]


def test_one_thread_runs_the_steps_of_answers_that_need_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clawai.plugins.engine.turns.GATHER", 1e6)  # no machine is too slow
    runners: list[int] = []
    with table(4, "normal", "normal", "normal") as one:
        steps = [batch._batch for batch in one.plan.batches]
        for batch, inner in zip(one.plan.batches, steps, strict=True):
            batch._batch = Ran(inner, runners)
        go = one.held_turn()
        ends = [one.threads.submit(written, seat, Counting(40)) for seat in one.seats]
        one.waiting(3)  # their first tokens are not run yet
        go()
        found = [end.result(20) for end in ends]
    assert [token for each in found[0] for token in each] == written_alone(40)
    assert found[0] == found[1] == found[2]
    assert [len(each) for each in found[0]] == [1, 39], "the first, and what was there at the end"
    assert [len(step) for step in one.plan.notes.steps] == [3] * 40
    assert len(set(runners[1:])) == 1, "the first is of their prompts"


class Ran:
    """Notes which thread runs each step of a batch."""

    def __init__(self, batch: Any, runners: list[int]) -> None:
        self._batch, self._runners = batch, runners

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def run(self, sequences: Any, tokens: list[int]) -> list[Any]:
        self._runners.append(threading.get_ident())
        found: list[Any] = self._batch.run(sequences, tokens)
        return found


def test_who_does_not_take_its_tokens_is_waited_for_by_nobody_and_does_not_run_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clawai.plugins.engine.seats.HANDFUL", 8)
    expected = written_alone(60)
    with table(3, "normal", "normal") as one:
        slow, quick = one.seats
        answer = slow.write(Counting(60), slow.run([5])[-1:])
        taken = [next(answer)]
        other = one.threads.submit(written, quick, Counting(60))
        taken.append(next(answer))  # it comes back once, and then sends this for long
        assert [token for each in other.result(20) for token in each] == expected
        assert len(slow.fresh) <= 8
        taken += list(answer)
        assert [token for each in taken for token in each] == expected


def test_an_answer_that_is_left_in_the_middle_leaves_its_sequence_as_it_says() -> None:
    with table(4, "normal", "normal", "normal") as one:
        left, *others = one.seats
        answer = left.write(Counting(200, gap=0), left.run([5])[-1:])
        ends = [one.threads.submit(written, seat, Counting(120)) for seat in others]
        tokens = [next(answer)[0] for _ in range(20)]
        answer.close()
        held = left.tokens[: left.sequence.position]
        assert held[:20] == [5, *tokens[:19]]
        logits = one.ask(0, [7]).result(20)
        assert np.array_equal(logits, alone([*held, 7])[-1][-1])
        for end in ends:
            assert [token for each in end.result(20) for token in each] == written_alone(120)


def test_a_fault_of_a_writer_ends_its_own_answer() -> None:
    def fails(token: int) -> int:
        count.append(token)
        if len(count) == 10:
            raise RuntimeError("no more")
        return token

    count: list[int] = []
    with table(3, "normal", "normal") as one:
        go = one.held_turn()
        ends = [one.threads.submit(written, one.seats[0], Counting(30, pick=fails))]
        ends.append(one.threads.submit(written, one.seats[1], Counting(30)))
        one.waiting(2)
        go()
        with pytest.raises(RuntimeError, match="no more"):
            ends[0].result(20)
        assert [token for each in ends[1].result(20) for token in each] == written_alone(30)


def test_a_step_and_a_slice_of_a_prompt_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers go on while two prompts are read: never two slices between two steps."""
    order: list[str] = []
    begin = Turns._next

    def noted(turns: Turns, caller: Seat | None = None) -> None:
        before = turns._count
        begin(turns, caller)
        if turns._count > before:
            order.append("step" if turns._holder and turns._holder.one else "prompt")

    monkeypatch.setattr(Turns, "_next", noted)
    monkeypatch.setattr("clawai.plugins.engine.seats.HANDFUL", 1 << 30)  # nobody has to write
    with plan_of(5) as plan, pool() as threads, ExitStack() as stack:
        turns = Turns(plan)
        seats = [stack.enter_context(turns.seat(priority="normal")) for _ in range(5)]
        over = threading.Event()
        writers = [Endless(seat, over) for seat in seats[:3]]
        streams = [threads.submit(written, writer.seat, writer) for writer in writers]
        wait_until(lambda: all(writer.left < 990 for writer in writers), "the answers have begun")
        start = len(order)

        def read(seat: Seat) -> None:
            for _ in range(20):
                seat.run([3] * 10)

        prompts = [threads.submit(read, seat) for seat in seats[3:]]
        for prompt in prompts:
            prompt.result(20)
        seen = order[start:]
        over.set()
        for each in streams:
            each.result(20)
        assert seen.count("prompt") >= 40
        assert ("prompt", "prompt") not in pairwise(seen)


def test_the_urgent_has_a_step_of_others_leave_and_goes_first() -> None:
    """The step is finished later, with the same bits."""
    wanted = alone([1])[0]
    with table(4, "batch", "batch", "interactive") as one:
        go = one.held_turn()
        one.plan.notes.gate = threading.Semaphore(0)
        bulk = [one.ask(number, [1]) for number in range(2)]
        one.waiting(2)
        go()
        one.plan.notes.entered.acquire()  # the step begins
        urgent = one.ask(2, [7])
        assert one.plan.notes.pressed.wait(10)
        one.plan.notes.gate.release(9)
        urgent.result(10)
        for end in bulk:
            assert np.array_equal(end.result(10), wanted[-1])
        assert one.seats[2].last < one.seats[0].last, "its turn was before the end of theirs"


def left_step(one: Table) -> tuple[list[Future[Any]], Callable[[], None]]:
    """A step of three that has left in the middle, and what lets it go on."""
    go = one.held_turn()
    one.plan.notes.gate = threading.Semaphore(0)
    ends = [one.ask(number, [1]) for number in range(3)]
    one.waiting(3)
    go()
    one.plan.notes.entered.acquire()
    urgent = one.stack.enter_context(one.turns.seat(priority="critical"))
    taken = one.threads.submit(one.turns.take, urgent)
    assert one.plan.notes.pressed.wait(10)
    one.plan.notes.gate.release(9)
    assert taken.result(10)
    one.waiting(3)
    return ends, lambda: one.turns.give(urgent)


def test_a_stop_reaches_one_whose_step_has_left() -> None:
    """At once; its sequence serves another task while the others' step is in the middle."""
    wanted = alone([1])[0]
    with table(5, "normal", "normal", "normal") as one:
        ends, go_on = left_step(one)
        one.controls[1][0] = STOP
        with pytest.raises(Cancelled):
            ends[1].result(10)
        with one.turns._lock:
            one.turns._leave(one.seats[1])
        one.seats[1].sequence.start(None)
        assert one.seats[1].sequence.position == 0
        go_on()
        for number in (0, 2):
            assert np.array_equal(ends[number].result(10), wanted[-1])


def test_all_may_be_stopped_while_their_step_has_left() -> None:
    with table(5, "normal", "normal", "normal") as one:
        ends, go_on = left_step(one)
        for control in one.controls[:3]:
            control[0] = STOP
        for number, end in enumerate(ends):
            with pytest.raises(Cancelled):
                end.result(10)
            with one.turns._lock:
                one.turns._leave(one.seats[number])
        go_on()
        assert len(one.turns._batches) == len(one.plan.batches), "its batch is free again"


def test_a_held_one_lets_its_step_go_on_and_has_its_token_later() -> None:
    wanted = alone([1])[0]
    with table(5, "normal", "normal", "normal") as one:
        ends, go_on = left_step(one)
        one.controls[0][0] = HOLD
        one.waiting(2)
        go_on()
        for number in (1, 2):
            assert np.array_equal(ends[number].result(10), wanted[-1])
        assert not ends[0].done()
        one.controls[0][0] = GO
        assert np.array_equal(ends[0].result(10), wanted[-1])


def test_a_step_that_is_held_as_a_whole_goes_on_where_it_was() -> None:
    wanted = alone([1])[0]
    with table(5, "normal", "normal", "normal") as one:
        ends, go_on = left_step(one)
        for control in one.controls[:3]:
            control[0] = HOLD
        one.waiting(0)
        go_on()
        for control in one.controls[:3]:
            control[0] = GO
        for end in ends:
            assert np.array_equal(end.result(10), wanted[-1])
        assert one.plan.notes.steps == [[1, 1, 1]], "nothing of it was computed twice"


def test_a_full_context_is_refused_for_the_one_whose_it_is() -> None:
    with table(3, "normal", "normal") as one:
        one.seats[0].run([1] * 256)
        go = one.held_turn()
        ends = [one.ask(number, [1]) for number in range(2)]
        one.waiting(2)
        go()
        with pytest.raises(ValueError, match="do not fit a context"):
            ends[0].result(10)
        ends[1].result(10)


def test_a_bad_token_fails_for_the_one_whose_it_is() -> None:
    wanted = alone([1])[0]
    with table(4, "normal", "normal", "normal") as one:
        go = one.held_turn()
        ends = [one.ask(number, [1_000_000 if number == 1 else 1]) for number in range(3)]
        one.waiting(3)
        go()
        with pytest.raises(ValueError, match="token ids"):
            ends[1].result(10)
        for number in (0, 2):
            assert np.array_equal(ends[number].result(10), wanted[-1])


def test_a_lone_task_takes_no_joint_step() -> None:
    with plan_of(4) as plan:
        session = Session(plan, TOKENIZER, None)
        answer(session, REQUESTS[0])
        assert plan.notes.steps == []
        assert not session.turns._ranks[2].absent


REQUESTS = [
    Request(prompt=prompt, max_tokens=60, sampling=sampling, stop=stop)
    for prompt, sampling, stop in zip(
        PROMPTS,
        [Sampling(), Sampling(temperature=0.7, seed=5)] * 4,
        [(), (), ("e",), ("a",), (), (), (), ()],
        strict=True,
    )
]
"""Two of them end at a stop string, every other one is drawn."""


def answer(
    session: Session,
    request: Request,
    priority: Priority = "normal",
    control: memoryview | None = None,
    gap: float = 0,
) -> str:
    checkpoint = task(control) if control is not None else lambda: None
    with session.turns.seat(control, checkpoint, priority) as seat:
        ids = session.encode(request)
        text = "".join(session.generate(request, seat, ids=ids, gap=gap))
        assert seat.sequence.position < len(ids) + 60
        return text


@pytest.mark.parametrize("gap", [0, 0.002])
@pytest.mark.parametrize(
    "classes",
    [
        ["normal"] * 8,
        ["batch", "critical", "normal", "batch", "normal", "batch", "normal", "batch"],
    ],
)
def test_many_streams_answer_what_they_answer_alone(classes: list[Priority], gap: float) -> None:
    """While some are held, some are stopped, and threads come and go, at any moment."""
    with plan_of(8, threads=3) as plan:
        session = Session(plan, TOKENIZER, None)
        expected = [answer(session, request) for request in REQUESTS]
        controls = [word() for _ in PROMPTS]
        over = threading.Event()

        def change() -> None:
            rng = random.Random(3)
            while not over.wait(0.001):
                whole = rng.random() < 0.3  # as the kernel does: all tasks of a worker
                command = rng.choice([GO, GO, HOLD])
                for control in controls if whole else [rng.choice(controls)]:
                    if control[0] & 0xFF != STOP:
                        control[0] = command | rng.randrange(4) << 8

        with pool() as threads:
            other = threads.submit(change)
            try:
                for _ in range(3):
                    ends = [
                        threads.submit(answer, session, request, priority, control, gap)
                        for request, priority, control in zip(
                            REQUESTS, classes, controls, strict=True
                        )
                    ]
                    time.sleep(0.01)
                    controls[2][0] = STOP
                    for number, end in enumerate(ends):
                        try:
                            assert end.result(60) == expected[number]
                        except (Cancelled, Stopped):
                            assert number == 2, "another one was stopped"
                    controls[2][0] = GO
            finally:
                over.set()
                other.result(10)
        assert len(session.turns._free) == 8
        assert len(session.turns._batches) == len(plan.batches)
        assert any(len(step) > 1 for step in plan.notes.steps)
