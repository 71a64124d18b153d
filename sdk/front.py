"""A front: a worker that serves others by protocols of its own, and asks the kernel for them.

    async with ctx.front() as kernel:
        task = await kernel.submit("llm.generate", params, model=name, behalf="alice")

The worker of a plugin whose manifest has ``on_behalf_of`` is born with a connection to the kernel.
Over it, it is a client that may name for whom it asks: what workers keep for one of those is never
another's. ``Front`` is the asynchronous client on that connection. It ends with the worker.
"""

import asyncio
import os
import socket
from typing import Any

from clawai.sdk import wire
from clawai.sdk.aclient import AsyncClient
from clawai.sdk.errors import ClawError
from clawai.sdk.session import Session
from clawai.sdk.zmtp import Connection

__all__ = ["Front"]


class _NoLeases:
    """A worker borrows no memory over this connection."""

    def unmap(self, wanted: set[int]) -> list[int]:
        return []

    def mapping(self, segment: int) -> Any:
        raise ClawError("not_permitted", "a front has no leases", got=segment)

    def close(self) -> None:
        pass


class Front(AsyncClient):
    """The client of a front's worker.

    Args:
        fd: the connection; it stays the caller's.
        session: what is open on it; the same one for all that use it, one after the other.
    """

    def __init__(self, fd: int, session: Session) -> None:
        super().__init__()
        self._fd = fd
        self._session = session

    async def _connect(self) -> None:
        # The kernel began with a welcome when the worker was born; it may have been read before.
        self._leases: Any = _NoLeases()
        sock = socket.socket(fileno=os.dup(self._fd))
        self._reader, self._writer = await asyncio.open_unix_connection(sock=sock)
        self._zmtp: Any = Connection(max_frames=wire.MAX_FRAMES, max_bytes=wire.MAX_MESSAGE)
        self._refused = None
        self._reading = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(self._timeout), self._condition:
                while self._session.welcome is None and not (self._refused or self._lost):
                    await self._condition.wait()
        except TimeoutError:
            await self._disconnect()
            raise ClawError("connection_lost", "the kernel has not welcomed this worker") from None
        if error := self._refused or self._lost:
            await self._disconnect()
            raise error

    async def close(self) -> None:
        """End what is open, and let go of the connection."""
        for request in list(self._session.requests.values()):
            await self._cancel(request)
            self._session.forget(request)
        await super().close()
