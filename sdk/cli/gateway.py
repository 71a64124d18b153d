"""`claw http`: the gateway, for as long as this command lives."""

import time
from typing import TYPE_CHECKING

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.daemon import connect
from clawai.sdk.cli.main import CANCELLED
from clawai.sdk.errors import ClawError

if TYPE_CHECKING:
    from clawai.sdk.client import Client

OPERATION = "gateway.serve"
AGAIN = ("worker_died", "worker_hung")
"""What ended it may not end it the next time."""
PAUSES = (0.1, 10.0)
"""Seconds before it is started again: at first, and at most when it goes on dying."""
STEADY = 60.0
"""A gateway that lived so long was no sign of trouble."""


@click.command("http")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: where it serves.")
def http_command(as_json: bool) -> None:
    """Show what this box does in a browser, and let programs talk to its models over HTTP.

    Programs that speak OpenAI's or Ollama's HTTP need the address and nothing else. Only programs
    of this box are answered, on port 8080 or the one that plugins.ports names. The
    gateway is a plugin in its sandbox; Ctrl-C ends it, and the kernel goes on. It needs the
    packages of clawai[web].

    \b
    Example:
      claw config set plugins.ports '["gateway:8080=9090"]'
      claw http
      curl http://localhost:9090/v1/models
    """
    try:
        with connect(start=True) as client:
            _serve(client, as_json)
    except KeyboardInterrupt:
        output.note("the gateway has ended")
        raise click.exceptions.Exit(CANCELLED) from None


def _serve(client: "Client", as_json: bool) -> None:
    """Have it run, again and again, until it is cancelled or cannot."""
    pause = PAUSES[0]
    while True:
        began = time.monotonic()
        try:
            _once(client, as_json)
            return
        except ClawError as error:
            if error.code not in AGAIN:
                raise
            if time.monotonic() - began > STEADY:
                pause = PAUSES[0]
            output.note(f"{error.message}; it is started again")
        time.sleep(pause)
        pause = min(2 * pause, PAUSES[1])


def _once(client: "Client", as_json: bool) -> None:
    task = client.submit(OPERATION)
    for event in task:
        if event.kind == "progress" and event.note.startswith("http://"):
            _say(event.note, as_json)
    task.result()


def _say(address: str, as_json: bool) -> None:
    page = {"page": f"{address}/"} if _has_page() else {}
    if as_json:
        output.print_json({"openai": f"{address}/v1", "ollama": address, **page})
        return
    print(f"OpenAI's API   {address}/v1")
    print(f"Ollama's API   {address}")
    if page:
        print(f"The page       {page['page']}")
    print("Ctrl-C ends it; `claw logs --follow` shows what is asked.", flush=True)


def _has_page() -> bool:
    """Whether the owner has left the gateway its page."""
    from clawai.sdk import settings

    plugin, _ = settings.find("gateway")
    return settings.values(plugin).get("page") != "none"
