"""`claw logs`: the kernel's log file, which also holds what the workers printed."""

import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

import click

from clawai.sdk import paths
from clawai.sdk.cli import output
from clawai.sdk.errors import ClawError

_POLL_S = 0.25
_BLOCK = 64 * 1024


def last_lines(file: BinaryIO, count: int) -> bytes:
    """The last ``count`` lines, read backwards in blocks; the file stands at its end after it."""
    end = file.seek(0, os.SEEK_END)
    start, tail = end, b""
    while start > 0 and tail.count(b"\n") <= count:
        step = min(_BLOCK, start)
        start -= step
        file.seek(start)
        tail = file.read(step) + tail
    file.seek(end)
    return b"".join(tail.splitlines(keepends=True)[-count:]) if count else b""


@click.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on showing what comes.")
@click.option(
    "-n", "--lines", type=click.IntRange(0), default=50, show_default=True, help="How many."
)
@click.option("--json", "as_json", is_flag=True, help="A JSON list of lines (without -f).")
def logs_command(follow: bool, lines: int, as_json: bool) -> None:
    """Show the end of the kernel's log.

    \b
    Example:
      claw logs -f
    """
    path = paths.log_file()
    if not path.exists():
        if as_json:
            output.print_json([])
            return
        if not follow:
            raise ClawError(
                "no_kernel", "there is no log yet", got=str(path), hint="start a kernel: claw up"
            )
    elif as_json:
        with path.open("rb") as file:
            output.print_json(last_lines(file, lines).decode(errors="replace").splitlines())
        return
    try:
        _show(path, lines, follow)
    except KeyboardInterrupt:
        print()


def _show(path: Path, lines: int, follow: bool) -> None:
    while not path.exists():
        time.sleep(_POLL_S)
    file = path.open("rb")
    try:
        _write(last_lines(file, lines))
        while follow:
            if data := file.read(_BLOCK):
                _write(data)
                continue
            time.sleep(_POLL_S)
            # The kernel starts the file anew at its size limit: finish the old one, then go on.
            if _replaced(path, file) and not (rest := file.read(_BLOCK)):
                file.close()
                file = path.open("rb")
            elif _replaced(path, file):
                _write(rest)
    finally:
        file.close()


def _replaced(path: Path, file: BinaryIO) -> bool:
    """Whether another file has the name now, or this one was cut."""
    try:
        named, held = path.stat(), os.fstat(file.fileno())
    except FileNotFoundError:
        return False
    return named.st_ino != held.st_ino or named.st_size < file.tell()


def _write(data: bytes) -> None:
    text = data.decode(errors="replace")
    sys.stdout.write(output.clean(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
