"""`claw ps`, `plugins` and `version`: what the running kernel knows."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import click

from clawai.sdk import schema
from clawai.sdk.cli import output
from clawai.sdk.cli.daemon import connect


@click.command("ps")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def ps_command(as_json: bool) -> None:
    """List the workers, and the tasks in the order in which they will run.

    \b
    Example:
      claw ps
    """
    with connect() as client:
        status = client.query("status")
        workers = client.query("workers")["workers"]
        tasks = client.query("tasks")["tasks"]
    if as_json:
        output.print_json({"status": status, "workers": workers, "tasks": tasks})
        return
    used, budget = status.get("used_bytes", 0), status.get("budget_bytes", 0)
    level = (status.get("sandbox") or {}).get("level", "?")
    print(
        f"kernel {status['pid']}, up {output.duration(status.get('uptime_s', 0))}, "
        f"memory {output.size(used)} of {output.size(budget)}, sandbox {level}"
    )
    print()
    _workers(workers)
    print()
    _tasks(tasks)


def _workers(workers: list[dict[str, Any]]) -> None:
    if not workers:
        print("no worker runs")
        return
    output.table(
        ("PID", "PLUGIN", "MODEL", "LANE", "STATE", "RUNNING", "QUEUED", "RESERVED", "IDLE"),
        [
            (
                row["pid"],
                row["plugin"],
                row["model"] or "-",
                row.get("lane", "-"),
                row["state"] + (", pinned" if row.get("pinned") else ""),
                row["running"],
                row["queued"],
                output.size(row["bytes"]),
                output.duration(row["idle_s"]) if row["idle_s"] else "-",
            )
            for row in workers
        ],
        right=(0, 5, 6, 7, 8),
    )


def _tasks(tasks: list[dict[str, Any]]) -> None:
    if not tasks:
        print("no task waits or runs")
        return
    output.table(
        ("TASK", "OPERATION", "MODEL", "CLASS", "STATE", "PLACE", "AGE"),
        [
            (
                row["task"],
                row["op"],
                row["model"] or "-",
                row["priority"],
                row["state"],
                "-" if row["position"] is None else row["position"] + 1,
                output.duration(row["age_ms"] / 1000),
            )
            for row in sorted(tasks, key=_order)
        ],
        right=(0, 5, 6),
    )


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    """Running tasks first, then each queue in its order."""
    place = row["position"]
    return (place is not None, row["model"], -1 if place is None else place, row["task"])


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
def plugins_command(as_json: bool) -> None:
    """List the plugins, their operations, and how their workers fare.

    \b
    Example:
      claw plugins
    """
    with connect(start=True) as client:
        answer = client.query("plugins")
    rows = answer["plugins"]
    if as_json:
        for row in rows:  # what each operation takes, where its plugin keeps that
            kept = schema.read(Path(row["folder"])) or {}
            row["tools"] = [schema.tool(each) for each in kept.values()]
        output.print_json(rows)
        return
    output.table(
        ("NAME", "VERSION", "KIND", "STATE", "RESTARTS", "OPERATIONS", "DESCRIPTION"),
        [
            (
                row["name"],
                row["version"],
                row["kind"],
                _state(row),
                max(0, row["started"] - 1),
                ", ".join(row["operations"]) or "-",
                row["description"],
            )
            for row in rows
        ],
        right=(4,),
    )
    for row in rows:
        if problem := row.get("problem"):
            output.note(f"{row['name']}: {problem}" if row.get("granted", True) else problem)
    for folder, problem in answer.get("problems", {}).items():
        output.note(f"not usable: {folder}: {problem}")


def _state(row: dict[str, Any]) -> str:
    if not row.get("granted", True):
        return "not granted"
    if row["quarantined"]:
        return "quarantined"
    if row["workers"]:
        return f"{row['workers']} running"
    return "ready" if row["operations"] else "-"


@click.command("version")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def version_command(as_json: bool) -> None:
    """Show the version of ClawAI.

    \b
    Example:
      claw version
    """
    from clawai.sdk import wire

    found = {
        "clawai": importlib.metadata.version("clawai"),
        "wire": ".".join(map(str, wire.VERSION)),
        "python": platform.python_version(),
    }
    if as_json:
        output.print_json(found)
    else:
        print(f"clawai {found['clawai']}, wire {found['wire']}, Python {found['python']}")
