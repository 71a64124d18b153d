"""Packages: a plugin as one file, NAME-VERSION.clawplugin, that a stranger may have made.

It is a ZIP file that any tool can list, in the one form that ``write`` gives it: first
``clawplugin.json`` with a hash of every file, then the signature if there is one, then the files in
order, nothing compressed, all times and modes fixed. So the same plugin gives the same bytes
everywhere, and ``unpack`` needs no ZIP reader: it knows what must stand at each byte, and refuses
everything else (links, two entries of a name, bombs, data between or behind the entries).
"""

import contextlib
import io
import secrets
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from clawai.sdk.contents import (
    BYTES,
    FILES,
    FORMAT,
    INDEX,
    SIGNATURE,
    Contents,
    Item,
    Source,
    check_names,
    collect,
    copy_checked,
    write_file,
)
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular
from clawai.sdk.manifest import read_plugin

SUFFIX = ".clawplugin"
INDEX_BYTES = 4 << 20
SIGNATURE_BYTES = 4096
_TIME, _DATE = 0, 33  # midnight of 1980-01-01, the earliest that a ZIP file can say
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_UTF8 = 0x800


@dataclass(frozen=True, slots=True)
class Package:
    """What a package says of itself, checked."""

    contents: Contents
    signature: bytes
    """Of ``clawplugin.sig``; empty without one. ``signing.check`` says what it is worth."""


class _Format(msgspec.Struct, frozen=True):
    """What every format has in common."""

    format: int


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    size: int
    crc: int
    executable: bool

    def local(self) -> bytes:
        raw = self.name.encode()
        fields = (20, _UTF8, 0, _TIME, _DATE, self.crc, self.size, self.size, len(raw), 0)
        return _LOCAL.pack(b"PK\3\4", *fields) + raw

    def central(self, offset: int) -> bytes:
        raw = self.name.encode()
        mode = stat.S_IFREG | (0o755 if self.executable else 0o644)
        fields = (3 << 8 | 20, 20, _UTF8, 0, _TIME, _DATE, self.crc, self.size, self.size)
        rest = (len(raw), 0, 0, 0, 0, mode << 16, offset)
        return _CENTRAL.pack(b"PK\1\2", *fields, *rest) + raw


def _directory(entries: Iterable[_Entry]) -> bytes:
    """What stands behind the files."""
    offset, count = 0, 0
    parts = []
    for entry in entries:
        parts.append(entry.central(offset))
        offset += len(entry.local()) + entry.size
        count += 1
    out = b"".join(parts)
    return out + _END.pack(b"PK\5\6", 0, 0, count, count, len(out), offset, 0)


