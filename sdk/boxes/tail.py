"""Follows the kernel's log, two files that take turns, from any place that somebody remembers.

The files themselves are what is kept while nobody can be told: at most two by name, and one more
that is open here and deleted already. When a fourth begins, the lines that are left of the first
are counted and lost. What came and went while nobody looked cannot be counted, and that is said.
"""

import hashlib
import os
import re
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from clawai.sdk.boxes.wire import LINES, TEXT, Cursor, Gap, Line
from clawai.sdk.files import open_regular

FILES = 3
FIRST = 4096
"""Bytes of a first line that tell a file from another one."""
BLOCK = 64 << 10
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (debug|info|warning|error) (.*)")


@dataclass
class Part:
    """One file."""

    file: BinaryIO
    inode: int
    sent: int = 0
    """Bytes that the collector has,"""
    read: int = 0
    """and that were read."""
    head: str = ""

    @property
    def size(self) -> int:
        """Bytes that there are."""
        return os.fstat(self.file.fileno()).st_size

    @property
    def deleted(self) -> bool:
        """Whether it has no name any more."""
        return os.fstat(self.file.fileno()).st_nlink == 0

    def known_by(self) -> str:
        """What tells it from a later file of its number; empty without a first line."""
        if not self.head:
            first, newline, _ = os.pread(self.file.fileno(), FIRST, 0).partition(b"\n")
            if newline or len(first) == FIRST:
                self.head = hashlib.sha256(first).hexdigest()[:32]
        return self.head

    def holds(self, cursor: Cursor) -> bool:
        """Whether a place is one of it."""
        if cursor.inode != self.inode or cursor.head != self.known_by():
            return False
        if not 0 < cursor.offset < self.size:
            return cursor.offset == self.size
        return os.pread(self.file.fileno(), 1, cursor.offset - 1) == b"\n"

    def left(self) -> int:
        """Lines that the collector does not have."""
        count, place = 0, self.sent
        while data := os.pread(self.file.fileno(), BLOCK, place):
            count, place = count + data.count(b"\n"), place + len(data)
        return count


@dataclass
class Tail:
    """The log of this box, as it grows."""

    path: Path
    parts: list[Part] = field(default_factory=list)
    """The oldest first; what was read lies in one of them, and all of those before it."""
    gap: Gap | None = None
    """What is lost since the last word of it came through."""
    _told: Gap | None = None
    """What of that is on its way."""
    _read: Cursor | None = None
    """Where it was read to,"""
    _taken: Cursor | None = None
    """and to where that was taken: lines behind it that are lost were counted."""

    def look(self, drop: bool = True) -> None:
        """See which files there are.

        Args:
            drop: let go of the oldest if there are too many: not while its lines are on their way.
        """
        while True:
            fresh = _opened(self.path)
            older = _opened(self.path.with_suffix(".log.1")) if fresh else None
            again = _opened(self.path)
            same = (fresh and fresh.inode) == (again and again.inode)
            for each in (again, None if same else fresh, None if same else older):
                if each:
                    each.file.close()
            if same:
                break
        self._take(older, fresh)
        while drop and len(self.parts) > FILES:
            gone = self.parts.pop(0)
            self._lose(gone.left())
            gone.file.close()

    def seek(self, cursor: Cursor | None) -> None:
        """Go on behind a place; from the first line on, if there was none."""
        self.look()
        self._told = None
        found = next((each for each in self.parts if cursor and each.holds(cursor)), None)
        for each in self.parts:
            each.sent = each.read = 0
        if cursor and found:
            for each in self.parts[: self.parts.index(found)]:
                each.sent = each.read = each.size
            found.sent = found.read = cursor.offset
            self._taken = cursor
        elif cursor and cursor != self._taken:
            self._lose(0, whole=False)

    def read(self, most: int) -> tuple[list[Line], Cursor | None, Gap | None]:
        """The next lines, ``most`` bytes at most, the place behind them, and what is lost before.

        They are read again after the next ``seek``, unless ``done`` was said.
        """
        self.look()
        self._told = self.gap
        lines: list[Line] = []
        at: Part | None = None
        for each in self.parts:
            if each.read:
                at = each
            while most > 0 and len(lines) < LINES:
                data = os.pread(each.file.fileno(), min(most, BLOCK), each.read)
                whole = _whole(data, LINES - len(lines))
                to_the_end = each.read + len(data) >= each.size or len(data) >= BLOCK
                if not whole and each is not self.parts[-1] and to_the_end:
                    whole = data  # a line that nobody ends any more, or longer than any is
                if not whole:
                    break
                lines += [parsed(line) for line in whole.removesuffix(b"\n").split(b"\n")]
                each.read, at, most = each.read + len(whole), each, most - len(whole)
            if each.read < each.size:
                break  # nothing of a later file before all of this one
        head = at.known_by() if at else ""
        self._read = Cursor(at.inode, head, at.read) if at and head else None
        return (lines, self._read, self._told) if self._read else ([], None, None)

    def done(self) -> None:
        """What was read last is in the store."""
        for each in self.parts:
            each.sent = each.read
        for each in [each for each in self.parts[:-1] if each.deleted and each.sent == each.size]:
            self.parts.remove(each)  # the disk has its room back
            each.file.close()
        if self.gap and self._told:
            more = self.gap.lines - self._told.lines
            changed = more or self.gap.whole != self._told.whole
            self.gap = Gap(more, self.gap.whole) if changed else None
        self._told, self._taken = None, self._read

    def close(self) -> None:
        """Close all files."""
        while self.parts:
            self.parts.pop().file.close()

    def _take(self, older: Part | None, fresh: Part | None) -> None:
        """Know the two files that have names now."""
        known = {each.inode: each for each in self.parts}
        newest = self.parts[-1] if self.parts else None
        if newest and newest.size < newest.read:  # somebody has emptied it
            self._lose(0, whole=False)
            newest.sent = newest.read = 0
            newest.head = ""
        missed = newest and fresh and fresh.inode not in known
        if missed and newest and (older is None or older.inode != newest.inode):
            self._lose(0, whole=False)  # it had a successor, which is gone, too
        for each in (older, fresh):
            if each and each.inode not in known:
                self.parts.append(each)
            elif each:
                each.file.close()

    def _lose(self, lines: int, whole: bool = True) -> None:
        if lines or not whole:
            before = self.gap or Gap()
            self.gap = Gap(before.lines + lines, before.whole and whole)


def _opened(path: Path) -> Part | None:
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return None
    return Part(file, os.fstat(file.fileno()).st_ino)


def _whole(data: bytes, most: int) -> bytes:
    """The whole lines at the beginning of ``data``; a line without an end that fills a block is
    cut there."""
    end = data.rfind(b"\n") + 1
    if not end and len(data) == BLOCK:
        return data
    lines = data[:end].split(b"\n", most)
    return data[:end] if len(lines) <= most else data[: end - len(lines[-1])]


def parsed(line: bytes) -> Line:
    """A line of the log; one without a time is of now."""
    text = line.decode("utf-8", "replace")
    found = _LINE.fullmatch(text)
    if not found:
        return Line(int(time.time()), "info", _cut(text))
    return Line(_seconds(found[1]), found[2], _cut(found[3]))  # type: ignore[arg-type]


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[: TEXT - 1]}…"


@lru_cache(64)
def _seconds(text: str) -> int:
    """Of the epoch, by the clock and the zone of this box."""
    try:
        return max(0, int(time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S"))))
    except (ValueError, OverflowError):
        return 0
