"""A program that runs beside the steward's loop: all that it prints, given to who waits for it."""

import os
import subprocess
from collections.abc import Callable, Sequence

from clawai.kernel.loop import Loop

LIMIT = 1 << 20
"""Bytes of an answer."""


class Beside:
    """One program at a time."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._running: subprocess.Popen[bytes] | None = None
        self._said = b""

    def run(self, command: Sequence[str], then: Callable[[bytes], None]) -> None:
        """Start a program; ``then`` gets all that it printed, errors too, once it has ended."""
        self._said = b""
        running = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
        )
        self._running = running
        assert running.stdout
        fd = running.stdout.fileno()
        os.set_blocking(fd, False)

        def said(_: int) -> None:
            assert running.stdout
            data = os.read(fd, 65536)
            self._said += data
            if data and len(self._said) < LIMIT:
                return
            self._loop.unwatch(fd)
            running.stdout.close()
            if data:  # it says too much, and would wait for ever to say the rest
                running.kill()
            running.wait()
            self._running = None
            then(self._said)

        self._loop.watch(fd, said)

    def end(self) -> None:
        """End what still runs."""
        if self._running:
            self._running.kill()
            self._running.wait()
