"""What the verbs say of a plugin: who made it, what it asks for, whether it may start."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from clawai.sdk import config, develop, grants, settings, signing
from clawai.sdk.asks import Ask, words
from clawai.sdk.cli import output
from clawai.sdk.found import Found, bundled, scan
from clawai.sdk.manifest import Plugin

LANGUAGES = {"python": "Python", "c": "C", "cpp": "C++"}


def everything() -> tuple[dict[str, Found], dict[str, str], grants.Guard]:
    """All plugins, the folders that cannot be used, and what says which may start."""
    settings = config.load()
    further = [Path(folder) for folder in settings.plugin_dirs]
    found, problems = scan(bundled(), further, develop.folders())
    return found, problems, grants.Guard(bundled(), settings.plugins.require_signature)


def need(place: Path, folder: bool = False) -> Path:
    """``place``, if there is a file (or a folder) there; else wrong usage."""
    if not (place.is_dir() if folder else place.is_file()):
        raise click.UsageError(f"There is no {'folder' if folder else 'file'} {str(place)!r}.")
    return place


def signer(key: str) -> dict[str, Any]:
    """Who has signed, as JSON says it."""
    name = signing.name_of(key) if key else ""
    return {"signed": bool(key), "key": key, "name": name, "trusted": bool(name)}


def signed_by(key: str) -> str:
    """Who has signed, in words."""
    if not key:
        return "nobody, so there is no saying who made it"
    name = signing.name_of(key)
    return f"{name} ({key})" if name else f"{key}, a key that you have not trusted"


def title(plugin: Plugin) -> str:
    """Name, version and description on one line."""
    identity = plugin.plugin
    about = f"  {output.clean(' '.join(identity.description.split()))}"
    named = output.clean(f"{identity.name} {identity.version}")
    return f"{output.style(named, 'bold')}{about}".rstrip()


def list_asks(wanted: Iterable[Ask], indent: int = 2) -> None:
    """Print permissions in plain words, each with the plugin's own reason below it."""
    pad = " " * indent
    for ask in wanted:
        print(f"{pad}{output.style('•', 'yellow')} {output.clean(words(ask))}")
        if ask.reason:
            reason = output.wrapped(f"“{output.clean(ask.reason)}”", indent + 4)
            print(f"{pad}    {output.style(reason, 'dim')}")


def settings_as_rows(plugin: Plugin) -> list[dict[str, Any]]:
    """What the owner can set, as JSON says it."""
    return [
        {"key": key, "allowed": settings.allowed(each), "default": each.default,
         "description": each.description}
        for key, each in plugin.config.items()
    ]  # fmt: skip


def list_settings(rows: Iterable[dict[str, Any]], indent: int = 2) -> None:
    """Print what the owner can set, in plain words."""
    pad = " " * indent
    for row in rows:
        default = row["default"]
        starts = "you must set it before it runs" if default is None else settings.toml(default)
        about = " ".join(row["description"].split())
        told = f"{row['key']} ({row['allowed']}): {starts}"
        print(f"{pad}• {output.clean(told).replace(chr(10), ' ')}")
        if about:
            print(
                f"{pad}    {output.style(output.wrapped(output.clean(about), indent + 4), 'dim')}"
            )


def as_rows(wanted: Iterable[Ask]) -> list[dict[str, str]]:
    """Permissions as JSON says them."""
    return [
        {"kind": ask.kind, "what": ask.what, "words": words(ask), "reason": ask.reason}
        for ask in wanted
    ]
