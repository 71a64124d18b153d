"""Who computes now: processor slots, holding, and suspension (rungs 1 and 3 of the ladder).

The threads granted to running workers add up to the processors that the box has for us. Workers
that look at their control words take what is granted; those that do not count as one processor. A
lower class gets what the higher ones leave, and is held between two ops when that is nothing, until
it has aged; equals beyond the number of processors take turns of ``limits.TURN``.
"""

from clawai.kernel import events as ev
from clawai.kernel import limits, tasks
from clawai.kernel.queue import CLASSES, NEVER
from clawai.kernel.state import State, Worker


def divide(state: State) -> None:
    """Grant threads anew: the set of those that compute has changed, or whose turn it is."""
    state.redivide = False
    sharing = [worker for worker in state.computing.values() if worker.spec.cooperative]
    if not sharing:
        return
    others = [each for each in state.computing.values() if each.spec.lane == "main"]
    plain = 0  # slots of others; one that waits for child tasks leaves them its processor
    for each in others:
        if not (each.spec.cooperative or each.spec.front):
            plain += sum([not slot.first().children for slot in each.running.values()])
    cores = max(1, round(state.cores * state.share))
    free, turn = max(1, cores - plain), state.now // limits.TURN
    groups: dict[int, list[Worker]] = {}
    for worker in sorted(sharing, key=lambda worker: worker.id):
        rank = len(CLASSES) if worker.missed > 1 else worker.best()
        groups.setdefault(rank, []).append(worker)
    for rank, group in sorted(groups.items()):
        # Where there are many processors, a part of them is left to the classes below.
        left = min(free, cores // 4) if rank < max(groups) else 0
        mine, free = free - left, left
        if len(group) > mine and state.turn < turn:
            state.turn = turn
            state.timer((turn + 1) * limits.TURN)
        first = turn * mine % len(group)
        for place, worker in enumerate(group[first:] + group[:first]):
            _grant(state, worker, mine // len(group) + (place < mine % len(group)))


def _grant(state: State, worker: Worker, threads: int) -> None:
    threads = threads or (-1 if 1 in state.rungs else 1)
    if threads == worker.threads:
        return
    worker.threads, worker.held_since = threads, state.now
    for slot in worker.running.values():
        tasks.refresh(state, slot)


def age(worker: Worker, now: int) -> None:
    """What is held ages as what is queued does, so that it computes again in the end."""
    for slot in worker.running.values() if worker.threads < 0 else ():
        began = max(worker.held_since, slot.dispatched)
        for task in slot.tasks.values():
            due = max(began, task.since) + limits.PROMOTE[CLASSES[task.rank]]
            if task.rank > 0 and now >= due:
                task.rank, task.since = task.rank - 1, due


def suspend(state: State, worker: Worker | None) -> None:
    """Stop a worker where it stands, or let it go on, as its owner and the box will have it.

    Every clock of it and of its tasks stands still meanwhile.
    """
    if worker is None or worker.state != "ready":
        return
    bulk = worker.spec.lane == "bulk" and 3 in state.rungs
    squeezed = bulk and state.cores * state.share < limits.SQUEEZED
    if bool(worker.suspended) == (stopped := worker.service.held or squeezed):
        return
    paused = state.now - worker.suspended
    worker.suspended = state.now if stopped else 0
    state.computes(worker)
    state.out.append(ev.Suspend(worker.id, stopped))
    if stopped:
        state.log("info", f"worker {worker.id} {worker.spec.plugin} is suspended")
        return
    worker.missed = 0
    worker.idle_since += paused
    state.dirty[worker.service.key] = worker.service
    for slot in worker.running.values():
        slot.dispatched += paused
    for task in worker.tasks():
        if task.deadline < NEVER:
            task.deadline += paused
            state.timer(task.deadline, "tasks", task.id)
