"""The event loop: one poller, and the one way in which something happens to the core."""

import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clawai.kernel import limits
from clawai.kernel.events import Event, Output, Submitted, Together
from clawai.sdk.errors import ClawError

SERVED = 32
"""Descriptors that are served in a round, at most: about a millisecond of a busy daemon, which
is the longest that the first of them waits for its answer to be written."""
Callback = Callable[[int], None]


@dataclass
class Loop:
    """What the parts of the shell share."""

    carry_out: Callable[[Event], None]
    """Hands one event to the core and carries out what it says."""
    poller: select.epoll = field(default_factory=select.epoll)
    callbacks: dict[int, Callback] = field(default_factory=dict)
    again: set[int] = field(default_factory=set)
    """Descriptors to serve in the next turn although nothing new may come on them."""
    peers: set[Any] = field(default_factory=set)
    """The connections (``peers.Peer``) that it serves."""
    posts: dict[Any, None] = field(default_factory=dict)
    """Those of them that have something to write, in order."""
    eager: int = 0
    """Until when it looks for news without sleeping."""
    rest: Callable[[], None] = lambda: None
    """Called when everybody has written: does what nobody waits for."""
    _round: list[Submitted | Output] = field(default_factory=list)
    """What the core is to hear together."""
    _events: list[Event] = field(default_factory=list)
    _busy: bool = False

    def happen(self, event: Event) -> None:
        """Hand an event to the core.

        Carrying out may make more happen (a send that fails, a start that is refused); that is
        queued, so that the core sees one event at a time.
        """
        self.end_round()
        self._happen(event)

    def gather(self, event: Submitted | Output) -> None:
        """Hand an event to the core with all others of this round.

        Deciding who runs costs as much for one as for many, and is better done when all are known.
        """
        self._round.append(event)

    def end_round(self) -> None:
        """Hand over what was gathered."""
        if events := self._round:
            self._round = []
            self._happen(events[0] if len(events) == 1 else Together(tuple(events)))

    def _happen(self, event: Event) -> None:
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                self.carry_out(self._events.pop(0))
        finally:
            self._busy = False

    def watch(self, fd: int, callback: Callback, mask: int = select.EPOLLIN) -> None:
        """Have ``callback(mask)`` called when ``fd`` is ready."""
        self.callbacks[fd] = callback
        self.poller.register(fd, mask)

    def rewatch(self, fd: int, mask: int) -> None:
        """Change what a descriptor is watched for."""
        self.poller.modify(fd, mask)

    def unwatch(self, fd: int) -> None:
        """Stop watching, before the descriptor is closed."""
        self.again.discard(fd)
        if self.callbacks.pop(fd, None):
            self.poller.unregister(fd)

    def turn(self, pause: float | None) -> None:
        """Wait for at most ``pause`` seconds and serve what is ready."""
        self.post()
        ready = self._wait(0 if self.again else pause)
        if self.again:
            masks = dict.fromkeys(self.again, 0) | dict(ready)
            ready = [(fd, m | (select.EPOLLIN * (fd in self.again))) for fd, m in masks.items()]
            self.again = set()
        # A callback of this round may close the descriptor of a later one, and a new connection may
        # get its number: the event was not for that one.
        served = [(fd, mask, self.callbacks.get(fd)) for fd, mask in ready]
        for number, (fd, mask, callback) in enumerate(served, 1):
            if callback and self.callbacks.get(fd) is callback:
                callback(mask)
            if number % SERVED == 0:
                self.post()
        self.post()

    def _wait(self, pause: float | None) -> list[tuple[int, int]]:
        """What is ready; without sleeping while somebody urgent is about to be heard.

        To be woken takes longer than all that is then done for a small request.
        """
        while time.monotonic_ns() < self.eager:
            if found := self.poller.poll(0, 64):
                return found
        return self.poller.poll(pause, 64)

    def post(self) -> None:
        """Have everybody write what this round has to say."""
        self.end_round()
        while self.posts:
            posts, self.posts = self.posts, {}
            for peer in posts:
                peer.post()
        self.rest()

    def shed(self) -> None:
        """Bound what half-sent and waiting messages hold, over all connections: largest first."""
        held = {peer: peer.held for peer in self.peers}
        while sum(held.values()) > limits.PARTIAL_TOTAL:
            worst = max(held, key=held.__getitem__)
            del held[worst]
            worst.ended(ClawError("too_large", "it holds too much of a message"))
