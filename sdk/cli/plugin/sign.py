"""`claw plugin sign`: say with a signature that a package is yours."""

from pathlib import Path

import click

from clawai.sdk import package, signing
from clawai.sdk.cli import output
from clawai.sdk.cli.plugin import showing


@click.command("sign", no_args_is_help=True)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--key", "name", default=signing.DEFAULT, show_default=True, help="Your key's name.")
@click.option(
    "-o", "--output", "target", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Where the signed package goes. [default: in its place]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(file: Path, name: str, target: Path | None, as_json: bool) -> None:
    """Sign the package FILE with a key of yours; a signature that it has is replaced.

    The key `default` is made when it is first used.

    \b
    Example:
      claw plugin sign hello-1.0.0.clawplugin
    """
    found = package.read(showing.need(file))
    if name == signing.DEFAULT and not signing.has_key(name):
        signing.generate(name)
        place = signing.keys_dir() / f"{name}.key"
        output.note(f"made a key of your own, {place}: keep a copy of it, and give it to nobody")
    made = signing.sign(found.contents, name)
    target = target or file
    package.with_signature(file, target, found.contents, made.encoded())
    if as_json:
        output.print_json({"file": str(target), "key": made.key, "name": name})
        return
    print(f"{output.style('✓', 'green')} {output.clean(str(target))} is signed by {made.key}")
