"""Who asks: keys, what each may ask for, and how much of it.

A key is looked for among all that there are, in a time that does not tell how near it was. What it
may is decided where the kernel is asked (``Guarded``), behind every door, so that a door cannot
forget it.
"""

import asyncio
import hmac
import math
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from clawai.plugins.gateway.connection import Connection
from clawai.plugins.gateway.fields import BadRequest
from clawai.sdk import wire
from clawai.sdk.aclient import AsyncTask
from clawai.sdk.errors import ClawError
from clawai.sdk.front import Front
from clawai.sdk.httpkeys import Key, hashed
from clawai.sdk.net import Caller

if TYPE_CHECKING:
    from clawai.plugins.gateway.traces import Trace

MINUTE = 60.0
CHANGES = ("pull", "remove")
"""What a key must name word for word to do it: models are fetched and deleted for everybody."""
Peer = tuple[str, int]
Look = Callable[[Peer], Caller]


class Bucket:
    """An allowance that fills up again: ``most`` a minute, and as many at once.

    Args:
        clock: seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._left = float(most)
        self._at = clock()

    @property
    def left(self) -> float:
        """What may be taken now; below 0 if more was taken than there was."""
        now = self._clock()
        self._left = min(float(self.most), self._left + (now - self._at) * self.most / MINUTE)
        self._at = now
        return self._left

    def take(self, count: float) -> None:
        """Take so much, whether or not there is as much."""
        self._left = self.left - count

    def wait(self, count: float) -> float:
        """Seconds until there is so much."""
        return max(0.0, (count - self.left) * MINUTE / self.most) if self.most else 0.0


class Pass:
    """A key in use."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.open = 0
        self.requests = Bucket(key.per_minute)
        self.tokens = Bucket(key.tokens_per_minute)

    def enter(self) -> None:
        """Count a request.

        Raises:
            BadRequest: 429, with when to come again.
        """
        key = self.key
        if key.open and self.open >= key.open:
            raise self._refused(f"{key.open} requests at the same time", 1.0)
        if key.per_minute and self.requests.left < 1:
            raise self._refused(f"{key.per_minute} requests a minute", self.requests.wait(1))
        if key.tokens_per_minute and self.tokens.left <= 0:
            raise self._refused(f"{key.tokens_per_minute} tokens a minute", self.tokens.wait(1))
        self.requests.take(1)
        self.open += 1

    def leave(self) -> None:
        """It is over."""
        self.open -= 1

    def _refused(self, what: str, wait: float) -> BadRequest:
        seconds = max(1, math.ceil(wait))
        text = f"the key {self.key.name} has {what}; try again in {seconds} s"
        headers = {"retry-after": str(seconds)}
        return BadRequest(text, None, 429, "rate_limit_exceeded", headers)

    def told(self) -> dict[str, str]:
        """What is left, in the headers of OpenAI's API."""
        found = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket.most:
                found[f"x-ratelimit-limit-{name}"] = str(bucket.most)
                found[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.left)))
                found[f"x-ratelimit-reset-{name}"] = f"{bucket.wait(bucket.most):.3f}s"
        return found


