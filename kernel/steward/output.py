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
from clawai.sdk.home import MARK, Level


@dataclass(slots=True)
class Output:
    """The pipe of one worker's standard output and error."""

    fd: int
    title: str
    pending: bytes = b""
    second: int = 0
    lines: int = 0
    bytes: int = 0
    """Logged and read in that second."""


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

    def ended(self, worker: int) -> None:
        """Log what a dead worker had still said."""
        output = self.by_worker.pop(worker, None)
        if output is None:
            return
        for _ in range(16):
            before = output.bytes
            if not self._read(output, 0) or output.bytes == before:
                break
        self.loop.unwatch(output.fd)
        os.close(output.fd)

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
