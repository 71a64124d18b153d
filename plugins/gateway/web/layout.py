"""Where the steps of a model are drawn: layers side by side, and in each its steps by depth.

The same graph always gets the same picture. A group is a layer of the model, or a stretch of steps
that are of none; it is what is seen from afar, with what its steps take together. Inside of a
group a step stands below all of its inputs, and among those of its depth it stands near them
(the barycentre heuristic of Sugiyama, Tagawa and Toda, 1981). Groups of the same build are told,
so that they can be shown as one.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from clawai.sdk.graphs import Node

STEP = 150, 44
"""Width and height of a step with the room around it."""
GAP = 40
"""Between groups."""
MOST = 64
"""Steps of a group that is no layer."""
ROWS = 6
"""A model of many groups is drawn in so many rows at most."""


def layout(nodes: Sequence[Node]) -> dict[str, Any]:
    """Places of nodes (the middle of each) and rectangles of groups."""
    places: list[tuple[float, float]] = [(0.0, 0.0)] * len(nodes)
    groups: list[dict[str, Any]] = []
    for members in _groups(nodes):
        spots, wide, high = _inside(nodes, members)
        for node, spot in spots.items():
            places[node] = spot
        layer = nodes[members[0]].layer
        build = tuple(
            (nodes[n].ops, nodes[n].dtype, nodes[n].shape, nodes[n].bytes) for n in members
        )
        groups.append({"layer": layer, "members": members, "w": wide, "h": high, "build": build})
    _arrange(groups)
    builds: dict[Any, int] = {}
    for group in groups:
        group["build"] = builds.setdefault(group["build"], len(builds))
        for node in group["members"]:
            x, y = places[node]
            places[node] = x + group["x"], y + group["y"]
        group["first"], group["count"] = group["members"][0], len(group["members"])
    return {"places": [[round(x, 1), round(y, 1)] for x, y in places], "groups": groups}


def _groups(nodes: Sequence[Node]) -> list[list[int]]:
    """Neighbours of one layer; others in stretches, in the order in which they run."""
    found: list[list[int]] = []
    for place, node in enumerate(nodes):
        last = found[-1] if found else None
        same = last and nodes[last[0]].layer == node.layer
        if last and same and (node.layer is not None or len(last) < MOST):
            last.append(place)
        elif node.layer is not None and len(found) > 1 and nodes[found[-2][0]].layer == node.layer:
            # What is of no layer in the middle of one belongs to it.
            between = found.pop()
            found[-1] += [*between, place]
        else:
            found.append([place])
    return found


def _inside(
    nodes: Sequence[Node], members: list[int]
) -> tuple[dict[int, tuple[float, float]], float, float]:
    """Places in a group, and its size."""
    mine = set(members)
    depth: dict[int, int] = {}
    rows: defaultdict[int, list[int]] = defaultdict(list)
    for place in members:
        before = [depth[source] + 1 for source in nodes[place].inputs if source in depth]
        depth[place] = max(before, default=0)
        rows[depth[place]].append(place)
    column: dict[int, float] = {}
    for number in sorted(rows):
        row = rows[number]

        def near(place: int) -> tuple[float, int]:
            above = [column[source] for source in nodes[place].inputs if source in column]
            return (sum(above) / len(above) if above else 0.0), place

        row.sort(key=near)
        for at, place in enumerate(row):
            column[place] = at - (len(row) - 1) / 2
    wide = max(len(row) for row in rows.values()) * STEP[0]
    high = len(rows) * STEP[1] + GAP // 2
    assert mine == set(column)
    spots = {
        place: (wide / 2 + column[place] * STEP[0], (depth[place] + 0.5) * STEP[1] + GAP // 2)
        for place in members
    }
    return spots, wide, high


def _arrange(groups: list[dict[str, Any]]) -> None:
    """In rows from left to right, about twice as wide as high."""
    wide = sum(group["w"] + GAP for group in groups)
    high = max(group["h"] + GAP for group in groups)
    rows = max(1, min(ROWS, round((wide / high / 2) ** 0.5)))
    x = y = tall = 0.0
    for group in groups:
        if x > 0 and x + group["w"] > wide / rows + GAP:
            x, y, tall = 0.0, y + tall + GAP, 0.0
        group["x"], group["y"] = x, y
        x += group["w"] + GAP
        tall = max(tall, group["h"])
