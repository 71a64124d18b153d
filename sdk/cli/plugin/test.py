"""`claw plugin test`: the plugin's own tests, by pytest, fake or in the real sandbox."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from clawai.sdk import develop
from clawai.sdk.errors import ClawError

NO_TESTS = 5
"""pytest's exit code."""
CONFIGURATIONS = ("pytest.toml", "pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")


def run(
    folder: Path, sandbox: bool, more: Sequence[str] = (), quiet: bool = False
) -> "subprocess.CompletedProcess[str]":
    """Run the tests of a plugin; with ``quiet`` what they print is returned.

    Raises:
        ClawError: unsupported_system, without pytest; bad_config, without a plugin.
    """
    develop.require_plugin(folder)
    if importlib.util.find_spec("pytest") is None:
        raise ClawError(
            "unsupported_system",
            "this needs pytest, which is not installed",
            hint="pip install 'clawai[author]'",
        )
    command = [sys.executable, "-m", "pytest", "--rootdir", "."]
    if not any((folder / name).is_file() for name in CONFIGURATIONS):
        command += ["-c", os.devnull]  # else that of a folder above would count
    command += ["--confcutdir", ".", "-p", "clawai.sdk.pytest_plugin", "-p", "no:cacheprovider"]
    command += ["--import-mode=importlib", *(["--claw-sandbox"] if sandbox else []), *more]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=quiet,
        text=True,
        check=False,
    )


@click.command("test")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("more", nargs=-1, metavar="[PYTEST ARGUMENT]...")
@click.option("--sandbox", is_flag=True, help="Run the plugin in the real sandbox.")
def command(folder: Path, more: tuple[str, ...], sandbox: bool) -> None:
    """Run the tests of the plugin in FOLDER.

    The same tests run the plugin without a kernel, or with --sandbox as a worker of a kernel of
    its own. The tests themselves run with your rights: only for code that you trust. Arguments of
    pytest come after two hyphens.

    \b
    Examples:
      claw plugin test hello
      claw plugin test hello --sandbox -- -v -k greets
    """
    done = run(folder, sandbox, more)
    if done.returncode == NO_TESTS:
        raise ClawError(
            "bad_config",
            f"no test was found in {folder}",
            hint="write test_NAME.py; `claw plugin new` shows how",
        )
    raise click.exceptions.Exit(min(done.returncode, 1))