def pack(folder: Path, target: Path | None = None) -> tuple[Path, Contents]:
    """Pack a plugin's folder; where the package lies, and what is in it.

    Args:
        target: a file, or a folder for NAME-VERSION.clawplugin; the working folder by default.

    Raises:
        ClawError: bad_config (the manifest), bad_package (a file that cannot be packed).
    """
    contents = collect(folder, read_plugin(folder))
    name = f"{contents.name}-{contents.version}{SUFFIX}"
    target = target or Path()
    target = target / name if target.is_dir() else target

    def files() -> Iterator[tuple[str, Item, Source]]:
        for name, item in contents.files.items():
            with open_regular(folder / name) as file:
                yield name, item, file

    with _replacing(target) as out:
        write(out, contents, b"", files())
    return target, contents


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``target`` when it is whole."""
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with fresh.open("xb") as out:
            yield out
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def write(
    out: BinaryIO,
    contents: Contents,
    signature: bytes,
    files: Iterable[tuple[str, Item, Source]],
) -> None:
    """Write a package; ``files`` are those of ``contents``, in its order.

    Raises:
        ClawError: bad_package: a file is not what ``contents`` says (it has changed meanwhile).
    """
    entries = []
    for name, data in _heads(contents, signature):
        entries.append(_Entry(name, len(data), zlib.crc32(data), False))
        out.write(entries[-1].local() + data)
    for name, item, source in files:
        place = out.tell()
        out.write(_Entry(name, item.size, 0, False).local())
        entry = _Entry(name, item.size, copy_checked(source, out, item, name), item.executable)
        out.seek(place)
        out.write(entry.local())
        out.seek(0, io.SEEK_END)
        entries.append(entry)
    out.write(_directory(entries))


def _heads(contents: Contents, signature: bytes) -> list[tuple[str, bytes]]:
    heads = [(INDEX, contents.encoded())]
    return [*heads, (SIGNATURE, signature)] if signature else heads


def unpack(file: BinaryIO, where: str, folder: Path | None = None) -> Package:
    """Check every byte of a package and write its files into a new, empty ``folder``.

    Without one nothing is written. What was written when an error is raised is the caller's to
    delete.

    Raises:
        ClawError: bad_package.
    """
    reader = _Reader(file, where)
    index = reader.head(INDEX, INDEX_BYTES)
    contents = _decoded(index, where)
    signature = reader.head(SIGNATURE, SIGNATURE_BYTES) if reader.signed() else b""
    manifest = contents.files.get("plugin.toml")
    if manifest is None:
        raise ClawError("bad_package", f"{where} holds no plugin.toml")
    for name, item in contents.files.items():
        reader.file(name, item, folder)
    reader.end()
    return Package(contents, signature)


def _decoded(index: bytes, where: str) -> Contents:
    """The contents that a package says it has."""
    try:
        format = msgspec.json.decode(index, type=_Format).format  # noqa: A001
        contents = msgspec.json.decode(index, type=Contents) if format == FORMAT else None
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise ClawError("bad_package", f"{where}: {INDEX}: {error}"[:1000]) from None
    if contents is None:
        raise ClawError(
            "bad_package",
            f"{where} is of another format",
            got=format,
            allowed=FORMAT,
            hint="a newer ClawAI may read it",
        )
    names = list(contents.files)
    check_names(names, lambda wrong, got: ClawError("bad_package", f"{where}: {wrong}", got))
    total = sum(item.size for item in contents.files.values())
    if len(names) > FILES or total > BYTES:
        got, allowed = [len(names), total], [FILES, BYTES]
        raise ClawError("bad_package", f"{where} holds too much (files, bytes)", got, allowed)
    if names != sorted(names) or contents.encoded() != index:
        raise ClawError("bad_package", f"{where}: {INDEX} is not in the form that pack writes")
    return contents


class _Reader:
    """Reads a package from its first byte to its last, knowing what must come."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file, self._where = file, where
        self.entries: list[_Entry] = []
        self._ahead = b""

    def _take(self, count: int) -> bytes:
        taken, self._ahead = self._ahead[:count], self._ahead[count:]
        return taken + self._file.read(count - len(taken))

    def _refuse(self, why: str, got: Any = None) -> ClawError:
        hint = "it is damaged, changed, or was not made by `claw plugin pack`"
        return ClawError("bad_package", f"{self._where}: {why}", got, hint=hint)

    def crc(self, name: str, size: int) -> int:
        """The checksum that the header of the entry that must come here says."""
        raw = self._take(_LOCAL.size + len(name.encode()))
        crc: int = _LOCAL.unpack(raw[: _LOCAL.size])[6] if len(raw) >= _LOCAL.size else 0
        if raw != _Entry(name, size, crc, False).local():
            raise self._refuse(f"the entry {name} does not stand where it must")
        return crc

    def head(self, name: str, limit: int) -> bytes:
        """The bytes of an entry whose size only its header says."""
        raw = self._take(_LOCAL.size)
        size = _LOCAL.unpack(raw)[8] if len(raw) == _LOCAL.size else -1
        if not 0 <= size <= limit:
            raise self._refuse("this is no package, or one with another form", size)
        self._ahead = raw + self._ahead
        crc = self.crc(name, size)
        data = self._take(size)
        if len(data) != size or zlib.crc32(data) != crc:
            raise self._refuse(f"{name} is cut off or damaged")
        self.entries.append(_Entry(name, size, crc, False))
        return data

    def signed(self) -> bool:
        """Whether the next entry is the signature."""
        want = SIGNATURE.encode()
        self._ahead = raw = self._take(_LOCAL.size + len(want))
        if len(raw) < _LOCAL.size:
            return False
        return bool(_LOCAL.unpack(raw[: _LOCAL.size])[9] == len(want)) and raw.endswith(want)

    def file(self, name: str, item: Item, folder: Path | None) -> None:
        """Check one file, and write it if there is a folder."""
        crc, what = self.crc(name, item.size), f"{self._where}: {name}"
        if folder:
            found = write_file(folder, name, item, _Rest(self), what)
        else:
            found = copy_checked(_Rest(self), None, item, what)
        if found != crc:
            raise self._refuse(f"the checksum of {name} is wrong")
        self.entries.append(_Entry(name, item.size, crc, item.executable))

    def end(self) -> None:
        """What stands behind the files must be their directory, and the end of the file."""
        expected = _directory(self.entries)
        if self._take(len(expected) + 1) != expected:
            raise self._refuse("what follows its files is not their directory, or more than that")


class _Rest:
    """The bytes that a reader has not taken yet."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def read(self, size: int = -1, /) -> bytes:
        return self._reader._take(size)


def read(path: Path, folder: Path | None = None) -> Package:
    """``unpack`` the file at ``path``.

    Raises:
        ClawError: bad_package; bad_config if it is no regular file.
        OSError: it cannot be read.
    """
    with open_regular(path, follow=True) as file:
        return unpack(file, path.name, folder)


def with_signature(path: Path, target: Path, contents: Contents, signature: bytes) -> None:
    """Write the package at ``path``, which is checked again, with another signature."""
    with open_regular(path, follow=True) as source:
        reader = _Reader(source, path.name)
        if _decoded(reader.head(INDEX, INDEX_BYTES), path.name) != contents:
            raise ClawError("bad_package", f"{path} has changed meanwhile")
        if reader.signed():
            reader.head(SIGNATURE, SIGNATURE_BYTES)

        def files() -> Iterator[tuple[str, Item, Source]]:
            for name, item in contents.files.items():
                reader.crc(name, item.size)
                yield name, item, _Rest(reader)

        with _replacing(target) as out:
            write(out, contents, signature, files())