class Asker:
    """Who asks for one request, and what is to be said of that in its answer.

    Args:
        peer: the address of the connection that it has come by.
        look: says whose that is, if it is open.
        connection: itself; None: nothing is known of it, and it changes nothing.
    """

    def __init__(
        self,
        peer: Peer | None = None,
        look: Look | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.peer, self.look, self.connection = peer, look, connection
        self.is_owner = False
        """The connection is known to be the owner's."""
        self.held: Pass | None = None
        self.trace: Trace | None = None
        self.warnings: list[str] = []


ASKER: ContextVar[Asker] = ContextVar("asker")
"""Of the request that is answered; whoever answers it in other tasks inherits it."""


def may(patterns: Iterable[str], name: str) -> bool:
    """Whether one of a key's patterns is for a name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Keys:
    """Those that there are.

    Args:
        required: whether anybody needs one.
        tools: patterns of the operations that are tools for who has none.
    """

    def __init__(self, keys: Iterable[Key], required: bool, tools: tuple[str, ...] = ()) -> None:
        self.required = required
        self.tools = tools
        self._passes: tuple[Pass, ...] = ()
        self.know(keys)

    def know(self, keys: Iterable[Key]) -> None:
        """These are all, from now on; what was counted of those that stay goes on."""
        before = {held.key: held for held in self._passes}
        self._passes = tuple(before.get(key) or Pass(key) for key in keys)

    def find(self, said: str) -> Pass | None:
        """The key that somebody has sent, if it opens something."""
        given, found = hashed(said), None
        for held in self._passes:
            if hmac.compare_digest(held.key.hash, given):
                found = held
        if found is None or found.key.has_expired(datetime.now(UTC)):
            return None
        return found

    def find_in(self, authorization: str, other: str) -> Pass | None:
        """Whose request it is, by its headers ``authorization`` and ``x-api-key``.

        Raises:
            BadRequest: 401.
        """
        kind, _, said = authorization.partition(" ")
        said = said.strip() if kind.lower() == "bearer" else other
        held = self.find(said) if said else None
        if held is None and self.required:
            text = "this key opens nothing here (any more)" if said else "a key is needed"
            text += ": Authorization: Bearer KEY; `claw http key add NAME` makes one"
            headers = {"www-authenticate": "Bearer"}
            raise BadRequest(text, None, 401, "invalid_api_key", headers)
        return held


class Guarded(Front):
    """The kernel, asked within what the key of the request allows."""

    async def submit(
        self,
        op: str,
        params: Any = None,
        *,
        model: str = "",
        priority: str = "interactive",
        behalf: str = "",
        **options: Any,
    ) -> AsyncTask:
        """As ``Front.submit``.

        Raises:
            ClawError: not_permitted.
        """
        asker = ASKER.get(None)
        if asker and asker.held:
            key = asker.held.key
            require(key, "operations", op)
            if model:
                require(key, "models", model.removesuffix(":latest"))
            ranks = wire.PRIORITIES
            if priority in ranks and ranks.index(priority) < ranks.index(key.priority):
                text = f"priority is {key.priority}, the highest of the key {key.name}"
                asker.warnings.append(f"{text}, not {priority}")
                priority = key.priority
            behalf = f"key:{key.name}"
        if asker and asker.trace:
            asker.trace.asks(op, model, priority, params)
        return await super().submit(
            op, params, model=model, priority=priority, behalf=behalf, **options
        )

    async def admin(self, command: str, name: str = "") -> Any:
        """As ``Front.admin``: for who has a key that says so, else for the box's owner.

        Raises:
            ClawError: not_permitted.
        """
        asker = ASKER.get(None)
        if command in CHANGES and asker and asker.held:
            named(asker.held.key, command)
            require(asker.held.key, "models", name)
        await require_owner(command, command if command in CHANGES else "page")
        return await super().admin(command, name)

    async def query(self, what: str) -> Any:
        """As ``Front.query``; of the models those that the key may ask."""
        found = await super().query(what)
        asker = ASKER.get(None)
        if what == "models" and asker and asker.held:
            patterns = asker.held.key.models
            found["models"] = [row for row in found["models"] if may(patterns, row["name"])]
        return found


def named(key: Key, change: str) -> None:
    """Refuse a change of the store to a key that does not name it: a pattern is not enough.

    Raises:
        ClawError: not_permitted.
    """
    if change not in key.operations:
        text = f"the key {key.name} may not {change} models"
        hint = f"claw http key add NAME --operations {change}"
        raise ClawError("not_permitted", text, change, ", ".join(key.operations), hint)


async def require_owner(what: str, operation: str) -> None:
    """Refuse a change of the box to who has no key, unless the box is his or he is root.

    Nothing that a program says decides it, but whose its connection is to the system. Other
    requests ask for no such thing, so that it costs them nothing.

    Args:
        what: is done, for the error.
        operation: what a key has to name to do it.

    Raises:
        ClawError: not_permitted; network, if it cannot be told in time.
    """
    asker = ASKER.get(None) or Asker()
    if asker.held or asker.is_owner:
        return
    who, owner = "nobody whom the system can name", "its owner"
    connection = asker.connection
    if asker.peer and asker.look and connection:
        found = connection.stranger
        if found is None:
            found = await asyncio.to_thread(asker.look, asker.peer[:2])
        owner = f"its owner (uid {found.owner})"
        if not connection.is_open():
            pass  # the address may have been somebody else's by then
        elif found.is_owner:
            asker.is_owner = True
            return
        elif found.plugin or found.uid is not None:
            connection.stranger = found  # who asks on has nobody look again
            who = f"the plugin {found.plugin}" if found.plugin else f"uid {found.uid}"
    text = f"what changes this box ({what}) is its owner's, and this connection is of {who}"
    hint = f"as another user send a key: claw http key add NAME --operations '{operation}'"
    raise ClawError("not_permitted", text, who, f"{owner}, root, who has a key for it", hint)


async def principal() -> str:
    """Who asks: the key, else the user or plugin whose the connection is to the system.

    It is the same for all that somebody asks, and another for everybody else.

    Raises:
        ClawError: not_permitted, if nobody can tell; network, if it cannot be told in time.
    """
    asker = ASKER.get(None) or Asker()
    if asker.held:
        # Not its name: another key may have that later.
        return f"key:{asker.held.key.hash}"
    connection = asker.connection
    if asker.peer and asker.look and connection:
        if not connection.whose:
            found = await asyncio.to_thread(asker.look, asker.peer[:2])
            # Else the address may have been somebody else's by then.
            if connection.is_open() and found.plugin:
                connection.whose = f"plugin:{found.plugin}"
            elif connection.is_open() and found.uid is not None:
                connection.whose = f"uid:{found.uid}"
        if connection.whose:
            return connection.whose
    text = "whose this connection is cannot be told"
    raise ClawError("not_permitted", text, allowed="users of this box, who has a key")


def require_open() -> None:
    """Refuse what an address was looked up for if it may be somebody else's by now.

    Raises:
        ClawError: not_permitted.
    """
    asker = ASKER.get(None)
    if not (asker and asker.connection and asker.connection.is_open()):
        raise ClawError("not_permitted", "the connection has ended meanwhile")


def permit(what: str, name: str) -> None:
    """Refuse what the key of this request may not ask for, if it has one; as ``require``."""
    asker = ASKER.get(None)
    if asker and asker.held:
        require(asker.held.key, what, name)


def require(key: Key, what: str, name: str) -> None:
    """Refuse what a key may not ask for.

    Args:
        what: models or operations.

    Raises:
        ClawError: not_permitted.
    """
    patterns: tuple[str, ...] = getattr(key, what)
    if not may(patterns, name):
        text = f"the key {key.name} may not ask for this"
        raise ClawError("not_permitted", text, name[:80], f"{what}: {', '.join(patterns)}")
