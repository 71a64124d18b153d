"""`claw plugin install`: show what a plugin asks for, have it granted, put it in its place."""

import shlex
import sys
from typing import Any

import click

from clawai.sdk import asks, config, install
from clawai.sdk.cli import output
from clawai.sdk.cli.models import unload
from clawai.sdk.cli.plugin import showing
from clawai.sdk.errors import ClawError


@click.command("install", no_args_is_help=True)
@click.argument("what")
@click.option("--yes", is_flag=True, help="Grant what it asks for, without a question.")
@click.option("--force", is_flag=True, help="Also in the place of a newer version.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(what: str, yes: bool, force: bool, as_json: bool) -> None:
    """Install a plugin: a package, a folder, or one that an installed Python package offers.

    Shows what it asks for, and asks you; of a newer version only what is new. None of its code runs
    before that, and then only in its sandbox. WHAT is a path, or the name of an entry point of the
    group `clawai.plugins`.

    \b
    Examples:
      claw plugin install hello-1.0.0.clawplugin
      claw plugin install ./hello
    """
    required = config.load().plugins.require_signature
    with install.staged(what) as candidate:
        there = install.before(candidate.name)
        new = install.check(candidate, there, force, required)
        other = bool(there.signer) and candidate.signer != there.signer
        if not as_json:
            _show(candidate, there, new, other)
        if new or other:
            _ask(candidate.name, what, new, yes, as_json)
        folder = install.commit(candidate, there)
    stopped = bool(there.version) and unload(candidate.name)
    if as_json:
        output.print_json(_result(candidate, there, str(folder)))
        return
    version = candidate.plugin.plugin.version
    instead = " again" if there.version == version else f", instead of {there.version}"
    told = f"{candidate.name} {version} is installed{instead if there.version else ''}"
    print(f"\n{output.style('✓', 'green')} {told}")
    if stopped:
        output.note("its worker ran, and was stopped: the next task starts the new one")
    print(f"  next: claw plugin info {candidate.name}")


def _result(candidate: install.Candidate, there: install.Before, folder: str) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "version": candidate.plugin.plugin.version,
        "before": there.version or None,
        "folder": folder,
        "hash": candidate.contents.hash,
        "granted": showing.as_rows(asks.asks(candidate.plugin)),
        "config": showing.settings_as_rows(candidate.plugin),
        **showing.signer(candidate.signer),
    }


def _show(
    candidate: install.Candidate, there: install.Before, new: list[asks.Ask], other: bool
) -> None:
    print(showing.title(candidate.plugin))
    output.facts(
        [
            ("  from", candidate.source),
            ("  signed by", showing.signed_by(candidate.signer)),
            ("  hash", candidate.contents.hash),
            ("  installed", there.version and f"version {there.version}"),
        ]
    )
    print()
    if other:
        was = showing.signed_by(there.signer)
        print(output.style("  Careful: what is installed was signed by another:", "red"))
        print(f"  {output.clean(was)}\n")
    wanted = asks.asks(candidate.plugin)
    kept = [ask for ask in wanted if ask not in new]
    lost = asks.grown(there.granted, wanted)
    if not wanted and not candidate.plugin.config:
        print("  It asks for nothing: it computes on what it is given, in its sandbox.")
    if new:
        had = f"more than version {there.version} was granted" if there.granted else ""
        print(f"  It asks for {had}".rstrip() + ":\n")
        showing.list_asks(new, 4)
    if kept:
        print(f"{'' if not new else chr(10)}  It goes on having what you have granted:\n")
        showing.list_asks(kept, 4)
    if lost:
        told = "; ".join(output.clean(asks.words(ask)) for ask in lost)
        print(f"\n  It no longer asks to {told}.")
    if wanted:
        print("\n  Everything else stays denied to it.")
    if rows := showing.settings_as_rows(candidate.plugin):
        print("" if wanted else "  It asks for nothing.\n")
        name = output.clean(candidate.name)
        print(f"  You can set for it, with `claw plugin config {name}`:\n")
        showing.list_settings(rows, 4)


def _ask(name: str, what: str, new: list[asks.Ask], yes: bool, as_json: bool) -> None:
    """Have the owner say yes.

    Raises:
        ClawError: not_granted: there is nobody to ask, or the answer is no.
    """
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        told = (
            f"asks for permissions ({asks.short(new)})" if new else "was signed by another before"
        )
        raise ClawError(
            "not_granted",
            f"{name} {told}, and there is no terminal to ask you at",
            got=[asks.words(ask) for ask in new] or None,
            hint=f"if you grant that: claw plugin install {shlex.quote(what)} --yes",
        )
    question = "Grant this and install it?" if new else "Install it all the same?"
    if not click.confirm(f"\n{question}", default=False):
        print("nothing was installed")
        raise click.exceptions.Exit(1)
