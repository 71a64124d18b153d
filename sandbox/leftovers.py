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
    """Lock ``folder`` for as long as the descriptor is open, here or in a child.

    -1 where the file system has no locks: then nothing is ever taken for a leftover.
    """
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
    except OSError:
        os.close(held)
        return -1
    return held


def clear(parent: str, names: str, owner: int) -> None:
    """Remove what a uid left in ``parent`` under names of a form (a regular expression).

    What cannot be removed stays: nobody waits for this, and nothing fails because of it.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):  # noqa: PTH208 - a stage has not loaded pathlib
            folder = f"{parent}/{name}"
            if re.fullmatch(names, name):
                _clear_one(folder, owner)


def _clear_one(folder: str, owner: int) -> None:
    with contextlib.suppress(OSError):
        if os.lstat(folder).st_uid != owner:  # before it is opened: that may hang (FUSE)
            return
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(held)
            if found.st_uid == owner and time.time() - found.st_mtime > STALE_S:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(folder)
        finally:
            os.close(held)


def remove(folder: str) -> None:
    """Remove a folder with what a stranger's program has put there, as far as that can be done."""
    # It goes down by recursion: some thousand folders in each other are too many for it.
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
