"""`claw plugin config`: what the owner has set for a plugin, checked against its manifest."""

import contextlib
from typing import Any

import click

from clawai.sdk import paths, settings
from clawai.sdk.cli import output
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Plugin


# Unknown options are let through, so that a value may begin with a dash.
@click.command("config", no_args_is_help=True, context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--unset", multiple=True, metavar="KEY", help="Give KEY its default again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(name: str, changes: tuple[str, ...], unset: tuple[str, ...], as_json: bool) -> None:
    """Show and set the values of a plugin's configuration.

    A worker that runs is started again with them as soon as it is idle.

    \b
    Examples:
      claw plugin config hello
      claw plugin config hello greeting=Hi
      claw plugin config hello --unset greeting
    """
    plugin, _ = settings.find(name)
    wanted: dict[str, Any] = dict.fromkeys(unset)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise click.UsageError(f"{change!r} is not KEY=VALUE")
        wanted[key] = settings.parse(plugin, key, text)
    own = settings.store(plugin, wanted) if wanted else settings.stored(plugin)
    if wanted:
        tell_kernel()
    _show(plugin, own, as_json)


def _show(plugin: Plugin, own: dict[str, Any], as_json: bool) -> None:
    if as_json:
        keys = {
            key: {
                "value": own.get(key, setting.default),
                "set": key in own,
                "type": setting.type,
                "default": setting.default,
                "description": setting.description,
                "allowed": settings.allowed(setting),
            }
            for key, setting in plugin.config.items()
        }
        name = plugin.plugin.name
        output.print_json({"plugin": name, "file": str(paths.plugin_config(name)), "keys": keys})
        return
    if not plugin.config:
        output.note(f"{plugin.plugin.name} has nothing to configure")
        return
    rows = []
    for key, setting in plugin.config.items():
        value = own.get(key, setting.default)
        shown = "(to be set)" if value is None else settings.toml(value)
        mark = "" if key not in own or setting.default is None else "(set) "
        rows.append((key, shown, settings.allowed(setting), mark + setting.description))
    output.table(("KEY", "VALUE", "ALLOWED", "MEANING"), rows)


def tell_kernel() -> None:
    """Have a running kernel look at once, rather than with one of the next requests."""
    from clawai.sdk.client import Client

    with contextlib.suppress(ClawError), Client(timeout=2.0) as client:
        client.query("plugins")
