"""What a query shows: listings made from the daemon's rows, the manifests and the store."""

from collections.abc import Callable
from typing import Any

from clawai.kernel.steward.registry import Registry, model_names, stored_model
from clawai.sdk.errors import ClawError

STATUS = (
    "pid",
    "uptime_s",
    "sandbox",
    "preemption",
    "budget_bytes",
    "used_bytes",
    "clients",
    "tasks",
    "segments",
    "ended",
    "log_lines_lost",
    "launchers",
)
Rows = dict[str, Any]


def status(rows: Rows, registry: Registry) -> Rows:
    """The kernel as a whole."""
    return {key: rows[key] for key in STATUS} | {"workers": len(rows["workers"])}


def plugins(rows: Rows, registry: Registry) -> Rows:
    """Every plugin, its operations and how its worker fares."""
    registry.scan()
    listed = []
    for name, plugin in registry.plugins.items():
        mine = [service for service in rows["services"] if service["plugin"] == name]
        listed.append(
            {
                "name": name,
                "version": plugin.plugin.version,
                "kind": plugin.plugin.kind,
                "description": plugin.plugin.description,
                "operations": [entry.name for entry in plugin.operation],
                "profile": plugin.permissions.profile,
                "workers": sum(service["worker"] is not None for service in mine),
                "started": sum(service["started"] for service in mine),
                "quarantined": any(service["quarantined"] for service in mine),
                "folder": str(registry.places[name]),
                "problem": next((s["problem"] for s in mine if s["problem"]), ""),
            }
        )
    return {"plugins": listed, "problems": dict(registry.problems)}


def models(rows: Rows, registry: Registry) -> Rows:
    """Every stored model and whether a worker holds it."""
    states = {service["model"]: service["worker"] for service in rows["services"]}
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
                "licence": record.licence,
                "state": states.get(name) or "stored",
            }
        )
    return {"models": listed}


def workers(rows: Rows, registry: Registry) -> Rows:
    """Every worker process."""
    return {"workers": rows["workers"]}


def tasks(rows: Rows, registry: Registry) -> Rows:
    """Every task that has not ended, in the order in which each queue will run it."""
    return {"tasks": rows["tasks"]}


VIEWS: dict[str, Callable[[Rows, Registry], Rows]] = {
    "status": status,
    "plugins": plugins,
    "models": models,
    "workers": workers,
    "tasks": tasks,
}


def view(what: str, rows: Rows, registry: Registry) -> Rows:
    """The view of a name.

    Raises:
        ClawError: bad_params.
    """
    if what not in VIEWS:
        raise ClawError("bad_params", "no such listing", what[:80], allowed=sorted(VIEWS))
    return VIEWS[what](rows, registry)
