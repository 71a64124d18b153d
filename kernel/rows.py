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

_SPEC = ("spec.plugin", "spec.model", "spec.lane")
_SERVICE = (*_SPEC, "started", "quarantined_until", "pinned", "queue.count")
_WORKER = (*_SPEC, "id", "state", "suspended", "threads", "idle_since", "holds")
_OF_SERVICE = ("service.pinned", "service.queue.count")
_TASK = ("id", "state", "service.key", "rank", "sort", "cost")
_OF_ASKED = ("client", "op", "priority", "job", "parent")
_ASKED = ("submitted", "worker", *[f"asked.{name}" for name in _OF_ASKED])


def _rows(things: Iterable[Any], *paths: str) -> list[dict[str, Any]]:
    get = attrgetter(*paths)
    return [dict(zip(paths, get(thing), strict=True)) for thing in things]


def rows(core: Core, what: str, now: int) -> dict[str, Any]:
    """What the core knows, with the tasks only if they are asked for."""
    state = core.state
    services, workers = state.services.values(), state.workers.values()
    return {
        "now": now,
        "budget_bytes": state.ledger.budget,
        "used_bytes": state.ledger.used,
        "ended": state.counts,
        "count": len(state.tasks),
        "workers": _rows(workers, *_WORKER, *_OF_SERVICE),
        "running": [len(worker.tasks()) for worker in workers],
        "services": _rows(services, *_SERVICE),
        "last_why": [in_words(service.last_why) for service in services],
        "memory": _rows(state.memory.values(), "client", "worker", "size"),
        "tasks": _rows(state.tasks.values(), *_TASK, *_ASKED) if what == "tasks" else [],
    }


def running(core: Core, number: int) -> list[tuple[int, str]]:
    """The tasks that a worker runs, and whose each is."""
    worker = core.state.workers.get(number)
    return [(task.id, task.asked.principal) for task in (worker.tasks() if worker else ())]


def news(core: Core, tasks: list[Task], now: int) -> tuple[list[Any], list[dict[str, Any]]]:
    """What is needed to say where tasks stand: of each class of a service, and of each task.

    Of a class: its service, its rank, its worker if there is one, how many wait in it and above,
    and how long a new one would.
    """
    groups = []
    classes = {(task.service.key, task.rank): task.service for task in tasks}
    for (key, rank), service in classes.items():
        worker = _rows([service.worker], "state", "suspended", "threads") if service.worker else []
        place, cost = service.queue.ahead(rank)
        groups.append((key, rank, worker, place, wait_ns(core.state, service, cost, now)))
    return groups, _rows(tasks, *_TASK)
