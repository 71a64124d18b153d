"""Drafts by prompt lookup: no answer changes, what is kept is exact, and who gets none."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.plugins.engine.generate import Outcome, Request, Session
from clawai.plugins.engine.lookup import DRAFTS, SLOPES, Ahead, Costs, History
from clawai.plugins.engine.sampling import Sampling
from clawai.plugins.engine.seats import Seat
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.sdk.context import Cancelled, Context
from clawai.sdk.model import llama
from clawai.sdk.model.driver import Stopped
from clawai.sdk.model.gguf import parse
from clawai.sdk.wire import GO, HOLD, STOP
from gguf_files import tiny_llama
from tiny_llama import compiled

FILE = parse(memoryview(tiny_llama(metadata={"llama.context_length": 256})))
GRAPH = llama.graph(FILE)
TOKENIZER = Tokenizer(FILE)
PROMPTS = ["the stories of the sea " * 4, "all of it and all of it", "x y x y", "the"]
TURNING = "the sea the sea " * 2
"""Its answer goes in circles."""
SAMPLINGS = [Sampling(), Sampling(temperature=0.4, top_k=3, seed=7), Sampling(1.0, seed=3)]


class Free(Costs):
    """Rows cost nothing, so that all that can be drafted is."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = SLOPES[0]

    def note(self, rows: int, took: int) -> None:
        pass


