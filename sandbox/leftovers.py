"""Folders in /tmp whose maker was killed: whoever makes the next one removes them.

A folder is in use while somebody holds a lock on it (flock(2)); that ends with the last process
that has the descriptor, however it ends.
"""

import contextlib
import fcntl
import os
import re
import shutil
import time

STALE_S = 60.0
"""One that is younger may be just being made, and not locked yet."""


def hold(folder: str) -> int:
    """Lock ``folder`` for as long as the descriptor is open, here or in a child."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    fcntl.flock(held, fcntl.LOCK_SH)
    return held


def clear(parent: str, names: str, owner: int) -> None:
    """Remove what a uid left in ``parent`` under names of a form (a regular expression)."""
    for name in os.listdir(parent):  # noqa: PTH208 - a stage has not loaded pathlib
        if not re.fullmatch(names, name):
            continue
        folder = f"{parent}/{name}"
        with contextlib.suppress(OSError):
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found = os.fstat(held)
                if found.st_uid == owner and time.time() - found.st_mtime > STALE_S:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)
