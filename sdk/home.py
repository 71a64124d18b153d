"""What a worker has of its own: configuration, secrets, a data folder, a log, other operations.

One ``Home`` a worker. The one that a ``Context`` has by default has nothing, and logs to standard
error: what a test needs, it gives (``Context(..., home=Home(config={"greeting": "Hi"}))``).
"""

import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from clawai.sdk.errors import ClawError
from clawai.sdk.loglines import MARK, Level

if TYPE_CHECKING:
    from clawai.sdk.children import Children
    from clawai.sdk.session import Session

LINES = 100
"""That one worker may log in a second; the rest is counted."""
_LINE = 3900
"""Bytes of one line at most: such a write to a pipe is never mixed with another."""


@dataclass(slots=True, eq=False)
class Home:
    """What one worker has of its own."""

    plugin: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    """What its owner has set, or the defaults."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    """Its data folder; empty if it has none."""
    children: "Children | None" = None
    """The way to other operations, if the manifest names any."""
    front: "tuple[int, Session] | None" = None
    """The connection on which it asks for others, if its manifest may, and what is open there."""
    output: int = -1
    """Descriptor that log lines go to; -1: standard error, as they are."""
    _second: int = 0
    _lines: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def data(self) -> Path:
        """The data folder.

        Raises:
            ClawError: not_permitted, if the manifest does not ask for one.
        """
        if not self.folder:
            text, hint = "this plugin has no data folder", "set data_mib in plugin.toml, [limits]"
            raise ClawError("not_permitted", text, hint=hint)
        return Path(self.folder)

    def secret(self, key: str) -> str:
        """A secret.

        Raises:
            ClawError: not_permitted, if the owner has not given it.
        """
        if key not in self.secrets:
            raise ClawError(
                "not_permitted",
                f"the owner has given the plugin no secret {key!r}",
                got=key,
                allowed=sorted(self.secrets),
                hint=f"claw plugin secret {self.plugin} {key}",
            )
        return self.secrets[key]

    def log(self, level: Level, text: str, task: int = 0) -> None:
        """Write to the kernel's log.

        Raises:
            ClawError: bad_params, for another level.
        """
        if level not in get_args(Level):
            raise ClawError("bad_params", "a level of the log", level, list(get_args(Level)))
        for line in str(text).splitlines() or [""]:
            if self.output < 0:
                print(f"{level} {line}", file=sys.stderr)
            elif more := self._room():
                self._write(level, task, line)
                if more > 1:
                    self._write("warning", task, f"{more - 1} lines were left out")

    def _room(self) -> int:
        """0: this second has no room; else 1 and as many lines as were left out before."""
        with self._lock:
            second, left_out = int(time.monotonic()), 0
            if second != self._second:
                left_out = max(0, self._lines - LINES)
                self._second, self._lines = second, 0
            self._lines += 1
            return 1 + left_out if self._lines <= LINES else 0

    def _write(self, level: str, task: int, line: str) -> None:
        data = f"{MARK}{level} {task} {line}".encode("utf-8", "replace")[:_LINE]
        os.write(self.output, data + b"\n")


NOTHING = Home()


def read_secrets(fd: int) -> dict[str, str]:
    """What the steward has put into a descriptor, which is closed."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        found: dict[str, str] = msgspec.msgpack.decode(file.read(), type=dict[str, str])
    return found
