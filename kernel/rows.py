"""The raw rows of which the steward makes listings and news: named fields of what the core holds.

A row is a map of a dotted path to what is found there; times are nanoseconds of the same clock as
``now``. What a listing shows of them, ``steward/views`` decides.
"""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from clawai.kernel.core import Core
from clawai.kernel.mail import in_words
from clawai.kernel.state import Task
from clawai.kernel.tasks import wait_ns

_SPEC = ("spec.plugin", "spec.model")
_SERVICE = (*_SPEC, "spec.lane", "started", "quarantined_until", "last_why")
_WORKER = (*_SPEC, "id", "spec.lane", "state", "suspended", "threads", "idle_since")
_TASK = ("id", "state", "submitted", "worker", "asked.client", "asked.op", "asked.priority")
_ASKED = ("asked.spec.model", "asked.spec.lane", "asked.job")
_STANDS = ("id", "state", "service.key", "rank", "sort", "cost")


def _rows(things: Iterable[Any], *paths: str) -> list[dict[str, Any]]:
    get = attrgetter(*paths)
    return [dict(zip(paths, get(thing), strict=True)) for thing in things]


def rows(core: Core, what: str, now: int) -> dict[str, Any]:
    """What the core knows, with the tasks only if they are asked for."""
    state = core.state
    services = state.services.values()
    segments = [held for held in state.memory.values() if held.client]
    workers = _rows(state.workers.values(), *_WORKER, "service.pinned")
    for row, worker in zip(workers, state.workers.values(), strict=True):
        held = sum(each.size for each in segments if each.worker == worker.id)
        row["bytes"] = worker.holds + held
        row["running"], row["queued"] = len(worker.tasks()), len(worker.service.queue)
    known = _rows(services, *_SERVICE)
    for row in known:
        row["last_why"] = in_words(row["last_why"])
    found = {
        "now": now,
        "budget_bytes": state.ledger.budget,
        "used_bytes": state.ledger.used,
        "workers": workers,
        "services": known,
        "count": {"tasks": len(state.tasks), "segments": len(segments)},
        "ended": state.counts,
    }
    if what == "tasks":
        found["tasks"] = _rows(state.tasks.values(), *_TASK, *_ASKED)
        found["queues"] = [[task.id for task in service.queue.ordered()] for service in services]
    return found


def news(
    core: Core, tasks: list[Task], now: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What is needed to say where tasks stand: of each class of a service, and of each task."""
    groups = []
    for service, rank in {(t.service.key, t.rank): (t.service, t.rank) for t in tasks}.values():
        worker, (place, ahead) = service.worker, service.queue.ahead(rank)
        row = {
            "service.key": service.key,
            "rank": rank,
            "state": worker.state if worker else "",
            "suspended": bool(worker and worker.suspended),
            "held": bool(worker and worker.threads < 0),
            "ahead": place,
            "wait": wait_ns(core.state, service, ahead, now),
        }
        groups.append(row)
    return groups, _rows(tasks, *_STANDS)
