"""`claw plugin trust`: whose signatures count."""

import hashlib

import click

from clawai.sdk import signing
from clawai.sdk.cli import output


@click.command("trust")
@click.argument("key", default="")
@click.option("--name", default="", help="Whose key it is.")
@click.option("--remove", is_flag=True, help="Trust it no more; KEY is then a key or its name.")
@click.option("--json", "as_json", is_flag=True, help="JSON: name to key.")
def command(key: str, name: str, remove: bool, as_json: bool) -> None:
    """Trust the plugins that KEY has signed; without KEY, list the keys that are trusted.

    \b
    Examples:
      claw plugin trust
      claw plugin trust ed25519:kHVn3k8O5rG6YvRrVb0CkzJ8b8yqkJ0oX0Hq0pX5cYk= --name ada
      claw plugin trust --remove ada
    """
    if remove:
        if not key:
            raise click.UsageError("Which key? Name it, or give the key itself.")
        key = signing.name_of(key) or key
        signing.distrust(key)
        if not as_json:
            print(f"{output.clean(key)} is trusted no more")
    elif key:
        name = name or f"key-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        signing.trust(name, key)
        if not as_json:
            print(f"{output.style('✓', 'green')} plugins that {name} has signed are trusted")
    elif name:
        raise click.UsageError("--name is for a key: claw plugin trust KEY --name WHOSE")
    trusted = signing.trusted()
    if as_json:
        output.print_json(trusted)
    elif not key and trusted:
        own = signing.own_keys()
        rows = [(who, "yes" if who in own else "", each) for who, each in trusted.items()]
        output.table(("NAME", "YOURS", "KEY"), rows)
    elif not key:
        print("no key is trusted; `claw plugin keygen` makes one of your own")
