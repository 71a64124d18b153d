"""`claw plugin pack`: a folder as one file."""

from pathlib import Path

import click

from clawai.sdk import package
from clawai.sdk.cli import output
from clawai.sdk.cli.plugin import showing


@click.command("pack", no_args_is_help=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), metavar="FILE",
    help="A file, or a folder for it. [default: NAME-VERSION.clawplugin, here]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(folder: Path, target: Path | None, as_json: bool) -> None:
    """Pack the plugin in FOLDER into one file; the same plugin gives the same bytes everywhere.

    Left out are hidden files and what Python compiles.

    \b
    Example:
      claw plugin pack ./hello -o /tmp
    """
    place, contents = package.pack(showing.need(folder, folder=True), target)
    size = place.stat().st_size
    if as_json:
        output.print_json(
            {
                "file": str(place),
                "name": contents.name,
                "version": contents.version,
                "hash": contents.hash,
                "files": len(contents.files),
                "bytes": size,
            }
        )
        return
    files = "1 file" if len(contents.files) == 1 else f"{len(contents.files)} files"
    print(f"{output.style('✓', 'green')} {output.clean(str(place))}")
    output.facts([("  holds", f"{files}, {output.size(size)}"), ("  hash", contents.hash)])
    print(f"  next: claw plugin sign {output.clean(str(place))}")
