"""`claw bench sandbox`, over in seconds: the figures, and what they are made of."""

import json
import subprocess
import sys

import pytest

from clawai.sdk.cli.bench import sandbox

KEYS = {"start_added_ms", "echo_added_us", "fork_start_ms"}


def test_three_workers_are_measured_in_turns() -> None:
    report = sandbox.measure(pairs=2, rounds=5)
    assert report.figures.keys() >= KEYS
    assert {bar.key for bar in sandbox.BARS} == KEYS
    for key in ("fork_start_ms", "bare_start_ms", "layers_start_ms", "bare_echo_us"):
        assert report.figures[key] > 0, key
    low, high = (report.figures[f"echo_added_{end}_us"] for end in ("low", "high"))
    assert low <= report.figures["echo_added_us"] <= high
    assert report.settings["level"] in ("full", "no-landlock", "no-userns")
    assert report.settings["pairs"] == 2


def test_the_figures_are_those_of_pairs() -> None:
    starts = {"bare": [0.1, 0.2, 0.3], "layers": [0.11, 0.2, 0.33], "forked": [0.01, 0.02, 0.04]}
    echo = {"bare": [5e-5, 5e-5, 5e-5], "layers": [6e-5, 5e-5, 7e-5]}
    found = sandbox.figures({"starts": starts, "echo": echo})
    assert found["start_added_ms"] == 10.0
    assert found["fork_start_ms"] == 20.0
    assert (found["echo_added_us"], found["echo_added_low_us"]) == (10.0, 0.0)


@pytest.mark.parametrize(
    ("count", "rank"),
    # By tables of the binomial distribution: 21 values, the 6th from either end holds 97 %.
    [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (21, 6), (100, 40)],
)
def test_the_interval_of_a_median(count: int, rank: int) -> None:
    assert sandbox.interval(range(1, count + 1)) == (rank, count + 1 - rank)


def test_a_worker_that_cannot_start_is_told() -> None:
    broken = sandbox.order(1, 1) | {"target": "clawai.sdk.host:nothing_of_that_name"}
    done = subprocess.run(
        [sys.executable, "-I", "-m", "clawai.sandbox.bench"],
        input=json.dumps(broken),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "worker ended before it was ready" in done.stderr
