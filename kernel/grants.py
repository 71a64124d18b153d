"""Who computes now: processor slots, holding, and suspension (rungs 1 and 3 of the ladder).

The threads granted to running workers add up to the processors that the box has for us. Workers
that look at their control words take what is granted; those that do not count as one processor. A
lower class gets what the higher ones leave, and is held between two ops when that is nothing, until
it has aged; equals beyond the number of processors take turns of ``limits.TURN``.
"""

from clawai.kernel import events as ev
from clawai.kernel import limits, tasks
from clawai.kernel.queue import CLASSES
from clawai.kernel.state import State, Worker


def divide(state: State) -> None:
    """Grant threads anew: the set of those that compute has changed, or whose turn it is."""
    state.redivide = False
    if not state.computing:
        return
    cores = max(1, round(state.cores * state.share))
    free = max(1, cores - state.plain)
    groups: dict[int, list[Worker]] = {}
    for number in sorted(state.computing):
        worker = state.computing[number]
        ranks = [task.rank for batch in worker.running.values() for task in batch.values()]
        worker.group = len(CLASSES) if worker.missed > 1 else min(ranks)
        groups.setdefault(worker.group, []).append(worker)
    for rank, group in sorted(groups.items()):
        # Where there are many processors, a part of them is left to the classes below.
        left = min(free, cores // 4) if rank < max(groups) else 0
        mine, free = free - left, left
        if len(group) > mine and not state.turning:
            state.turning = True
            state.timer(state.now + limits.TURN, "turn")
        first = state.turn * mine % len(group)
        for place, worker in enumerate(group[first:] + group[:first]):
            _grant(state, worker, mine // len(group) + (place < mine % len(group)))


def turn(state: State) -> None:
    """The next ones of a crowded class compute."""
    state.turning = False
    state.turn += 1
    state.redivide = True


def _grant(state: State, worker: Worker, threads: int) -> None:
    threads = threads or (-1 if 1 in state.rungs else 1)
    if threads == worker.threads:
        return
    worker.threads = threads
    if threads < 0:
        worker.held_since = state.now
        _age(state, worker)
    for slot in worker.running:
        tasks.refresh(state, worker, slot)


def _age(state: State, worker: Worker) -> None:
    rank = min((task.rank for task in worker.tasks()), default=0)
    patience = limits.PROMOTE[CLASSES[rank]]
    if patience and worker.threads < 0 and not worker.ageing:
        worker.ageing = True
        state.timer(max(worker.held_since + patience, state.now + limits.MS), "held", worker.id)


def held(state: State, worker: Worker) -> None:
    """What is held ages as what is queued does, so that it computes again in the end."""
    running, worker.ageing = worker.tasks(), False
    rank = min((task.rank for task in running), default=0)
    due = worker.held_since + limits.PROMOTE[CLASSES[rank]]
    if worker.threads < 0 and rank and state.now >= due:
        for task in running:
            task.rank = max(0, task.rank - 1)
        worker.held_since = state.now
        state.redivide = True
    _age(state, worker)


def suspend(state: State, worker: Worker) -> None:
    """Stop a worker's processes where they stand; its clocks stop with it."""
    if worker.suspended or worker.state != "ready" or worker.killed:
        return
    worker.suspended = state.now
    state.computes(worker, -len(worker.running))
    state.log("info", f"worker {worker.id} {worker.spec.plugin} is suspended")
    state.out.append(ev.Suspend(worker.id, True))


def resume(state: State, worker: Worker) -> None:
    """Let a worker go on: every clock of it and of its tasks is as it was."""
    if not worker.suspended:
        return
    paused, worker.suspended = state.now - worker.suspended, 0
    state.computes(worker, len(worker.running))
    worker.missed = 0
    worker.idle_since += paused
    state.out.append(ev.Suspend(worker.id, False))
    state.dirty[worker.service.key] = worker.service
    for task in worker.tasks():
        task.dispatched += paused
        if task.deadline is not None:
            task.deadline += paused
            state.timer(task.deadline, "deadline", task.id)
        if task.grace:
            task.grace += paused
            state.timer(task.grace, "grace", task.id)


def pressure(state: State, event: ev.Pressure) -> None:
    """Others use the box, or have stopped to: divide what is left."""
    state.share = min(1.0, event.cores / state.cores)
    state.ledger.limit = min(state.ledger.budget, event.memory)
    state.ledger.freed = True
    state.redivide = True
    state.squeezed = event.cores < limits.SQUEEZED and 3 in state.rungs
    for worker in state.workers.values():
        if worker.spec.lane == "bulk" and state.squeezed:
            suspend(state, worker)
        elif not worker.service.held:
            resume(state, worker)
