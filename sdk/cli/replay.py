"""`claw replay`: what the kernel's core did in the field, once more (a program of the kernel's)."""

import subprocess
import sys
from pathlib import Path

import click

from clawai.sdk import paths
from clawai.sdk.errors import ClawError

REPLAY = ("-P", "-m", "clawai.kernel.replay")


@click.command("replay")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE|FOLDER]...")
@click.option("--until", type=click.IntRange(1), metavar="N", help="Stop after event N; its state.")
@click.option("--show", is_flag=True, help="Print every event and every instruction.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def replay_command(files: tuple[Path, ...], until: int | None, show: bool, as_json: bool) -> None:
    """Feed an event journal to the core again and compare what it says with the journal.

    Without FILE it is the journal of this box's kernel. A journal holds no prompt, no parameter and
    no result, so that one that shows a fault can be sent to somebody else.

    \b
    Examples:
      claw replay
      claw replay --show --until 100 crash-20260101-120000-77.journal
    """
    folder = paths.state_dir() / "journal"
    if not files and not folder.is_dir():
        raise ClawError(
            "bad_params", "there is no journal yet", got=str(folder), hint="start a kernel: claw up"
        )
    command = [sys.executable, *REPLAY]
    command += ["--until", str(until)] if until is not None else []
    command += [word for word, asked in (("--show", show), ("--json", as_json)) if asked]
    sys.stdout.flush()
    # A program of its own: the command line never loads the kernel.
    done = subprocess.run([*command, "--", *map(str, files or (folder,))], check=False)
    raise click.exceptions.Exit(done.returncode)
