"""Rules: what they do to logits, by the formulas written out."""

from typing import Any

import numpy as np
import pytest

from clawai.plugins.engine.rules import Biases, Penalties, Witness
from clawai.plugins.engine.sampling import Sampler, Sampling
from clawai.plugins.engine.tokenizer import Tokenizer
from clawai.sdk.errors import ClawError
from clawai.sdk.model.gguf import parse
from gguf_files import tiny_llama

TOKENIZER = Tokenizer(parse(memoryview(tiny_llama())))
SIZE = TOKENIZER.vocabulary
LOGITS = (np.random.default_rng(3).standard_normal(SIZE) * 3).astype(np.float32)


def test_penalties_follow_their_formulas() -> None:
    prompt, answer = [5, 6, 7], [6, 8, 8]
    penalties = Penalties(frequency=0.5, presence=0.25, repeat=1.5, last=4)
    rules = penalties.rules(prompt)
    for token in answer:
        for rule in rules:
            rule.learn(token, LOGITS)
    row = LOGITS.copy()
    for rule in rules:
        rule.apply(row)
    expected = LOGITS.astype(np.float64)
    for token in {7, 6, 8}:  # the last four of prompt and answer: 7 6 8 8
        expected[token] *= 1.5 if expected[token] < 0 else 1 / 1.5
    expected[6] -= 0.5 + 0.25
    expected[8] -= 2 * 0.5 + 0.25
    assert np.allclose(row, expected, atol=1e-5)
    assert Penalties().rules(prompt) == [] and Penalties(repeat=2, last=0).rules(prompt) == []


def test_a_rule_leaves_the_logits_as_they_are_and_sees_every_token() -> None:
    before, witness = LOGITS.copy(), Witness(TOKENIZER, 2)
    sampler = Sampler(Sampling(), [Biases({"9": 100}, SIZE), witness])
    assert sampler.pick(LOGITS, int(LOGITS.argmax())) == 9
    assert np.array_equal(LOGITS, before)
    (seen,) = witness.taken()
    p = np.exp(LOGITS.astype(np.float64))
    assert seen["logprob"] == pytest.approx(np.log(p[9] / p.sum()), abs=1e-4)
    best = np.argsort(-LOGITS)[:2]
    assert [each["token"] for each in seen["top"]] == best.tolist()
    assert witness.taken() == []


def test_min_p_keeps_what_is_near_the_likeliest() -> None:
    p = np.exp(LOGITS.astype(np.float64))
    for top_k, top_p in ((0, 1.0), (0, 0.99), (40, 1.0)):
        sampler = Sampler(Sampling(1.0, top_k, top_p, 5, min_p=0.2))
        drawn = {sampler.pick(LOGITS) for _ in range(2000)}
        assert drawn == set(np.flatnonzero(p >= 0.2 * p.max()).tolist())


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Penalties(frequency=2.1), "frequency_penalty"),
        (lambda: Penalties(presence=float("nan")), "presence_penalty"),
        (lambda: Penalties(repeat=0), "repeat_penalty"),
        (lambda: Penalties(last=-2), "repeat_last_n"),
        (lambda: Sampling(min_p=1.1), "min_p"),
        (lambda: Biases({str(SIZE): 1}, SIZE), "logit_bias"),
        (lambda: Biases({"-1": 1}, SIZE), "logit_bias"),
        (lambda: Biases({"1": 101}, SIZE), "logit_bias"),
        (lambda: Biases({str(n): 0 for n in range(1025)}, 5000), "logit_bias"),
        (lambda: Witness(TOKENIZER, 21), "logprobs"),
    ],
)
def test_settings_out_of_range(make: Any, what: str) -> None:
    with pytest.raises(ClawError) as caught:
        make()
    assert caught.value.code == "bad_params" and caught.value.allowed
    assert caught.value.message == what
