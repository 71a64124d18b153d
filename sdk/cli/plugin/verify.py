"""`claw plugin verify`: is a package whole, and who has signed it?"""

from pathlib import Path

import click

from clawai.sdk import install, signing
from clawai.sdk.cli import output
from clawai.sdk.cli.plugin import showing
from clawai.sdk.errors import ClawError


@click.command("verify", no_args_is_help=True)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--trusted", is_flag=True, help="An error, unless a key that you trust has signed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(file: Path, trusted: bool, as_json: bool) -> None:
    """Check every byte of the package FILE, and say who has signed it.

    \b
    Example:
      claw plugin verify hello-1.0.0.clawplugin --trusted
    """
    with install.opened(showing.need(file)) as found:
        contents, key = found.contents, found.signer
    who = showing.signer(key)
    if trusted and not who["trusted"]:
        raise ClawError(
            "not_granted",
            f"{file} is whole, but no key that you trust has signed it",
            got=key or "no signature",
            allowed=signing.trusted() or None,
            hint="if you know whose it is: claw plugin trust KEY --name WHOSE",
        )
    if as_json:
        output.print_json(
            {"name": contents.name, "version": contents.version, "hash": contents.hash, **who}
        )
        return
    whole = f"{contents.name} {contents.version} is whole: {len(contents.files)} files"
    print(f"{output.style('✓', 'green')} {whole}, each as its hash says")
    output.facts([("  signed by", showing.signed_by(key)), ("  hash", contents.hash)])
