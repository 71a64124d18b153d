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
from clawai.sdk.session import Frames, Session
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


class _Link(asyncio.Protocol):
    """The connection as the event loop sees it: what comes is noted at once, without a task that
    would have to be woken for it, since everybody whom a front serves waits for that."""

    def __init__(self, front: "Front") -> None:
        self._front = front
        self.room = asyncio.Event()
        """Set while more may be written."""
        self.room.set()
        self.gone = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Of the event loop."""
        self._front._came(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Of the event loop."""
        self.room.set()
        self.gone.set()
        self._front._came(b"")

    def pause_writing(self) -> None:
        """Of the event loop."""
        self.room.clear()

    def resume_writing(self) -> None:
        """Of the event loop."""
        self.room.set()


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
        self._zmtp: Any = Connection(max_frames=wire.MAX_FRAMES, max_bytes=wire.MAX_MESSAGE)
        self._refused = None
        sock.setblocking(False)
        made = self._loop.create_unix_connection(lambda: _Link(self), sock=sock)
        self._transport, self._link = await made
        if not await self._until(self._is_welcome, self._timeout):
            self._transport.abort()
            raise ClawError("connection_lost", "the kernel has not welcomed this worker")
        if error := self._refused or self._lost:
            self._transport.abort()
            raise error

    def _came(self, data: bytes) -> None:
        """Note what has come; nothing: that was the end."""
        if self._closed or self._lost or self._refused:
            return
        try:
            if not data:
                self._lose("it has closed the connection")
            for frames in self._zmtp.receive(data):
                self._session.receive(frames, self._loop.time())
            if due := self._zmtp.outgoing():
                self._transport.write(due)
            if self._session.outbox:
                for said in self._session.outbox:
                    self._transport.writelines(self._zmtp.message(said))
                self._session.outbox.clear()
        except ClawError as error:
            self._broken(error)
        self._tell()

    async def _pass(self, frames: Frames) -> None:
        self._transport.writelines(self._zmtp.message(frames))
        if not self._link.room.is_set():
            await self._link.room.wait()

    async def _disconnect(self) -> None:
        self._transport.close()
        await self._link.gone.wait()

    async def close(self) -> None:
        """End what is open, and let go of the connection."""
        for request in list(self._session.requests.values()):
            await self._cancel(request)
            self._session.forget(request)
        await super().close()
