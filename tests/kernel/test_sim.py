"""The simulator: scenarios hold, equal seeds give equal runs, and a wrong kernel is seen."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawai.kernel import core, ledger, queue, shared, tasks, workers
from clawai.kernel.sim import __main__ as program
from clawai.kernel.sim import bench, scenario
from clawai.kernel.sim import world as simulated
from clawai.kernel.sim.books import BrokenError
from clawai.kernel.sim.world import World
from clawai.sdk.errors import ClawError


def world(name: str, seed: int = 1, tasks: int = 300) -> World:
    made = World(scenario.read(name), seed, tasks)
    made.run()
    return made


@pytest.mark.parametrize("name", scenario.bundled())
def test_every_scenario_holds(name: str) -> None:
    ended = world(name)
    asked = sum(tally.asked for tally in ended.books.tallies)
    assert asked == 300
    assert sum(sum(tally.ends.values()) for tally in ended.books.tallies) == asked


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["chaos", "memory-squeeze"])
def test_faults_of_every_kind_lose_nothing(name: str, seed: int) -> None:
    ended = world(name, 100 + seed, 500)
    assert sum(ended.faulted.values()) > 10


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ["chaos", "memory-squeeze", "rush-hour", "thousand-workers"])
def test_faults_of_every_kind_lose_nothing_for_long(name: str) -> None:
    for seed in range(1000, 1060):
        world(name, seed, 4000)


def test_chaos_reaches_everything() -> None:
    """Each fault happens, and so does what the kernel does about it."""
    ended = world("chaos", 12, 3000)
    kinds = {*scenario.KINDS, "client left", "segment", "pressure", "clock jump", "seal"}
    assert kinds <= set(ended.faulted)
    for what in ("yielded", "batches", "journal end", "died", "stopped: evicted"):
        assert ended.counts[what], what


@pytest.mark.parametrize("rungs", [(), (0,), (0, 1), (0, 2, 4), (1, 3)])
@pytest.mark.parametrize("cores", [1, 16])
def test_every_rung_can_be_left_out(rungs: tuple[int, ...], cores: int) -> None:
    base = scenario.read("chaos")
    box = msgspec.structs.replace(base.box, rungs=rungs, cores=cores, tasks=40)
    World(msgspec.structs.replace(base, box=box), 1, 300).run()


def run(*arguments: str, seed: str = "0") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clawai.kernel.sim", *arguments]
    env = {**os.environ, "PYTHONHASHSEED": seed}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_equal_seeds_give_equal_runs() -> None:
    found = [
        json.loads(run("chaos", "--tasks", "300", "--seed", number, "--json", seed=hashes).stdout)
        for number, hashes in (("3", "0"), ("3", "4711"), ("4", "0"))
    ]
    for each in found:
        del each["wall_s"], each["cpu_s"]
    assert found[0] == found[1]
    assert found[0]["mark"] != found[2]["mark"]


def test_the_report_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["chaos", "--tasks", "200"]) == 0
    told = capsys.readouterr().out
    assert "chaos, seed 1" in told
    assert "interactive" in told
    assert told.rstrip().endswith("every invariant held")


def test_the_list_of_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"quiet-office", "rush-hour", "thousand-workers", "chaos", "memory-squeeze"} <= set(
        found
    )


# What a wrong kernel looks like: each change is one bug, and the world must see it.


def _nobody_is_told(state: Any, task: Any, word: Any) -> None:
    task.told = True


@property  # type: ignore[misc]
def _everything_fits(self: ledger.Ledger) -> int:
    return 1 << 60


def _bulk_first(self: queue.Queue, now: int, op: str = "", worst: int = queue.BATCH) -> Any:
    tasks = sorted(self.ordered(), key=lambda task: (-task.rank, task.id))
    found = next((t for t in tasks if t.rank <= worst and op in ("", t.asked.op)), None)
    if found:
        self.remove(found)
    return found


def _never_in_use(state: Any, worker: Any) -> bool:
    return False


def _never_lent(state: Any, worker: int) -> bool:
    return False


BUGS = [
    (tasks, "_tell_end", _nobody_is_told, "lost|forgotten|never|wait"),
    (ledger.Ledger, "free", _everything_fits, "bytes|held"),
    (queue.Queue, "take", _bulk_first, "overtook"),
    (workers, "in_use", _never_in_use, "stopped while in use"),
    (shared, "lent", _never_lent, "stopped while in use"),
]


@pytest.mark.parametrize(("where", "name", "wrong", "told"), BUGS, ids=[bug[1] for bug in BUGS])
def test_a_wrong_kernel_is_seen(
    where: Any, name: str, wrong: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(BrokenError, match=told):
        for seed in range(20):
            world("memory-squeeze", seed, 1500)


def test_a_broken_invariant_is_told_with_its_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: core.Core) -> None:
        raise AssertionError("the sums differ")

    monkeypatch.setattr(simulated, "check", broken)
    assert program.main(["chaos", "--seed", "7", "--tasks", "100", "--events", "3"]) == 1
    told = capsys.readouterr().out
    assert "the sums differ" in told
    assert "claw simulate chaos --seed 7 --tasks 100" in told
    assert len(told.split("the last events:\n")[1].splitlines()) == 3
    assert program.main(["chaos", "--seed", "7", "--tasks", "100", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], "the sums differ" in found["broken"]) == (7, True)
    assert found["last"]


# Scenario files.

GOOD = """
about = "Small."
seconds = 5
[[service]]
name = "tool"
[[stream]]
service = "tool"
priority = "normal"
rate = 10
"""


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert world(str(path), tasks=0).books.ended > 20


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("rate = 10", "rate = 0"), "rate"),
        (("rate = 10", "rate = 10\ncolour = 1"), "colour"),
        (('priority = "normal"', 'priority = "high"'), "priority"),
        (('service = "tool"', 'service = "other"'), "stream of no service"),
        (("seconds = 5", "seconds = 5\n[faults]\nkinds = { boom = 1 }"), "unknown faults"),
        (("seconds = 5", "seconds ="), "no scenario"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(ClawError, match=told) as caught:
        scenario.read(str(path))
    assert caught.value.code == "bad_config"


def test_a_scenario_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["nowhere"]) == 1
    assert "quiet-office" in capsys.readouterr().err


def test_a_decision_is_measured() -> None:
    figures = bench.measure(100, {"100": 100})
    assert set(figures) == {
        f"{name}_100_us" for name in ("decision", "submit", "dispatch", "timers")
    }
    assert figures["decision_100_us"] > 0
