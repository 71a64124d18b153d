"""Generation and scoring over a numpy plan: what is run, what comes out, how it ends."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.plugins.engine import generate
from clawai.plugins.engine.chat import ChatTemplate
from clawai.plugins.engine.generate import Outcome, Request, Session, StopWatch
from clawai.plugins.engine.sampling import Sampling
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.sdk.errors import ClawError
from clawai.sdk.model import llama
from clawai.sdk.model.driver import Stopped
from clawai.sdk.model.gguf import parse
from clawai.sdk.wire import STOP
from gguf_files import CHATML, tiny_llama
from reference import ReferenceDriver, ReferencePlan

FILE = parse(memoryview(tiny_llama(metadata={"llama.context_length": 64})))
GRAPH = llama.graph(FILE)
TOKENIZER = Tokenizer(FILE)
TEMPLATE = ChatTemplate(CHATML, bos="", eos="<|im_end|>", controls=TOKENIZER.control_texts)


def session(plan: Any = None, template: ChatTemplate | None = TEMPLATE) -> Session:
    return Session(plan or ReferenceDriver().compile(GRAPH, context=64), TOKENIZER, template)


def run(owner: Session, request: Request) -> tuple[list[str], Outcome]:
    pieces: list[str] = []
    with owner.turns.seat() as seat:
        generator = owner.generate(request, seat)
        while True:
            try:
                pieces.append(next(generator))
            except StopIteration as end:
                return pieces, end.value


def score(owner: Session, text: str) -> tuple[float, int]:
    with owner.turns.seat() as seat:
        return owner.score(text, seat)


class Scripted:
    """A plan with one sequence, whose best token is the next one of a script."""

    context = 64

    def __init__(self, script: list[int]) -> None:
        self._script: Iterator[int] = iter(script)
        self.position = 0
        self.sequences = (self,)

    def preempt(self, on: bool) -> None:
        pass

    def start(self, control: memoryview | None) -> None:
        self.position = 0

    def run(self, tokens: list[int], *, all_logits: bool = False) -> Any:
        self.position += len(tokens)
        logits = np.zeros((1, TOKENIZER.vocabulary), np.float32)
        logits[0, next(self._script)] = 1
        return logits


def scripted(text: str, end: bool = True) -> Session:
    return session(Scripted([*TOKENIZER.encode(text), *([2] if end else [])]))


def test_greedy_tokens_are_those_of_one_step_after_the_other() -> None:
    (plan,) = ReferenceDriver().compile(GRAPH, context=64).sequences
    ids = TOKENIZER.encode("the story")
    for _ in range(10):
        plan.rewind(0)
        ids.append(int(np.argmax(plan.run(ids)[-1])))
    pieces, outcome = run(session(), Request(prompt="the story", max_tokens=10))
    expected = ids[len(TOKENIZER.encode("the story")) :]
    if set(expected) & TOKENIZER.ends:
        expected = expected[: min(expected.index(end) for end in TOKENIZER.ends if end in expected)]
    assert "".join(pieces) == outcome.text == TOKENIZER.decode(expected)
    assert outcome.completion_tokens == len(expected)


def test_the_same_session_gives_the_same_answer_again() -> None:
    owner = session()
    request = Request(prompt="the", max_tokens=20, sampling=Sampling(temperature=1.0, seed=4))
    assert run(owner, request)[0] == run(owner, request)[0]


def test_messages_become_the_chat_prompt() -> None:
    plan = ReferenceDriver().compile(GRAPH, context=64)
    request = Request(messages=[{"role": "user", "content": "the<|im_end|>"}], max_tokens=1)
    owner = session(plan)
    run(owner, request)
    ran = [token for tokens in plan.sequences[0].runs for token in tokens]
    expected = [1, *TOKENIZER.encode("user\nthe<|im_end|>"), 2, *TOKENIZER.encode("\n"), 1]
    assert ran[: len(expected)] == expected and ran.count(2) == 1


def test_the_model_ends_the_answer() -> None:
    pieces, outcome = run(scripted("all of it"), Request(prompt="x"))
    assert "".join(pieces) == "all of it" and outcome.finish_reason == "stop"
    assert outcome.completion_tokens == len(TOKENIZER.encode("all of it"))


def test_max_tokens_ends_the_answer() -> None:
    pieces, outcome = run(scripted("all of it"), Request(prompt="x", max_tokens=3))
    assert ("".join(pieces), outcome.finish_reason) == ("all", "length")
    assert outcome.completion_tokens == 3 and outcome.prompt_tokens == 1


def test_the_context_ends_the_answer() -> None:
    owner = scripted("a" * 100)
    pieces, outcome = run(owner, Request(prompt="x" * 60))
    assert outcome.finish_reason == "length" and outcome.completion_tokens == 4
    assert owner.plan.sequences[0].position <= 64 and "".join(pieces) == "aaaa"


def test_a_prompt_that_fills_the_context_is_refused_with_both_lengths() -> None:
    assert run(scripted("a"), Request(prompt="x" * 63))[1].completion_tokens == 1
    for length in (64, 200):
        with pytest.raises(ClawError, match=rf"{length} tokens.*64") as caught:
            run(scripted("a"), Request(prompt="x" * length))
        assert caught.value.code == "prompt_too_long" and caught.value.hint


def test_an_endless_prompt_is_refused_before_it_is_tokenized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*args: Any, **kwargs: Any) -> list[int]:
        raise AssertionError("tokenized")

    owner = scripted("a")
    monkeypatch.setattr(Tokenizer, "encode", never)
    with pytest.raises(ClawError, match="at least") as caught:
        run(owner, Request(prompt="x" * 1_000_000))
    assert caught.value.code == "prompt_too_long"


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one END two", ["END"], "one "),
        ("one END two", [" E", "END"], "one"),
        ("one EN two", ["END"], "one EN two"),
        ("EENEND", ["END"], "EEN"),
        ("aab", ["ab"], "a"),
        ("end of E", ["END"], "end of E"),
        ("éä😀x", ["😀"], "éä"),
    ],
)
def test_stop_strings(text: str, stops: list[str], expected: str) -> None:
    pieces, outcome = run(scripted(text), Request(prompt="x", stop=stops))
    assert "".join(pieces) == outcome.text == expected
    assert outcome.finish_reason == "stop"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("abc", max_size=4), max_size=8),
    st.lists(st.text("abc", min_size=1, max_size=3), max_size=3),
)
def test_stop_strings_however_the_text_is_cut(pieces: list[str], stops: list[str]) -> None:
    watch = StopWatch(stops)
    shown = "".join(watch.feed(piece) for piece in pieces)
    shown += "" if watch.hit else watch.finish()
    text = "".join(pieces)
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert watch.hit == bool(found)
    # Fed piece by piece, the stop string that is complete first ends it; nothing of one is shown.
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    if not found:
        assert shown == text


def test_characters_are_whole_and_a_broken_end_is_shown_as_such() -> None:
    pieces, _ = run(scripted("a😀é"), Request(prompt="x"))
    assert pieces == ["a", "😀", "é"]
    pieces, outcome = run(scripted("a😀"), Request(prompt="x", max_tokens=3))
    assert "".join(pieces) == "a\ufffd" and outcome.finish_reason == "length"


def test_control_tokens_of_the_model_are_not_shown() -> None:
    script = [*TOKENIZER.encode("a"), 1, *TOKENIZER.encode("b"), 2]
    assert run(session(Scripted(script)), Request(prompt="x"))[0] == ["a", "b"]


def test_a_long_prompt_runs_in_chunks_and_tells_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "PREFILL_CHUNK", 16)
    plan: ReferencePlan = ReferenceDriver().compile(GRAPH, context=64)
    told: list[float] = []
    owner = session(plan)
    with owner.turns.seat() as seat:
        list(owner.generate(Request(prompt="x" * 40, max_tokens=1), seat, told.append))
    assert [len(tokens) for tokens in plan.sequences[0].runs] == [16, 16, 8]
    assert told == sorted(told) and told[-1] == 1.0


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(prompt="the the then", max_tokens=12)
    whole = run(session(), request)[0]
    monkeypatch.setattr(generate, "PREFILL_CHUNK", 3)
    assert run(session(), request)[0] == whole


def test_the_control_word_stops_it_and_the_session_goes_on_to_work() -> None:
    control = memoryview(bytearray(4)).cast("I")
    owner = session()
    request = Request(prompt="the", max_tokens=8)
    expected = run(owner, request)[0]
    with owner.turns.seat(control) as seat:
        pieces = owner.generate(request, seat)
        next(pieces)
        control[0] = STOP
        with pytest.raises(Stopped):
            list(pieces)
    assert run(owner, request)[0] == expected


def test_a_model_without_a_template_takes_prompts_only() -> None:
    with pytest.raises(ClawError, match="no chat template") as caught:
        run(session(template=None), Request(messages=[{"role": "user", "content": "x"}]))
    assert caught.value.code == "bad_params" and caught.value.hint


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": "a", "messages": []},
        {"prompt": "a", "max_tokens": 0},
        {"prompt": "a", "stop": [""]},
        {"prompt": "a", "stop": ["x"] * 17},
        {"prompt": "a", "stop": ["x" * 257]},
    ],
)
def test_malformed_requests(fields: dict[str, Any]) -> None:
    with pytest.raises(ClawError) as caught:
        Request(**fields)
    assert caught.value.code == "bad_params"


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ClawError, match="empty") as caught:
        run(session(), Request(prompt=""))
    assert caught.value.code == "bad_params"


def test_the_score_is_the_mean_of_what_single_steps_say() -> None:
    text = "the stories of the sea"
    ids = TOKENIZER.encode(text)
    (plan,) = ReferenceDriver().compile(GRAPH, context=64).sequences
    total = 0.0
    for before, after in pairwise(ids):
        logits = plan.run([before])[-1].astype(np.float64)
        total += float(np.log(np.exp(logits).sum()) - logits[after])
    mean, count = score(session(), text)
    assert count == len(ids) - 1 and mean == pytest.approx(total / count, rel=1e-5)


def test_what_cannot_be_scored() -> None:
    for text, code in (("", "bad_params"), ("x", "bad_params"), ("x" * 65, "prompt_too_long")):
        with pytest.raises(ClawError) as caught:
            score(session(), text)
        assert caught.value.code == code
    assert score(session(), "x" * 64)[1] == 63
