"""Memfds of the pool: segments that a client and a worker share, and weights objects.

Every memfd is sealed against resizing, so that no holder can truncate it under another. Who is to
map one gets its descriptor over a lease socket. After a segment's pages were given back its
descriptor is kept for a while, to see from its block count whether a worker that had mapped it
fills it again. A weights object is filled by one worker and then mapped by many for reading.

Nothing here takes long: pages are given back in parts, and what walks through gigabytes (sealing,
closing the last descriptor) is done by a child.
"""

import errno
import fcntl
import mmap
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from clawai.kernel.limits import SECOND
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.kernel.steward import limits
from clawai.kernel.steward.door import Door, scarce
from clawai.kernel.steward.keepers import Keepers
from clawai.kernel.steward.log import LogFile
from clawai.kernel.steward.packed import Packs, step_aside
from clawai.sdk.errors import ClawError
from clawai.sdk.packed import DATA_AT
from clawai.sdk.plain import error_fields


def create(name: str, size: int) -> int:
    """A memfd of ``size`` bytes that nobody can resize, nor seal against anything else.

    Raises:
        OSError: it cannot be had.
    """
    fd = _create(name, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    return fd


def _create(name: str, size: int) -> int:
    """One that can still be sealed against writing."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except OSError:
        os.close(fd)
        raise
    return fd


def blocks(fd: int) -> int:
    """How many 512-byte blocks hold data."""
    return os.fstat(fd).st_blocks


def punch(fd: int, begin: int, length: int) -> int:
    """Give some pages back; where the next ones begin, at the end the size."""
    size = os.fstat(fd).st_size
    length = min(length, size - begin)
    with mmap.mmap(fd, size) as mapping:
        mapping.madvise(mmap.MADV_REMOVE, begin, length)
    return begin + length


def read_only(fd: int) -> int:
    """A second descriptor of the same memory that cannot be mapped for writing.

    A worker cannot make a better one of it: its sandbox has no /proc to open it by another way.
    """
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


@dataclass(slots=True)
class Segment:
    """What one client and one worker share."""

    fd: int
    worker: int
    owner: int
    """The process of its client."""


@dataclass
class Memory:
    """The descriptors behind the core's numbers."""

    loop: Loop
    link: Link
    log: LogFile
    door: Door
    keepers: Keepers
    """Of the weights that are to stay in memory."""
    workers: dict[int, socket.socket] = field(default_factory=dict)
    """Our ends of the lease sockets of those that live."""
    segments: dict[int, Segment] = field(default_factory=dict)
    freeing: dict[int, int] = field(default_factory=dict)
    """Segments whose pages are being given back, and how far that is."""
    retired: dict[int, dict[int, Segment]] = field(default_factory=dict)
    """Worker to segments whose pages it gave back."""
    fresh: bool = False
    """Pages were given back since the last look at ``violators``."""
    weights: dict[int, int] = field(default_factory=dict)
    on_disk: dict[int, int] = field(default_factory=dict)
    """Weights that are a packed file, and how large its data is."""
    filling: dict[int, int] = field(default_factory=dict)
    """Workers to the weights that they are to fill."""
    unlike: set[int] = field(default_factory=set)
    """Workers whose code is not what the core was told: they share weights with nobody."""
    sealing: dict[int, bool] = field(default_factory=dict)
    """Weights objects that are being sealed, and whether they are to be freed then."""
    refilled: dict[int, list[int]] = field(default_factory=dict)
    """Workers to segments that are given back again when they are gone, as they filled them."""
    looked: int = 0
    given: Callable[[int, int], None] = lambda _worker, _size: None
    """Is told before a worker gets so many bytes more."""
    packs: Packs = field(init=False)

    def __post_init__(self) -> None:
        self.packs = Packs(self.log, self._aside, spoiled=self._spoiled)

    def handlers(self) -> dict[str, Callable[..., None]]:
        """What the daemon may say."""
        return {
            "make_segment": self._make_segment,
            "MakeMemory": self._make_weights,
            "GiveMemory": self._give_weights,
            "FreeMemory": self._free,
            "seal_weights": self._seal_weights,
        }

    # Workers.

    def pair(self, worker: int) -> int:
        """Make a worker's lease socket; the worker's end of it.

        Raises:
            OSError: no descriptor can be had.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.workers[worker] = ours
        return theirs.detach()

    def worker_gone(self, worker: int) -> None:
        """A dead worker takes nothing and fills nothing."""
        if sock := self.workers.pop(worker, None):
            sock.close()
        for segment in self.retired.pop(worker, {}).values():
            os.close(segment.fd)
        self.freeing |= dict.fromkeys(self.refilled.pop(worker, ()), 0)
        self.filling.pop(worker, None)
        self.packs.gone(worker)
        self.unlike.discard(worker)

    def _broke(self, worker: int, why: str) -> None:
        if worker in self.workers:
            self.link.send("happened", "WorkerBroke", worker, why)

    def _give(self, worker: int, header: dict[str, Any], fd: int) -> None:
        """Send a descriptor to a worker.

        Raises:
            OSError: it is gone, or does not take it.
        """
        if worker not in self.workers:
            raise OSError(errno.ESRCH, "the worker is gone")
        self.given(worker, header["bytes"])
        theirs = read_only(fd) if header.get("rights") == "r" else fd
        try:
            socket.send_fds(self.workers[worker], [msgspec.msgpack.encode(header)], [theirs])
        finally:
            if theirs != fd:
                os.close(theirs)

    # Segments.

    def _make_segment(
        self,
        question: int,
        number: int,
        size: int,
        worker: int,
        client: int,
        rights: str,
        _: list[int],
    ) -> None:
        """Create a segment and pass it to both sides, then answer."""
        try:
            fd = self.make(number, size, worker, self.door.process(client))
            header = {"segment": number, "bytes": size}
            # The client first: a worker that had it would keep it if the client's way is blocked.
            self.door.give(client, header, fd)
            self._give(worker, header | {"rights": rights}, fd)
        except ClawError as error:
            self._unmade(question, number, error)
        except OSError as error:
            self.log.write("error", f"segment {number}: {error.strerror}")
            text = f"no segment could be made: {error.strerror}"
            self._unmade(question, number, ClawError("no_memory", text))
        else:
            self.link.send("answer", question, True)

    def _unmade(self, question: int, number: int, why: ClawError) -> None:
        if made := self.segments.pop(number, None):
            os.close(made.fd)
        self.link.send("refuse", question, error_fields(why))

    def make(self, number: int, size: int, worker: int, owner: int) -> int:
        """Create a segment for a client's process.

        Raises:
            OSError: it cannot be had.
        """
        fd = create(f"claw-segment-{number}", size)
        if scarce(fd):
            os.close(fd)  # the rest is kept for clients and workers
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.segments[number] = Segment(fd, worker, owner)
        return fd

    def _free(self, number: int, _: list[int]) -> None:
        if number in self.segments:
            self.freeing[number] = 0
        elif number in self.weights:
            self._free_weights(number)
        else:  # lost with the steward before this one
            self.link.send("happened", "MemoryGone", number)

    def punch_some(self) -> list[int]:
        """Give so many pages back as one turn of the loop has time for; segments that are done."""
        left, done = limits.PUNCH, []
        while self.freeing and left > 0:
            number, begin = next(iter(self.freeing.items()))
            fd = self.segments[number].fd
            reached = punch(fd, begin, left)
            left -= reached - begin
            self.freeing[number] = reached
            if reached == os.fstat(fd).st_size:
                del self.freeing[number]
                done.append(number)
        return done

    def retire(self, number: int) -> bool:
        """Let go of a segment whose pages were given back; False if its worker fills them again.

        What the client fills is its own, as if it had made the file itself: nobody else is to
        blame for it.
        """
        segment = self.segments[number]
        alive = segment.worker in self.workers
        if alive and blocks(segment.fd) and not _owner_maps(number, segment):
            return False
        del self.segments[number]
        if not alive:
            os.close(segment.fd)
            return True
        held = self.retired.setdefault(segment.worker, {})
        held[number] = segment
        self.fresh = True
        if len(held) > limits.WATCHED:  # one that is never idle is never renewed
            os.close(held.pop(next(iter(held))).fd)
        return True

    def violators(self) -> list[int]:
        """Workers that wrote to pages after they had given them back."""
        self.fresh = False
        return [
            worker
            for worker, held in self.retired.items()
            if any(blocks(each.fd) and not _owner_maps(n, each) for n, each in held.items())
        ]

    # Time.

    def next_timer(self) -> int | None:
        """Now while pages are to be given back; in a second while they may come back."""
        if self.freeing:
            return 0
        return self.looked + SECOND if self.fresh else None

    def expire(self, now: int) -> None:
        """Give back a part (a gigabyte at once would hold everybody up), and look."""
        written = []
        for number in self.punch_some():
            segment = self.segments[number]
            if self.retire(number):
                self.link.send("happened", "MemoryGone", number)
            else:
                self.refilled.setdefault(segment.worker, []).append(number)
                written.append(segment.worker)
        if now >= self.looked + SECOND:
            self.looked = now
            written += self.violators()
        for worker in written:
            self._broke(worker, "it wrote to memory that was taken back")

    # Weights objects.

    def _make_weights(self, number: int, size: int, worker: int, *_: Any) -> None:
        try:
            if worker in self.unlike:
                raise OSError(errno.EPERM, "its code is not what others of them run")
            fd = self.weights[number] = _create("claw-weights", size)
            self._give(worker, {"weights": number, "bytes": size}, fd)
            self.filling[worker] = number
        except OSError as error:
            self._weightless(worker, error)

    def _give_weights(self, number: int, worker: int, _: list[int]) -> None:
        try:
            if (fd := self.weights.get(number)) is None:
                raise OSError(errno.ENOENT, "they are lost")  # with the steward before this one
            if worker in self.unlike:
                raise OSError(errno.EPERM, "its code is not that of who filled them")
            header = {"weights": number, "bytes": os.fstat(fd).st_size}
            if number in self.on_disk:
                header |= {"bytes": self.on_disk[number], "at": DATA_AT}
            self._give(worker, header, fd)
        except OSError as error:
            self._weightless(worker, error)

    def _weightless(self, worker: int, error: OSError) -> None:
        self._broke(worker, f"it cannot be given its weights: {error}")

    def _seal_weights(self, worker: int, _: list[int]) -> None:
        """Forbid every write to what a worker has filled; while somebody maps it for writing, the
        system refuses."""
        number = self.filling.pop(worker, None)
        if number is None:
            self.link.send("happened", "WorkerFilled", worker, False)
            return
        if worker in self.packs.given and not blocks(self.weights[number]):
            self._use_packed(worker, number)
            return
        fd = self.weights[number]
        self.sealing[number] = False
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

        def sealed(done: bool) -> None:
            self.link.send("happened", "WorkerFilled", worker, done)
            if done:
                self.keepers.keep(number, fd)
                if worker in self.packs.given:
                    self.packs.used(worker, number)
                else:
                    self.packs.keep(worker, fd)
            if self.sealing.pop(number):
                self._free_weights(number)

        self._in_child(lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals), sealed)

    def _use_packed(self, worker: int, number: int) -> None:
        """A worker has filled nothing, for it maps its packed file: that is the object."""
        pack = self.packs.given[worker]
        size = pack.nbytes
        os.close(self.weights[number])
        fd = self.weights[number] = os.dup(pack.fd)
        self.on_disk[number] = size
        self.given(worker, size)
        self.keepers.keep(number, fd)
        self.link.send("happened", "WorkerFilled", worker, True)
        self.packs.used(worker, number)

    def _spoiled(self, number: int) -> None:
        self.link.send("happened", "MemorySpoiled", number)

    def _free_weights(self, number: int) -> None:
        """Close the last descriptor in a child, which pays for the freeing of the pages."""
        if number in self.sealing:
            self.sealing[number] = True
            return
        fd = self.weights.pop(number)
        self.on_disk.pop(number, None)
        self.packs.made.pop(number, None)
        self.keepers.release(number)
        self._in_child(lambda: None, lambda _: self.link.send("happened", "MemoryGone", number), fd)

    def _in_child(
        self,
        work: Callable[[], object],
        then: Callable[[bool], None],
        close: int = -1,
        alone: int = -1,
    ) -> None:
        """Do what takes long in a child; ``then`` is told whether it went well.

        Args:
            close: a descriptor that from now on only the child has.
            alone: the only descriptor that it needs. It may take seconds then, ends with us, and is
                not done at all if there is no process for it.
        """
        steward = os.getpid()
        try:
            child = os.fork()
        except OSError:  # no process can be had: then everybody waits
            if alone >= 0:
                then(False)
                return
            done = _went_well(work)
            if close >= 0:
                os.close(close)
            then(done)
            return
        if child == 0:
            if alone >= 0:
                aside = partial(step_aside, steward, alone)
                os._exit(not (_went_well(aside) and _went_well(work)))
            os._exit(not _went_well(work))
        if close >= 0:
            os.close(close)
        pidfd = os.pidfd_open(child)
        self.loop.watch(pidfd, partial(self._child_ended, pidfd, child, then))

    def _aside(self, work: Callable[[], object], then: Callable[[bool], None], fd: int) -> None:
        self._in_child(work, then, alone=fd)

    def _child_ended(self, pidfd: int, child: int, then: Callable[[bool], None], _: int) -> None:
        self.loop.unwatch(pidfd)
        os.close(pidfd)
        then(os.waitpid(child, 0)[1] == 0)

    def close(self) -> None:
        """Close everything."""
        self.keepers.close()
        for worker in [*self.retired, *self.workers]:
            self.worker_gone(worker)
        for fd in [*(segment.fd for segment in self.segments.values()), *self.weights.values()]:
            os.close(fd)
        self.segments.clear()
        self.weights.clear()


def _went_well(work: Callable[[], object]) -> bool:
    try:
        work()
    except BaseException:
        return False
    return True


def _owner_maps(number: int, segment: Segment) -> bool:
    """Whether the client's process could be who writes to a segment."""
    try:
        maps = Path(f"/proc/{segment.owner}/maps").read_text()
    except OSError:
        return False
    return f"/memfd:claw-segment-{number} " in maps
