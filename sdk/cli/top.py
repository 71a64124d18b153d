"""`claw top`: what the box does, live: processor, memory by who holds it, the queue by class.

Everything comes from the kernel's listings and from /proc; nothing is kept. Not on a terminal it is
shown once.
"""

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clawai.sdk import wire
from clawai.sdk.cli import output
from clawai.sdk.cli.daemon import connect

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

    from clawai.sdk.client import Client

TICK = os.sysconf("SC_CLK_TCK")
FIRST_S = 0.2
"""Between the first two looks at the processor."""


class Look:
    """What was seen of the processor the last time."""

    def __init__(self) -> None:
        self._box = _box()
        self._spent: dict[int, int] = {}
        self._when = time.monotonic()

    def now(self, pids: list[int]) -> tuple[float, dict[int, float]]:
        """Parts of the whole box that is busy, and of one processor that each process uses."""
        box, when = _box(), time.monotonic()
        idle, total = (new - old for new, old in zip(box, self._box, strict=True))
        spent = {pid: found for pid in pids if (found := _spent(pid)) is not None}
        seconds = max(when - self._when, 1e-3)
        shares = {
            pid: (ticks - self._spent[pid]) / TICK / seconds
            for pid, ticks in spent.items()
            if pid in self._spent
        }
        self._box, self._spent, self._when = box, spent, when
        return (1 - idle / total if total else 0.0), shares


def _box() -> tuple[int, int]:
    """Ticks of all processors that were idle, and all."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def _spent(pid: int) -> int | None:
    """Ticks of a process; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[11]) + int(fields[12])


def hottest() -> float | None:
    """Degrees Celsius of the hottest sensor; None if none can be read."""
    found = []
    for path in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(path.read_text()) / 1000)
    return max(found, default=None)


def snapshot(client: "Client", look: Look) -> dict[str, Any]:
    """Everything that is shown."""
    status = client.query("status")
    workers, tasks = client.query("workers")["workers"], client.query("tasks")["tasks"]
    busy, shares = look.now([row["pid"] for row in workers if row["pid"]])
    for row in workers:
        row["processors"] = round(shares.get(row["pid"], 0.0), 3)
    waiting = Counter(row["priority"] for row in tasks if row["state"] != "running")
    return {
        "pid": status["pid"],
        "uptime_s": status["uptime_s"],
        "sandbox": (status["sandbox"] or {}).get("level", "?"),
        "processor_ratio": round(busy, 3),
        "temperature_c": hottest(),
        "used_bytes": status["used_bytes"],
        "budget_bytes": status["budget_bytes"],
        "waiting": {priority: waiting[priority] for priority in wire.PRIORITIES},
        "workers": workers,
        "tasks": tasks,
    }


@click.command("top")
@click.option(
    "--interval", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, metavar="S",
    help="Seconds between two looks.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object, once.")
def top_command(interval: float, as_json: bool) -> None:
    """Show live what the box does: processor, memory, workers, and the queue by class.

    q ends it. Into a pipe it is shown once.

    \b
    Example:
      claw top
    """
    with connect() as client:
        look = Look()
        client.query("status")
        time.sleep(FIRST_S)
        if as_json:
            snapshot(client, look)
            time.sleep(FIRST_S)
            output.print_json(snapshot(client, look))
            return
        from rich.console import Console

        console = Console(highlight=False)
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            console.print(screen(snapshot(client, look), 1 << 20))
            return
        _live(client, look, interval, console)


def _live(client: "Client", look: Look, interval: float, console: "Console") -> None:
    from rich.live import Live

    with (
        contextlib.suppress(KeyboardInterrupt),
        _keys(),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            shown = snapshot(client, look)
            live.update(screen(shown, console.size.height), refresh=True)
            if select.select([sys.stdin], [], [], interval)[0]:
                pressed = os.read(sys.stdin.fileno(), 64)
                if not pressed or pressed[:1] in (b"q", b"Q", b"\x1b", b"\x04"):
                    return


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Keys come at once and are not shown."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def screen(shown: dict[str, Any], height: int) -> "Group":
    """All of it, in so many lines."""
    from rich.console import Group
    from rich.text import Text

    degrees = shown["temperature_c"]
    head = (
        f"kernel {shown['pid']}, up {output.duration(shown['uptime_s'])}, "
        f"sandbox {output.clean(str(shown['sandbox']))}"
    )
    if degrees is not None:
        head += f", {degrees:.0f} °C"
    waiting = "   ".join(f"{name} {count}" for name, count in shown["waiting"].items())
    room = max(2, (height - 9) // 2)
    return Group(
        Text(head, style="bold"),
        _bars(shown),
        Text.assemble(("waiting    ", "dim"), waiting),
        Text(""),
        _workers(shown["workers"], room),
        Text(""),
        _tasks(shown["tasks"], room),
    )


def _bars(shown: dict[str, Any]) -> "Table":
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(width=32)
    grid.add_column()
    used, budget = shown["used_bytes"], max(1, shown["budget_bytes"])
    rows = (
        ("processor", shown["processor_ratio"], f"{shown['processor_ratio']:.0%} of the box"),
        ("memory", used / budget, f"{output.size(used)} of {output.size(budget)} promised"),
    )
    for name, part, text in rows:
        colour = "red" if part > 0.9 else "yellow" if part > 0.7 else "green"
        bar = ProgressBar(total=1.0, completed=min(1.0, part), width=32, complete_style=colour)
        grid.add_row(name, bar, Text(text))
    return grid


def _workers(rows: list[dict[str, Any]], room: int) -> "Table":
    rows = sorted(rows, key=lambda row: (-row["processors"], -row["bytes"]))
    cells = [
        (
            _name(row["plugin"]),
            _name(row["model"]) or "-",
            row["state"] + (", pinned" if row["pinned"] else ""),
            f"{row['processors']:.0%}",
            str(row["threads"]),
            output.size(row["bytes"]),
            str(row["running"]),
            str(row["queued"]),
            output.duration(row["idle_s"]) if row["idle_s"] else "-",
        )
        for row in rows
    ]
    names = ("PLUGIN", "MODEL", "STATE", "CPU", "THREADS", "HOLDS", "RUNNING", "QUEUED", "IDLE")
    return _table(names, cells, room, "workers", right=3)


def _tasks(rows: list[dict[str, Any]], room: int) -> "Table":
    order = {name: place for place, name in enumerate(wire.PRIORITIES)}
    rows = sorted(
        rows, key=lambda row: (row["position"] is not None, order[row["priority"]], row["task"])
    )
    cells = [
        (
            str(row["task"]),
            _name(row["op"]),
            _name(row["model"]) or "-",
            row["priority"],
            row["state"],
            "-" if row["position"] is None else str(row["position"] + 1),
            output.duration(row["age_ms"] / 1000),
        )
        for row in rows
    ]
    names = ("TASK", "OPERATION", "MODEL", "CLASS", "STATE", "PLACE", "AGE")
    return _table(names, cells, room, "tasks", right=5)


def _name(text: str) -> str:
    return output.clean(text)[:40]


def _table(
    names: Sequence[str], cells: Sequence[tuple[str, ...]], room: int, what: str, right: int
) -> "Table":
    """Rows, and how many more there are; figures from column ``right`` on."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place >= right else "left", no_wrap=True)
    for row in cells[:room]:
        table.add_row(*(Text(cell) for cell in row))
    if not cells:
        table.add_row(Text(f"no {what}", style="dim"))
    elif len(cells) > room:
        table.add_row(Text(f"... {len(cells) - room} more", style="dim"))
    return table
