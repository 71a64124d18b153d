"""What a query shows: listings made from the daemon's rows, the manifests and the store."""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from clawai.kernel.limits import MS, SECOND
from clawai.kernel.steward import box as boxes
from clawai.kernel.steward.registry import Registry, model_names, stored_model
from clawai.sdk import schema
from clawai.sdk.asks import asks, words
from clawai.sdk.errors import ClawError

STATUS = (
    "pid",
    "uptime_s",
    "sandbox",
    "preemption",
    "budget_bytes",
    "used_bytes",
    "clients",
    "ended",
    "log_lines_lost",
    "launchers",
)
Rows = dict[str, Any]
Place = tuple[int, int, int]
"""In a queue: the class, when it is due there, and the number of the task."""


def status(rows: Rows, registry: Registry) -> Rows:
    """The kernel as a whole."""
    shown = {key: rows[key] for key in STATUS}
    segments = [held for held in rows["memory"] if held["client"]]
    return {
        **shown,
        "tasks": rows["count"],
        "segments": len(segments),
        "workers": len(rows["workers"]),
    }


def plugins(rows: Rows, registry: Registry) -> Rows:
    """Every plugin, its operations and how its worker fares."""
    registry.scan()
    listed = []
    whys = zip(rows["services"], rows["last_why"], strict=True)
    services = [{**service, "last_why": why} for service, why in whys]
    for name, plugin in registry.plugins.items():
        mine = [service for service in services if service["spec.plugin"] == name]
        workers = [worker for worker in rows["workers"] if worker["spec.plugin"] == name]
        refused = registry.refusal(plugin)
        listed.append(
            {
                "name": name,
                "version": plugin.plugin.version,
                "kind": plugin.plugin.kind,
                "description": plugin.plugin.description,
                "operations": [entry.name for entry in plugin.operation],
                "idempotent": [entry.name for entry in plugin.operation if entry.idempotent],
                "formats": plugin.plugin.formats,
                "profile": plugin.permissions.profile,
                "asks": [
                    {"kind": ask.kind, "what": ask.what, "reason": ask.reason, "words": words(ask)}
                    for ask in asks(plugin)
                ],
                "workers": len(workers),
                "started": sum(service["started"] for service in mine),
                "quarantined": any(s["quarantined_until"] > rows["now"] for s in mine),
                "folder": str(registry.places[name]),
                "granted": refused is None,
                "problem": f"{refused.message}; run: {refused.hint}"
                if refused
                else next((s["last_why"] for s in mine if s["last_why"]), ""),
            }
        )
    return {"plugins": listed, "problems": dict(registry.problems)}


def operations(rows: Rows, registry: Registry) -> Rows:
    """Every operation that can be called: how it describes itself, and what its plugin may."""
    registry.scan()
    listed: list[Rows] = []
    for name, plugin in registry.plugins.items():
        if registry.refusal(plugin):
            continue
        asked, described = plugin.permissions, registry.described(name)
        writes = asked.write or asked.programs or asked.devices or plugin.limits.data_mib
        for entry in plugin.operation:
            plain = schema.Described(name=entry.name, summary=entry.description)
            listed.append(
                {
                    "plugin": name,
                    "described": msgspec.to_builtins(described.get(entry.name, plain)),
                    "needs_model": entry.needs_model,
                    "idempotent": entry.idempotent,
                    "writes": bool(writes),
                    "connects": bool(asked.network),
                    "calls": bool(asked.operations),
                    "may": [words(each) for each in asks(plugin)],
                }
            )
    return {"operations": listed}


def models(rows: Rows, registry: Registry) -> Rows:
    """Every stored model and whether a worker holds it."""
    states = {worker["spec.model"]: worker["state"] for worker in rows["workers"]}
    listed: list[Rows] = []
    for name in model_names():
        try:
            record = stored_model(name)
        except ClawError as error:
            listed.append({"name": name, "problem": error.message})
            continue
        listed.append(
            {
                "name": name,
                "bytes": record.bytes,
                "capability": record.capability,
                "format": record.format,
                "serves": record.serves,
                "version": record.version,
                "licence": record.licence,
                "sha256": record.sha256,
                "pulled_at": record.pulled_at,
                "state": states.get(name, "stored"),
            }
        )
    return {"models": listed}


