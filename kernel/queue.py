"""The queue of one service: classes, fair shares between principals, earliest deadline first.

- Classes are strict: nothing of a lower class runs while a higher one waits.
- Inside a class the principals take turns by deficit round robin (Shreedhar and Varghese, 1995),
  measured in expected run time, so that nobody gets more by asking for more or for longer tasks.
- Inside a principal the earliest deadline is first; a task without one sorts as if it had
  ``limits.PATIENCE``.
- Ageing: a task that has waited its class's ``limits.PROMOTE`` moves to the next higher class and
  keeps its place by age there. So no task waits for ever behind higher classes: after the sum of
  the patiences above it, at most, only older ones and fair turns are before it.

Every operation costs O(log n); what was taken out leaves its heap entry behind until it comes up.
"""

import heapq
from collections import deque
from typing import Any

from clawai.kernel import limits

CLASSES = ("critical", "interactive", "normal", "batch")
RANK = {name: rank for rank, name in enumerate(CLASSES)}
BATCH = RANK["batch"]


class Fair:
    """One class of one queue: a heap for each principal, and whose turn it is."""

    __slots__ = ("cost", "count", "credit", "heaps", "rank", "stale", "tasks", "turns")

    def __init__(self, rank: int, tasks: dict[int, Any]) -> None:
        self.rank = rank
        self.tasks = tasks
        """Of the whole queue: an entry whose task is not there, in this class, is stale."""
        self.heaps: dict[str, list[tuple[int, int]]] = {}
        self.turns: deque[str] = deque()
        self.credit: dict[str, int] = {}
        self.count = self.cost = self.stale = 0

    def push(self, task: Any) -> None:
        """Add a task."""
        principal = task.asked.principal
        if principal not in self.heaps:
            self.heaps[principal] = []
            self.turns.append(principal)
            self.credit[principal] = 0
        task.sort = sort_key(task)
        heapq.heappush(self.heaps[principal], (task.sort, task.id))
        self.count += 1
        self.cost += task.cost

    def waits(self, entry: tuple[int, int]) -> bool:
        """Whether an entry of a heap is of a task that is in this class, and its latest."""
        task = self.tasks.get(entry[1])
        return task is not None and task.rank == self.rank and entry[0] == task.sort

    def remove(self, task: Any) -> None:
        """Forget a task that is no longer among ``tasks``."""
        heap = self.heaps[task.asked.principal]
        if heap[0][1] == task.id:
            heapq.heappop(heap)
        else:
            self.stale += 1
        self.count -= 1
        self.cost -= task.cost
        if self.stale > self.count + 64:
            self.stale = 0
            for principal, old in self.heaps.items():
                self.heaps[principal] = [entry for entry in old if self.waits(entry)]
                heapq.heapify(self.heaps[principal])

    def head(self) -> int | None:
        """The task that is next, of the principal whose turn it is."""
        passed = 0
        while self.turns:
            principal = self.turns[0]
            heap = self.heaps[principal]
            while heap and not self.waits(heap[0]):
                heapq.heappop(heap)
                self.stale -= 1
            if not heap:
                self.turns.popleft()
                del self.heaps[principal], self.credit[principal]
            elif len(self.turns) == 1 or self.credit[principal] > 0:
                return heap[0][1]
            elif passed < len(self.turns):
                self.turns.rotate(-1)
                passed += 1
            else:  # nobody has credit left: as many rounds at once as give it to one of them
                rounds = 1 + -max(self.credit.values()) // limits.QUANTUM
                for name in self.credit:
                    self.credit[name] += rounds * limits.QUANTUM
                passed = 0
        return None


def sort_key(task: Any) -> int:
    """When a task is due, or would be."""
    patient: int = task.submitted + limits.PATIENCE
    return patient if task.deadline is None else min(task.deadline, patient)


class Queue:
    """Holds tasks (``state.Task``), each in one class."""

    def __init__(self) -> None:
        self.tasks: dict[int, Any] = {}
        self.classes = tuple(Fair(rank, self.tasks) for rank in range(len(CLASSES)))
        self._ages: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.tasks)

    def __contains__(self, task_id: int) -> bool:
        return task_id in self.tasks

    def push(self, task: Any, since: int | None = None) -> None:
        """Add a task, which has been in its class since then (or since it was submitted)."""
        self.tasks[task.id] = task
        self.classes[task.rank].push(task)
        task.ages_at = 0
        if patience := limits.PROMOTE[CLASSES[task.rank]]:
            task.ages_at = (task.submitted if since is None else since) + patience
            heapq.heappush(self._ages, (task.ages_at, task.id))

    def remove(self, task: Any) -> None:
        """Take a task out, wherever it stands."""
        del self.tasks[task.id]
        self.classes[task.rank].remove(task)
        if len(self._ages) > 2 * len(self.tasks) + 64:
            self._ages = [entry for entry in self._ages if self._ages_then(entry)]
            heapq.heapify(self._ages)

    def take(self, now: int, op: str = "", worst: int = BATCH) -> Any | None:
        """Take out what is next, if it is of ``op`` (or any) and of class ``worst`` or better."""
        if self._ages and self._ages[0][0] <= now:
            self._promote(now)
        for fair in self.classes:
            if not fair.count:
                continue
            number = fair.head()
            if number is None or fair.rank > worst:
                return None
            task = self.tasks[number]
            if op and task.asked.op != op:
                return None
            fair.credit[task.asked.principal] -= max(task.cost, limits.QUANTUM)
            self.remove(task)
            return task
        return None

    def best(self) -> int:
        """Rank of the highest class in which something waits; beyond all if nothing does."""
        for rank, fair in enumerate(self.classes):
            if fair.count:
                return rank
        return len(CLASSES)

    def ahead(self, rank: int) -> tuple[int, int]:
        """How many wait in this class and those above it, and their cost."""
        count = cost = 0
        for fair in self.classes:
            if fair.rank > rank:
                break
            count += fair.count
            cost += fair.cost
        return count, cost

    def _promote(self, now: int) -> None:
        while self._ages and self._ages[0][0] <= now:
            entry = heapq.heappop(self._ages)
            if self._ages_then(entry):
                task = self.tasks[entry[1]]
                self.remove(task)
                task.rank -= 1
                self.push(task, entry[0])

    def _ages_then(self, entry: tuple[int, int]) -> bool:
        task = self.tasks.get(entry[1])
        return task is not None and task.ages_at == entry[0]

    def ordered(self) -> list[Any]:
        """All tasks by class and due time; the turns of principals are not foreseen."""
        tasks = self.tasks
        keys = sorted((task.rank, task.sort, task.id) for task in tasks.values())
        return [tasks[key[2]] for key in keys]
