"""What the system around a command does to it: closed or full streams, refused files, odd bytes."""

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from clawai.sdk.errors import ClawError

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_standard_streams() -> None:
    """Open what the caller closed of 0, 1 and 2, or a file opened later would stand in for it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
        if getattr(sys, name) is None:
            stream = os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False)
            setattr(sys, name, stream)


def flush() -> int:
    """Write out what is left; 1 if a stream cannot take it, after saying so where that is possible.

    Raises:
        BrokenPipeError: if the reader of standard output is gone.
    """
    code = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            if stream is sys.stdout:
                raise
            silence(stream.fileno())
            code = 1
        except OSError as error:
            code = 1
            # Else the interpreter's last flush would complain about the same stream.
            silence(stream.fileno())
            if stream is sys.stdout:
                tell(cannot_print(error))
    return code


def cannot_print(error: OSError) -> str:
    """What is told when standard output takes nothing."""
    return f"claw: cannot write the output: {error.strerror}"


def tell(text: str) -> None:
    """A line on standard error, if that takes one."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        silence(2)


def silence(number: int) -> None:
    """Let what is still written to a stream vanish."""
    handle = os.open(os.devnull, os.O_WRONLY)
    os.dup2(handle, number)
    os.close(handle)


def stream_failed(error: OSError) -> bool:
    """Whether an error came from printing, not from a file of ours.

    A flush would not tell: an unbuffered stream forgets what it could not write. But printing is
    what the modules of the command line and click do themselves, and files are opened by name.
    """
    if error.filename is not None or error.errno not in (*_FULL, errno.EIO, errno.EBADF):
        return False
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = Path(trace.tb_frame.f_code.co_filename).parent if trace else Path()
    return place in (Path(__file__).parent, Path(click.__file__).parent)


def as_claw_error(error: OSError) -> ClawError | None:
    """The typed error of a file or folder that cannot be used; None if it is something else."""
    where = error.filename
    place = os.fsdecode(where) if isinstance(where, (str, bytes)) else ""
    said = error.strerror or str(error)
    if error.errno in _FULL:
        message = f"the disk is full: {place or said}"
        hint = "free some space: `claw models --stored`, `claw rm NAME`"
        return ClawError("disk_full", message, got=said, hint=hint)
    if error.errno in _REFUSED:
        message = f"you may not use {place}" if place else "the system refuses this"
        hint = "check who owns it: ls -ld; the XDG_*_HOME and CLAW_RUNTIME_DIR variables move it"
        return ClawError("not_permitted", message, got=said, hint=hint)
    if place:
        hint = "the XDG_*_HOME and CLAW_RUNTIME_DIR variables say where things are kept"
        return ClawError("bad_config", f"cannot use {place}", got=said, hint=hint)
    return None


def require_text(args: Sequence[str]) -> None:
    """Refuse words that are not UTF-8: they could be sent to no model and shown to nobody.

    Raises:
        click.UsageError: naming the option, or the place of the word.
    """
    for place, word in enumerate(args):
        try:
            word.encode()
        except UnicodeEncodeError:
            before = args[place - 1] if place else ""
            what = f"word {place + 1} of the command"
            if word.startswith("--") and "=" in word:
                what = f"the value of {word.partition('=')[0]}"
            elif before.startswith("-") and before != "-":
                what = f"the value of {before}"
            raise click.UsageError(f"{what} is not UTF-8 text: {word!r}") from None
