"""The packed weights on disk: found for a worker at its start, written when one has filled anew.

A file belongs to the plugin's code, its drivers' code and the model's file, as a weights object
does, and is opened for reading only: whoever maps it can change nothing. It is written by a child
beside the others' work, under another name until it is whole, and checked against its digests by a
child when it is first used; a damaged one is removed and whoever mapped it ends. The files together
take a fifth of what the disk has left for them at most; those used longest ago go first.
"""

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clawai.kernel.steward.log import LogFile
from clawai.sandbox import syscalls as sc
from clawai.sdk import packed, paths
from clawai.sdk.weights import HUGE, huge_in_file

PART = 0.2
"""Of the disk, free or taken by them, that these files may take."""
SUFFIX = ".claw"


Key = tuple[int, int]
"""Device and inode of a file."""


@dataclass(frozen=True, slots=True)
class Pack:
    """An open packed file."""

    fd: int
    path: Path
    nbytes: int
    """Of its data."""
    huge: bool
    """It is mapped in huge pages."""

    @property
    def key(self) -> Key:
        """Which file it is."""
        status = os.fstat(self.fd)
        return status.st_dev, status.st_ino


def folder() -> Path:
    """Where they lie."""
    return paths.cache_dir() / "packed"


@dataclass
class Packs:
    """The packed files, and which worker was given which."""

    log: LogFile
    aside: Callable[[Callable[[], object], Callable[[bool], None], int], None]
    """Does something in a child that has one descriptor, then tells whether it went well."""
    end: Callable[[int, str], None] = lambda _worker, _why: None
    """Ends a worker, for a reason."""
    spoiled: Callable[[int], None] = lambda _number: None
    """Is told which weights objects are damaged."""
    on: bool = True
    titles: dict[int, dict[str, str]] = field(default_factory=dict)
    """Of each worker of a model, what its weights are made of."""
    given: dict[int, Pack] = field(default_factory=dict)
    """What each worker has got at its start."""
    made: dict[int, Key] = field(default_factory=dict)
    """Weights objects that are such a file, or a copy of it."""
    checked: set[Key] = field(default_factory=set)
    """Files that are intact, or are being looked at."""

    def find(self, worker: int, title: dict[str, str]) -> Pack | None:
        """The file for a worker that starts, if there is one; it is closed by ``gone``."""
        if not self.on:
            return None
        self.titles[worker] = title
        path = folder() / _name(title)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            if os.fstat(fd).st_uid != os.getuid():
                raise packed.PackedFileError("it is another user's")
            found = packed.read_header(fd)
            with contextlib.suppress(OSError):
                os.utime(path)  # used now: see _prune
            pack = Pack(fd, path, found.nbytes, huge_in_file(fd, packed.DATA_AT, found.nbytes))
        except (OSError, packed.PackedFileError) as error:
            os.close(fd)
            self._remove(path, str(error))
            return None
        self.given[worker] = pack
        return pack

    def used(self, worker: int, number: int) -> None:
        """A worker has made a weights object of its file: the file is checked, once."""
        pack = self.given[worker]
        self.made[number] = key = pack.key
        if key not in self.checked:
            self.checked.add(key)
            self._check(pack, key)

    def gone(self, worker: int) -> None:
        """A worker needs its file no more."""
        self.titles.pop(worker, None)
        if pack := self.given.pop(worker, None):
            os.close(pack.fd)

    def keep(self, worker: int, fd: int) -> None:
        """Write what a worker has filled, and nobody can change, to disk."""
        title = self.titles.get(worker)
        if title is None:
            return
        nbytes = os.fstat(fd).st_size
        try:
            packed.read_envelope(fd, 0, nbytes)
        except (OSError, packed.PackedFileError):
            return  # an engine without notes gains nothing
        path = folder() / _name(title)

        def written(done: bool) -> None:
            if done:
                self.log.write("info", f"packed weights are kept: {path.name}, {nbytes >> 20} MiB")
            else:
                self.log.write("warning", f"packed weights could not be kept in {folder()}")

        self.aside(lambda: write(path, title, fd, nbytes), written, fd)

    def _check(self, pack: Pack, key: Key) -> None:
        def told(intact: bool) -> None:
            if intact:
                return
            self.checked.discard(key)
            if pack.path.exists():  # whoever looked could not: that says nothing of the file
                return
            self.log.write("warning", f"packed weights {pack.path.name} are removed: damaged")
            for number in [number for number, made_of in self.made.items() if made_of == key]:
                self.spoiled(number)
            for worker in [worker for worker, other in self.given.items() if other.key == key]:
                self.end(worker, "its packed weights are damaged on the disk")

        def look() -> None:
            os.nice(19)
            if not packed.intact(pack.fd):
                pack.path.unlink(missing_ok=True)
                raise ValueError(pack.path)

        self.aside(look, told, pack.fd)

    def _remove(self, path: Path, why: str) -> None:
        self.log.write("warning", f"packed weights {path.name} are removed: {why}")
        with contextlib.suppress(OSError):
            path.unlink()


