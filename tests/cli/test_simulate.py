"""`claw simulate` and `claw bench sched`: programs of their own, started from the command line."""

import json
import subprocess
import sys

import pytest

from clawai.sdk.cli.bench import sched
from clawai.sdk.errors import ClawError


def test_a_scenario_runs(box):
    found = box.json("simulate", "quiet-office", "--tasks", "50", "--seed", "3")
    assert (found["tasks"], found["seed"]) == (50, 3)
    assert "every invariant held" in box.run("simulate", "quiet-office", "--tasks", "50").stdout


def test_the_list(box):
    assert "chaos" in box.run("simulate", "--list").stdout


def test_what_is_refused(box):
    assert "no such scenario" in box.run("simulate", "nowhere", code=1).stderr
    assert "--list" in box.run("simulate", code=2).stderr


def test_the_form_of_the_report(monkeypatch):
    asked = []

    def ask(module, *words):
        asked.append((module, *words))
        if module == sched.CORE:
            words = ("--count", "100", "--sizes", "100")
        else:
            words = (*words, "--tasks", "100")
        command = [sys.executable, "-m", module, *words]
        return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    monkeypatch.setattr(sched, "_ask", ask)
    report = sched.measure(1, 100, 1)
    assert {"decision_100_us", "simulated_hour_s"} <= set(report.figures)
    assert all(value >= 0 for value in report.figures.values())
    assert 0 <= report.settings["others_busy_ratio"] <= 1
    assert [words[0] for words in asked] == [sched.CORE, sched.SIMULATOR]


def test_a_part_that_fails_is_told():
    with pytest.raises(ClawError, match="ended") as caught:
        sched._ask(sched.CORE, "--sizes", "none")
    assert caught.value.code == "worker_failed"
