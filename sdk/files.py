"""Open files of others safely: never a pipe that lets us wait, nor a device without an end; and
make new ones that appear whole or not at all.
"""

import contextlib
import errno
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


class Unnamed:
    """A new file that has no name until ``link``; if that is never called, nothing is left of it.

        with Unnamed(folder) as made:
            made.file.write(b"...")
            made.link(folder / "name")

    Not even a kill leaves anything, but on file systems that know no such files: there it has a
    hidden name meanwhile.

    Raises:
        OSError: as ``open`` does.
    """

    def __init__(self, folder: Path, mode: int = 0o644) -> None:
        self._hidden: Path | None = None
        try:
            handle = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                raise
            self._hidden = folder / f".{os.urandom(8).hex()}.part"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            handle = os.open(self._hidden, flags, mode)
        self.file: BinaryIO = os.fdopen(handle, "w+b")

    def link(self, path: Path) -> None:
        """Write everything to the disk and give it a name, which must be free, in the same folder.

        Raises:
            FileExistsError: it is not.
            OSError: the disk is full, or fails.
        """
        self.file.flush()
        os.fsync(self.file.fileno())
        source = self._hidden or f"/proc/self/fd/{self.file.fileno()}"
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # With a folder's descriptor the link in /proc is followed, without one it is not.
            os.link(source, path.name, dst_dir_fd=folder)
            os.fsync(folder)
        finally:
            os.close(folder)

    def __enter__(self) -> "Unnamed":
        return self

    def __exit__(self, *_: object) -> None:
        if self._hidden:
            self._hidden.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a full disk was told when it was written
            self.file.close()