def activity(worker: Rows, running: int) -> str:
    """The state of a worker that runs so many tasks, or what keeps it from going on."""
    if worker["suspended"]:
        return "suspended"
    if worker["state"] == "ready" and running:
        return "held" if worker["threads"] < 0 else "running"
    return str(worker["state"])


def workers(rows: Rows, registry: Registry) -> Rows:
    """Every worker process."""
    now = rows["now"]
    shared: Counter[int] = Counter()
    for held in rows["memory"]:
        shared[held["worker"]] += held["size"] if held["client"] else 0
    listed = [
        {
            "worker": each["id"],
            "pid": rows["pids"].get(each["id"], 0),
            "plugin": each["spec.plugin"],
            "model": each["spec.model"],
            "lane": each["spec.lane"],
            "pinned": each["service.pinned"],
            "state": activity(each, running),
            "threads": max(0, each["threads"]),
            "running": running,
            "queued": each["service.queue.count"],
            "bytes": each["holds"] + shared[each["id"]],
            "idle_s": 0 if running else (now - (each["idle_since"] or now)) // SECOND,
        }
        for each, running in zip(rows["workers"], rows["running"], strict=True)
    ]
    return {"workers": listed}


def tasks(rows: Rows, registry: Registry) -> Rows:
    """Every task that has not ended, with its place in its queue."""
    places = _places(rows["tasks"])
    workers = zip(rows["workers"], rows["running"], strict=True)
    busy = {worker["id"]: activity(worker, running) for worker, running in workers}
    listed = []
    for each in rows["tasks"]:
        _, model, lane = each["service.key"]
        row = {
            "task": each["id"],
            "client": each["asked.client"],
            "op": each["asked.op"],
            "model": model,
            "lane": lane,
            "priority": each["asked.priority"],
            "state": busy[each["worker"]] if each["state"] == "running" else each["state"],
            "position": places.get(each["id"]),
            "age_ms": (rows["now"] - each["submitted"]) // MS,
            "worker": each["worker"],
            "job": each["asked.job"],
            "parent": each["asked.parent"],
        }
        listed.append(row)
    return {"tasks": listed}


def place(task: Rows) -> Place:
    """Where a task that is queued stands: by class and due time."""
    return task["rank"], task["sort"], task["id"]


def _places(tasks: list[Rows]) -> dict[int, int]:
    """Of those that are queued, by number; 0 is the next of its service."""
    queues: dict[tuple[str, ...], list[Place]] = defaultdict(list)
    for task in tasks:
        if task["state"] == "queued":
            queues[tuple(task["service.key"])].append(place(task))
    ordered = [sorted(queue) for queue in queues.values()]
    return {number: found for queue in ordered for found, (_, _, number) in enumerate(queue)}


def box(rows: Rows, registry: Registry) -> Rows:
    """The machine, as counters."""
    return boxes.box(rows["pids"], rows["device"])


def operation(name: str, registry: Registry) -> Rows:
    """One operation: what its manifest says of it, and what it says of itself, if that is kept."""
    offer = registry.offer(name)
    entry, known = offer.operation, schema.read(registry.places[offer.plugin]) or {}
    described = msgspec.to_builtins(known[name]) if name in known else None
    return {"plugin": offer.plugin, **msgspec.to_builtins(entry), "described": described}


VIEWS: dict[str, Callable[[Rows, Registry], Rows]] = {
    "status": status,
    "plugins": plugins,
    "operations": operations,
    "models": models,
    "workers": workers,
    "tasks": tasks,
    "box": box,
}


def view(what: str, rows: Rows, registry: Registry) -> Rows:
    """The view of a name.

    Raises:
        ClawError: bad_params, unknown_operation.
    """
    verb, _, name = what.partition(":")
    if verb == "operation":
        return operation(name, registry)
    if what not in VIEWS:
        raise ClawError("bad_params", "no such listing", what[:80], allowed=sorted(VIEWS))
    return VIEWS[what](rows, registry)
