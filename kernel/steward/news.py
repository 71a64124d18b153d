"""Where tasks stand: their place in the queue, and what is expected of it.

The daemon sends rows of a part of all tasks at a time; what was heard of the other parts, a second
ago at most, is kept, so that places are counted among all.
"""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from clawai.kernel.limits import MS
from clawai.kernel.steward.views import Place, Rows, place

LOADING = ("starting", "waiting", "loading")
Service = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """One class of a service."""

    worker: list[Rows]
    """None or one."""
    ahead: int
    """How many wait in it, and in those above."""
    wait: int
    """Nanoseconds that a new one would."""


class News:
    """Of all tasks that the daemon has."""

    def __init__(self) -> None:
        self.places: dict[int, tuple[Service, Place]] = {}
        """By number, of those that are queued."""
        self.whole = False
        """Every part was heard once: until then nobody's place is known."""

    def tell(self, phase: int, parts: int, groups: list[Any], tasks: list[Rows]) -> list[Any]:
        """What to say of the tasks of a part.

        Args:
            phase, parts: it is of the tasks whose number, divided by ``parts``, leaves ``phase``.
            groups, tasks: as ``kernel.rows.news`` makes them; of a group its service and class,
                and the fields of a ``Group``.

        Returns:
            For each task its number, its state as in the row, and what to tell its owner: state,
            position and estimate in milliseconds.
        """
        self._learn(phase, parts, tasks)
        queues: dict[Service, list[Place]] = defaultdict(list)
        for service, stands in self.places.values():
            queues[service].append(stands)
        for queue in queues.values():
            queue.sort()
        by_class = {(tuple(key), rank): Group(*of_it) for key, rank, *of_it in groups}
        said = []
        for task in tasks:
            service = tuple(task["service.key"])
            group = by_class[service, task["rank"]]
            if task["state"] == "running":
                (worker,) = group.worker
                held = "held" if worker["threads"] < 0 else "running"
                told: Any = ("suspended" if worker["suspended"] else held, None, None)
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
                self.places[task["id"]] = tuple(task["service.key"]), place(task)
        self.whole = self.whole or phase == parts - 1

    def _waits(self, task: Rows, group: Group, queue: list[Place]) -> tuple[str, Any, Any]:
        loading = any(worker["state"] in LOADING for worker in group.worker)
        state = "loading" if loading else "queued"
        if not self.whole:
            return state, None, None
        position = bisect_left(queue, place(task))
        if not task["cost"]:
            return state, position, None
        # The wait is that of one which comes now: behind as many as there are in its class.
        return state, position, group.wait * position // max(1, group.ahead) // MS
