"""Shared memory that programs of this box lend by name (Triton's system shared-memory extension).

Whose it is, the broker has checked when it was registered: only its own program can do that. What
is registered, every program that is answered here may name. It is read and written by calls, never
mapped: a file that becomes shorter under a map would end the gateway.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.keys import permit

SCOPE = "shared_memory"
"""What a key has to name: memory is this box's own."""
MOST = 256
"""Regions at a time: a descriptor each."""
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
    """What is registered."""

    def __init__(self, opener: Open) -> None:
        self._open = opener
        self._regions: dict[str, Region] = {}

    async def register(self, name: str, key: str, offset: int, size: int, peer: Peer) -> None:
        """Have some memory opened.

        Raises:
            BadRequest: it has not so many bytes, or the name is taken.
            ClawError: it cannot be opened.
        """
        permit("operations", SCOPE)
        if not 0 < len(name) <= 200:
            raise BadRequest("the name of a region has 1 to 200 characters", "name")
        self._require_free(name)
        fd = await asyncio.to_thread(self._open, key.removeprefix("/"), peer)
        try:
            self._require_free(name)
            have = os.fstat(fd).st_size
            if size < 1 or offset + size > have:
                text = f"the shared memory {key[:80]!r} has {have} bytes; got {offset} + {size}"
                raise BadRequest(text, "byte_size")
        except BaseException:
            os.close(fd)
            raise
        self._regions[name] = Region(name, key, offset, size, fd)

    def _require_free(self, name: str) -> None:
        if name in self._regions:
            raise BadRequest(f"the region {name[:80]!r} is registered already", "name")
        if len(self._regions) >= MOST:
            raise BadRequest(f"{MOST} regions are registered: unregister some", status=429)

    def unregister(self, name: str = "") -> None:
        """Let go of one, or of all.

        Raises:
            BadRequest: 404.
        """
        for each in self.listed(name):
            os.close(self._regions.pop(each.name).fd)

    def listed(self, name: str = "") -> list[Region]:
        """One, or all.

        Raises:
            BadRequest: 404.
        """
        permit("operations", SCOPE)
        if name:
            return [self._one(name)]
        return [self._regions[each] for each in sorted(self._regions)]

    def _one(self, name: str) -> Region:
        if name not in self._regions:
            there = ", ".join(sorted(self._regions)[:10]) or "none"
            text = f"no shared memory {name[:80]!r} is registered; there is: {there}"
            raise BadRequest(text, "shared_memory_region", status=404)
        return self._regions[name]

    def _part(self, name: str, offset: int, size: int) -> tuple[int, int]:
        """Descriptor and place of some bytes of a region."""
        permit("operations", SCOPE)
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

    def close(self) -> None:
        """Let go of all."""
        for each in self._regions.values():
            os.close(each.fd)
        self._regions.clear()
