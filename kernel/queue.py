"""The queue of one service: classes, fair shares between principals, earliest deadline first.

- Classes are strict: nothing of a lower class runs while a higher one waits.
- Inside a class the principals take turns by deficit round robin (Shreedhar and Varghese, 1995),
  measured in expected run time, so that nobody gets more by asking for more or for longer tasks.
- Inside a principal the earliest deadline is first; a task without one sorts as if it had
  ``limits.PATIENCE``.
- Ageing: a task that has waited its class's ``limits.PROMOTE`` moves to the next higher class and
  keeps its place by age there. So no task waits for ever behind higher classes: after the sum of
  the patiences above it, at most, only older ones and fair turns are before it.

A principal's tasks in a class are a sorted list: bisection, and moving some thousand pointers, is
less than what else a decision takes.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from clawai.kernel import limits

CLASSES = ("critical", "interactive", "normal", "batch")
RANK = {name: rank for rank, name in enumerate(CLASSES)}
BATCH = RANK["batch"]
NEVER = 1 << 62


@dataclass(slots=True)
class Share:
    """What one principal has in one class."""

    credit: int = 0
    """Run time that it may still use in its turn; less than 0 is what it has had too much."""
    tasks: list[tuple[int, int, Any]] = field(default_factory=list)
    """By ``Task.sort`` and number: the most urgent first."""


@dataclass(slots=True)
class Fair:
    """One class of one queue."""

    patience: int
    tasks: OrderedDict[int, Any] = field(default_factory=OrderedDict)
    """By number, in the order in which they came into the class."""
    circle: OrderedDict[str, Share] = field(default_factory=OrderedDict)
    """By principal, the one whose turn it is first; at its turn one without tasks leaves."""
    cost: int = 0

    def push(self, task: Any) -> None:
        """Add a task."""
        if (name := task.asked.principal) not in self.circle:
            self.circle[name] = Share()
        insort(self.circle[name].tasks, (task.sort, task.id, task))
        self.tasks[task.id] = task
        self.cost += task.cost

    def remove(self, task: Any) -> None:
        """Take a task out."""
        mine = self.circle[task.asked.principal].tasks
        del mine[bisect_left(mine, (task.sort, task.id))]
        del self.tasks[task.id]
        self.cost -= task.cost

    def turn(self) -> Share:
        """Whose turn it is; there are tasks."""
        passed = 0
        while True:
            name, share = next(iter(self.circle.items()))
            if not share.tasks:
                del self.circle[name]
            elif len(self.circle) == 1 or share.credit > 0:
                return share
            elif passed < len(self.circle):
                self.circle.move_to_end(name)
                passed += 1
            else:  # nobody has credit left: as many rounds at once as give it to one of them
                shares = self.circle.values()
                rounds = 1 + -max(each.credit for each in shares) // limits.QUANTUM
                for each in shares:
                    each.credit += rounds * limits.QUANTUM
                passed = 0


class Queue:
    """Holds tasks (``state.Task``), each in one class."""

    def __init__(self) -> None:
        self.classes = tuple(Fair(limits.PROMOTE[name] or NEVER) for name in CLASSES)
        self.count = 0
        self.ages_at = NEVER
        """No task moves up before that."""

    def __len__(self) -> int:
        return self.count

    def push(self, task: Any, now: int) -> None:
        """Add a task to its class, in which it ages from now on."""
        if now >= self.ages_at:
            self._age(now)
        task.sort = min(task.deadline, task.submitted + limits.PATIENCE)
        task.since = now
        fair = self.classes[task.rank]
        fair.push(task)
        self.ages_at = min(self.ages_at, now + fair.patience)
        self.count += 1

    def remove(self, task: Any) -> None:
        """Take a task out, wherever it stands."""
        self.classes[task.rank].remove(task)
        self.count -= 1

    def take(self, now: int, op: str = "", worst: int = BATCH) -> Any | None:
        """Take out what is next, if it is of ``op`` (or any) and of class ``worst`` or better."""
        if now >= self.ages_at:
            self._age(now)
        if (best := self.best()) > worst:
            return None
        share = self.classes[best].turn()
        task = share.tasks[0][2]
        if op and task.asked.op != op:
            return None
        share.credit -= max(task.cost, limits.QUANTUM)
        self.remove(task)
        return task

    def best(self) -> int:
        """Rank of the highest class in which something waits; beyond all if nothing does."""
        for rank, fair in enumerate(self.classes):
            if fair.tasks:
                return rank
        return len(CLASSES)

    def ahead(self, rank: int) -> tuple[int, int]:
        """How many wait in this class and those above it, and their cost."""
        count = cost = 0
        for fair in self.classes[: rank + 1]:
            count += len(fair.tasks)
            cost += fair.cost
        return count, cost

    def _age(self, now: int) -> None:
        """Move up what has waited long enough: from the lowest class, as one may move up twice.

        Done before anything is added, so that each class stays in the order of ``since``.
        """
        self.ages_at = NEVER
        for fair in reversed(self.classes):
            while fair.tasks:
                task = next(iter(fair.tasks.values()))
                if (due := task.since + fair.patience) > now:
                    self.ages_at = min(self.ages_at, due)
                    break
                fair.remove(task)
                task.since = due
                task.rank -= 1
                self.classes[task.rank].push(task)

    def ordered(self) -> list[Any]:
        """All tasks by class and due time; the turns of principals are not foreseen."""
        tasks = [task for fair in self.classes for task in fair.tasks.values()]
        return sorted(tasks, key=lambda task: (task.rank, task.sort, task.id))
