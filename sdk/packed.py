"""The packed file: a model's weights as a driver lays them out, on disk, to be mapped.

What an engine has packed once need not be packed again: the file has the bytes of a weights object
and can be mapped in its place, at once, by every worker of the same code. The kernel writes it (see
``clawai.kernel.steward.packed``), a worker reads it.

    0       header: magic, version, length of the title, bytes of the data, SHA-256 of index + title
    64      title: JSON of what the data was made of
    2 MiB   data: the weights, the notes, and their lengths (``envelope``)
    then    index: SHA-256 of every 4 MiB of the data

Data begins at a multiple of 2 MiB, so that a file system with large folios maps it in huge pages.
Notes are what the engine needs besides the weights, in its own format: with them a start reads
neither the model's file nor its vocabulary.
"""

import contextlib
import hashlib
import mmap
import os
import struct
from dataclasses import dataclass

import msgspec

from clawai.sdk.errors import ClawError

MAGIC = b"CLAWPACK"
VERSION = 1
DATA_AT = 2 << 20
CHUNK = 4 << 20
MAX_NOTES = 64 << 20
MAX_TITLE = 4096
_HEADER = struct.Struct("<8sIIQ32s")
TITLE_AT = 64
_TAIL = struct.Struct("<QQ8s")
_TAIL_MAGIC = b"CLAWNOTE"


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """What stands behind the weights."""

    layout: str
    notes: memoryview
    """Of the memory that it was read from, not a copy."""


@dataclass(frozen=True, slots=True)
class Header:
    """A packed file's own account of itself."""

    nbytes: int
    """Of the data."""
    title: bytes
    check: bytes


class PackedFileError(ClawError):
    """A packed file that cannot be used: it is made again from the model."""

    def __init__(self, message: str) -> None:
        super().__init__("bad_model", f"the packed file cannot be used: {message}")


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed file, as a worker reads it."""

    fd: int
    layout: str
    notes: memoryview
    """Mapped: a start reads little of them."""
    nbytes: int
    """Of the weights alone."""
    whole: int
    """Of the data."""

    @classmethod
    def read(cls, fd: int) -> "Packed":
        """Read the notes of an open file.

        Raises:
            PackedFileError: it cannot be used.
            OSError: it cannot be read.
        """
        whole = read_header(fd).nbytes
        behind, weights = read_envelope(fd, DATA_AT, whole)
        return cls(fd, behind.layout, behind.notes, weights, whole)

    def copy(self, memory: memoryview) -> None:
        """Write the weights into ``memory``."""
        with mapped(self.fd) as file:
            for at in range(0, self.nbytes, CHUNK):
                end = min(at + CHUNK, self.nbytes)
                memory[at:end] = file[DATA_AT + at : DATA_AT + end]


def mapped(fd: int) -> mmap.mmap:
    """A whole file for reading; what is not in memory yet comes in huge pages where it can."""
    file = mmap.mmap(fd, 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
    with contextlib.suppress(OSError):  # a system without huge pages
        file.madvise(mmap.MADV_HUGEPAGE)
    return file


def envelope(layout: str, notes: bytes | memoryview) -> bytes:
    """What is written behind the weights."""
    body = msgspec.msgpack.encode(Envelope(layout, memoryview(notes)))
    return body + _TAIL.pack(len(body), 0, _TAIL_MAGIC)


def read_envelope(fd: int, begin: int, nbytes: int) -> tuple[Envelope, int]:
    """What stands behind the weights in ``nbytes`` at ``begin`` of a file, and the weights' size.

    Raises:
        PackedFileError: there is nothing, or it is damaged.
        OSError: it cannot be read.
    """
    tail = os.pread(fd, _TAIL.size, begin + max(0, nbytes - _TAIL.size))
    if len(tail) < _TAIL.size:
        raise PackedFileError("it has no end")
    length, _, magic = _TAIL.unpack(tail)
    weights = nbytes - _TAIL.size - length
    if magic != _TAIL_MAGIC or length > MAX_NOTES or weights < 0:
        raise PackedFileError("its end is damaged")
    try:
        body = _view(fd, begin + weights, length)
        return msgspec.msgpack.decode(body, type=Envelope), weights
    except msgspec.DecodeError as error:
        raise PackedFileError(f"its notes are damaged: {error}") from error


def _view(fd: int, begin: int, nbytes: int) -> memoryview:
    """A part of a file, mapped as long as somebody views it: a copy would cost a fault a page."""
    if not nbytes:
        return memoryview(b"")
    page = begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    # Private: before Linux 6.7 sealed memory has no shared mapping. The pages are the same.
    flags = mmap.MAP_PRIVATE | mmap.MAP_POPULATE
    size = begin + nbytes - page
    if os.fstat(fd).st_size < page + size:
        raise PackedFileError("it has no end")
    return memoryview(mmap.mmap(fd, size, flags, mmap.PROT_READ, offset=page))[begin - page :]


def header(nbytes: int, title: bytes, index: bytes) -> bytes:
    """The first bytes of a file."""
    check = hashlib.sha256(index + title).digest()
    return _HEADER.pack(MAGIC, VERSION, len(title), nbytes, check).ljust(TITLE_AT, b"\0") + title


def read_header(fd: int) -> Header:
    """Check the beginning of a file against its size.

    Raises:
        PackedFileError: it is no packed file of this version, or its size is wrong.
        OSError: it cannot be read.
    """
    begin = os.pread(fd, TITLE_AT + MAX_TITLE, 0)
    if len(begin) < TITLE_AT:
        raise PackedFileError("it is too short")
    magic, version, titled, nbytes, check = _HEADER.unpack_from(begin)
    if (magic, version) != (MAGIC, VERSION):
        raise PackedFileError(f"magic and version are {magic!r}, {version}")
    size = os.fstat(fd).st_size
    if titled > MAX_TITLE or nbytes < _TAIL.size or size != DATA_AT + nbytes + index_bytes(nbytes):
        raise PackedFileError(f"it has {size} bytes for {nbytes} of data")
    return Header(nbytes, begin[TITLE_AT : TITLE_AT + titled], check)


def index_bytes(nbytes: int) -> int:
    """How large the index of so much data is."""
    return -(-nbytes // CHUNK) * hashlib.sha256().digest_size


def intact(fd: int) -> bool:
    """Whether every byte is what was written. Reads all of it.

    Raises:
        OSError: it cannot be read.
    """
    try:
        found = read_header(fd)
    except PackedFileError:
        return False
    index = os.pread(fd, index_bytes(found.nbytes), DATA_AT + found.nbytes)
    if hashlib.sha256(index + found.title).digest() != found.check:
        return False
    end, digests = DATA_AT + found.nbytes, []
    # Not read: that would bring the file in small pages, for those too who map it meanwhile.
    with mapped(fd) as file:
        for at in range(DATA_AT, end, CHUNK):
            digests.append(hashlib.sha256(file[at : min(at + CHUNK, end)]).digest())
    return b"".join(digests) == index
