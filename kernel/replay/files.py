"""The files of the event journal, read as hostile input.

A file, or the files of a folder put together, is: ``MAGIC``, a head, a snapshot, entries; and
where the journal began again, ``MAGIC``, a head, a snapshot and so on. Head, snapshot and entries
are each a length (4 bytes, little-endian) and so many bytes. What the daemon did not finish to
write, at the end of a file, is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from clawai.kernel.journal import FORMAT
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular

MAGIC = b"CLAWJNL1"
MAX_SNAPSHOT = 1 << 30
MAX_ENTRY = 64 << 20


class Head(msgspec.Struct, frozen=True):
    """Where a snapshot stands."""

    format: int
    number: int
    """Events of this daemon before it."""
    sum: int
    now: int
    core: tuple[int, int, int, frozenset[int]] | None = None
    """What the core was made of, where there is no snapshot yet."""
    code: str = ""
    """Identity of the core's files."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state before what follows."""

    head: Head
    data: bytes
    where: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, and what the daemon answered."""

    now: int
    answer: tuple[int, list[str]] | None
    """The checksum after it and the names of the instructions; None: the core broke."""
    event: msgspec.Raw
    """As ``thaw.event`` takes it."""


_entry = msgspec.msgpack.Decoder(tuple[int, tuple[int, list[str]] | None, msgspec.Raw])


def packed(data: bytes) -> bytes:
    """With its length before it."""
    return len(data).to_bytes(4, "little") + data


def segments(folder: Path) -> dict[int, bool]:
    """The segments of a folder in order, and whether each has its snapshot."""
    found: dict[int, bool] = {}
    for path in sorted(folder.glob("[0-9]*.events")):
        if path.stem.isdigit():
            found[int(path.stem)] = path.with_suffix(".snapshot").exists()
    return dict(sorted(found.items()))


def parts(path: Path) -> list[Path]:
    """The files that hold the journal that ``path`` names: a folder, a file of a segment, a crash.

    Raises:
        ClawError: bad_params.
    """
    if path.is_dir():
        found = segments(path)
        first = next((number for number, whole in found.items() if whole), None)
        if first is None:
            raise ClawError(
                "bad_params",
                f"{path} holds no event journal",
                hint="the kernel's is shown by `claw replay`",
            )
        files = []
        for number, whole in found.items():
            if number >= first:
                names = (".snapshot", ".events") if whole else (".events",)
                files += [path / f"{number:08}{name}" for name in names]
        return files
    if path.suffix in (".snapshot", ".events"):
        return [path.with_suffix(".snapshot"), path.with_suffix(".events")]
    return [path]


def read(files: list[Path]) -> Iterator[Snapshot | Entry]:
    """What the files hold, in order.

    Raises:
        ClawError: bad_config, naming the file and the place.
    """
    for path in files:
        try:
            with open_regular(path, follow=True) as file:
                yield from read_from(file, str(path))
        except OSError as error:
            raise ClawError("bad_config", f"{path}: {error.strerror}") from error


def read_from(file: Any, where: str) -> Iterator[Snapshot | Entry]:
    """What an open file holds from where it stands; it is left before what is not complete yet.

    Raises:
        ClawError: as ``read``.
    """
    while True:
        place = file.tell()
        if not (start := file.read(4)):
            return
        if start == MAGIC[:4] and file.read(4) == MAGIC[4:]:
            head, data = _block(file, MAX_ENTRY), _block(file, MAX_SNAPSHOT)
            if head is None or data is None:
                file.seek(place)
                return
            yield Snapshot(_head(head, where), data, where)
            continue
        size = int.from_bytes(start, "little")
        if len(start) < 4:
            file.seek(place)
            return
        if size > MAX_ENTRY:
            raise ClawError("bad_config", f"{where}: no entry at byte {file.tell() - 4}", size)
        data = file.read(size)
        if len(data) < size:
            file.seek(place)
            return
        try:
            yield Entry(*_entry.decode(data))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            place += 4
            raise ClawError("bad_config", f"{where}: the entry at byte {place}: {error}") from None


def _block(file: Any, most: int) -> bytes | None:
    start = file.read(4)
    size = int.from_bytes(start, "little")
    if size > most:
        raise ClawError("bad_config", f"{file.name}: a block is too large", size, most)
    data: bytes = file.read(size)
    return data if len(start) == 4 and len(data) == size else None


def _head(data: bytes, where: str) -> Head:
    try:
        head = msgspec.msgpack.decode(data, type=Head)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ClawError("bad_config", f"{where}: the head of a snapshot: {error}") from None
    if head.format != FORMAT:
        raise ClawError("bad_config", f"{where}: of another format", head.format, FORMAT)
    return head
