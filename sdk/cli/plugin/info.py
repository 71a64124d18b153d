"""`claw plugin info`: everything about one plugin that can be known without running it."""

import difflib
from pathlib import Path
from typing import Any

import click
import msgspec

from clawai.sdk import asks, contents, install, paths, signatures
from clawai.sdk.cli import output
from clawai.sdk.cli.plugin import showing
from clawai.sdk.cli.plugin.list import row
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Plugin, read_plugin


@click.command("info", no_args_is_help=True)
@click.argument("what", metavar="NAME")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(what: str, as_json: bool) -> None:
    """Show a plugin: what it asks for, what it can do, who made it. NAME may be a path, too:
    of a package or a folder it shows what would be installed.

    \b
    Examples:
      claw plugin info echo
      claw plugin info ./hello-1.0.0.clawplugin
    """
    found, problems, guard = showing.everything()
    if what in found:
        each = found[what]
        told = row(each, found, guard) | _inside(each.folder, each.plugin)
    elif Path(what).exists():
        told = _by_path(Path(what))
    else:
        raise _unknown(what, list(found), problems)
    if as_json:
        output.print_json(told)
    else:
        _print(told)


def _unknown(name: str, known: list[str], problems: dict[str, str]) -> ClawError:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    broken = [f"{folder}: {why}" for folder, why in problems.items() if Path(folder).name == name]
    return ClawError(
        "unknown_plugin",
        broken[0] if broken else f"there is no plugin {name[:80]!r}",
        got=name[:80],
        allowed=sorted(known),
        hint=f"did you mean {near[0]}?" if near else "`claw plugin list` shows them all",
    )


def _by_path(place: Path) -> dict[str, Any]:
    """What would be installed from a folder or a package."""
    if place.is_dir():
        plugin = read_plugin(place)
        found = contents.collect(place, plugin)
        told = {"source": "folder", "hash": found.hash, "signer": showing.signer("")}
        return _names(plugin, place) | told | _inside(place, plugin)
    with install.opened(place) as opened:
        key = showing.signer(opened.signer)
        told = {"source": "package", "hash": opened.contents.hash, "signer": key}
        return _names(opened.plugin, place) | told | _inside(opened.folder, opened.plugin)


def _names(plugin: Plugin, place: Path) -> dict[str, Any]:
    identity = plugin.plugin
    return {
        "name": identity.name,
        "version": identity.version,
        "language": identity.language,
        "description": identity.description,
        "folder": str(place.resolve()),
        "state": "not installed from here",
    }


def _inside(folder: Path, plugin: Plugin) -> dict[str, Any]:
    """What manifest and source say."""
    written = signatures.read(folder, plugin)
    operations = []
    for entry in plugin.operation:
        told: dict[str, Any] = msgspec.to_builtins(entry)
        if found := written.get(entry.name):
            told["description"] = entry.description or found.summary
            told["parameters"] = [
                dict(zip(("name", "type", "default"), parameter, strict=True))
                for parameter in found.parameters
            ]
        operations.append(told)
    return {
        "kind": plugin.plugin.kind,
        "permissions": showing.as_rows(asks.asks(plugin)),
        "config": showing.settings_as_rows(plugin),
        "limits": msgspec.to_builtins(plugin.limits),
        "profile": plugin.permissions.profile,
        "operations": operations,
        "data": str(paths.plugin_data_dir(plugin.plugin.name)),
    }


def _print(told: dict[str, Any]) -> None:
    about = output.clean(" ".join(told["description"].split()))
    named = output.style(output.clean(f"{told['name']} {told['version']}"), "bold")
    print(f"{named}  {about}".rstrip())
    bundled, limits = told["source"] == "bundled", told["limits"]
    output.facts(
        [
            ("  state", told["state"]),
            ("  language", showing.LANGUAGES.get(told["language"], told["language"])),
            ("  source", told.get("from") or told["source"]),
            ("  granted", told.get("granted")),
            ("  signed by", "" if bundled else showing.signed_by(told["signer"]["key"])),
            ("  hash", told["hash"]),
            ("  folder", told["folder"]),
            ("  data", told["data"]),
            ("  sandbox", f"profile {told['profile']}"),
            ("  limits", f"{limits['memory_mib']} MiB, {limits['threads']} threads"),
        ]
    )
    if problem := told.get("problem"):
        print(f"\n{output.style('Not started:', 'red')} {output.clean(problem)}")
        print(f"  next: {output.clean(told['hint'])}")
    print("\nIt asks for:\n" if told["permissions"] else "\nIt asks for nothing.")
    wanted = [asks.Ask(each["kind"], each["what"], each["reason"]) for each in told["permissions"]]
    showing.list_asks(wanted)
    if told["config"]:
        name = output.clean(told["name"])
        print(f"\nYou can set for it, with `claw plugin config {name}`:\n")
        showing.list_settings(told["config"])
    if told["operations"]:
        print("\nOperations:\n")
    for each in told["operations"]:
        _operation(each)


def _operation(told: dict[str, Any]) -> None:
    kinds = [name for name in ("stream", "needs_model", "idempotent") if told[name]]
    also = f"  ({', '.join(kinds).replace('_', ' ')})" if kinds else ""
    name = output.style(output.clean(told["name"]), "cyan")
    print(f"  {name}{output.style(also, 'dim')}")
    if told["description"]:
        print(f"      {output.wrapped(output.clean(' '.join(told['description'].split())), 6)}")
    for each in told.get("parameters", ()):
        default = f" = {each['default']}" if each["default"] else ""
        text = output.clean(f"{each['name']}: {each['type']}{default}".replace("\n", " "))
        print(f"      - {text}")
