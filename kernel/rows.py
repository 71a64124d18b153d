"""The raw rows of which the steward makes listings: plain values, with ages instead of times."""

from typing import Any

from clawai.kernel.core import Core
from clawai.kernel.limits import MS, SECOND
from clawai.kernel.processes import Processes
from clawai.kernel.state import Worker


def rows(core: Core, processes: Processes, what: str, now: int) -> dict[str, Any]:
    """What the core and the shell know, with the tasks only if they are asked for."""
    state = core.state
    held = dict.fromkeys(state.workers, 0)
    for segment in state.segments.values():
        if segment.worker in held:
            held[segment.worker] += segment.size
    services = [
        {
            "plugin": service.spec.plugin,
            "model": service.spec.model,
            "worker": service.worker.state if service.worker else None,
            "started": service.started,
            "quarantined": service.quarantined_until > now,
            "problem": service.last_why if service.failing else "",
        }
        for service in state.services.values()
    ]
    workers = [
        {
            "worker": worker.id,
            "pid": processes.running[worker.id].pid if worker.id in processes.running else 0,
            "plugin": worker.spec.plugin,
            "model": worker.spec.model,
            "lane": worker.spec.lane,
            "pinned": worker.service.pinned,
            "state": activity(worker),
            "threads": max(0, worker.threads),
            "running": len(worker.tasks()),
            "queued": len(worker.service.queue),
            "bytes": state.ledger.holders.get(("worker", worker.id), 0) + held[worker.id],
            "idle_s": 0 if worker.running else (now - (worker.idle_since or now)) // SECOND,
        }
        for worker in state.workers.values()
    ]
    return {
        "budget_bytes": state.ledger.budget,
        "used_bytes": state.ledger.used,
        "workers": workers,
        "services": services,
        "tasks": _tasks(core, now) if what == "tasks" else len(state.tasks),
        "segments": len(state.segments),
        "ended": state.counts,
    }


def activity(worker: Worker) -> str:
    """The state of a worker, or what keeps it from going on."""
    if worker.suspended:
        return "suspended"
    if worker.state == "ready" and worker.running:
        return "held" if worker.threads < 0 else "running"
    return worker.state


def _tasks(core: Core, now: int) -> list[dict[str, Any]]:
    """Every task that has not ended, with its place in its queue."""
    position = {
        task.id: place
        for service in core.state.services.values()
        for place, task in enumerate(service.queue.ordered())
    }
    workers = core.state.workers
    return [
        {
            "task": task.id,
            "client": task.asked.client,
            "op": task.asked.op,
            "model": task.asked.spec.model,
            "lane": task.asked.spec.lane,
            "priority": task.asked.priority,
            "state": activity(workers[task.worker]) if task.state == "running" else task.state,
            "position": position.get(task.id),
            "age_ms": (now - task.submitted) // MS,
            "worker": task.worker,
        }
        for task in core.state.tasks.values()
    ]
