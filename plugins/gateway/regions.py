"""Shared memory that programs of this box lend by name (Triton's system shared-memory extension).

Whose it is, the broker has checked when it was registered: only its own program can do that. Who
has registered it may name it, by the same key, or else as the same user; nobody else sees it. It is
read and written by calls, never mapped: a file that becomes shorter under a map would end the
gateway.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.keys import permit, principal, require_open

SCOPE = "shared_memory"
"""What a key has to name: memory is this box's own."""
MOST, EACH = 256, 128
"""Regions at a time, a descriptor each: of all, and of one who asks."""
Peer = tuple[str, int]
Open = Callable[[str, Peer], int]
"""A descriptor of the memory of a name, for a peer whose it is."""


@dataclass(frozen=True, slots=True)
class Region:
    """Some of a shared memory."""

    name: str
    key: str
    offset: int
    size: int
    fd: int

    def told(self) -> dict[str, Any]:
        """As a status says it."""
        return {
            "name": self.name,
            "key": self.key,
            "offset": self.offset,
            "byte_size": self.size,
        }


class Regions:
    """What is registered, by everybody."""

    def __init__(self, opener: Open) -> None:
        self.open = opener
        self.all: dict[tuple[str, str], Region] = {}
        """By whose it is, and name."""

    async def lent(self, needed: bool = True) -> "Lent":
        """The part of who asks now. Without need nobody has to say who that is: there is nothing.

        Raises:
            ClawError: not_permitted; network, if it cannot be told in time who asks.
        """
        if not needed:
            return Lent(self, "")
        permit("operations", SCOPE)
        return Lent(self, await principal())

    def drop_unlinked(self) -> None:
        """Let go of what has no name any more: its program has ended, or is done with it."""
        for at, each in list(self.all.items()):
            if not os.fstat(each.fd).st_nlink:
                os.close(self.all.pop(at).fd)

    def close(self) -> None:
        """Let go of all."""
        for each in self.all.values():
            os.close(each.fd)
        self.all.clear()


class Lent:
    """What one who asks has registered; others neither see nor name it.

    Args:
        whose: ``keys.principal``.
    """

    def __init__(self, regions: Regions, whose: str) -> None:
        self._regions = regions
        self._whose = whose

    async def register(self, name: str, key: str, offset: int, size: int, peer: Peer) -> None:
        """Have some memory opened.

        Raises:
            BadRequest: it has not so many bytes, or the name is taken.
            ClawError: it cannot be opened.
        """
        if not 0 < len(name) <= 200:
            raise BadRequest("the name of a region has 1 to 200 characters", "name")
        self._require_free(name)
        fd = await self._opened(key.removeprefix("/"), peer)
        try:
            require_open()
            self._require_free(name)
            have = os.fstat(fd).st_size
            if size < 1 or offset + size > have:
                text = f"the shared memory {key[:80]!r} has {have} bytes; got {offset} + {size}"
                raise BadRequest(text, "byte_size")
        except BaseException:
            os.close(fd)
            raise
        self._regions.all[self._whose, name] = Region(name, key, offset, size, fd)

    async def _opened(self, key: str, peer: Peer) -> int:
        """A descriptor. If we are cancelled meanwhile it is nobody's, and closed."""
        got: list[int] = []
        left = False
        guard = threading.Lock()

        def open_it() -> None:
            fd = self._regions.open(key, peer)
            with guard:
                if left:
                    os.close(fd)
                else:
                    got.append(fd)

        try:
            await asyncio.to_thread(open_it)
        except BaseException:
            with guard:
                left = True
            for fd in got:
                os.close(fd)
            raise
        return got[0]

    def _require_free(self, name: str) -> None:
        if (self._whose, name) in self._regions.all:
            raise BadRequest(f"the region {name[:80]!r} is registered already", "name")
        if len(self._regions.all) >= MOST or len(self.listed()) >= EACH:
            self._regions.drop_unlinked()
        if len(self.listed()) >= EACH:
            raise BadRequest(f"{EACH} regions are registered: unregister some", status=429)
        if len(self._regions.all) >= MOST:
            raise BadRequest(f"{MOST} regions are registered here: try again later", status=429)

    def unregister(self, name: str = "") -> None:
        """Let go of one, or of all.

        Raises:
            BadRequest: 404.
        """
        for each in self.listed(name):
            os.close(self._regions.all.pop((self._whose, each.name)).fd)

    def listed(self, name: str = "") -> list[Region]:
        """One, or all.

        Raises:
            BadRequest: 404.
        """
        if name:
            return [self._one(name)]
        found = (each for (whose, _), each in self._regions.all.items() if whose == self._whose)
        return sorted(found, key=lambda each: each.name)

    def _one(self, name: str) -> Region:
        found = self._regions.all.get((self._whose, name))
        if found is None:
            there = ", ".join(each.name for each in self.listed()[:10]) or "none"
            text = f"you have registered no shared memory {name[:80]!r}; there is: {there}"
            raise BadRequest(text, "shared_memory_region", status=404)
        return found

    def _part(self, name: str, offset: int, size: int) -> tuple[int, int]:
        """Descriptor and place of some bytes of a region."""
        region = self._one(name)
        if offset < 0 or offset + size > region.size:
            text = f"the region {name[:80]!r} has {region.size} bytes; got {offset} + {size}"
            raise BadRequest(text, "shared_memory_byte_size")
        place = region.offset + offset
        if place + size > os.fstat(region.fd).st_size:
            raise BadRequest(f"the shared memory of {name[:80]!r} became shorter", name)
        return region.fd, place

    def read(self, name: str, offset: int, size: int) -> bytes:
        """A copy of some bytes.

        Raises:
            BadRequest: they are not there.
        """
        fd, place = self._part(name, offset, size)
        data = os.pread(fd, size, place)
        if len(data) != size:
            raise BadRequest(f"the shared memory of {name[:80]!r} became shorter", name)
        return data

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Put some bytes there.

        Raises:
            BadRequest: there is no room.
        """
        fd, place = self._part(name, offset, len(data))
        os.pwrite(fd, data, place)
