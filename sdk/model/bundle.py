"""A model of several files in one: a tar archive (POSIX ustar), so that its bytes can be mapped.

``claw pull`` makes one where a catalogue entry has ``members``. Names, sizes and contents decide
its bytes, nothing else does: no times, no owners.
"""

import mmap
import os
import shutil
import tarfile
from pathlib import Path
from typing import IO, Any

from clawai.sdk.errors import ClawError

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
"""Comes behind the last member."""
MEMBERS = 64
"""So many at most."""


def is_bundle(head: bytes) -> bool:
    """Whether a file that begins so is such an archive."""
    return head[257:262] == b"ustar"


def add(out: IO[bytes], name: str, source: Path) -> None:
    """Append a file as the member ``name``."""
    with source.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        told = tarfile.TarInfo(name)
        told.size = size
        out.write(told.tobuf(tarfile.USTAR_FORMAT))
        shutil.copyfileobj(file, out, 1 << 20)
        out.write(bytes(-size % BLOCK))


def read(fd: int) -> dict[str, memoryview]:
    """The members of an archive by name, mapped read-only; the descriptor stays the caller's.

    Raises:
        ClawError: bad_model, it is no such archive: each size is checked against the file's.
    """
    total = os.fstat(fd).st_size
    if total < 3 * BLOCK:
        raise _bad(f"the file has {total} bytes only")
    whole = memoryview(mmap.mmap(fd, total, prot=mmap.PROT_READ))
    found: dict[str, memoryview] = {}
    at = 0
    while at + BLOCK <= total and any(head := bytes(whole[at : at + BLOCK])):
        try:
            told: Any = tarfile.TarInfo.frombuf(head, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise _bad(f"a damaged header at byte {at}: {error}") from None
        at += BLOCK
        if not told.isreg() or not 0 <= told.size <= total - at:
            raise _bad(f"the member {told.name[:80]!r} is no file of at most {total - at} bytes")
        if told.name in found or len(found) == MEMBERS:
            raise _bad(f"the member {told.name[:80]!r} is one too many")
        found[told.name] = whole[at : at + told.size]
        at += told.size + -told.size % BLOCK
    return found


def member(members: dict[str, memoryview], name: str) -> memoryview:
    """One that must be there.

    Raises:
        ClawError: bad_model.
    """
    if name not in members:
        raise _bad(f"{name} is missing", sorted(members)[:20])
    return members[name]


def _bad(why: str, got: Any = None) -> ClawError:
    text = f"this is no model of several files: {why}"
    return ClawError("bad_model", text, got, "a tar archive of files, as `claw pull` makes them")
