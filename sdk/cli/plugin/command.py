"""`claw plugin VERB`: finds the verb's module and imports only that.

A verb is a module of this folder, named in ``VERBS``, with ``command`` (click, with --json where it
lists something) that explains itself with an example.
"""

import importlib

import click

VERBS: dict[str, str] = {
    "list": "List the plugins, where they come from and what they were granted.",
    "info": "Show a plugin: what it asks for, what it can do, who made it.",
    "install": "Install a plugin: shows what it asks for, and asks you.",
    "remove": "Delete installed plugins, with what they were granted.",
    "new": "Make the folder of a new plugin, which works at once.",
    "dev": "Serve a plugin while you work at it: every save reloads it.",
    "test": "Run a plugin's tests, without a kernel or in the real sandbox.",
    "lint": "Say how good a plugin is, from bronze to platinum, and what to do next.",
    "docs": "Print a plugin's page, in Markdown.",
    "pack": "Pack a plugin into one file.",
    "sign": "Sign a package with a key of yours.",
    "verify": "Check every byte of a package, and say who has signed it.",
    "keygen": "Make a key to sign plugins with.",
    "trust": "Trust the plugins that a key has signed; list the keys.",
    "config": "Show and set the values of a plugin's configuration.",
    "secret": "Give a plugin a secret.",
    "include-dir": "Print the folder of clawai.h, for plugins in C and C++.",
}
"""Verb to the line that help shows."""


class Verbs(click.Group):
    """The verbs, imported when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"clawai.sdk.cli.plugin.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table, so that help imports no verb."""
        with formatter.section("Commands"):
            own = [(name, each.get_short_help_str(80)) for name, each in self.commands.items()]
            formatter.write_dl([*own, *VERBS.items()])


@click.group("plugin", cls=Verbs, no_args_is_help=True)
def plugin_command() -> None:
    """Write, test, pack and install plugins.

    \b
    Examples:
      claw plugin new hello
      claw plugin dev hello
      claw plugin install hello
      claw plugin list
    """
