"""`claw plugin remove`: delete a plugin, what it was granted, and its data if that is wanted."""

import shutil

import click

from clawai.sdk import config, install, paths
from clawai.sdk.cli import output
from clawai.sdk.cli.models import unload


@click.command("remove", no_args_is_help=True)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--data", is_flag=True, help="Also delete what it has stored.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(names: tuple[str, ...], data: bool, as_json: bool) -> None:
    """Delete installed plugins, with what they were granted.

    What a plugin has stored stays for its next version, unless you say --data.

    \b
    Example:
      claw plugin remove hello --data
    """
    further = config.load().plugin_dirs
    removed = {}
    for name in dict.fromkeys(names):
        install.remove(name, further)
        unload(name)
        folder = paths.plugin_data_dir(name)
        stored = folder.is_dir() and not folder.is_symlink()
        if stored and data:
            shutil.rmtree(folder)
        removed[name] = {"data": "none" if not stored else "deleted" if data else str(folder)}
        if not as_json:
            print(f"{name} is removed{', with its data' if stored and data else ''}")
            if stored and not data:
                output.note(f"its data stays in {folder}; `--data` deletes that too")
    if as_json:
        output.print_json({"removed": removed})
