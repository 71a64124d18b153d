"""The queue of one service: strict by class, then by deadline, with ageing.

A task that has waited longer than its class's patience counts as one class higher, and again one
higher for each further patience, so that no class can starve another for ever.
"""

import heapq
from typing import Any

from clawai.kernel import limits

CLASSES = ("critical", "interactive", "normal", "batch")
_RANK = {name: rank for rank, name in enumerate(CLASSES)}


class Queue:
    """Holds task objects with ``id``, ``submitted`` and ``asked`` (priority, deadline)."""

    def __init__(self) -> None:
        self._heaps: tuple[list[tuple[int, int]], ...] = tuple([] for _ in CLASSES)
        self._arrival: tuple[list[tuple[int, int]], ...] = tuple([] for _ in CLASSES)
        self._tasks: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task_id: int) -> bool:
        return task_id in self._tasks

    def push(self, task: Any) -> None:
        """Add a task."""
        rank = _RANK[task.asked.priority]
        self._tasks[task.id] = task
        heapq.heappush(self._heaps[rank], (self._sort(task), task.id))
        heapq.heappush(self._arrival[rank], (task.submitted, task.id))

    def remove(self, task: Any) -> None:
        """Take a task out, wherever it stands."""
        del self._tasks[task.id]
        if sum(map(len, self._heaps)) > 2 * len(self._tasks) + 64:
            left = list(self._tasks.values())
            self.__init__()  # type: ignore[misc]
            for other in left:
                self.push(other)

    def best(self, now: int) -> Any | None:
        """The task to run next, or None."""
        choice = None
        for rank, heap in enumerate(self._heaps):
            first, oldest = self._head(heap), self._head(self._arrival[rank])
            if first is None or oldest is None:
                continue
            # The one that waited longest may have aged past the one that is due first.
            for task in (oldest, first):
                key = self._key(task, now)
                if choice is None or key < choice[0]:
                    choice = (key, task)
        return choice[1] if choice else None

    def ordered(self, now: int) -> list[Any]:
        """All tasks, next first."""
        return sorted(self._tasks.values(), key=lambda task: self._key(task, now))

    @classmethod
    def _key(cls, task: Any, now: int) -> tuple[int, int, int]:
        # Not the class itself: an aged task is an equal of those it has risen to, and older.
        return cls._aged(task, _RANK[task.asked.priority], now), cls._sort(task), task.id

    @staticmethod
    def _sort(task: Any) -> int:
        deadline = task.asked.deadline
        patient: int = task.submitted + limits.PATIENCE
        return patient if deadline is None else min(deadline, patient)

    @staticmethod
    def _aged(task: Any, rank: int, now: int) -> int:
        patience = limits.PROMOTE[CLASSES[rank]]
        return max(0, rank - (now - task.submitted) // patience) if patience else rank

    def _head(self, heap: list[tuple[int, int]]) -> Any | None:
        while heap and heap[0][1] not in self._tasks:
            heapq.heappop(heap)
        return self._tasks[heap[0][1]] if heap else None
