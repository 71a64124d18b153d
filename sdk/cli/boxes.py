"""`claw boxes`: one box's page shows many boxes; who ships, and who collects."""

import contextlib
import os
import subprocess
import sys
import time
from functools import partial
from typing import Any

import click
import msgspec

from clawai.sdk.boxes import keys, views, wire
from clawai.sdk.boxes.identity import own
from clawai.sdk.cli import output
from clawai.sdk.cli.main import CANCELLED
from clawai.sdk.cli.numbers import Real
from clawai.sdk.errors import ClawError

COLLECTOR = (sys.executable, "-P", "-m", "clawai.sdk.boxes.collector")
PAUSES = 0.1, 10.0
"""Seconds before a collector that died is started again: at first, and at most."""
STEADY = 60.0
"""One that lived so long did not die of the same again."""


@click.group("boxes", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def boxes_command(context: click.Context, as_json: bool) -> None:
    """List the boxes that ship their logs and figures here.

    The box that shows them runs `claw boxes collect`, each other one `claw boxes ship`; both know
    the other's key, and all between them is encrypted (ZeroMQ CURVE). The page of the collecting
    box (`claw http`) has their lines and figures, /metrics the figures.

    \b
    Examples:
      claw boxes
      claw boxes key
      claw boxes add kitchen 3fd0...64-digits...
      claw boxes collect --listen 0.0.0.0:7187
      claw boxes ship tcp://192.168.1.2:7187 --server-key 9c41...64-digits...
    """
    if context.invoked_subcommand:
        return
    rows = views.listed()
    if as_json:
        output.print_json({"boxes": rows})
        return
    if not rows:
        output.note("none ships here; claw boxes add NAME KEY lets one")
        return
    columns = ("BOX", "LAST HEARD OF", "CLOCK", "BUSY", "MEMORY FREE", "TASKS", "LINES", "LOST")
    output.table(columns, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    heard = "never" if row["silent_s"] is None else f"{output.duration(row['silent_s'])} ago"
    known = heard if row["key"] else f"{heard}, removed"
    ahead = row["ahead_s"]
    clock = f"{output.duration(abs(ahead))} {'ahead' if ahead > 0 else 'behind'}"
    busy = "-" if row["busy"] is None else f"{100 * row['busy']:.0f} %"
    lost = f"{row['lost']}{'' if row['lost_whole'] else ' or more'}"
    return (
        row["name"],
        known if row["kernel"] or row["silent_s"] is None else f"{known}, no kernel",
        clock if abs(ahead) >= 2 else "-",
        busy,
        output.size(row["available_bytes"]) if row["kernel"] else "-",
        f"{row['running']} run, {row['waiting']} wait",
        str(row["lines"]),
        lost,
    )


@boxes_command.command("key")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def key_command(as_json: bool) -> None:
    """Print the public key of this box, which it makes when it is first asked.

    \b
    Example:
      claw boxes key
    """
    public = own()[0].hex()
    if as_json:
        output.print_json({"key": public})
    else:
        print(public)


@boxes_command.command("add", no_args_is_help=True)
@click.argument("name")
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def add_command(name: str, key: str, as_json: bool) -> None:
    """Let the box with the public key KEY ship here, under NAME.

    \b
    Example:
      claw boxes add kitchen 3fd0...64-digits...
    """
    keys.add(name, key)
    if as_json:
        output.print_json({"name": name, "added": True})
        return
    print(f"{name} may ship here")
    public = own()[0].hex()
    output.note(f"there: claw boxes ship tcp://THIS-BOX:{wire.PORT} --server-key {public}")


@boxes_command.command("remove", no_args_is_help=True)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def remove_command(name: str, as_json: bool) -> None:
    """Let NAME ship here no more; a collector that runs knows within two seconds.

    What it has shipped stays until it is too old.

    \b
    Example:
      claw boxes remove kitchen
    """
    keys.remove(name)
    if as_json:
        output.print_json({"name": name, "removed": True})
    else:
        print(f"{name} may ship here no more")


@boxes_command.command("collect")
@click.option(
    "--listen", metavar="ADDRESS:PORT", default=f"0.0.0.0:{wire.PORT}", show_default=True,
    help="Where the boxes come to.",
)  # fmt: skip
@click.option(
    "--max-mib", type=click.IntRange(4, 512), default=64, show_default=True,
    help="Lines of one box; the oldest go first.",
)  # fmt: skip
@click.option(
    "--days", type=Real(0.01, 3650), default=30, show_default=True, help="Lines are kept so long."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: where it listens.")
def collect_command(listen: str, max_mib: int, days: float, as_json: bool) -> None:
    """Take what the boxes that were added ship, until Ctrl-C.

    \b
    Example:
      claw boxes collect --listen 0.0.0.0:7187
    """
    from clawai.sdk.boxes.collector import parsed

    place, pause, said = parsed(listen), PAUSES[0], False
    if not keys.read():
        output.note("no box may ship here yet; claw boxes add NAME KEY lets one")
    try:
        while True:
            began = time.monotonic()
            place = _collect(place, max_mib, days, None if said else as_json)
            said = True
            if time.monotonic() - began > STEADY:
                pause = PAUSES[0]
            output.note("the collector died; it is started again")
            time.sleep(pause)
            pause = min(2 * pause, PAUSES[1])
    except KeyboardInterrupt:
        output.note("nothing is collected any more")
        raise click.exceptions.Exit(CANCELLED) from None


def _collect(place: str, max_mib: int, days: float, as_json: bool | None) -> str:
    """Run one collector to its end, which is its death; where it listened.

    Its standard input is ours to hold: it ends when that does, however this process ends.

    Raises:
        ClawError: whatever it could not begin for.
    """
    reader, writer = os.pipe()
    words = [*COLLECTOR, place, str(max_mib << 20), str(days)]
    # In a session of its own: Ctrl-C is for us, who end it in order.
    child = subprocess.Popen(words, stdin=reader, stdout=subprocess.PIPE, start_new_session=True)
    os.close(reader)
    assert child.stdout
    try:
        first = child.stdout.readline().decode().strip()
        if first.startswith("! "):
            raise ClawError(**msgspec.json.decode(first[2:]))
        if first and as_json is not None:
            _say(first, child.pid, as_json)
        child.wait()
        return first.removeprefix("tcp://") or place
    finally:
        os.close(writer)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
        child.kill()
        child.wait()
        child.stdout.close()


def _say(address: str, pid: int, as_json: bool) -> None:
    public = own()[0].hex()
    if as_json:
        output.print_json({"listens": address, "pid": pid, "key": public})
        sys.stdout.flush()
        return
    print(f"listens at   {address}")
    print(f"key          {public}")
    print("Ctrl-C ends it; `claw boxes` lists the boxes, `claw http` shows their logs.", flush=True)


@boxes_command.command("ship", no_args_is_help=True)
@click.argument("address")
@click.option("--server-key", required=True, help="What `claw boxes key` prints there.")
@click.option(
    "--rate", type=click.IntRange(1, 1 << 20), default=256, show_default=True,
    help="KiB of the log a second at most.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Ship what there is now, and end.")
def ship_command(address: str, server_key: str, rate: int, once: bool) -> None:
    """Ship the log and the figures of this box to the collector at ADDRESS, until Ctrl-C.

    It waits for the collector, and for the kernel of this box, as long as it takes. It begins with
    the oldest line that is kept here, and later goes on where it was. The kernel may run or not:
    none is started.

    \b
    Example:
      claw boxes ship tcp://192.168.1.2:7187 --server-key 9c41...64-digits...
    """
    import zmq

    from clawai.sdk.boxes.agent import Agent, Link

    server = keys.parsed(server_key, "a collector")
    mine = own()
    with zmq.Context() as context:
        agent = Agent(partial(Link, context, address, server, mine), rate << 10, output.note, once)
        try:
            agent.run()
        except KeyboardInterrupt:
            output.note("nothing is shipped any more")
            raise click.exceptions.Exit(CANCELLED) from None
