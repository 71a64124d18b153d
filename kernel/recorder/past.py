"""Who is asked what ran when: a process of low priority that replays the journal (``follow``).

It is started at the first question and ends by itself. The recorder never waits for it.
"""

import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clawai.kernel.link import Link
from clawai.sdk.errors import ClawError

FOLLOW = [sys.executable, "-P", "-m", "clawai.kernel.replay.follow"]
MOST_SECONDS = 600
PENDING = 16
"""Questions that wait at a time."""


@dataclass
class Past:
    """At most one such process.

    Args:
        folder: of the ring.
        watch: has a socket of ours polled from now on, or no more.
        relay: passes its answers on, as they are: answer or refuse, and the arguments.
    """

    folder: Path
    watch: Callable[[Link, bool], None]
    relay: Callable[..., None]
    link: Link | None = None
    process: subprocess.Popen[bytes] | None = None
    asked: dict[int, float] = field(default_factory=dict)
    heard: bool = False
    """It has answered something."""

    def ask(self, question: int, seconds: str) -> None:
        """Have a question answered.

        Raises:
            ClawError: bad_params, overloaded.
        """
        if not (seconds or "1").isdecimal() or not 1 <= int(seconds or 1) <= MOST_SECONDS:
            allowed = f"timeline:SECONDS, from 1 to {MOST_SECONDS}"
            raise ClawError("bad_params", "no such stretch of time", seconds[:20], allowed)
        if len(self.asked) >= PENDING:
            raise ClawError(
                "overloaded",
                "too many wait for the timeline",
                got=len(self.asked),
                allowed=PENDING,
                retry_after_ms=1000,
            )
        if self.link is None:
            self._start()
        assert self.link
        self.asked[question] = float(seconds or MOST_SECONDS)
        self.link.send("told", question, self.asked[question])

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            self.process = subprocess.Popen(
                [*FOLLOW, str(number), str(self.folder)],
                pass_fds=(number,),
                stdin=subprocess.DEVNULL,
            )
        self.link, self.heard = Link(ours, blocking=True), False
        self.watch(self.link, True)

    def ready(self) -> None:
        """It has said something, or is gone."""
        assert self.link
        message = self.link.receive()
        if message is not None:
            name, (question, said), _ = message
            self.heard = True
            if self.asked.pop(question, None) is not None:
                self.relay(name, question, said)
            return
        heard, asked = self.heard, self.asked
        self.close()
        if asked and heard:  # it was about to end when it was asked
            self._start()
            assert self.link
            self.asked = asked
            for question, seconds in asked.items():
                self.link.send("told", question, seconds)
            return
        for question in asked:
            error = ["bad_state", "the timeline cannot be read", None, None, "see: claw logs", None]
            self.relay("refuse", question, error)

    def close(self) -> None:
        """End it."""
        if self.link:
            self.watch(self.link, False)
            self.link.close()
        if self.process:
            self.process.kill()
            self.process.wait()
        self.link, self.process, self.asked = None, None, {}
