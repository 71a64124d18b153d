"""Named shared memory of this box, opened for a plugin that may: POSIX's, a file in ``/dev/shm``.

A program that talks to the plugin over a port of it may have its own memory opened, and nobody
else's (``callers`` says whose a connection is). The name is one component of a path, links are not
followed, and what is opened is a regular file of that user.
"""

import os
import re
import stat
from pathlib import Path

from clawai.sdk.errors import ClawError

FOLDER = Path("/dev/shm")
NAME = re.compile(r"(?!\.\.?$)[A-Za-z0-9_.-]{1,200}")


def opened(name: str, owner: int | None, folder: Path = FOLDER) -> int:
    """A descriptor of the memory of a name, for reading and writing.

    Args:
        owner: whose it must be; None: of somebody who is not there.

    Raises:
        ClawError: not_permitted, bad_params.
    """
    if not NAME.fullmatch(name):
        raise ClawError("bad_params", "no name of shared memory", name[:200], NAME.pattern)
    if owner is None:
        text = "shared memory is opened for a program of this box that is connected just now"
        raise ClawError("not_permitted", text)
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    hint = "it must be a file in /dev/shm that the program itself has made"
    try:
        fd = os.open(folder / name, flags)
    except OSError as error:
        text = f"the shared memory {name} cannot be opened: {error.strerror}"
        raise ClawError("not_permitted", text, name, hint=hint) from None
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != owner:
        os.close(fd)
        text = f"the shared memory {name} is not that of the program that asks"
        raise ClawError("not_permitted", text, name, hint=hint)
    return fd
