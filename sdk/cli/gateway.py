"""`claw http`: the gateway, for as long as this command lives."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from clawai.sdk import httpkeys, wire
from clawai.sdk.cli import access, output
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


@click.group("http", invoke_without_command=True)
@click.option(
    "--listen", metavar="ADDRESS:PORT", help="Where, from now on: 127.0.0.1:8080, 0.0.0.0:8443."
)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificates in PEM.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Their private key in PEM.")
@click.option("--tls-self-signed", is_flag=True, help="A certificate that this box makes itself.")
@click.option("--behind-proxy", is_flag=True, help="Keys, but no TLS: a proxy before it has that.")
@click.option("--tools", multiple=True, help="An operation, or a pattern, for MCP without a key.")
@click.option("--traces", is_flag=True, help="To OpenTelemetry's collector at localhost:4318.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: where it serves.")
@click.pass_context
def http_command(
    context: click.Context,
    listen: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_self_signed: bool,
    behind_proxy: bool,
    tools: tuple[str, ...],
    traces: bool,
    as_json: bool,
) -> None:
    """Show what this box does in a browser, and let programs talk to its models over HTTP.

    Programs that speak OpenAI's or Ollama's HTTP need the address and nothing else. Only programs
    of this box are answered, on port 8080 or the one that plugins.ports names. Other
    boxes reach an address that is not 127.0.0.1: that needs keys (`claw http key add`) and TLS. The
    gateway is a plugin in its sandbox; Ctrl-C ends it, and the kernel goes on. It needs the
    packages of clawai[web].

    \b
    Examples:
      claw http
      claw http --listen 127.0.0.1:9090 --tools 'llm.*'
      claw http key add anna --per-minute 60
      claw http --listen 0.0.0.0:8443 --tls-self-signed
    """
    if context.invoked_subcommand:
        return
    if bool(tls_cert) != bool(tls_key) or (tls_cert and tls_self_signed):
        raise click.UsageError("--tls-cert and --tls-key together, or --tls-self-signed")
    address = access.parsed(listen) if listen else access.address()
    params: dict[str, Any] = {"behind_proxy": behind_proxy, "tools": list(tools)}
    params["traces"] = traces
    if tls_cert and tls_key:
        params["certificate"] = access.given(tls_cert, tls_key)
    elif tls_self_signed:
        params["certificate"], file, print_ = access.self_signed(address)
        output.note(f"the certificate is {file}, its SHA-256 {print_}")
    closed = behind_proxy or not access.is_own(address)
    if closed and not httpkeys.read():
        text = "there is no key, and so nobody who could be answered"
        raise ClawError("not_permitted", text, address, hint="claw http key add NAME")
    try:
        with connect(start=True) as client:
            if listen:
                access.let_go(client)
                access.listen_at(address)
            serve_http(client, params, closed, as_json)
    except KeyboardInterrupt:
        output.note("the gateway has ended")
        raise click.exceptions.Exit(CANCELLED) from None


@http_command.group("key")
def key_command() -> None:
    """Make, list and take back the keys of those who ask from other boxes.

    \b
    Example:
      claw http key add anna
    """


class _Duration(click.ParamType[datetime]):
    """``30d``, ``12h``, or a date."""

    name = "DAYSd|HOURSh|DATE"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        """Called by click."""
        try:
            if value[-1:] in "dh" and value[:-1].isdigit():
                unit = "days" if value.endswith("d") else "hours"
                return datetime.now(UTC) + timedelta(**{unit: int(value[:-1])})
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is none of 30d, 12h, 2027-01-31", param, ctx)


@key_command.command("add", no_args_is_help=True)
@click.argument("name")
@click.option("--models", multiple=True, help="A model, or a pattern such as 'smol*'.  [any]")
@click.option("--operations", multiple=True, help="An operation, or a pattern.  [llm.*, metrics]")
@click.option(
    "--priority",
    type=click.Choice(wire.PRIORITIES),
    default="interactive",
    show_default=True,
    help="The highest class.",
)
@click.option("--per-minute", type=click.IntRange(1), help="Requests.")
@click.option("--tokens-per-minute", type=click.IntRange(1), help="Of questions and answers.")
@click.option("--open", "open_", type=click.IntRange(1), help="Requests at the same time.")
@click.option("--expires", type=_Duration(), help="When it opens nothing any more.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def key_add_command(
    name: str,
    models: tuple[str, ...],
    operations: tuple[str, ...],
    priority: str,
    per_minute: int | None,
    tokens_per_minute: int | None,
    open_: int | None,
    expires: datetime | None,
    as_json: bool,
) -> None:
    """Make a key for NAME and print it: this once, as only its hash is kept.

    \b
    Examples:
      claw http key add anna --models 'smol*' --per-minute 60 --expires 90d
      claw http key add prometheus --operations metrics
    """
    scopes: dict[str, Any] = {"priority": priority, "per_minute": per_minute or 0}
    scopes |= {"tokens_per_minute": tokens_per_minute or 0, "open": open_ or 0}
    scopes |= {"models": models} if models else {}
    scopes |= {"operations": operations} if operations else {}
    key, keys = httpkeys.add(name, expires, **scopes)
    access.tell(keys)
    if as_json:
        output.print_json({"name": name, "key": key})
        return
    print(key)
    output.note("it is shown this once; a client sends it as its API key")


@key_command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def key_list_command(as_json: bool) -> None:
    """List the keys, and what each may.

    \b
    Example:
      claw http key list
    """
    now = datetime.now(UTC)
    rows = []
    for key in httpkeys.read():
        row = msgspec.to_builtins(key)
        del row["hash"]
        rows.append(row | {"expired": key.has_expired(now)})
    if as_json:
        output.print_json({"keys": rows})
        return
    if not rows:
        output.note("there are none; claw http key add NAME makes one")
        return
    shown = []
    for row in rows:
        counts = {"per_minute": "a minute", "tokens_per_minute": "tokens a minute", "open": "open"}
        most = [f"{row[field]} {text}" for field, text in counts.items() if row[field]]
        ends = f"expired {row['expires']}" if row["expired"] else row["expires"] or "never"
        what = ", ".join(row["operations"]), ", ".join(row["models"])
        shown.append((row["name"], *what, row["priority"], ", ".join(most) or "-", ends))
    columns = ("NAME", "OPERATIONS", "MODELS", "HIGHEST CLASS", "AT MOST", "EXPIRES")
    output.table(columns, shown)


@key_command.command("revoke", no_args_is_help=True)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def key_revoke_command(name: str, as_json: bool) -> None:
    """Take the key of NAME back; a gateway that serves knows at once.

    \b
    Example:
      claw http key revoke anna
    """
    access.tell(httpkeys.revoke(name))
    if as_json:
        output.print_json({"name": name, "revoked": True})
    else:
        print(f"the key of {name} opens nothing any more")


def serve_http(client: "Client", params: dict[str, Any], closed: bool, as_json: bool) -> None:
    """Have it run, again and again, until it is cancelled or cannot."""
    pause = PAUSES[0]
    while True:
        began = time.monotonic()
        try:
            keys = {"keys": msgspec.to_builtins(httpkeys.read()), "required": closed}
            _once(client, params | keys, as_json)
            return
        except ClawError as error:
            if error.code not in AGAIN:
                raise
            if time.monotonic() - began > STEADY:
                pause = PAUSES[0]
            output.note(f"{error.message}; it is started again")
        time.sleep(pause)
        pause = min(2 * pause, PAUSES[1])


def _once(client: "Client", params: dict[str, Any], as_json: bool) -> None:
    task = client.submit(OPERATION, params)
    for event in task:
        if event.kind == "progress" and event.note.startswith("http"):
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
