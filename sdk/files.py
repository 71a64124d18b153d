"""Open files of others safely: never a pipe that lets us wait, nor a device without an end."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from clawai.sdk.errors import ClawError


def open_regular(path: Path, follow: bool = False) -> BinaryIO:
    """Open a regular file for reading; ``follow`` allows a symbolic link to one.

    Raises:
        ClawError: bad_config, for anything but a regular file.
        OSError: as ``open`` does.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    if not follow and path.is_symlink():
        raise _not_regular(path, "a symbolic link")
    handle = os.open(path, flags)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise _not_regular(path, stat.filemode(mode))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _not_regular(path: Path, got: str) -> ClawError:
    return ClawError("bad_config", f"{path} is not a regular file", got=got, allowed="a file")
