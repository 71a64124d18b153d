"""The core against a world that does anything a world may do, and some things that it may not."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from clawai.kernel import core, leases, shared, state, tasks, workers
from core_acts import ACTIONS, WEIGHTS, drain
from core_shell import World


class Machine(RuleBasedStateMachine):
    """Every action of ``World`` as a rule; at the end everything is drained."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def teardown(self) -> None:
        drain(self.world)


def _as_rule(action: Callable[..., None]) -> Any:
    def run(self: Machine, data: st.DataObject) -> None:
        action(self.world, lambda options: data.draw(st.sampled_from(list(options))))

    run.__name__ = action.__name__
    return rule(data=st.data())(run)


for _action in ACTIONS:
    setattr(Machine, _action.__name__, _as_rule(_action))


def _search(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_anything_in_any_order() -> None:
    _search(60, 50)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_anything_in_any_order_for_long() -> None:
    _search(3000, 150)


def _wander(seed: int, steps: int) -> World:
    rng = random.Random(seed)
    world = World()
    for action in rng.choices(ACTIONS, WEIGHTS, k=steps):
        action(world, rng.choice)
    drain(world)
    return world


@pytest.mark.parametrize("seed", range(40))
def test_long_walks_lose_nothing(seed: int) -> None:
    _wander(seed, 400)


class _Recording(dict[tuple[str, str], str]):
    """A table that notes which of its pairs were used."""

    def __init__(self, table: dict[tuple[str, str], str]) -> None:
        super().__init__(table)
        self.used: set[tuple[str, str]] = set()

    def __getitem__(self, pair: tuple[str, str]) -> str:
        self.used.add(pair)
        return super().__getitem__(pair)


def test_no_dead_transition(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"TASK": state.TASK, "WORKER": state.WORKER, "MEMORY": state.MEMORY}
    tables = {name: _Recording(table) for name, table in tables.items()}
    for module in (core, leases, shared, state, tasks, workers):
        for name, table in tables.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, table)
    for seed in range(600):
        _wander(seed, 300)
        if all(table.used >= set(table) for table in tables.values()):
            break
    unused = {name: sorted(set(table) - table.used) for name, table in tables.items()}
    assert not any(unused.values()), f"no walk ever took: {unused}"


def test_same_events_same_instructions() -> None:
    program = (
        "import hashlib, random, re, core_acts as c\n"
        "rng = random.Random(7)\n"
        "world = c.World()\n"
        "for action in rng.choices(c.ACTIONS, c.WEIGHTS, k=1500):\n"
        "    action(world, rng.choice)\n"
        "said = re.sub(' at 0x[0-9a-f]+', '', repr(world.told))\n"
        "print(len(world.told), hashlib.sha256(said.encode()).hexdigest())\n"
    )
    here = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120
    said = set()
    for seed in ("0", "1", "4711"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": here}
        command = [sys.executable, "-c", program]
        said.add(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
    assert len(said) == 1
    assert int(said.pop().split()[0]) > 500
