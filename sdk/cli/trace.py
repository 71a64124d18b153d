"""`claw trace`: what ran in the last minutes, and why it waited."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click

from clawai.sdk import timeline
from clawai.sdk.cli import output
from clawai.sdk.cli.daemon import connect


@click.command("trace")
@click.option(
    "--minutes", type=click.FloatRange(0.05, 10), default=10.0, show_default=True, metavar="N",
    help="How far back.",
)  # fmt: skip
@click.option(
    "--perfetto", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write a trace that ui.perfetto.dev opens.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object: every span.")
def trace_command(minutes: float, perfetto: Path | None, as_json: bool) -> None:
    """Show which tasks ran in the last minutes, and why each of them waited.

    Read from the kernel's event journal, so it is exact, and holds no prompt and no result.

    \b
    Examples:
      claw trace
      claw trace --minutes 1 --perfetto trace.json
    """
    with connect() as client:
        told = client.query(f"timeline:{max(1, round(60 * minutes))}")
    if perfetto:
        perfetto.write_text(json.dumps(timeline.perfetto(told)))
    if as_json:
        output.print_json(told)
        return
    if not told["tasks"]:
        print("no task ran in that time")
    else:
        _print(told)
    if told["left_out"]:
        output.note(f"{told['left_out']} older tasks are not shown")
    if perfetto:
        output.note(f"{perfetto}: open it with https://ui.perfetto.dev, which sends it nowhere")


def _print(told: dict[str, Any]) -> None:
    rows = []
    for task in told["tasks"]:
        found = timeline.pieces(told, task)
        ran = sum(piece.end - piece.begin for piece in found if piece.phase == "running")
        life = (told["now"] if task["end"] is None else task["end"]) - task["begin"]
        why = [f"{said} {_ms(took)}" for said, took in timeline.reasons(found) if took >= 500_000]
        again = Counter(piece.again for piece in found if piece.again)
        why += [f"{timeline.AGAIN[kind]} {count}x" for kind, count in again.items()]
        rows.append(
            (
                task["id"],
                task["op"],
                timeline.title(told, task),
                task["priority"],
                output.duration((told["now"] - task["begin"]) / 1e9),
                _ms(life),
                _ms(ran),
                task["how"] or "goes on",
                "; ".join(why[:4]) or "-",
            )
        )
    heads = ("TASK", "OPERATION", "FOR", "CLASS", "AGO", "TOOK", "RAN", "END", "WAITED")
    output.table(heads, rows, right=(0, 4, 5, 6))


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:.2f} s" if nanoseconds >= 10**9 else f"{nanoseconds / 1e6:.1f} ms"
