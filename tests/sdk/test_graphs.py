"""What is made of a profile: the longest chain, what is alike in two, and what is refused."""

import random
from typing import Any

import pytest

from clawai.sdk import graphs
from clawai.sdk.errors import ClawError


def profile(inputs: list[list[int]], names: list[str] | None = None, **more: Any) -> dict[str, Any]:
    nodes = [
        {"name": (names or [f"n{place}" for place in range(len(inputs))])[place], "ops": ["add"],
         "layer": None, "shape": ["tokens", 8], "dtype": "F32", "bytes": 4, "inputs": sources}
        for place, sources in enumerate(inputs)
    ]  # fmt: skip
    head = {"format": 1, "device": "cpu", "isa": "", "layers": 1, "context": 8}
    return head | {"nodes": nodes, "decode": {"tokens": 1, "ns": {}}} | more


def chains(inputs: list[list[int]], place: int) -> list[list[int]]:
    """All that end at a place."""
    before = [chain for source in inputs[place] for chain in chains(inputs, source)]
    return [[*chain, place] for chain in before or [[]]]


def test_the_longest_chain_is_that_of_all_chains() -> None:
    numbers = random.Random(3)
    for _ in range(60):
        count = numbers.randint(1, 9)
        inputs = [
            sorted(numbers.sample(range(place), min(place, numbers.randint(0, 2))))
            for place in range(count)
        ]
        ns = {f"n{place}": numbers.randint(1, 50) for place in range(count)}
        found, total = graphs.critical(graphs.read(profile(inputs)).nodes, ns)
        every = [chain for place in range(count) for chain in chains(inputs, place)]
        assert total == max(sum(ns[f"n{place}"] for place in chain) for chain in every)
        assert sorted(found) in every and sum(ns[f"n{place}"] for place in found) == total


def test_steps_of_two_models_are_matched_by_what_they_make() -> None:
    mine = graphs.read(profile([[], [0], [1]], ["x", "q+k+v", "y"]))
    other = graphs.read(profile([[], [0], [0], [1]], ["x", "q+k", "v", "z"]))
    assert graphs.alike(mine, other) == [0, 2, None]
    assert graphs.alike(other, mine) == [0, 1, 1, None]


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {},
        profile([]),
        profile([[1], []]) | {"format": 2},
        profile([[0]]),
        profile([[7], []]),
        profile([[]], ["x" * 600]),
        profile([[]]) | {"decode": {"tokens": 1, "ns": {"n0": -1}}},
        profile([[]]) | {"decode": {"tokens": 1, "ns": {"n0": 1 << 60}}},
    ],
)
def test_what_is_no_profile_is_refused(wrong: Any) -> None:
    with pytest.raises(ClawError, match="this is no profile") as raised:
        graphs.read(wrong)
    assert raised.value.code == "bad_params"
