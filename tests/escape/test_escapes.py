"""Real escapes, in Python and in C, tried with and without the sandbox, as root and as a user.

An attempt counts only if it works without the sandbox on this box. What works at a level, and what
each layer stops when every other one is switched off, must be exactly what ``table.json`` and the
table in SECURITY.md say, gap by gap: a gap that closes is news as well.
"""

from typing import Any

import pytest

from escape import table

COMMITTED = table.committed()["attempts"]
MUST_COUNT = 80
CLAIMS = [f"claims:{layer}" for layer in table.LAYERS]


@pytest.fixture(scope="module")
def measured() -> dict[str, table.Found]:
    """The control, every level, and each layer alone against what it is said to stop."""
    return table.measure(["none", *table.LEVELS, *CLAIMS])


def who_is(identity: str, found: dict[str, table.Found]) -> table.Found:
    if identity not in found:
        pytest.skip("the tests run as an ordinary user, who cannot play a root daemon")
    return found[identity]


def one(way: str, found: table.Found) -> dict[str, str]:
    if way not in found:
        pytest.skip(f"this box lacks a layer of {way}: {found['box']}")
    return found[way]


def worked(results: dict[str, str]) -> set[str]:
    return {name for name, state in results.items() if state == "WORKED"}


@pytest.mark.parametrize("identity", table.identity_names)
def test_enough_attempts_work_without_the_sandbox(
    measured: dict[str, table.Found], identity: str
) -> None:
    found = who_is(identity, measured)
    assert found["none"].keys() == COMMITTED.keys()
    counted = worked(found["none"])
    assert len(counted) >= MUST_COUNT, f"never works here: {sorted(set(COMMITTED) - counted)}"
    for language in ("Python", "C"):
        assert sum(COMMITTED[name]["in"] == language for name in counted) >= MUST_COUNT // 2


@pytest.mark.parametrize("level", table.LEVELS)
@pytest.mark.parametrize("identity", table.identity_names)
def test_only_the_known_gaps_of_a_level_can_be_used(
    measured: dict[str, table.Found], identity: str, level: str
) -> None:
    found = who_is(identity, measured)
    inside, counted = one(level, found), worked(found["none"])
    expected = {name for name, row in COMMITTED.items() if identity in row["works at"][level]}
    assert worked(inside) & counted == expected & counted
    # Whoever ends without a word has not been tried: only these are ended by the sandbox.
    killed = {name for name, state in inside.items() if state.startswith("killed")}
    assert killed == {
        "int_0x80",
        "x32_call",
        "core_dump_elsewhere",
        "outlive_daemon",
        "outlive_stage",
    }


@pytest.mark.parametrize("layer", table.LAYERS)
@pytest.mark.parametrize("identity", table.identity_names)
def test_a_layer_alone_stops_what_the_table_says(
    measured: dict[str, table.Found], identity: str, layer: str
) -> None:
    found = who_is(identity, measured)
    alone = one(f"claims:{layer}", found)
    if layer == "landlock" and found["box"]["landlock"] < table.committed()["landlock"]:
        pytest.skip(f"Landlock {found['box']['landlock']} here handles less")
    assert not worked(alone)
    said = {name for name, row in COMMITTED.items() if identity in row["stopped by"][layer]}
    assert alone.keys() == said


@pytest.mark.soak
def test_the_committed_table_is_what_a_whole_measurement_gives() -> None:
    if len(table.identities()) < 2:
        pytest.skip("the table holds both identities: only root can measure it")
    ways = ["none", *table.LEVELS, *(f"only:{layer}" for layer in table.LAYERS)]
    assert table.tabulate(table.measure(ways)) == table.committed()


def test_no_attempt_is_left_to_luck() -> None:
    """At full each attempt is stopped by a layer that alone suffices, but for what needs two."""
    by_several = {
        name
        for name, row in COMMITTED.items()
        for who in row["counts for"]
        if not any(who in stopped for stopped in row["stopped by"].values())
    }
    # The stage ends its worker (lifeline, death signal), which the filter keeps from disarming it;
    # threads are counted where the worker has a user namespace of its own.
    assert by_several == {"outlive_daemon", "outlive_stage", "thread_bomb"}


def test_the_document_holds_the_table() -> None:
    text = table.DOCUMENT.read_text()
    assert text == table.replaced(text, table.render(table.committed())), (
        "run: python tests/escape/table.py --write"
    )
    named: Any = {row["group"] for row in COMMITTED.values()}
    assert named == table.GROUPS.keys()
