"""A worker as the broker sees it: what it asks for, how often, and what it has."""

import socket
from collections import deque
from dataclasses import dataclass, field
from io import FileIO
from typing import Any

import msgspec

from clawai.kernel.broker import limits
from clawai.kernel.broker.bucket import Bucket
from clawai.kernel.broker.dial import Dial
from clawai.kernel.broker.handed import Handed
from clawai.kernel.broker.relay import Relay
from clawai.sdk.errors import ClawError
from clawai.sdk.netrules import Rule

Carried = Relay | Handed
_FIELDS = ("code", "message", "got", "allowed", "hint", "retry_after_ms")


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker asks for; host and port are looked at later."""

    n: int
    host: str
    port: int
    timeout: float
    memory: str = ""
    """Name of shared memory of the program that is connected from this host and port."""
    whose: bool = False
    """Whose the connection from this host and port is."""
    accept: bool = False
    """The next connection to this port of its own, if there is one; the host is left empty."""
    itself: bool = False
    """Of a front: that connection itself, in place of one end of a pair."""
    over: bool = False
    """The connection ``n``, which it had got itself, is one that it has let go of."""


requests = msgspec.msgpack.Decoder(Request)


@dataclass
class Client:
    """One worker."""

    number: int
    plugin: str
    keys: list[str]
    rules: tuple[Rule, ...]
    sock: socket.socket
    listeners: dict[int, socket.socket] = field(default_factory=dict)
    """By port; only this process may accept on them."""
    serves: bool = False
    """It is a front: it may have more connections, and those that it accepts themselves."""
    unsent: deque[tuple[bytes, socket.socket | FileIO | None]] = field(default_factory=deque)
    trades: dict[int, "Trade"] = field(default_factory=dict)
    relays: dict[int, Carried] = field(default_factory=dict)
    held: dict[int, tuple[dict[str, Any], socket.socket | None]] = field(default_factory=dict)
    """Answers, until the steward knows for whose tasks they are: no task ends before."""
    opening: set[int] = field(default_factory=set)
    """Requests for shared memory, and whose a connection is: the steward answers them."""
    rests: float = 0.0
    """Until when its requests are not read, because it asks too often; 0: they are."""
    asks: Bucket = field(default_factory=lambda: Bucket(limits.RATE, limits.BURST, limits.BURST))
    takes: Bucket = field(
        default_factory=lambda: Bucket(limits.TAKES_RATE, limits.TAKES_BURST, limits.TAKES_BURST)
    )
    looks: Bucket = field(
        default_factory=lambda: Bucket(limits.LOOKS_RATE, limits.LOOKS_BURST, limits.LOOKS_BURST)
    )

    def keeps_rate(self, now: float, bucket: Bucket) -> bool:
        """Count a request; whether the worker keeps to the rate."""
        if kept := bucket.take(now):
            return kept
        self.rests = now + 1 / bucket.rate
        return False

    @property
    def most(self) -> int:
        """Connections that it may have."""
        return limits.SERVED if self.serves else limits.CONNECTIONS

    @property
    def is_full(self) -> bool:
        """Whether it has as many connections as one may."""
        return len(self.relays) + len(self.trades) >= self.most


@dataclass
class Trade:
    """A connection in the making."""

    n: int
    host: str
    port: int
    until: float
    question: int = 0
    dial: Dial | None = None

    def due(self) -> float:
        """When something is to be given up."""
        return self.dial.due if self.dial else self.until


def as_told(error: ClawError) -> dict[str, Any]:
    """An error for a worker."""
    return {name: getattr(error, name) for name in _FIELDS}


class Failed(ClawError):
    """No permission is missing, but there is no connection."""

    def __init__(
        self,
        reason: str,
        message: str,
        got: Any = None,
        allowed: Any = None,
        hint: str = "",
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__("network", message, got, allowed, hint, retry_after_ms)
        self.reason = reason