class Noted:
    """A real sequence; the tokens of each run are noted."""

    def __init__(self, sequence: Any) -> None:
        self._sequence = sequence
        self.runs: list[list[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sequence, name)

    def run(self, tokens: list[int], *, all_logits: bool = False) -> Any:
        self.runs.append(list(tokens))
        return self._sequence.run(tokens, all_logits=all_logits)


@contextmanager
def session(sequences: int = 1, drafts: int = DRAFTS) -> Iterator[Session]:
    plan = compiled(GRAPH, context=256, threads=2, sequences=sequences)
    owner = Session(plan, TOKENIZER, None)
    owner.costs, owner.drafts = Free(), drafts
    try:
        yield owner
    finally:
        plan.close()


def answer(owner: Session, request: Request, seat: Seat) -> Outcome:
    generator = owner.generate(request, seat)
    while True:
        try:
            next(generator)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


def ask(owner: Session, request: Request, **seated: Any) -> Outcome:
    with owner.turns.seat(**seated) as seat:
        return answer(owner, request, seat)


def plainly(request: Request) -> Outcome:
    with session(drafts=0) as owner:
        return ask(owner, request)


def next_logits(owner: Session, tokens: list[int]) -> Any:
    """Behind tokens that are run one by one."""
    with owner.turns.seat() as seat:
        return [seat.run([token])[-1].copy() for token in tokens][-1]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_answer_is_the_same_and_what_is_in_the_cache_is_known(sampling: Sampling) -> None:
    drafted = 0
    with session(2) as owner:
        for prompt in PROMPTS:
            request = Request(prompt=prompt, max_tokens=90, sampling=sampling)
            expected = plainly(request)
            assert (expected.drafted_tokens, expected.accepted_tokens) == (0, 0)
            with owner.turns.seat() as seat:
                said = answer(owner, request, seat)
                assert said.text == expected.text
                assert said.completion_tokens == expected.completion_tokens
                assert said.finish_reason == expected.finish_reason
                held = [*seat.tokens[: seat.sequence.position], 5]
                assert len(held) <= 256
                logits = seat.run([5])[-1].copy() if len(held) < 256 else None
            if logits is not None:
                assert np.array_equal(logits, next_logits(owner, held))
            assert said.accepted_tokens <= said.drafted_tokens
            drafted += said.drafted_tokens
    assert drafted


def test_accepted_tokens_take_no_run_of_their_own() -> None:
    with session() as owner, owner.turns.seat() as seat:
        noted = seat.sequence = Noted(seat.sequence)
        said = answer(owner, Request(prompt=TURNING, max_tokens=100), seat)
        (prompt, *runs) = noted.runs
        assert len(prompt) == said.prompt_tokens
        assert sum(len(run) - 1 for run in runs) == said.drafted_tokens
        assert len(runs) == said.completion_tokens - 1 - said.accepted_tokens
        usage = said.as_dict()["usage"]
        assert usage["drafted_tokens"] == said.drafted_tokens
        assert usage["accepted_tokens"] == said.accepted_tokens > 30


@pytest.mark.parametrize("rows", range(1, DRAFTS + 3))
def test_rows_of_one_run_have_the_bits_of_tokens_alone(rows: int) -> None:
    tokens = [(number * 37) % 250 + 3 for number in range(rows)]
    with session() as owner, owner.turns.seat() as seat:
        seat.run(TOKENIZER.encode(PROMPTS[0]))
        start = seat.sequence.position
        together = seat.run(tokens, all_logits=True).copy()
        seat.rewind(start)
        assert len(seat.tokens) == start
        for token, wanted in zip(tokens, together, strict=True):
            assert np.array_equal(seat.run([token])[-1], wanted)


def test_tasks_of_one_class_get_none_and_another_class_does() -> None:
    with session(3) as owner, ExitStack() as stack:
        for priority, drafts in (("normal", True), ("batch", False)):
            stack.enter_context(owner.turns.seat(priority="batch"))
            said = ask(owner, Request(prompt=TURNING, max_tokens=60), priority=priority)
            assert bool(said.drafted_tokens) == drafts
        assert not owner.turns.seated(0)


def test_one_that_is_not_alone_any_more_goes_on_in_single_tokens() -> None:
    with session(2) as owner, owner.turns.seat() as seat:
        request = Request(prompt=TURNING, max_tokens=90)
        noted = seat.sequence = Noted(seat.sequence)
        generator = owner.generate(request, seat)
        pieces = [next(generator) for _ in range(30)]
        assert any(len(run) > 1 for run in noted.runs[1:])
        with owner.turns.seat():
            at = len(noted.runs)
            pieces += [next(generator) for _ in range(30)]
            assert all(len(run) == 1 for run in noted.runs[at:])
        pieces += list(generator)
        assert "".join(pieces) == plainly(request).text
        assert any(len(run) > 1 for run in noted.runs[at + 20 :])


@pytest.mark.parametrize("sampling", SAMPLINGS[:2])
def test_holds_and_urgent_tasks_in_the_middle_change_nothing(sampling: Sampling) -> None:
    request = Request(prompt=TURNING, max_tokens=200, sampling=sampling)
    expected = plainly(request).text
    control = memoryview(bytearray(4)).cast("I")
    checkpoint = Context(task=1, outlet=None, control=control).checkpoint  # type: ignore[arg-type]
    over = threading.Event()

    def disturb(owner: Session) -> None:
        rng = random.Random(5)
        while not over.wait(0.0005):
            control[0] = rng.choice([GO, GO, HOLD]) | rng.randrange(3) << 8
            ask(owner, Request(prompt="the", max_tokens=1), priority="critical")
        control[0] = GO

    with session(2) as owner, ThreadPoolExecutor(1) as threads:
        other = threads.submit(disturb, owner)
        try:
            for _ in range(4):
                said = ask(owner, request, control=control, checkpoint=checkpoint)
                assert said.text == expected and said.accepted_tokens > 20
        finally:
            over.set()
            other.result(10)


@pytest.mark.parametrize("at", [1, 12, 40])
def test_what_a_stopped_or_abandoned_answer_leaves_is_exact(at: int) -> None:
    """A later answer of the same principal builds on it and is what it would be without."""
    request = Request(prompt=TURNING, max_tokens=80)
    whole = plainly(request).text
    longer = Request(prompt=TURNING + whole[:60] + "?", max_tokens=30)
    expected = plainly(longer).text
    control = memoryview(bytearray(4)).cast("I")
    for stop in (True, False):
        with session() as owner:
            control[0] = GO
            ids = owner.encode(request)
            with owner.turns.seat(control, prompt=ids, principal="uid:1") as seat:
                generator = owner.generate(request, seat, ids=ids)
                for _ in range(at):
                    next(generator)
                if stop:
                    control[0] = STOP
                    with pytest.raises((Stopped, Cancelled)):
                        list(generator)
                generator.close()
            ids = owner.encode(longer)
            with owner.turns.seat(prompt=ids, principal="uid:1") as seat:
                assert seat.sequence.position >= len(TOKENIZER.encode(TURNING))
                assert answer(owner, longer, seat).text == expected


@pytest.mark.parametrize("most", [1, 2, 3, 17, None])
def test_no_run_goes_beyond_what_was_asked_or_the_context(most: int | None) -> None:
    request = Request(prompt=TURNING, max_tokens=most)
    with session() as owner, owner.turns.seat() as seat:
        noted = seat.sequence = Noted(seat.sequence)
        said = answer(owner, request, seat)
        assert said.text == plainly(request).text
        assert all(len(run) <= DRAFTS + 1 for run in noted.runs[1:])
        assert seat.sequence.position < said.prompt_tokens + (most or 256)


def test_a_stop_string_among_accepted_tokens_ends_the_answer_there() -> None:
    whole = plainly(Request(prompt=TURNING, max_tokens=90)).text
    request = Request(prompt=TURNING, max_tokens=90, stop=[whole[-9:-6]])
    with session() as owner:
        said = ask(owner, request)
    expected = plainly(request)
    assert (said.text, said.completion_tokens) == (expected.text, expected.completion_tokens)


def test_a_guess_goes_on_where_the_last_tokens_were_before() -> None:
    history = History([1, 2, 3, 4, 5, 6, 7, 1, 2])
    history.add(3)
    assert history.draft(4, 0.0) == [4, 5, 6, 7]
    history.add(4)
    history.add(9)
    assert history.draft(4, 0.0) == [], "4, 9 is new"


def test_a_guess_of_two_tokens_takes_the_latest_place() -> None:
    history = History([8, 1, 2, 5, 9, 1, 2, 6, 7, 1])
    history.add(2)
    assert history.draft(2, 0.0) == [6, 7]


def test_a_guess_repeats_itself_behind_the_end() -> None:
    history = History([4, 1, 2, 1, 2, 1])
    history.add(2)
    assert history.draft(6, 0.0) == [1, 2, 1, 2, 1, 2]


def test_a_copy_is_not_lost_where_it_passes_what_occurs_elsewhere() -> None:
    text = [1, 2, 3, 4, 5, 6, 7, 3, 4, 5, 9, 9]
    history = History([*text, 1, 2])
    for token in (3, 4, 5):
        history.add(token)
    assert history.draft(2, 0.0) == [6, 7], "3, 4, 5 was last followed by 9"


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_history_has_drafts_of_tokens_that_were_there(
    start: list[int], more: list[int]
) -> None:
    history = History(start)
    for token in more:
        history.add(token)
        assert set(history.draft(DRAFTS, 0.1)) <= {*start, *more}


def test_guesses_that_fail_end_drafts_and_dear_rows_shorten_them() -> None:
    rng = random.Random(2)
    history = History([])
    lengths = []
    for _ in range(400):  # pairs occur again, and nothing follows from them
        history.add(rng.randrange(12))
        lengths.append(len(history.draft(DRAFTS, 0.2)))
    assert sum(lengths[300:]) < 15
    copying = History([*range(100), 0, 1])
    for token in range(2, 30):
        copying.add(token)
    by_price = [len(copying.draft(DRAFTS, slope)) for slope in (0.03, 0.3, 0.6, 2.0)]
    assert by_price == sorted(by_price, reverse=True)
    assert by_price[0] == DRAFTS and by_price[-1] == 0


def test_what_rows_cost_is_the_middle_of_what_was_measured() -> None:
    costs = Costs()
    costs.note(8, 10)
    before = costs.slope
    assert costs.slope == before, "nothing to compare it with"
    for took in (1000, 1100, 900):
        costs.note(1, took)
    for took in (2400, 90_000, 2400, 2500, 2300):
        costs.note(8, took)
    assert costs.slope == pytest.approx(0.2)
    for _ in range(20):
        costs.note(2, 50_000)
    assert costs.slope == SLOPES[1]
    for _ in range(20):
        costs.note(2, 1)
    assert costs.slope == SLOPES[0]


def test_an_answer_of_one_token_looks_nothing_up() -> None:
    with session() as owner, owner.turns.seat() as seat:
        ahead = Ahead(seat, [1, 2, 3], owner.costs)
        assert ahead._history is None
        answer(owner, Request(prompt="the", max_tokens=1), seat)