def step_aside(steward: int, fd: int) -> None:
    """Be a child of the steward that works for seconds: hold nothing of its, end with it, and
    leave the processors to others first."""
    with contextlib.suppress(OSError):  # a filter around us may forbid it
        os.nice(10)
    sc.close_all_but([fd])
    sc.set_name("claw-packer")
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != steward:
        os._exit(1)


def _name(title: dict[str, str]) -> str:
    text = json.dumps(title, sort_keys=True).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:40] + SUFFIX


def write(path: Path, title: dict[str, str], fd: int, nbytes: int) -> None:
    """Write a whole file beside its place, then put it there.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    place = paths.make_private(path.parent)
    size = packed.DATA_AT + nbytes + packed.index_bytes(nbytes)
    _prune(place, title, size)
    beside = path.with_suffix(f".{os.getpid()}.part")
    try:
        # Not closed: the process ends soon, and views of it are about.
        data = mmap.mmap(fd, nbytes, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(beside, flags, 0o600), "wb", buffering=0) as file:  # noqa: PTH123
            os.posix_fallocate(file.fileno(), 0, size)
            index = b""
            file.seek(packed.DATA_AT)
            for at in range(0, nbytes, packed.CHUNK):
                # Whole huge pages at a time: large folios are made by large writes.
                chunk = memoryview(data)[at : at + packed.CHUNK]
                index += hashlib.sha256(chunk).digest()
                while chunk:
                    chunk = chunk[file.write(chunk[:HUGE]) :]
            file.write(index)
            file.seek(0)
            text = json.dumps(title, sort_keys=True).encode("utf-8", "surrogateescape")
            file.write(packed.header(nbytes, text[: packed.MAX_TITLE], index))
            os.fsync(file.fileno())
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _prune(place: Path, title: dict[str, str], size: int) -> None:
    """Make room: what this file replaces goes, and then what was used longest ago.

    Raises:
        OSError: there is no room for so much.
    """
    kept = []
    for path in place.iterdir():
        try:
            status = path.lstat()
        except OSError:
            continue
        if path.suffix == ".part" or _replaced(path, title):
            path.unlink(missing_ok=True)
        else:
            kept.append((status.st_mtime_ns, status.st_blocks * 512, path))
    taken = sum(nbytes for _, nbytes, _ in kept)
    most = int(PART * (shutil.disk_usage(place).free + taken))
    for _, nbytes, path in sorted(kept):
        if taken + size <= most:
            break
        path.unlink(missing_ok=True)
        taken -= nbytes
    if taken + size > most:
        raise OSError(f"{size} bytes are more than {PART:.0%} of what the disk has free")


def _replaced(path: Path, title: dict[str, str]) -> bool:
    """Whether a file is of the same plugin and model, as they were before."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            old = json.loads(packed.read_header(fd).title)
        finally:
            os.close(fd)
        return bool(
            old["plugin"] == title["plugin"] and old["model"] == title["model"] and old != title
        )
    except (OSError, ValueError, KeyError, TypeError, packed.PackedFileError):
        return True
