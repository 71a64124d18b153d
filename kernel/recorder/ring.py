"""The files of the event journal: a ring of segments, and what is kept of a crash.

A segment is two files, ``N.snapshot`` (the state before its first event) and ``N.events``. The
daemon sends a snapshot only when it begins; when a segment is full the next one's snapshot is
computed here, by replaying the full one in a process of low priority. So the daemon never stops to
write its state, and each segment is proved to replay before the ring lets go of it.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from clawai.kernel.replay.code import identity, ours
from clawai.kernel.replay.files import MAGIC, packed, segments

REPLAY = [sys.executable, "-P", "-m", "clawai.kernel.replay"]
CRASHES = 8
"""Files of crashes and differences that are kept, the latest."""
NICE = 19


class Ring:
    """The ring of one daemon.

    Args:
        size: bytes of events of one segment.
        count: segments that are kept.
        say: writes a line of the log.
    """

    def __init__(
        self, folder: Path, size: int, count: int, say: Callable[[str, str], None]
    ) -> None:
        self.folder = folder
        self.size = size
        self.count = max(2, count)
        self.say = say
        self.child: subprocess.Popen[bytes] | None = None
        """Computes the next snapshot."""
        self._file: BinaryIO | None = None
        self._written = 0
        self._number = 0
        self._computing = 0
        self._given_up = 0
        """Up to this segment no snapshot that is missing can be had."""

    # What the daemon says.

    def begin(self, head: bytes, snapshot: bytes) -> None:
        """A new chain of segments: the daemon's whole state."""
        self._stop_child()
        if not self._number:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for draft in self.folder.glob("*.draft"):
                draft.unlink()
            self._number = max(segments(self.folder), default=0)
        self._open()
        draft = self.folder / f"{self._number:08}.draft"
        top = msgspec.msgpack.encode(msgspec.msgpack.decode(head) | {"code": ours()})
        draft.write_bytes(MAGIC + packed(top) + packed(snapshot))
        draft.rename(draft.with_suffix(".snapshot"))
        self._trim()

    def add(self, data: bytes) -> None:
        """Events, whole ones."""
        if self._file is None:
            return
        if self._file.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        self._written += len(data)
        if self._written >= self.size:
            self._open()
            self._compute()

    def lose(self) -> None:
        """What follows would not be a continuation."""
        self._stop_child()
        if self._file:
            self._file.close()
            self._file = None

    def crash(self, name: str) -> None:
        """Keep the chain that led here as one file."""
        if Path(name).name != name or not self._number:
            return
        self._keep(name, self._chain(self._number))

    # Inside.

    def _open(self) -> None:
        if self._file:
            self._file.close()
        self._number += 1
        self._written = 0
        path = self.folder / f"{self._number:08}.events"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)

    def _chain(self, last: int) -> list[Path]:
        """The files from the latest snapshot before ``last`` to its events."""
        found = segments(self.folder)
        first = last
        while first in found and not found[first] and first - 1 in found:
            first -= 1
        events = [self.folder / f"{number:08}.events" for number in range(first, last + 1)]
        return [self.folder / f"{first:08}.snapshot", *events]

    def _keep(self, name: str, files: list[Path]) -> None:
        with (self.folder / f"{name}.draft").open("wb") as out:
            for path in files:
                out.write(path.read_bytes())
        (self.folder / f"{name}.draft").rename(self.folder / name)
        old = sorted(
            (path for path in self.folder.glob("*.journal")), key=lambda path: path.stat().st_mtime
        )
        for path in old[:-CRASHES]:
            path.unlink()

    def _compute(self) -> None:
        """Begin to compute the first snapshot that is missing, if its segment is complete."""
        if self.child:
            return
        missing = [number for number, whole in segments(self.folder).items() if not whole]
        found = segments(self.folder)
        can = (n for n in missing if n > self._given_up and found.get(n - 1))
        number = min(can, default=0)
        if not number or number > self._number:
            return
        before = self.folder / f"{number - 1:08}"
        # One that lags far behind would let the chain grow: then it takes its share.
        nice = NICE if len(missing) < self.count else 0
        self._computing = number
        draft = self.folder / f"{number:08}.draft"
        command = [*REPLAY, "--advance", str(draft), "--nice", str(nice)]
        self.child = subprocess.Popen(
            [*command, f"{before}.snapshot", f"{before}.events"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def reap(self) -> bool:
        """The child has ended; False if the chain could not be continued."""
        assert self.child and self.child.stdout
        said = self.child.stdout.read(4000).decode(errors="replace").strip()
        self.child.stdout.close()
        status = self.child.wait()
        self.child = None
        draft = self.folder / f"{self._computing:08}.draft"
        if status == 0 and draft.exists():
            draft.rename(draft.with_suffix(".snapshot"))
            self._trim()
            self._compute()
            return True
        draft.unlink(missing_ok=True)
        self._given_up = self._number
        if identity() != ours() or status != 1:
            changed = "the program's files have changed"
            why = changed if status == 1 else f"its replay ended with status {status}"
            self.say("warning", f"the event journal begins again: {why}")
            return False
        name = f"different-{self._computing:08}.journal"
        self._keep(name, self._chain(self._computing - 1))
        self.say("error", f"the event journal does not replay, see {self.folder / name}: {said}")
        return False

    def _trim(self) -> None:
        """Delete the oldest segments, as long as what is left begins with a snapshot."""
        found = segments(self.folder)
        numbers = sorted(found)
        whole = [number for number in numbers if found[number]]
        if not whole:
            return
        wanted = numbers[-self.count :][0]
        first = min((number for number in whole if number >= wanted), default=whole[-1])
        for number in numbers:
            if number < first:
                for suffix in (".snapshot", ".events"):
                    (self.folder / f"{number:08}{suffix}").unlink(missing_ok=True)

    @property
    def too_long(self) -> bool:
        """The chain without snapshots has become longer than the ring may be."""
        return (
            self._file is not None
            and sum(not whole for whole in segments(self.folder).values()) > 2 * self.count
        )

    def _stop_child(self) -> None:
        if self.child:
            self.child.kill()
            self.child.wait()
            if self.child.stdout:
                self.child.stdout.close()
            self.child = None
            (self.folder / f"{self._computing:08}.draft").unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of everything; the files stay."""
        self.lose()
