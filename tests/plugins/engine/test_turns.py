"""Turns at a model: who goes first, what interrupts whom, and that nobody's answer changes.

Joint steps of several tasks are in ``test_steps.py``.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from clawai.plugins.engine.generate import Request, Session
from clawai.plugins.engine.seats import Seat
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.plugins.engine.turns import Turns
from clawai.sdk.context import Cancelled, Context
from clawai.sdk.errors import ClawError
from clawai.sdk.model import llama
from clawai.sdk.model.driver import Left, Stopped
from clawai.sdk.model.gguf import parse
from clawai.sdk.wire import GO, HOLD, STOP, Priority
from gguf_files import tiny_llama
from support import wait_until
from tiny_llama import compiled

FILE = parse(memoryview(tiny_llama(metadata={"llama.context_length": 256})))
GRAPH = llama.graph(FILE)
TOKENIZER = Tokenizer(FILE)
PROMPTS = ["the", "the stories of the sea " * 5, "all of it", "a" * 150]


class Stage:
    """A plan whose runs take as long as the test says, and say what they do."""

    context = 64

    def __init__(self, sequences: int) -> None:
        self.sequences = tuple(Actor(self) for _ in range(sequences))
        self.ran: list[int] = []
        self.go = threading.Semaphore(0)
        """Released once for each step that may be done."""
        self.leaving = threading.Event()

    def preempt(self, on: bool) -> None:
        (self.leaving.set if on else self.leaving.clear)()

    def close(self) -> None:
        pass


class Actor:
    """A sequence: each token is a step."""

    position = 0

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._left: list[int] = []
        self._control: memoryview | None = None

    def start(self, control: memoryview | None) -> None:
        self._control = control

    def run(self, tokens: list[int], *, all_logits: bool = False) -> Any:
        self._left = list(tokens)
        return self.resume()

    def resume(self) -> Any:
        while self._left:
            self._stage.go.acquire()
            self._stage.ran.append(self._left.pop(0))
            word = self._control[0] & 0xFF if self._control is not None else GO
            if word == STOP:
                raise Stopped
            if self._left and (word == HOLD or self._stage.leaving.is_set()):
                raise Left
        return "logits"


@contextmanager
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def seats(stack: ExitStack, turns: Turns, *classes: Priority, due: Any = None) -> list[Seat]:
    due = due or [None] * len(classes)
    return [
        stack.enter_context(turns.seat(priority=priority, deadline=deadline))
        for priority, deadline in zip(classes, due, strict=True)
    ]


def waiting(turns: Turns, count: int) -> Callable[[], bool]:
    return lambda: len(turns._waiting) == count


def test_the_most_urgent_goes_next_then_the_nearest_deadline_then_who_waited_longest() -> None:
    stage = Stage(6)
    turns = Turns(stage)
    with ExitStack() as stack, pool() as threads:
        holder, *others = seats(
            stack, turns, "critical", "batch", "normal", "interactive", "normal", "normal",
            due=[None, None, None, None, 9.0, 5.0],
        )  # fmt: skip
        ends = [threads.submit(holder.run, [0])]
        wait_until(lambda: turns._holder is holder, "the first one runs")
        for number, seat in enumerate(others, 1):
            ends.append(threads.submit(seat.run, [number]))
            wait_until(waiting(turns, number), "it waits")
        stage.go.release(6)
        assert [end.result(10) for end in ends] == ["logits"] * 6
    assert stage.ran == [0, 3, 5, 4, 2, 1]


def test_equals_take_turns() -> None:
    stage = Stage(3)
    turns = Turns(stage)
    with ExitStack() as stack, pool() as threads:
        three = seats(stack, turns, "normal", "normal", "normal")

        def stream(seat: Seat, name: int) -> None:
            for _ in range(4):
                seat.run([name])

        ends = [threads.submit(stream, three[0], 0)]
        wait_until(lambda: turns._holder is three[0], "the first one runs")
        for name in (1, 2):
            ends.append(threads.submit(stream, three[name], name))
            wait_until(waiting(turns, name), "it waits")
        for step in range(12):
            stage.go.release()
            wait_until(lambda step=step: len(stage.ran) == step + 1, "a step is done")
            if step < 9:  # the one that has just run waits again before the next is let go
                wait_until(waiting(turns, 2), "the others wait")
        for end in ends:
            end.result(10)
    assert stage.ran[:9] == [0, 1, 2] * 3
    assert sorted(stage.ran) == [0] * 4 + [1] * 4 + [2] * 4


def test_a_more_urgent_one_interrupts_and_the_rest_is_done_later() -> None:
    stage = Stage(2)
    turns = Turns(stage)
    with ExitStack() as stack, pool() as threads:
        bulk, urgent = seats(stack, turns, "batch", "interactive")
        long = threads.submit(bulk.run, [1, 2, 3, 4])
        wait_until(lambda: turns._holder is bulk, "the bulk one runs")
        stage.go.release(2)
        wait_until(lambda: stage.ran == [1, 2], "half of it")
        short = threads.submit(urgent.run, [9])
        wait_until(stage.leaving.is_set, "it is asked to leave")
        stage.go.release(4)
        assert short.result(10) == long.result(10) == "logits"
    assert stage.ran == [1, 2, 3, 9, 4], "one step was under way"
    assert not stage.leaving.is_set()


def test_an_equal_one_interrupts_after_a_slice() -> None:
    stage = Stage(2)
    turns = Turns(stage)
    with ExitStack() as stack, pool() as threads:
        prompt, answer = seats(stack, turns, "normal", "normal")
        long = threads.submit(prompt.run, [1, 2, 3])
        wait_until(lambda: turns._holder is prompt, "the prompt runs")
        short = threads.submit(answer.run, [9])
        wait_until(stage.leaving.is_set, "its slice is over")
        stage.go.release(4)
        assert short.result(10) == long.result(10) == "logits"
    assert stage.ran == [1, 9, 2, 3]


def test_a_lower_one_interrupts_nobody() -> None:
    stage = Stage(2)
    turns = Turns(stage)
    with ExitStack() as stack, pool() as threads:
        first, low = seats(stack, turns, "normal", "batch")
        long = threads.submit(first.run, [1, 2, 3])
        wait_until(lambda: turns._holder is first, "the first one runs")
        short = threads.submit(low.run, [9])
        wait_until(waiting(turns, 1), "the lower one waits")
        assert not stage.leaving.wait(0.1)
        stage.go.release(4)
        assert short.result(10) == long.result(10) == "logits"
    assert stage.ran == [1, 2, 3, 9]


def task(control: memoryview) -> Context:
    return Context(task=1, outlet=None, control=control)  # type: ignore[arg-type]


def test_a_stop_reaches_one_that_waits_for_its_turn() -> None:
    stage = Stage(2)
    turns = Turns(stage)
    control = memoryview(bytearray(4)).cast("I")
    with ExitStack() as stack, pool() as threads:
        (first,) = seats(stack, turns, "critical")
        second = stack.enter_context(turns.seat(control, task(control).checkpoint, "batch"))
        long = threads.submit(first.run, [1])
        wait_until(lambda: turns._holder is first, "the first one runs")
        short = threads.submit(second.run, [9])
        wait_until(waiting(turns, 1), "the other waits")
        control[0] = STOP
        with pytest.raises(Cancelled):
            short.result(10)
        assert not turns._waiting
        stage.go.release()
        assert long.result(10) == "logits"
    assert stage.ran == [1]


def test_a_held_task_lets_the_others_go_on() -> None:
    stage = Stage(2)
    turns = Turns(stage)
    control = memoryview(bytearray(4)).cast("I")
    with ExitStack() as stack, pool() as threads:
        held = stack.enter_context(turns.seat(control, task(control).checkpoint, "critical"))
        (other,) = seats(stack, turns, "batch")
        long = threads.submit(held.run, [1, 2])
        wait_until(lambda: turns._holder is held, "it runs")
        control[0] = HOLD
        stage.go.release()
        wait_until(lambda: turns._holder is None, "it has left")
        stage.go.release()
        assert threads.submit(other.run, [9]).result(10) == "logits"
        assert not long.done()
        control[0] = GO
        stage.go.release()
        assert long.result(10) == "logits"
    assert stage.ran == [1, 9, 2]


def test_more_tasks_than_sequences_are_refused() -> None:
    turns = Turns(Stage(1))
    with turns.seat(), pytest.raises(ClawError, match="every sequence") as caught, turns.seat():
        pass
    assert caught.value.code == "overloaded"
    with turns.seat():
        pass


def answer(session: Session, prompt: str, priority: Priority = "normal") -> str:
    with session.turns.seat(priority=priority) as seat:
        request = Request(prompt=prompt, max_tokens=60)
        return "".join(session.generate(request, seat))


@pytest.mark.parametrize("classes", [["normal"] * 4, ["batch", "critical", "normal", "batch"]])
def test_streams_at_once_answer_what_they_answer_alone(classes: list[Priority]) -> None:
    """On the real executor, with prompts that are cut, in every mixture that the threads make."""
    plan = compiled(GRAPH, context=256, threads=2, sequences=4)
    session = Session(plan, TOKENIZER, None)
    try:
        alone = [answer(session, prompt) for prompt in PROMPTS]
        with pool() as threads:
            for _ in range(3):
                ends = [
                    threads.submit(answer, session, prompt, priority)
                    for prompt, priority in zip(PROMPTS, classes, strict=True)
                ]
                assert [end.result(60) for end in ends] == alone
    finally:
        plan.close()
