"""The kernel's log: one text file of bounded size. A full disk loses lines, never the kernel."""

import os
import sys
import time
from pathlib import Path

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
            self.path.replace(self.path.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
