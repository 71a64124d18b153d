"""`claw plugin list`: which plugins there are, where they come from, whether they may start."""

import contextlib
from typing import Any

import click

from clawai.sdk import asks, grants, install
from clawai.sdk.cli import output
from clawai.sdk.cli.plugin import showing
from clawai.sdk.errors import ClawError
from clawai.sdk.found import Found


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
def command(as_json: bool) -> None:
    """List the plugins, where they come from and what they were granted; needs no kernel.

    \b
    Example:
      claw plugin list
    """
    with contextlib.suppress(OSError, ClawError):  # what is there can be listed all the same
        install.sweep()
    found, problems, guard = showing.everything()
    rows = [row(each, found, guard) for each in found.values()]
    if as_json:
        output.print_json(rows + [{"folder": f, "problem": why} for f, why in problems.items()])
        return
    output.table(
        ("NAME", "VERSION", "LANGUAGE", "SOURCE", "SIGNED BY", "STATE", "PERMISSIONS"),
        [
            (
                each["name"],
                each["version"],
                showing.LANGUAGES.get(each["language"], each["language"]),
                each["source"],
                each["signer"]["name"] or ("unknown key" if each["signer"]["key"] else "-"),
                each["state"],
                each["asks"] or "-",
            )
            for each in rows
        ],
    )
    for each in rows:
        if each["problem"]:
            output.note(f"{each['problem']}; run: {each['hint']}")
    for folder, why in problems.items():
        output.note(f"not usable: {folder}: {why}")


def row(each: Found, found: dict[str, Found], guard: grants.Guard) -> dict[str, Any]:
    """What there is to know of a plugin without looking into it."""
    held = held_by(each, guard)
    drivers = [found[name] for name in each.plugin.plugin.drivers if name in found]
    beside = [(driver.plugin, driver.folder) for driver in drivers]
    refused = guard.refusal(each.plugin, each.folder, beside)
    return {
        "name": each.name,
        "version": each.plugin.plugin.version,
        "language": each.plugin.plugin.language,
        "description": each.plugin.plugin.description,
        "source": "bundled" if each.folder.parent == guard.bundled else _source(held),
        "folder": str(each.folder),
        "hash": held.hash if held else "",
        "granted": held.granted if held else "",
        "from": held.source if held else "",
        "signer": showing.signer(held.signer if held else ""),
        "asks": asks.short(asks.asks(each.plugin)),
        "state": _state(each, held, refused, guard),
        "problem": refused.message if refused else "",
        "hint": refused.hint if refused else "",
    }


def held_by(each: Found, guard: grants.Guard) -> grants.Grant | None:
    """The newest grant of a plugin."""
    book = guard.book()
    if isinstance(book, ClawError) or each.folder.parent == guard.bundled:
        return None
    return next(reversed(book.plugins.get(each.name, ())), None)


def _source(held: grants.Grant | None) -> str:
    return held.source.partition(" ")[0].lower() if held else "copied"


def _state(
    each: Found, held: grants.Grant | None, refused: ClawError | None, guard: grants.Guard
) -> str:
    if refused:
        return "changed" if held else "not granted"
    if grants.developed(each.folder):
        return "in development"
    # One that asks for nothing may be edited where it lies, and still starts.
    return "edited" if held and guard.files(each.folder) != held.files else "ready"
