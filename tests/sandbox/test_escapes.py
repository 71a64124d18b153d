"""Real escapes, tried with and without the sandbox, as root and as an ordinary user.

An attempt counts only if it works without the sandbox on this box. What works at a level must be
exactly what ``expected.json`` says, gap by gap: a gap that closes is news as well.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

EXPECTED: dict[str, dict[str, list[str]]] = json.loads(
    Path(__file__).with_name("expected.json").read_text()
)
NEEDS = {
    "full": {"namespaces", "landlock"},
    "no-landlock": {"namespaces"},
    "no-userns": {"landlock"},
}
MUST_COUNT = 45  # of 62: some need root, a vsock device, or a kernel with io_uring, x32, ...


@pytest.fixture
def bpf_file(probed: dict[str, Any]) -> Iterator[str]:
    """The compiled filters, in a file that every user may read."""
    with tempfile.NamedTemporaryFile(prefix="claw-bpf-") as file:
        file.write(probed["bpf"])
        file.flush()
        Path(file.name).chmod(0o644)
        yield file.name


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """Per identity, made by the first test that asks: what works bare, and the layers there are."""
    return {}


@pytest.mark.parametrize("level", EXPECTED)
def test_only_the_known_gaps_of_a_level_can_be_used(
    run_as: Callable[..., str], identity: str, bpf_file: str, level: str, known: dict[str, Any]
) -> None:
    if identity not in known:
        control = json.loads(run_as("escape_run.py", "none", bpf_file))
        found = json.loads(run_as("probe_run.py"))
        layers = {name for name, state in found["layers"].items() if state.startswith("ok")}
        known[identity] = (control, layers)
    control, layers = known[identity]
    if not NEEDS[level] <= layers:
        pytest.skip(f"this box lacks {sorted(NEEDS[level] - layers)}, as the prober says")
    counted = {name for name, state in control.items() if state == "WORKED"}
    assert len(counted) >= MUST_COUNT, f"never works here: {sorted(set(control) - counted)}"
    inside = json.loads(run_as("escape_run.py", level, bpf_file))
    assert inside.keys() == control.keys()
    worked = {name for name, state in inside.items() if state == "WORKED"}
    assert worked & counted == set(EXPECTED[level][identity]) & counted
    killed = {name for name, state in inside.items() if state.startswith("killed")}
    assert killed <= {"int_0x80", "x32_call"}
