"""The kernel's log: one text file of bounded size. A full disk loses lines, never the kernel."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from clawai.sdk.files import open_regular
from clawai.sdk.pieces import piece

LEVELS = ("debug", "info", "warning", "error")


class LogFile:
    """Lines of ``time level text``, started anew at ``limit`` bytes with one older file kept."""

    def __init__(self, path: Path, level: str, limit: int, echo: bool) -> None:
        self.path = path
        self.lost = 0
        """Lines that the disk did not take."""
        self._rank = LEVELS.index(level)
        self._limit = limit
        self._echo = echo
        self._size = 0
        self._fd = -1
        self._older = path.with_suffix(".log.1")
        self._base = _size(self._older)
        """The place of the first byte of the file; places go on when it is started anew."""

    def write(self, level: str, text: str) -> None:
        """Add a line; control characters, which could forge lines or drive a terminal, go."""
        if LEVELS.index(level) < self._rank:
            return
        clean = "".join(char if char.isprintable() else "\ufffd" for char in text)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        line = f"{stamp} {level} {clean}\n"
        if self._echo:
            try:
                sys.stderr.write(line)
            except (OSError, ValueError):
                self._echo = False
        try:
            self._append(line.encode("utf-8", "replace"))
        except OSError:
            self.lost += 1

    def _append(self, data: bytes) -> None:
        if self._fd < 0 or self._size + len(data) > self._limit:
            self._open(again=self._fd >= 0)
        self._size += os.write(self._fd, data)

    def _open(self, again: bool) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.close()
        if again or (self.path.exists() and self.path.stat().st_size > self._limit):
            self._base += self.path.stat().st_size
            self.path.replace(self._older)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def read(self, place: str) -> dict[str, Any]:
        """A piece of what is kept (``clawai.sdk.pieces``).

        Raises:
            ClawError: bad_params.
        """
        first, last = max(0, self._base - _size(self._older)), self._base + _size(self.path)
        return piece(place, first, last, self._bytes)

    def _bytes(self, begin: int, end: int) -> bytes:
        """What lies between two places, of both files."""
        parts = []
        for path, base in (
            (self._older, self._base - _size(self._older)),
            (self.path, self._base),
        ):
            start, stop = max(begin, base), min(end, base + _size(path))
            if start < stop:
                with open_regular(path) as file:
                    file.seek(start - base)
                    parts.append(file.read(stop - start))
        return b"".join(parts)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
