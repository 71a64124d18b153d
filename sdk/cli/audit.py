"""`claw audit`: what plugins did on the network, from the audit log; needs no running kernel."""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from clawai.sdk import audit
from clawai.sdk.cli import output
from clawai.sdk.errors import ClawError
from clawai.sdk.netrules import spoken

_TRIES = 3
"""The log may be rotated while it is read: what is wrong once only is not."""


@click.command("audit")
@click.option("--plugin", metavar="NAME", help="Of this plugin only.")
@click.option("--denied", is_flag=True, help="Only what was denied.")
@click.option(
    "-n", "--lines", type=click.IntRange(1), default=50, show_default=True, help="How many."
)
@click.option("--verify", is_flag=True, help="Look whether the log was changed.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list; with --verify one object.")
def audit_command(
    plugin: str | None, denied: bool, lines: int, verify: bool, as_json: bool
) -> None:
    """Show what plugins were granted, where they connected, who connected to them, what was denied.

    Names, addresses and counts only: what was sent is never looked at. Each record holds the hash
    of the one before it, and --verify follows the chain. Exit code 1 if it was broken.

    \b
    Example:
      claw audit --denied
      claw audit --plugin fetch -n 10
      claw audit --verify
    """
    try:
        if verify:
            if plugin or denied:
                raise click.UsageError("--verify looks at the whole log; leave the filters away")
            _verify(as_json)
            return
        rows = [row for row in audit.connections(audit.records()) if _wanted(row, plugin, denied)]
    except OSError as error:
        text = f"the audit log cannot be read: {error.strerror}"
        raise ClawError("not_permitted", text, str(error.filename)) from error
    rows = rows[-lines:]
    if as_json:
        output.print_json(rows)
    elif rows:
        _table(rows)
    else:
        print("nothing is written down yet" if not (plugin or denied) else "no such record")


def _wanted(row: audit.Record, plugin: str | None, denied: bool) -> bool:
    if plugin and row.get("plugin") != plugin:
        return False
    return not denied or row.get("verdict") == "denied" or bool(row.get("denied"))


def _verify(as_json: bool) -> None:
    for _ in range(_TRIES):
        verdict = audit.verify()
        if verdict.ok:
            break
    if as_json:
        found: dict[str, Any] = {"ok": verdict.ok, "records": verdict.count, "first": verdict.first}
        found |= {"last": verdict.last, "hash": verdict.hash, "problems": verdict.problems}
        output.print_json(found)
    elif verdict.ok:
        print(f"{verdict.count} records, {verdict.first} to {verdict.last}: the chain is whole")
        print(f"hash of the last: {verdict.hash}")
    else:
        for problem in verdict.problems:
            print(problem)
    if not verdict.ok:
        raise click.exceptions.Exit(1)


def _table(rows: list[audit.Record]) -> None:
    """Rows for people."""
    output.table(
        ("TIME", "PLUGIN", "WORKER", "FOR", "VERDICT", "SENT", "RECEIVED", "TOOK", "WHAT"),
        [
            (
                _local(row.get("time")),
                _text(row.get("plugin")) or "-",
                _text(row.get("worker")) or "-",
                _text(row.get("principal")) or "-",
                _verdict(row),
                _figure(row.get("sent"), output.size),
                _figure(row.get("received"), output.size),
                _figure(row.get("seconds"), output.duration),
                _what(row),
            )
            for row in rows
        ],
        right=(2, 5, 6, 7),
    )


def _verdict(row: audit.Record) -> str:
    """What came of a connection; of other records what they are."""
    if row.get("event") not in ("connect", "accept"):
        return _text(row.get("event"))
    if row.get("verdict", "allowed") != "allowed":
        return _text(row.get("verdict"))
    return _text(row.get("ended")) or "open"


def _what(row: audit.Record) -> str:
    """Where it went, or what else there is to say."""
    event = row.get("event")
    if event == "connect":
        host, port, address = row.get("host"), row.get("port"), _text(row.get("address"))
        where = spoken(_text(host), _number(port))
        at = f" at {address}" if address and address != host else ""
        reason = _text(row.get("reason"))
        return f"{where}{at}: {reason}" if reason else f"{where}{at}"
    if event == "accept":
        who = spoken(_text(row.get("address")), _number(row.get("peer_port")))
        return f"{who} connected to port {_number(row.get('port'))}"
    if event == "memory":
        reason = _text(row.get("reason"))
        what = f"the shared memory {_text(row.get('name'))} of user {_number(row.get('owner'))}"
        return f"{what}: {reason}" if reason else f"{what} was opened"
    if event == "grant":
        parts = [f"may {verb} {_text(row[key])}" for verb, key in _GRANTS if row.get(key)]
        return ", ".join(parts) or "nothing"
    if event == "more":
        taken = f", {row['accepts']} accepted" if row.get("accepts") else ""
        told = f"{row.get('connects')} more connections, {row.get('denied')} of them denied"
        return f"{told}{taken}"
    return _text(row.get("reason"))


_GRANTS = (
    ("connect to", "network"),
    ("listen on", "listen"),
    ("have shared memory opened:", "memory"),
)


def _text(value: Any) -> str:
    return "" if value is None else re.sub(r"\s+", " ", str(value))


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _figure(value: Any, shown: Callable[[float], str]) -> str:
    return shown(value) if isinstance(value, int | float) else "-"


def _local(stamp: Any) -> str:
    """A time of the log on the clock of this box."""
    try:
        when = datetime.fromisoformat(str(stamp)).astimezone()
    except ValueError:
        return _text(stamp)
    return when.strftime("%Y-%m-%d %H:%M:%S")
