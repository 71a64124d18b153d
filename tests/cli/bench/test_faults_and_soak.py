"""`claw bench batch`, `faults` and `soak`, in a form that is over in seconds."""

import random

from clawai.sdk.cli.bench import batch, faults, soak


def test_batches_are_measured_and_every_answer_is_checked() -> None:
    report = batch.measure(rounds=1, seconds=0.1)
    keys = set(report.figures)
    assert {f"throughput_{n}_ratio" for n in (1, 2, 4, 8, 16, 32)} <= keys
    assert {f"size_{n}_ratio" for n in (2, 4, 8, 16, 32, 64)} <= keys
    assert {bar.key for bar in batch.BARS} <= keys
    assert all(value > 0 for value in report.figures.values())


def test_faults_are_injected_detected_and_recovered_from() -> None:
    """Of every kind that is noticed at once: hangs take the heartbeat's twenty seconds."""
    report = faults.measure(
        count=2 * len(faults.DEATHS + faults.LIMITS), slow=0, quiet_s=0.3, seed=3
    )
    figures = report.figures
    assert figures["injected"] == 14
    assert figures["kernel_restarts"] == 0
    assert figures["unanswered"] == 0
    assert figures["neighbour_lost"] == 0
    for kind in faults.DEATHS + faults.LIMITS:
        assert figures[f"detect_{kind}_p50_ms"] > 0
    wanted = {bar.key for bar in faults.BARS}
    assert wanted <= set(figures)


def test_figures_tell_quiet_windows_from_those_with_faults() -> None:
    found = faults.Found(windows=[(0, 10, True), (20, 30, False)])
    found.recovery[True], found.recovery[False] = [300.0], [100.0]
    found.detect["segv"] = [5.0]
    samples = [(when, 2.0) for when in range(10)] + [(when, 1.0) for when in range(20, 30)]
    samples += [(15.0, 99.0)]  # of neither
    figures = faults.figures(found, samples, ["lost"], restarts=1)
    assert figures["neighbour_p99_added_ms"] == 1.0
    assert (figures["neighbour_lost"], figures["kernel_restarts"]) == (1, 1)
    assert (figures["recovery_p50_ms"], figures["recovery_numpy_p50_ms"]) == (100.0, 300.0)


def test_a_victim_is_nobody_elses_meanwhile(tmp_path) -> None:
    scene = faults.Scene(tmp_path, faults.Found(), random.Random(1))
    with scene.victim() as first, scene.victim() as second:
        assert first != second
    assert not any(lock.locked() for lock in scene.busy)


def test_models_churn_in_half_their_memory() -> None:
    report = soak.measure(minutes=0.1, seed=5)
    figures = report.figures
    assert figures["requests"] > 0
    assert figures["worker_starts"] > 1
    for key in ("oom_kills", "evicted_in_use", "failed", "leaked_processes"):
        assert figures[key] == 0, figures
    assert 0 < figures["budget_peak_ratio"] <= 1
    assert {bar.key for bar in soak.BARS} <= set(figures)
