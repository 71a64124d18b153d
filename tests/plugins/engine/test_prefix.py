"""What an earlier task has left is used by the same principal's next ones, and by nobody else's."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.plugins.engine.generate import Outcome, Request, Session
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.plugins.engine.turns import WORTH
from clawai.sdk.model import llama
from clawai.sdk.model.driver import Stopped
from clawai.sdk.model.gguf import parse
from clawai.sdk.wire import GO, STOP
from gguf_files import tiny_llama
from reference import ReferenceDriver
from tiny_llama import compiled

FILE = parse(memoryview(tiny_llama(metadata={"llama.context_length": 128})))
GRAPH = llama.graph(FILE)
TOKENIZER = Tokenizer(FILE)
LONG = "the stories of all the seas between here and there"


def session(sequences: int = 2, *, kv: str = "") -> Session:
    """``kv``: on the accelerator, with such a cache; else on the reference."""
    plan: Any = (
        compiled(GRAPH, context=128, sequences=sequences, kv=kv)
        if kv
        else ReferenceDriver().compile(GRAPH, context=128, sequences=sequences)
    )
    return Session(plan, TOKENIZER, None)


def ask(owner: Session, prompt: str, principal: str, tokens: int = 8) -> Outcome:
    """As the worker does."""
    request = Request(prompt=prompt, max_tokens=tokens)
    ids = owner.encode(request)
    with owner.turns.seat(prompt=ids, principal=principal) as seat:
        generator = owner.generate(request, seat, ids=ids)
        while True:
            try:
                next(generator)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome


@pytest.mark.parametrize("kv", ["", "f16", "q8"])
def test_only_what_is_new_is_computed_and_the_answer_is_the_same(kv: str) -> None:
    owner = session(kv=kv)
    ask(owner, LONG + " one", "uid:1")
    for prompt in (LONG + " two", LONG, LONG + " one and more"):
        other = session(kv=kv)
        fresh = ask(other, prompt, "uid:1")
        other.plan.close()
        again = ask(owner, prompt, "uid:1")
        assert fresh.cached_tokens == 0
        assert again.cached_tokens >= len(TOKENIZER.encode(LONG)) - 1
        assert again.cached_tokens < again.prompt_tokens, "the last token gives the logits"
        assert again.text == fresh.text
    owner.plan.close()


def test_a_conversation_goes_on_where_it_was() -> None:
    owner, ids, answer = session(), TOKENIZER.encode(LONG), [70, 80, 90]
    with owner.turns.seat(prompt=ids, principal="uid:1") as seat:
        seat.run(ids)
        for token in answer:
            seat.run([token])
    with owner.turns.seat(prompt=[*ids, *answer, 100], principal="uid:1") as seat:
        assert seat.sequence.position == len(ids) + len(answer)


def test_another_principal_computes_every_token_himself() -> None:
    """The probe of somebody who guesses: his run has all tokens, whatever was asked before him."""
    owner = session(sequences=1)
    ask(owner, LONG, "uid:1")
    (sequence,) = owner.plan.sequences
    for principal in ("uid:2", ""):
        sequence.runs.clear()
        assert ask(owner, LONG, principal).cached_tokens == 0
        assert sequence.runs[0] == TOKENIZER.encode(LONG)
        ask(owner, LONG, "uid:1")


def test_without_a_principal_nothing_is_left() -> None:
    owner = session(sequences=1)
    ask(owner, LONG, "")
    assert ask(owner, LONG, "").cached_tokens == 0
    assert not owner.turns._kept or all(who for who, _ in owner.turns._kept.values())


def test_a_short_beginning_is_not_worth_a_sequence() -> None:
    owner = session(sequences=2)
    ask(owner, "a" * (WORTH - 1) + " and then much else", "uid:1")
    assert ask(owner, "a" * (WORTH - 1) + "zzz", "uid:1").cached_tokens == 0
    assert ask(owner, "a" * (WORTH - 1) + " and then more", "uid:1").cached_tokens >= WORTH


def test_what_was_stopped_leaves_what_it_had_computed() -> None:
    owner = session(sequences=1)
    word = np.array([GO], np.uint32)
    ids = TOKENIZER.encode(LONG)
    with (
        pytest.raises(Stopped),
        owner.turns.seat(memoryview(word), prompt=ids, principal="uid:1") as seat,
    ):
        seat.run(ids[:20])
        word[0] = STOP
        seat.run(ids[20:])
    outcome = ask(owner, LONG, "uid:1")
    assert outcome.cached_tokens == 20
    assert outcome.text == ask(session(), LONG, "uid:1").text


PROMPTS = st.builds(
    lambda start, length, end: LONG[: start * 5] + "ab" * length + end,
    st.integers(0, 9),
    st.integers(0, 12),
    st.sampled_from(["", " x", " the end"]),
)


@given(st.lists(st.tuples(PROMPTS, st.sampled_from(["a", "b", ""])), max_size=8))
@settings(max_examples=25, deadline=None)
def test_no_order_of_questions_changes_an_answer(asked: list[tuple[str, str]]) -> None:
    owner = session(sequences=2, kv="f16")
    seen: dict[str, list[list[int]]] = {"a": [], "b": [], "": []}
    try:
        for end, who in asked:
            prompt = "th" + end
            fresh = session(sequences=1, kv="f16")
            expected = ask(fresh, prompt, "").text
            fresh.plan.close()
            outcome = ask(owner, prompt, who)
            assert outcome.text == expected
            ids = TOKENIZER.encode(prompt)
            most = max((common(ids, each) for each in seen[who]), default=0)
            assert outcome.cached_tokens <= (most if who else 0)
            seen[who].append(ids + TOKENIZER.encode(outcome.text))
    finally:
        owner.plan.close()


def common(one: list[int], two: list[int]) -> int:
    pairs = zip(one, two, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))
