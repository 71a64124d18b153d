"""Files that the owner alone may write, replaced whole: grants, trusted keys, signing keys."""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clawai.sdk.errors import ClawError

LIMIT = 4 << 20


def load(path: Path, limit: int = LIMIT) -> bytes:
    """The bytes of a file that nobody but its owner, who must be us, may write.

    Raises:
        ClawError: not_permitted, bad_config.
        FileNotFoundError: there is none.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise ClawError(
                "not_permitted",
                f"{path} must be a file of yours that nobody else may write",
                got=f"uid {found.st_uid}, mode {stat.filemode(found.st_mode)}",
                allowed=f"uid {os.getuid()}, mode -rw-------",
                hint=f"look at what it says, then: chmod 600 {path}",
            )
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise ClawError("bad_config", f"{path} is too large", got=len(raw), allowed=limit)
    return raw


def save(path: Path, data: bytes) -> None:
    """Put ``data`` in the place of a file, readable by its owner only; never half of it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock ``path`` (a file that stays) while other processes wait for it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
