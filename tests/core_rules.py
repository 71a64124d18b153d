"""The rules of the queue said again, as plainly as can be: what ``kernel.queue`` is held against.

Lists that are searched from one end to the other, one round of turns at a time, no heap, nothing
lazy. ``Waiting`` follows the tasks of a world that does anything; ``Turns`` says the exact order in
which a queue that nothing is added to is emptied.
"""

from dataclasses import dataclass, field
from typing import Any

from clawai.kernel import limits
from clawai.sdk import wire

CLASSES = wire.PRIORITIES
RANK = {name: rank for rank, name in enumerate(CLASSES)}


@dataclass(slots=True)
class Wait:
    """One task that is queued, or may be again."""

    number: int
    key: Any
    principal: str
    submitted: int
    deadline: int | None
    rank: int
    since: int
    """In its class since then."""
    queued: bool = True

    @property
    def due(self) -> int:
        """Without a deadline: as if it had ``PATIENCE``."""
        patient = self.submitted + limits.PATIENCE
        return patient if self.deadline is None else min(self.deadline, patient)

    def age(self, now: int) -> None:
        """One class higher for each time that it has waited its class's ``PROMOTE``."""
        while self.rank and now >= self.since + limits.PROMOTE[CLASSES[self.rank]]:
            self.since += limits.PROMOTE[CLASSES[self.rank]]
            self.rank -= 1


@dataclass
class Waiting:
    """All tasks of a world, as its own books know them."""

    tasks: dict[int, Wait] = field(default_factory=dict)

    def accepted(self, number: int, asked: Any, key: Any, now: int) -> None:
        """It is queued."""
        rank = RANK[asked.priority]
        self.tasks[number] = Wait(number, key, asked.principal, now, asked.deadline, rank, now)

    def requeued(self, number: int, now: int, rank: int, held_ns: int) -> None:
        """It is queued again, in the class to which it had aged: also while its worker was held."""
        if task := self.tasks.get(number):
            needs = sum(limits.PROMOTE[CLASSES[each]] for each in range(rank + 1, task.rank + 1))
            assert held_ns >= needs, f"{task} came back in class {rank}, held {held_ns} ns"
            assert 0 <= rank <= task.rank, f"{task} came back in class {rank}"
            task.rank = rank
            task.queued, task.since = True, now

    def runs(self, number: int, now: int) -> None:
        """It was the right one to run: of the highest class, and its principal's most urgent."""
        mine = self.tasks[number]
        assert mine.queued, f"{mine} runs twice"
        waiting = [t for t in self.tasks.values() if t.queued and t.key == mine.key]
        for task in waiting:
            task.age(now)
        best = min(task.rank for task in waiting)
        assert mine.rank == best, f"{mine} overtook a higher class: {waiting}"
        equals = [t for t in waiting if (t.rank, t.principal) == (mine.rank, mine.principal)]
        first = min(equals, key=lambda task: (task.due, task.number))
        assert first is mine, f"{mine} overtook {first} of the same principal"
        mine.queued = False

    def ended(self, number: int) -> None:
        """It is over."""
        self.tasks.pop(number, None)


def no_knot(state: Any) -> None:
    """All that waits can go on, if only all that computes comes to its end.

    A task that computes ends when those that it has asked for have; a slot is free when all in it
    have ended; a task that is queued ends when a slot of its worker is free, or it has none yet.
    """
    left, ended = dict(state.tasks), set()

    def ends(task: Any) -> bool:
        if task.state != "queued":
            return not task.children.keys() - ended
        worker = task.service.worker
        slots = worker.slots if worker else []
        return not slots or any(not slot.tasks.keys() - ended for slot in slots)

    while found := [number for number, task in left.items() if ends(task)]:
        ended.update(found)
        for number in found:
            del left[number]
    assert not left, f"they wait for each other: {left}"


@dataclass(slots=True)
class Job:
    """What ``Turns`` orders."""

    number: int
    rank: int
    principal: str
    due: int
    cost: int = 0


class Turns:
    """Surplus round robin, as a person would do it with cards on a table.

    The principals of a class stand in a circle, in the order in which they came. Whose turn it is
    runs tasks, the most urgent first, while he is owed time; then it is the next one's turn. When
    nobody in the circle is owed any, everybody is given one quantum. A task costs what it is
    expected to take, and at least one quantum. Who has nothing left leaves the circle.
    """

    def __init__(self, jobs: list[Job]) -> None:
        self.left = sorted(jobs, key=lambda job: job.number)

    def order(self) -> list[int]:
        """The numbers of all jobs, first to run first."""
        done = []
        for rank in range(len(CLASSES)):
            done += self._class([job for job in self.left if job.rank == rank])
        return done

    @staticmethod
    def _class(jobs: list[Job]) -> list[int]:
        done: list[int] = []
        circle: list[str] = []
        for job in jobs:
            if job.principal not in circle:
                circle.append(job.principal)
        owed = dict.fromkeys(circle, 0)
        while jobs:
            circle = [who for who in circle if any(job.principal == who for job in jobs)]
            alone = len(circle) == 1
            if not alone and all(owed[who] <= 0 for who in circle):
                for who in circle:
                    owed[who] += limits.QUANTUM
                continue
            while not alone and owed[circle[0]] <= 0:
                circle.append(circle.pop(0))
            mine = [job for job in jobs if job.principal == circle[0]]
            first = min(mine, key=lambda job: (job.due, job.number))
            owed[circle[0]] -= max(first.cost, limits.QUANTUM)
            jobs.remove(first)
            done.append(first.number)
        return done
