"""A terminal of its own for a program under test."""

import os
import pty
import select
import subprocess
from typing import Any


class Screen:
    """A program in a terminal of its own."""

    def __init__(self, box: Any, *words: str) -> None:
        self.master, slave = pty.openpty()
        # The first terminal that a session opens becomes its own, and Ctrl-C reaches it.
        opened = 'exec "$@" <"$0" >"$0" 2>&1'
        self.process = subprocess.Popen(
            ["sh", "-c", opened, os.ttyname(slave), *box.command, *words],
            env=box.env | {"TERM": "xterm", "NO_COLOR": "1", "INPUTRC": "/dev/null"},
            start_new_session=True,
        )
        self._slave = slave
        self.seen = ""

    def until(self, text: str) -> str:
        """What is shown until ``text`` is; the test's time limit ends the wait."""
        while text not in self.seen:
            select.select([self.master], [], [])
            self.seen += os.read(self.master, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        status = self.process.wait()
        os.close(self.master)
        os.close(self._slave)
        return status
