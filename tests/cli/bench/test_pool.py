"""`claw bench pool` and what it measures: the trace, the program, the form of the report."""

import itertools
import random

import pytest

from clawai.kernel import poolbench, pooltrace
from clawai.kernel.pooltlsf import Tlsf
from clawai.sdk.cli.bench import pool
from clawai.sdk.errors import ClawError


def test_the_trace_is_what_it_says() -> None:
    steps = pooltrace.trace(0)
    assert steps == pooltrace.trace(0)
    assert steps != pooltrace.trace(1)
    assert [step.when for step in steps] == sorted(step.when for step in steps)
    sizes = {step.lease: step.size for step in steps if step.size}
    assert all(pooltrace.SMALLEST <= size <= pooltrace.LARGEST for size in sizes.values())
    assert sorted(sizes) == sorted(step.lease for step in steps if not step.size)
    assert {step.pair for step in steps} == set(range(pooltrace.PAIRS))
    middle = sorted(sizes.values())[len(sizes) // 2]
    assert 0.5 < middle / (pooltrace.SMALLEST * pooltrace.LARGEST) ** 0.5 < 2, "log-uniform"
    held = [step for step in steps if 3 < step.when < 8]
    live = pooltrace.peak([step for step in steps if step.when < 3])
    assert len(held) > 1000
    assert live > pooltrace.BUDGET, "more is asked for than there is"


def test_pairs_are_added_without_changing_the_others() -> None:
    more = [step for step in pooltrace.trace(3, 9) if step.pair < 8]
    assert more == pooltrace.trace(3, 8)
    longer = [step for step in pooltrace.of_pair(3, 0, 20.0) if step.size and step.when < 10]
    assert longer == [step for step in pooltrace.of_pair(3, 0) if step.size]


def test_peak_counts_what_is_held() -> None:
    step = pooltrace.Step
    assert pooltrace.peak([step(0, 1, 0, 5), step(1, 2, 0, 7), step(2, 1, 0, 0)]) == 12
    assert pooltrace.peak([step(0, 1, 0, 5), step(1, 1, 0, 0), step(2, 2, 0, 7)]) == 7


def test_the_pool_reaches_its_bars_on_the_trace() -> None:
    """Not a timing: the same on every box."""
    found = [poolbench.run(pooltrace.trace(seed), pooltrace.BUDGET, 8) for seed in range(5)]
    for each in found:
        assert each is not None
        assert each["utilisation_ratio"] >= 0.95
        assert each["fragmentation_ratio"] < 0.05


def test_a_budget_for_everything_refuses_nothing() -> None:
    steps = pooltrace.trace(0)[:400]
    assert poolbench.run(steps, 2 * pooltrace.peak(steps), 8) is None


def test_what_the_bitmap_is_compared_with_works() -> None:
    """Blocks of TLSF never overlap and join again."""
    rng, tlsf = random.Random(1), Tlsf(512)
    held: dict[int, int] = {}
    for _ in range(2000):
        if held and rng.random() < 0.5:
            begin = rng.choice(sorted(held))
            tlsf.give(begin, held.pop(begin))
        elif (begin := tlsf.take(pages := rng.randint(1, 60))) >= 0:
            held[begin] = pages
        for (one, pages), (other, _) in itertools.pairwise(sorted(held.items())):
            assert one + pages <= other
    for begin, pages in held.items():
        tlsf.give(begin, pages)
    assert tlsf.begin_at == {0: 512}


def test_a_program_that_fails_is_told() -> None:
    with pytest.raises(ClawError) as caught:
        pool.program("trace", "no number")
    assert caught.value.code == "worker_failed"


def test_the_form_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LEASE", 1 << 20)
    monkeypatch.setattr(pool, "WEIGHTS", 1 << 20)
    monkeypatch.setattr(pool, "FIT_LENGTH", 1.0)
    report = pool.measure(seeds=1, fits=1, rounds=1)
    keys = {"utilisation_ratio", "fragmentation_ratio", "models_fit_ratio", "recycle_ratio"}
    assert keys | {"remap_1gb_ms"} <= set(report.figures)
    assert {bar.key for bar in pool.BARS} <= set(report.figures)
    assert report.figures["utilisation_ratio"] > report.against["whole"]["utilisation_ratio"]
    assert report.figures["models_fit_ratio"] <= report.against["ideal"]["models_fit_ratio"]
    assert report.settings["seeds"] == 1
