"""The engine against llama.cpp's figures on the same file (``llamacpp.json``, see ``llamacpp``)."""

import hashlib
import importlib.util
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clawai.plugins.engine.generate import Request, Session
from clawai.sdk.model import gguf, llama
from oracle import llamacpp
from oracle.conftest import loaded
from reference import ReferenceDriver

pytestmark = pytest.mark.model

PROSE = Path(__file__).with_name("prose.txt")
ORACLE: dict[str, Any] = json.loads((llamacpp.HERE / "llamacpp.json").read_text())
LIKELIHOOD: dict[str, Any] = json.loads((llamacpp.HERE / "likelihood.json").read_text())
"""By llama.cpp in float16, see ``likelihood``; that of Q8_0: ``plugins/quantizer``."""
NEAR_TIE = 0.1
"""Where llama.cpp's two best logits are nearer than this, another engine may take the other."""


def first_difference(session: Session, entry: dict[str, Any], answer: dict[str, Any]) -> int | None:
    """The first token where our greedy choice is another one than llama.cpp's."""
    sequence = session.plan.sequences[0]
    sequence.rewind(0)
    logits = sequence.run(session.encode(Request(**entry)))
    for at, token in enumerate(answer["tokens"]):
        if int(np.argmax(logits[-1])) != token:
            return at
        logits = sequence.run([token])
    return None


def test_the_figures_are_of_this_file(smollm2_path: Path) -> None:
    with smollm2_path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == ORACLE["model_sha256"]


def test_prompts_have_as_many_tokens_as_for_llama_cpp(engine_session: Session) -> None:
    assert len(llamacpp.PROMPTS) == 50
    for entry, answer in zip(llamacpp.PROMPTS, ORACLE["answers"], strict=True):
        assert len(engine_session.encode(Request(**entry))) == answer["prompt_tokens"], entry


def likelihood(session: Session, text: str = llamacpp.TEXT) -> float:
    """Mean negative log-likelihood of a text."""
    with session.turns.seat() as seat:
        mean, count = session.score(text, seat)
    assert text != llamacpp.TEXT or count == len(ORACLE["log_probabilities"])
    return mean


def prose() -> Iterator[str]:
    """Eight pieces of English with figures and code in it, 450 words each."""
    for text in PROSE.read_text().split("\n\n"):
        yield " ".join(text.split())


def test_the_likelihood_of_a_text_is_within_half_a_percent(engine_session: Session) -> None:
    assert engine_session.tokenizer.encode(llamacpp.TEXT) == ORACLE["text_tokens"]
    mean = likelihood(engine_session)
    assert mean == pytest.approx(ORACLE["mean_nll"], rel=0.005)
    assert LIKELIHOOD["as stored"]["sha256"] == ORACLE["model_sha256"]
    assert mean == pytest.approx(LIKELIHOOD["as stored"]["mean_nll"], rel=0.005)


@pytest.mark.timeout(600)  # without vector instructions it takes minutes
def test_a_cache_in_int8_moves_the_likelihood_by_less_than_a_thousandth(
    engine_session: Session, smollm2_path: Path
) -> None:
    """Of many texts: of one alone another order of rounding moves it by as much."""
    texts = [llamacpp.TEXT, *prose()]
    with loaded(smollm2_path, kv="q8") as session:
        moved = [likelihood(session, each) / likelihood(engine_session, each) for each in texts]
    assert statistics.mean(moved) == pytest.approx(1, abs=0.001), moved
    assert all(each == pytest.approx(1, abs=0.006) for each in moved), moved
    assert any(each != 1 for each in moved), "the cache was not int8"


def test_greedy_continuations_agree_where_they_are_clear(engine_session: Session) -> None:
    for entry, answer in zip(llamacpp.PROMPTS, ORACLE["answers"], strict=True):
        at = first_difference(engine_session, entry, answer)
        assert at is None or answer["gaps"][at] < NEAR_TIE, (entry, at, answer["gaps"][at])


def test_the_graph_without_rounding_gives_the_same_likelihood(smollm2_path: Path) -> None:
    """In float32 by numpy: what is left is llama.cpp's own rounding of activations."""
    count = 256
    ids = ORACLE["text_tokens"][: count + 1]
    plan = ReferenceDriver().compile(llama.graph(gguf.read(smollm2_path)), context=count)
    rows = np.asarray(plan.sequences[0].run(ids[:-1], all_logits=True), dtype=np.float64)
    peak = rows.max(axis=1)
    total = peak + np.log(np.exp(rows - peak[:, None]).sum(axis=1))
    got = rows[np.arange(count), ids[1:]] - total
    expected = np.array(ORACLE["log_probabilities"][:count])
    assert got.mean() == pytest.approx(expected.mean(), rel=0.005)
    assert np.abs(got - expected).mean() < 0.1


@pytest.mark.oracle
@pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="llama.cpp comes with clawai[bench]"
)
def test_llama_cpp_still_says_what_the_file_says(smollm2_path: Path) -> None:
    peer = llamacpp.server(smollm2_path)
    for index in (0, 24, 49):
        got = llamacpp.greedy(peer, llamacpp.PROMPTS[index])
        assert got["tokens"] == ORACLE["answers"][index]["tokens"]
        assert got["prompt_tokens"] == ORACLE["answers"][index]["prompt_tokens"]
    got_log = llamacpp.log_probability(peer, ORACLE["text_tokens"], 5)
    assert got_log == pytest.approx(ORACLE["log_probabilities"][4], abs=0.3)
