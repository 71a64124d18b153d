"""The event journal: what the core was told, and a running checksum over what it answered.

Written at every event, so it has to be cheap: one call packs an event, another its answer; the
recorder owns the files. Events hold headers only, and what people and plugins wrote is left out by
``events.hide``. Lines for the log are not summed: they may quote a plugin. It begins with what the
core was made of, and again with a snapshot when something was lost: a full disk or a recorder that
does not keep up costs the journal, never the kernel.
"""

import os
import time
import zlib
from collections.abc import Callable
from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.kernel import limits

BATCH = 48 * 1024
"""Bytes that go to the recorder together."""
QUIET = 128
"""With more tasks than that a snapshot would hold the loop up for milliseconds."""
FORMAT = 2
RETRY = 10 * limits.SECOND
encode = msgspec.msgpack.Encoder(enc_hook=ev.hide).encode


def answer(told: list[ev.Instruction], before: int) -> tuple[int, list[str]]:
    """The checksum after ``told``, and the names of what it says."""
    kept = [each for each in told if type(each) is not ev.Log]
    return zlib.crc32(encode(kept), before), [type(each).__name__ for each in kept]


class Journal:
    """Of one core: ``note`` every event when what came of it has been carried out.

    Args:
        made_of: what the core was.
        send: tells the recorder something; False if that is lost.
    """

    def __init__(
        self, core: Any, made_of: tuple[Any, ...], send: Callable[..., bool], on: bool
    ) -> None:
        self.core, self.made_of, self.send = core, made_of, send
        self.due = 0 if on else 1 << 62
        """When what is buffered goes to the recorder, or when a lost journal begins again."""
        self.number = self.sum = 0
        self.noted: list[tuple[int, ev.Event, list[ev.Instruction] | None]] = []
        self.buffer = bytearray()
        self.on = False

    def begin(self, now: int, state: bytes = b"") -> None:
        """Begin with ``state``, or with what the core was made of if nothing has happened yet."""
        if now >= self.due:
            self.on, self.due = True, now + limits.SECOND
            top = {"format": FORMAT, "number": self.number, "sum": self.sum, "now": now}
            made_of = None if state else self.made_of
            self._send("begin", encode(top | {"core": made_of}), state)

    def note(self, event: ev.Event, now: int, told: list[ev.Instruction] | None) -> None:
        """One event, the time that the core was given, and its answer; None: it broke."""
        self.noted.append((now, event, told))

    def write(self) -> None:
        """Pack what was noted: when all have been told what came of it, so that nobody waits."""
        noted, self.noted = self.noted, []
        for now, event, told in noted if self.on else ():
            said = None
            if told is not None:
                said = answer(told, self.sum)
                self.sum = said[0]
            entry = encode((now, said, event))
            self.number += 1
            self.buffer += len(entry).to_bytes(4, "little") + entry
        if not noted:
            return
        now = noted[-1][0]
        if self.on and (now >= self.due or len(self.buffer) > BATCH):
            self.flush(now)
        elif not self.on and now >= self.due and len(self.core.state.tasks) <= QUIET:
            from clawai.kernel.replay.freeze import snapshot  # seldom needed

            self.begin(now, snapshot(self.core))

    def flush(self, now: int) -> None:
        """Pass on what is buffered."""
        self.write()
        self.due = now + limits.SECOND
        if self.on and self.buffer:
            data, self.buffer = bytes(self.buffer), bytearray()
            self._send("events", data)

    def _send(self, name: str, *data: bytes) -> None:
        if not self.send(name, *data):
            self.lose()

    def lose(self) -> None:
        """Something of it is missing: what follows could not be replayed."""
        self.on, self.due = False, self.core.state.now + RETRY
        self.buffer.clear()

    def crash(self, event: ev.Event, now: int) -> str:
        """Keep what led to a broken invariant; the name of the file."""
        self.note(event, now, None)
        self.flush(now)
        name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.journal"
        self.send("crash", name)
        return name
