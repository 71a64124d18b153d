"""What workers print: read at a bounded rate, and written to the log line by line."""

import os
import time
from dataclasses import dataclass, field
from functools import partial
from typing import get_args

from clawai.kernel.limits import SECOND
from clawai.kernel.loop import Loop
from clawai.kernel.steward import limits
from clawai.kernel.steward.log import LogFile
from clawai.sdk.loglines import MARK, Level

CAUSE, CAUSE_AFTER = b"claw-fault: ", b"claw-fault-after: "
"""A line that begins so is the last word of a worker that dies: why. After the second, the line
before it belongs to the reason. It comes from the plugin's process, so it is text for people."""
CAUSE_BYTES = 400


@dataclass(slots=True)
class Output:
    """The pipe of one worker's standard output and error."""

    fd: int
    title: str
    pending: bytes = b""
    last: bytes = b""
    """Of what it printed: a piece without its end, and the last line."""
    second: int = 0
    lines: int = 0
    bytes: int = 0
    """Logged and read in that second."""
    cause: str = ""
    """Why it dies, in its own words."""


def _note(output: Output, line: bytes) -> None:
    """Keep the reason that a dying worker gives."""
    if line.startswith((CAUSE, CAUSE_AFTER)):
        said = _plain(line.partition(b": ")[2])
        before = _plain(output.last) if line.startswith(CAUSE_AFTER) else ""
        output.cause = f"{said}; it had printed {before!r}" if before else said
    elif line:
        output.last = line


def _plain(said: bytes) -> str:
    """What people can read of a line of a stranger's."""
    text = said[:CAUSE_BYTES].decode("utf-8", "replace")
    return "".join(letter for letter in text if letter.isprintable()).strip()


@dataclass
class Outputs:
    """The pipes of all workers."""

    loop: Loop
    log: LogFile
    by_worker: dict[int, Output] = field(default_factory=dict)
    muted: list[int] = field(default_factory=list)
    """Workers that have said too much in this second."""
    _unmute: int = 0

    def pipe(self, worker: int, title: str) -> int:
        """A pipe for a worker that is about to be started; the end for its output."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writing, True)
        self.by_worker[worker] = Output(reading, f"{title}[{worker}]")
        self.loop.watch(reading, partial(self._ready, worker))
        return writing

    def _ready(self, worker: int, _: int) -> None:
        output = self.by_worker[worker]
        second = int(time.monotonic())
        if not self._read(output, second):
            self.loop.unwatch(output.fd)
        elif output.bytes > limits.OUTPUT_RATE:
            # The rest of the second it waits in its write, not we in our reads.
            self.loop.unwatch(output.fd)
            self.muted.append(worker)
            self._unmute = (second + 1) * SECOND

    def _read(self, output: Output, second: int) -> bool:
        """Log what came since last time, within the rate; False when there is no more."""
        try:
            data = os.read(output.fd, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        *whole, output.pending = (output.pending + data).split(b"\n")
        if len(output.pending) > limits.LOG_LINE:
            whole.append(output.pending)
            output.pending = b""
        if output.second != second:
            output.second, output.lines, output.bytes = second, 0, 0
        output.bytes += len(data)
        for line in whole:
            _note(output, line)
        room = max(0, limits.LOG_RATE - output.lines)
        output.lines += len(whole)
        for line in whole[:room]:
            self._log(output.title, line[: limits.LOG_LINE].decode("utf-8", "replace"))
        return True

    def _log(self, title: str, line: str) -> None:
        """Write a line; one of ``Context.log`` says its level and its task."""
        level, task = "info", ""
        if line.startswith(MARK):
            word, number, text = [*line[1:].split(" ", 2), "", ""][:3]
            if word in get_args(Level) and number.isdecimal():
                level, line = word, text
                task = f" task {number}" if number != "0" else ""
        self.log.write(level, f"{title}{task} {line}")

    def ended(self, worker: int) -> str:
        """Log what a dead worker had still said; why it died, if it has said so."""
        output = self.by_worker.pop(worker, None)
        if output is None:
            return ""
        for _ in range(16):
            before = output.bytes
            if not self._read(output, 0) or output.bytes == before:
                break
        self.loop.unwatch(output.fd)
        os.close(output.fd)
        return output.cause

    def drain(self) -> None:
        """Do so for all."""
        for worker in list(self.by_worker):
            self.ended(worker)

    def next_timer(self) -> int | None:
        """When the muted are listened to again."""
        return self._unmute if self.muted else None

    def expire(self, now: int) -> None:
        """Listen again to those who had said too much."""
        if self.muted and now >= self._unmute:
            muted, self.muted = self.muted, []
            for worker in muted:
                if worker in self.by_worker:
                    fd = self.by_worker[worker].fd
                    self.loop.watch(fd, partial(self._ready, worker))
