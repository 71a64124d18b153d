"""Where tasks stand: their place in the queue, and what is expected of it.

The daemon sends rows of a part of all tasks at a time; what was heard of the other parts, a second
ago at most, is kept, so that places are counted among all.
"""

from bisect import bisect_left
from collections import defaultdict
from typing import Any

from clawai.kernel.limits import MS
from clawai.kernel.steward.views import Rows

LOADING = ("starting", "waiting", "loading")
Service = tuple[str, ...]
Place = tuple[int, int, int]
"""In a queue: the class, when it is due there, and the number of the task."""


class News:
    """Of all tasks that the daemon has."""

    def __init__(self) -> None:
        self.places: dict[int, tuple[Service, Place]] = {}
        """By number, of those that are queued."""
        self.whole = False
        """Every part was heard once: until then nobody's place is known."""

    def tell(self, phase: int, parts: int, groups: list[Rows], tasks: list[Rows]) -> list[Any]:
        """What to say of the tasks of a part.

        Args:
            phase, parts: it is of the tasks whose number, divided by ``parts``, leaves ``phase``.
            groups, tasks: as ``kernel.rows.news`` makes them.

        Returns:
            For each task its number, its state as in the row, and what to tell its owner: state,
            position and estimate in milliseconds.
        """
        self._learn(phase, parts, tasks)
        queues: dict[Service, list[Place]] = defaultdict(list)
        for service, place in self.places.values():
            queues[service].append(place)
        for queue in queues.values():
            queue.sort()
        by_class = {(tuple(group["service.key"]), group["rank"]): group for group in groups}
        said = []
        for task in tasks:
            service = tuple(task["service.key"])
            group = by_class[service, task["rank"]]
            if task["state"] == "running":
                held = "held" if group["held"] else "running"
                told: Any = ("suspended" if group["suspended"] else held, None, None)
            elif task["state"] == "queued":
                told = self._waits(task, group, queues[service])
            else:
                continue  # its end is on the way
            said.append((task["id"], task["state"], *told))
        return said

    def _learn(self, phase: int, parts: int, tasks: list[Rows]) -> None:
        for number in [number for number in self.places if number % parts == phase]:
            del self.places[number]
        for task in tasks:
            if task["state"] == "queued":
                self.places[task["id"]] = tuple(task["service.key"]), _place(task)
        self.whole = self.whole or phase == parts - 1

    def _waits(self, task: Rows, group: Rows, queue: list[Place]) -> tuple[str, Any, Any]:
        state = "loading" if group["state"] in LOADING else "queued"
        if not self.whole:
            return state, None, None
        position = bisect_left(queue, _place(task))
        if not task["cost"]:
            return state, position, None
        # The wait is that of one which comes now: behind as many as there are in its class.
        return state, position, group["wait"] * position // max(1, group["ahead"]) // MS


def _place(task: Rows) -> Place:
    return task["rank"], task["sort"], task["id"]
