"""What a query shows: plain values made from the state, for listings."""

import os
import time
from dataclasses import dataclass
from typing import Any

from clawai.kernel.clients import Clients
from clawai.kernel.core import Core
from clawai.kernel.log import LogFile
from clawai.kernel.processes import Processes
from clawai.kernel.registry import Registry, model_names, stored_model
from clawai.kernel.state import State, Worker
from clawai.sdk.errors import ClawError


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the listings come from."""

    core: Core
    registry: Registry
    clients: Clients
    processes: Processes
    log: LogFile
    started: int


def status(server: Sources) -> dict[str, Any]:
    """The kernel as a whole."""
    state = server.core.state
    return {
        "pid": os.getpid(),
        "uptime_s": (time.monotonic_ns() - server.started) // 1_000_000_000,
        "sandbox": server.processes.probed or {"level": "being proved"},
        "budget_bytes": state.ledger.budget,
        "used_bytes": state.ledger.used,
        "clients": len(server.clients.by_number),
        "workers": len(state.workers),
        "tasks": len(state.tasks),
        "segments": len(state.segments),
        "ended": dict(state.counts),
        "log_lines_lost": server.log.lost,
    }


def plugins(server: Sources) -> dict[str, Any]:
    """Every plugin, its operations and how its worker fares."""
    server.registry.scan()
    services = server.core.state.services.values()
    listed = []
    for name, plugin in server.registry.plugins.items():
        mine = [service for service in services if service.spec.plugin == name]
        listed.append(
            {
                "name": name,
                "version": plugin.plugin.version,
                "kind": plugin.plugin.kind,
                "description": plugin.plugin.description,
                "operations": [entry.name for entry in plugin.operation],
                "profile": plugin.permissions.profile,
                "workers": sum(service.worker is not None for service in mine),
                "started": sum(service.started for service in mine),
                "quarantined": any(
                    service.quarantined_until > time.monotonic_ns() for service in mine
                ),
                "folder": str(server.registry.places[name]),
                "problem": next((s.last_why for s in mine if s.failing), ""),
            }
        )
    return {"plugins": listed, "problems": dict(server.registry.problems)}


def models(server: Sources) -> dict[str, Any]:
    """Every stored model and whether a worker holds it."""
    services = {service.spec.model: service for service in server.core.state.services.values()}
    listed: list[dict[str, Any]] = []
    for name in model_names():
        service = services.get(name)
        try:
            record = stored_model(name)
        except ClawError as error:
            listed.append({"name": name, "problem": error.message})
            continue
        worker = service.worker if service else None
        listed.append(
            {
                "name": name,
                "bytes": record.bytes,
                "capability": record.capability,
                "licence": record.licence,
                "state": worker.state if worker else "stored",
            }
        )
    return {"models": listed}


def activity(worker: Worker) -> str:
    """The state of a worker, or what keeps it from going on."""
    if worker.suspended:
        return "suspended"
    if worker.state == "ready" and worker.running:
        return "held" if worker.threads < 0 else "running"
    return worker.state


def workers(server: Sources) -> dict[str, Any]:
    """Every worker process."""
    state = server.core.state
    listed = []
    for worker in state.workers.values():
        process = server.processes.running.get(worker.id)
        segments = [s.size for s in state.segments.values() if s.worker == worker.id]
        listed.append(
            {
                "worker": worker.id,
                "pid": process.spawned.worker_pid if process else 0,
                "plugin": worker.service.spec.plugin,
                "model": worker.service.spec.model,
                "lane": worker.spec.lane,
                "pinned": worker.service.pinned,
                "state": activity(worker),
                "threads": max(0, worker.threads),
                "running": len(worker.tasks()),
                "queued": len(worker.service.queue),
                "bytes": state.ledger.holders.get(("worker", worker.id), 0) + sum(segments),
                "idle_s": (time.monotonic_ns() - worker.idle_since) // 1_000_000_000
                if worker.idle_since and not worker.running
                else 0,
            }
        )
    return {"workers": listed}


def tasks(server: Sources) -> dict[str, Any]:
    """Every task that has not ended, in the order in which each queue will run it."""
    state: State = server.core.state
    now = time.monotonic_ns()
    position = {
        task.id: place
        for service in state.services.values()
        for place, task in enumerate(service.queue.ordered())
    }
    listed = [
        {
            "task": task.id,
            "client": task.asked.client,
            "op": task.asked.op,
            "model": task.asked.spec.model,
            "priority": task.asked.priority,
            "state": activity(state.workers[task.worker])
            if task.state == "running"
            else task.state,
            "position": position.get(task.id),
            "age_ms": (now - task.submitted) // 1_000_000,
            "worker": task.worker,
        }
        for task in state.tasks.values()
    ]
    return {"tasks": listed}


VIEWS = {
    "status": status,
    "plugins": plugins,
    "models": models,
    "workers": workers,
    "tasks": tasks,
}


def view(server: Sources, what: str) -> dict[str, Any]:
    """The view of a name.

    Raises:
        ClawError: bad_params.
    """
    if what not in VIEWS:
        raise ClawError("bad_params", "no such listing", what[:80], allowed=sorted(VIEWS))
    return VIEWS[what](server)
