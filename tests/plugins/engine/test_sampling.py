"""Sampling: exact, seeded, bounded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.plugins.engine.sampling import Sampler, Sampling, top
from clawai.sdk.errors import ClawError

RANDOM = np.random.default_rng(7)
PINNED = [79, 15, 49, 15, 49, 49, 67, 49]
LOGITS = (RANDOM.standard_normal(5000) * 3).astype(np.float32)


def draws(logits: np.ndarray, count: int = 4000, **settings: float) -> np.ndarray:
    sampler = Sampler(Sampling(**settings))  # type: ignore[arg-type]
    return np.array([sampler.pick(logits) for _ in range(count)])


def expected(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """The distribution by the textbook: sort everything."""
    order = np.lexsort((np.arange(len(logits)), -logits))
    kept = order[: top_k or len(order)]
    p = np.exp((logits[kept].astype(np.float64) - logits[kept[0]]) / temperature)
    p /= p.sum()
    size = int(np.searchsorted(np.cumsum(p), top_p, side="left")) + 1
    result = np.zeros(len(logits))
    result[kept[:size]] = p[:size] / p[:size].sum()
    return result


def test_greedy_takes_the_best_and_the_first_of_equals() -> None:
    assert Sampler(Sampling()).pick(LOGITS) == int(LOGITS.argmax())
    assert Sampler(Sampling()).pick(np.array([1, 5, 5], np.float32)) == 1
    assert set(draws(LOGITS, 50, temperature=1.0, top_k=1)) == {int(LOGITS.argmax())}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("top_k", [0, 5, 40])
@pytest.mark.parametrize("top_p", [0.5, 0.95, 1.0])
def test_draws_follow_the_distribution(temperature: float, top_k: int, top_p: float) -> None:
    logits = LOGITS[:300]
    p = expected(logits, temperature, top_k, top_p)
    got = draws(logits, temperature=temperature, top_k=top_k, top_p=top_p, seed=11)
    counts = np.bincount(got, minlength=len(p))
    assert not counts[p == 0].any(), "a token outside of top-k or top-p was drawn"
    # Total variation of 4000 draws from at most 300 tokens: expected below 0.11.
    assert np.abs(counts / len(got) - p).sum() / 2 < 0.15


@pytest.mark.parametrize("settings_", [{}, {"top_k": 0}, {"top_k": 0, "top_p": 1.0}])
def test_a_seed_reproduces_and_another_differs(settings_: dict[str, float]) -> None:
    one = draws(LOGITS, 50, temperature=1.0, seed=3, **settings_)
    assert np.array_equal(one, draws(LOGITS, 50, temperature=1.0, seed=3, **settings_))
    assert not np.array_equal(one, draws(LOGITS, 50, temperature=1.0, seed=4, **settings_))


def test_the_stream_of_a_seed_is_pinned() -> None:
    assert draws(LOGITS[:100], 8, temperature=1.0, seed=1).tolist() == PINNED


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-20, 20), min_size=1, max_size=300),
    st.integers(1, 300),
)
def test_top_equals_a_full_sort(values: list[int], count: int) -> None:
    logits = np.array(values, np.float32)
    count = min(count, len(values))
    order = np.lexsort((np.arange(len(values)), -logits))
    assert top(logits, count).tolist() == order[:count].tolist()


def test_a_flat_distribution_needs_all_candidates() -> None:
    flat = np.zeros(5000, np.float32)
    got = draws(flat, 3000, temperature=1.0, top_k=0, top_p=0.9, seed=5)
    assert got.max() <= 4500 and len(np.unique(got)) > 1500


@pytest.mark.parametrize("temperature", [1e-4, 1e-3, 10.0])
def test_extreme_temperatures(temperature: float) -> None:
    got = draws(LOGITS, 20, temperature=temperature, top_k=0, top_p=1.0, seed=1)
    assert temperature > 1 or set(got) == {int(LOGITS.argmax())}


def test_excluded_tokens_are_never_drawn() -> None:
    logits = np.full(200, -np.inf, np.float32)
    logits[[3, 70, 199]] = 0
    for top_k in (0, 40):
        assert set(draws(logits, 200, temperature=1.0, top_k=top_k, top_p=1.0)) == {3, 70, 199}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    logits = LOGITS.copy()
    logits[17] = bad
    with pytest.raises(ClawError) as caught:
        Sampler(Sampling()).pick(logits)
    assert caught.value.code == "bad_model"


@pytest.mark.parametrize(
    "settings_",
    [
        {"temperature": -0.1},
        {"temperature": 10.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_settings_out_of_range(settings_: dict[str, float]) -> None:
    with pytest.raises(ClawError) as caught:
        Sampling(**settings_)  # type: ignore[arg-type]
    assert caught.value.code == "bad_params" and caught.value.allowed
    assert caught.value.message == next(iter(settings_))


def test_logits_stay_as_they_are() -> None:
    before = LOGITS.copy()
    draws(LOGITS, 5, temperature=0.7, top_k=0, top_p=0.9)
    assert np.array_equal(before, LOGITS)
