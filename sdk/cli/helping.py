"""`claw help`: the same text that `claw COMMAND --help` shows."""

import click


@click.command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help_command(context: click.Context, words: tuple[str, ...]) -> None:
    """Show what `claw`, or one of its commands, can do.

    \b
    Example:
      claw help run
    """
    above = context.find_root()
    command: click.Command = above.command
    for word in words:
        found = None
        if isinstance(command, click.Group):
            found = command.resolve_command(above, [word])[1]
        if found is None:
            raise click.UsageError(f"`{above.command_path}` has no commands below it: {word!r}.")
        above, command = click.Context(found, info_name=word, parent=above), found
    print(command.get_help(above))
