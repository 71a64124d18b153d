"""`claw plugin secret`: give a plugin a secret without showing it to anybody else."""

import sys

import click

from clawai.sdk import paths, settings
from clawai.sdk.cli import output
from clawai.sdk.cli.plugin.config import tell_kernel
from clawai.sdk.errors import ClawError


@click.command("secret", no_args_is_help=True)
@click.argument("name")
@click.argument("key", required=False)
@click.option("--remove", is_flag=True, help="Take the secret back.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, without values.")
def command(name: str, key: str | None, remove: bool, as_json: bool) -> None:
    """Give the plugin NAME the secret KEY: typed unseen, or from standard input.

    Kept in a file that only you may read (not encrypted), and given to that plugin's workers only.
    Without KEY: which secrets the plugin asks for, and whether it has them.

    \b
    Examples:
      claw plugin secret weather
      claw plugin secret weather api_key
      pass show weather | claw plugin secret weather api_key
    """
    plugin, _ = settings.find(name)
    if key is None:
        if remove:
            raise click.UsageError("--remove needs the KEY")
        given = settings.secrets(plugin)
        rows = [
            {"key": each, "given": each in given, "reason": reason}
            for each, reason in plugin.secrets.items()
        ]
        if as_json:
            folder = str(paths.plugin_secrets(name))
            output.print_json({"plugin": name, "folder": folder, "secrets": rows})
        elif not rows:
            output.note(f"{name} asks for no secrets")
        else:
            shown = [(r["key"], "yes" if r["given"] else "no", r["reason"]) for r in rows]
            output.table(("KEY", "GIVEN", "REASON"), shown)
        return
    if not remove and key in plugin.secrets:
        value: str | None = _read(f"{key} for {name}")
    else:
        value = None if remove else ""
    settings.keep_secret(plugin, key, value)
    tell_kernel()
    done = "taken back" if remove else "kept"
    if as_json:
        output.print_json({"plugin": name, "key": key, "given": not remove})
    else:
        output.note(f"{key} is {done}")


def _read(what: str) -> str:
    """One line, without echo; or all of standard input, but for the end of its last line."""
    if sys.stdin.isatty():
        value: str = click.prompt(what, hide_input=True)
        return value
    raw = sys.stdin.buffer.read(settings.SECRET + 2)
    try:
        return raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ClawError("bad_config", "a secret must be text in UTF-8") from None
