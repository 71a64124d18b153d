"""The raw rows of which the steward makes listings: named fields of what the core holds.

A row is a map of a dotted path to what is found there; times are nanoseconds of the same clock as
``now``. What a listing shows of them, ``steward/views`` decides.
"""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from clawai.kernel.core import Core
from clawai.kernel.mail import in_words

_SPEC = ("spec.plugin", "spec.model")
_SERVICE = (*_SPEC, "spec.lane", "started", "quarantined_until", "last_why")
_WORKER = (*_SPEC, "id", "spec.lane", "state", "suspended", "threads", "idle_since")
_TASK = ("id", "state", "submitted", "worker", "asked.client", "asked.op", "asked.priority")
_ASKED = ("asked.spec.model", "asked.spec.lane", "asked.job")


def _rows(things: Iterable[Any], *paths: str) -> list[dict[str, Any]]:
    get = attrgetter(*paths)
    return [dict(zip(paths, get(thing), strict=True)) for thing in things]


def rows(core: Core, what: str, now: int) -> dict[str, Any]:
    """What the core knows, with the tasks only if they are asked for."""
    state = core.state
    services = state.services.values()
    workers = _rows(state.workers.values(), *_WORKER, "service.pinned")
    for row, worker in zip(workers, state.workers.values(), strict=True):
        held = sum(s.size for s in state.segments.values() if s.worker == worker.id)
        row["bytes"] = state.ledger.holders.get(("worker", worker.id), 0) + held
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
        "count": {"tasks": len(state.tasks), "segments": len(state.segments)},
        "ended": state.counts,
    }
    if what == "tasks":
        found["tasks"] = _rows(state.tasks.values(), *_TASK, *_ASKED)
        found["queues"] = [[task.id for task in service.queue.ordered()] for service in services]
    return found
