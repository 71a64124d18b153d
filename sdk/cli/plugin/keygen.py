"""`claw plugin keygen`: a key to sign plugins with."""

import click

from clawai.sdk import signing
from clawai.sdk.cli import output


@click.command("keygen")
@click.argument("name", default=signing.DEFAULT)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(name: str, as_json: bool) -> None:
    """Make a key to sign plugins with, called NAME, and print its public half.

    The private half stays in a file that only you can read.

    \b
    Example:
      claw plugin keygen
    """
    key = signing.generate(name)
    place = signing.keys_dir() / f"{name}.key"
    if as_json:
        output.print_json({"name": name, "key": key, "file": str(place)})
        return
    print(key)
    output.note(f"the private half is in {place}: keep a copy of it, and give it to nobody")
    output.note(f"who trusts you runs: claw plugin trust {key} --name YOU")
