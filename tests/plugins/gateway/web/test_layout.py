"""Where the steps of a model are drawn: always the same place, and nothing upon anything else."""

import itertools
import random
from typing import Any

from clawai.plugins.gateway.web.layout import STEP, layout
from clawai.sdk.graphs import Node


def node(place: int, layer: int | None, inputs: tuple[int, ...]) -> Node:
    return Node(f"n{place}", ("add",), layer, ("tokens", 8), "F32", 4, inputs)


def made(seed: int, count: int) -> list[Node]:
    numbers = random.Random(seed)
    nodes = []
    for place in range(count):
        layer = None if place < 3 or place > count - 4 else (place - 3) // 8
        back = range(max(0, place - 12), place)
        inputs = numbers.sample(back, min(len(back), numbers.randint(1, 3)))
        nodes.append(node(place, layer, tuple(sorted(inputs))))
    return nodes


def apart(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    (x, y, w, h), (u, v, r, s) = one, other
    return x + w <= u or u + r <= x or y + h <= v or v + s <= y


def check(nodes: list[Node]) -> dict[str, Any]:
    found = layout(nodes)
    assert found == layout(list(nodes))
    frames = [(g["x"], g["y"], g["w"], g["h"]) for g in found["groups"]]
    assert all(apart(*pair) for pair in itertools.combinations(frames, 2))
    members = [place for group in found["groups"] for place in group["members"]]
    assert sorted(members) == list(range(len(nodes)))
    for group, (x, y, w, h) in zip(found["groups"], frames, strict=True):
        for place in group["members"]:
            at, down = found["places"][place]
            assert x <= at - STEP[0] / 2 + 1 and at + STEP[0] / 2 - 1 <= x + w
            assert y <= down - STEP[1] / 2 and down + STEP[1] / 2 <= y + h + 1
            for source in set(nodes[place].inputs) & set(group["members"]):
                assert found["places"][source][1] < down, "below what it reads"
    places = {tuple(place) for place in found["places"]}
    assert len(places) == len(nodes)
    return found


def test_steps_and_groups_do_not_meet() -> None:
    for seed in range(8):
        check(made(seed, 20 + 37 * seed))
    check([node(0, None, ())])


def test_equal_layers_are_of_one_build_and_a_step_between_two_parts_belongs_to_them() -> None:
    chain = [node(place, place // 4, (place - 1,) if place else ()) for place in range(12)]
    found = check(chain)
    assert [group["build"] for group in found["groups"]] == [0, 0, 0]
    chain[5] = node(5, None, (4,))
    found = check(chain)
    assert [group["members"] for group in found["groups"]][1] == [4, 5, 6, 7]
