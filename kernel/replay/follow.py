"""Follows the journal of a running daemon, and says what ran when: the recorder's timeline.

The recorder starts it when somebody first asks, nice 19, with one end of a socket pair; it reads
the ring from the last snapshot before its window, then what was added since it was last asked. It
ends when nobody has asked for a while. The daemon does nothing for all this but to pass questions.
"""

import os
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from clawai.kernel.link import Link
from clawai.kernel.replay.files import Entry, Snapshot, read, read_from, segments
from clawai.kernel.replay.run import Replay
from clawai.kernel.replay.timeline import Timeline
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_fields

WINDOW_S = 600
IDLE_S = 60
MOST = 1_000
"""Tasks in one answer."""
NICE = 19
_encode = msgspec.msgpack.Encoder().encode


class Follower:
    """A core that follows the one in the daemon.

    Args:
        folder: of the ring.
        clock: that of the journal.
    """

    def __init__(self, folder: Path, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.folder, self.clock = folder, clock
        self._number = 0
        """The segment that is being read."""
        self._file: BinaryIO | None = None
        self._restart()

    def _restart(self) -> None:
        self.replay, self.timeline = Replay(), Timeline(WINDOW_S * 10**9)
        self.close()
        self._file, self._number = None, 0

    def _first(self) -> int:
        """The segment to begin with: the last with a snapshot from before the window, if any is.

        Raises:
            ClawError: bad_state.
        """
        whole = [number for number, has in segments(self.folder).items() if has]
        if not whole:
            raise ClawError(
                "bad_state",
                "there is no event journal to read the timeline from",
                hint="set enabled = true under [journal] in config.toml, and restart: claw down",
            )
        since = self.clock() - WINDOW_S * 10**9
        for number in reversed(whole):
            snapshot = next(read([self._path(number, "snapshot")]), None)
            if isinstance(snapshot, Snapshot) and snapshot.head.now <= since:
                return number
        return whole[0]

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"{number:08}.{kind}"

    def close(self) -> None:
        """Let go of the file."""
        if self._file:
            self._file.close()

    def catch_up(self) -> None:
        """Read what was added.

        Raises:
            ClawError: bad_state, if the journal cannot be followed.
        """
        for _ in range(2):
            if self._read_on():
                return
            self._restart()  # the ring has left us behind, or the journal began again
        raise ClawError(
            "bad_state",
            "the event journal does not replay here",
            hint="if clawai was updated since the kernel started, restart it: claw down",
        )

    def _read_on(self) -> bool:
        """False if what is there does not go on from what was read."""
        if not self._number:
            self._open(self._first())
        while True:
            assert self._file
            for entry in read_from(self._file, str(self._number)):
                if not self._saw(entry):
                    return False
            found = segments(self.folder)
            if self._number not in found:
                return False
            later = [number for number in found if number > self._number]
            if not later:
                return True
            # The last events of the segment before were written before the next one was made.
            for entry in read_from(self._file, str(self._number)):
                if not self._saw(entry):
                    return False
            self._open(min(later))

    def _open(self, number: int) -> None:
        snapshot = self._path(number, "snapshot")
        runs = self.replay.runs
        for part in read([snapshot]) if snapshot.exists() else ():
            assert isinstance(part, Snapshot)
            self.replay.restore(part)
        if self.replay.core and self.replay.runs > runs:
            self.timeline.begin(self.replay.core, self.replay.now)
        self.close()
        self._file = self._path(number, "events").open("rb")
        self._number = number

    def _saw(self, entry: Snapshot | Entry) -> bool:
        core = self.replay.core
        assert core and isinstance(entry, Entry)
        step = self.replay.step(core, entry)
        if step.same and not step.broke:
            self.timeline.saw(core, step)
        return step.same

    def told(self, seconds: float) -> dict[str, Any]:
        """The last ``seconds``, with the time of day at which they began.

        Raises:
            ClawError: as ``catch_up``.
        """
        try:
            self.catch_up()
        except OSError as error:
            self._restart()
            raise ClawError("bad_state", f"the event journal: {error}") from error
        found = self.timeline.told(seconds, MOST, self.clock())
        found["begins"] += time.time_ns() - self.clock()
        return found


def main(argv: list[str]) -> None:
    """Answer the recorder until it is gone, or has not asked for a while."""
    os.nice(NICE)
    link = Link(socket.socket(fileno=int(argv[0])), blocking=True)
    follower = Follower(Path(argv[1]))
    while select.select([link], [], [], IDLE_S)[0]:
        message = link.receive()
        if message is None:
            return
        _, (question, seconds), _ = message
        try:
            link.send("answer", question, _encode(follower.told(seconds)))
        except ClawError as error:
            link.send("refuse", question, error_fields(error))


if __name__ == "__main__":
    main(sys.argv[1:])
