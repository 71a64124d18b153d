"""The store of one box's lines: a ring of files that a kill at any instruction leaves readable.

A file begins with a mark and goes on with batches: lines, and a mark behind them. A mark is a line
of its own that holds the CRC-32 of what lies between the one before and itself, where the box's
own log was read to, and what was counted. It goes to the disk together with its lines, so that the
two can never disagree: what stands behind the last good mark was never answered, is cut off by the
next collector, and is sent again by the box, from where that mark says. Nothing is doubled, nothing
is lost, and nothing has to be flushed. Files are named by the place of their first byte: places
only grow, whatever is forgotten. A line is when it arrived, and what the kernel's own log has::

    2027-01-31T10:00:01 2027-01-31 09:59:58 info echo[3] task 7 hello

Readers, in other processes, read up to the place that ``now.json`` names and no further.
"""

import os
import re
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from clawai.sdk.boxes.wire import Cursor, Figures
from clawai.sdk.files import open_regular
from clawai.sdk.pieces import piece

FILES = 8
"""Of a shelf, at its largest."""
DAY = 86400.0
_NAME = re.compile(r"[0-9]{16}\.log")
_MARK = re.compile(rb"= ([0-9a-f]{8}) (.*)\n")


class Mark(msgspec.Struct, frozen=True):
    """What is known at the end of a batch."""

    at: float
    """When it was written, in seconds of the epoch."""
    cursor: Cursor | None = None
    lines: int = 0
    """That ever came."""
    lost: int = 0
    """That never will."""
    whole: bool = True
    """No more than these are lost."""


class Seen(msgspec.Struct, frozen=True):
    """``now.json``: the latest word of a box."""

    end: int = 0
    """The place to which the shelf may be read."""
    arrived: float = 0.0
    """When it came, in seconds of the epoch; 0: never."""
    ahead: float = 0.0
    """Seconds by which the clock of the box was ahead of this one's, less the way of the word."""
    lines: int = 0
    lost: int = 0
    whole: bool = True
    figures: Figures = Figures()


class Shelf:
    """What a collector writes.

    Args:
        most: bytes of all files together.
        days: a file is forgotten so long after its last line.

    Raises:
        OSError: the disk fails.
    """

    def __init__(
        self, folder: Path, most: int, days: float, clock: Callable[[], float] = time.time
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.mark = Mark(clock())
        self._most, self._keep, self._clock = most, days * DAY, clock
        self._fd = -1
        self._begin = self._size = 0
        self._born = clock()
        self._recover()
        self.forget()

    @property
    def end(self) -> int:
        """The place behind all that is there."""
        return self._begin + self._size

    def add(self, lines: Sequence[bytes], mark: Mark) -> None:
        """Put a batch on it, whole or not at all.

        Args:
            lines: each with its newline.

        Raises:
            OSError: the disk is full, or fails; nothing has changed.
        """
        data = _closed(b"".join(lines), mark)
        old = self._clock() - self._born > DAY
        if self._size + len(data) > self._most // FILES or old:
            self._start()
        self._write(data)
        self.mark = mark
        self.forget()

    def tell(self, seen: Seen) -> None:
        """Let readers know.

        Raises:
            OSError: the disk is full, or fails.
        """
        fresh = self.folder / ".now.json"
        fresh.write_bytes(msgspec.json.encode(seen))
        fresh.replace(self.folder / "now.json")

    def forget(self) -> None:
        """Delete the files that are too old, or too much."""
        if self._size and self._clock() - self.mark.at > self._keep:
            self._start()
        old = self._clock() - self._keep
        left = sum(size for _, size in files(self.folder))
        for begin, size in files(self.folder):
            path = self.folder / _name(begin)
            if begin != self._begin and (left > self._most or path.stat().st_mtime < old):
                path.unlink()
                left -= size

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _start(self) -> None:
        """Begin another file, which knows all that the last one did."""
        end, now = self.end, self._clock()
        self.close()
        self._open(end)
        self._born, self.mark = now, replace(self.mark, at=now)
        self._write(_closed(b"", self.mark))

    def _open(self, begin: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.folder / _name(begin), flags, 0o600)
        self._begin, self._size = begin, os.fstat(self._fd).st_size

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def _recover(self) -> None:
        """Go on behind the last good mark."""
        for begin, _ in reversed(files(self.folder)):
            self._open(begin)
            good, first, last = _checked(os.pread(self._fd, self._size, 0))
            if last:
                os.ftruncate(self._fd, good)
                self._size, self.mark, self._born = good, last, first.at if first else last.at
                return
            self.close()
            (self.folder / _name(begin)).unlink()
        self._open(0)
        self._write(_closed(b"", self.mark))


def _closed(lines: bytes, mark: Mark) -> bytes:
    """Lines with their mark behind them."""
    body = msgspec.json.encode(mark)
    return b"%s= %08x %s\n" % (lines, zlib.crc32(body, zlib.crc32(lines)), body)


def _checked(data: bytes) -> tuple[int, Mark | None, Mark | None]:
    """The bytes up to the last mark that fits, and the first and the last mark of them."""
    good, first, last = 0, None, None
    for found in re.finditer(rb"^= [0-9a-f]{8} .*\n", data, re.MULTILINE):
        match = _MARK.fullmatch(found[0])
        assert match
        lines = data[good : found.start()]
        if int(match[1], 16) != zlib.crc32(match[2], zlib.crc32(lines)):
            break
        good, last = found.end(), msgspec.json.decode(match[2], type=Mark)
        first = first or last
    return good, first, last


def _name(begin: int) -> str:
    return f"{begin:016d}.log"


# What readers need.


def files(folder: Path) -> list[tuple[int, int]]:
    """The place of each file's first byte and its size, the oldest first."""
    found = []
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name):
            try:
                found.append((int(path.stem), path.stat().st_size))
            except FileNotFoundError:
                continue  # it was forgotten just now
    return sorted(found)


def seen(folder: Path) -> Seen:
    """The latest word of a box; an empty one if there is none, or none that can be read."""
    try:
        with open_regular(folder / "now.json") as file:
            return msgspec.json.decode(file.read(64 << 10), type=Seen)
    except (OSError, msgspec.MsgspecError, ValueError):
        return Seen()


def read(folder: Path, place: str) -> dict[str, Any]:
    """A piece of a shelf (``clawai.sdk.pieces``), marks included.

    Raises:
        ClawError: bad_params.
    """
    while True:
        try:
            return _read(folder, place)
        except FileNotFoundError:
            continue  # the oldest file was forgotten in between


def _read(folder: Path, place: str) -> dict[str, Any]:
    kept = files(folder) if folder.is_dir() else []
    first = kept[0][0] if kept else 0
    last = max(first, min(seen(folder).end, sum(kept[-1]))) if kept else 0
    starts = [begin for begin, _ in kept]

    def between(begin: int, end: int) -> bytes:
        parts = []
        for start in starts[max(0, bisect_right(starts, begin) - 1) :]:
            if start >= end:
                break
            with open_regular(folder / _name(start)) as file:
                file.seek(max(0, begin - start))
                parts.append(file.read(end - max(begin, start)))
        return b"".join(parts)

    return piece(place, first, last, between)
