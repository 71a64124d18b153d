"""The asynchronous client: the same protocol core as the synchronous one, for asyncio.

async with AsyncClient() as client:
    task = await client.submit("llm.generate", {"prompt": "Hello"}, model="smollm2")
    async for event in task:
        ...
    result = await task.result()
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clawai.sdk import paths, wire
from clawai.sdk.channel import connect, connection
from clawai.sdk.client import SILENCE
from clawai.sdk.errors import ClawError
from clawai.sdk.leases import LeaseSocket, Loan, array, no_kernel
from clawai.sdk.session import Event, Frames, Request, Result, Session

if TYPE_CHECKING:
    import numpy

__all__ = ["AsyncClient", "AsyncTask"]


_READ = 256 * 1024


class AsyncTask:
    """One submitted task; iterate over it for its events, await ``result``."""

    def __init__(self, client: "AsyncClient", request: Request) -> None:
        self._client = client
        self._request = request

    @property
    def done(self) -> bool:
        """Whether the task has ended."""
        return self._request.end is not None

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The events until the end of the task; its error is raised by ``result`` only."""
        while True:
            while self._request.events:
                yield self._request.events.popleft()
            if self._request.end is not None:
                return
            await self._client._news()

    async def result(self) -> Result:
        """Wait for the end.

        Raises:
            ClawError: whatever ended the task.
        """
        while self._request.end is None:
            await self._client._news()
            self._request.events.clear()
        if isinstance(self._request.end, ClawError):
            raise self._request.end
        return self._request.end

    async def cancel(self) -> None:
        """Ask for the end of the task."""
        if self._request.end is None:
            await self._client._send(Session.cancel(self._request))


class AsyncClient:
    """A connection to the kernel; any number of tasks of one event loop may share it."""

    def __init__(self, timeout: float = 5.0, folder: Path | None = None, name: str = "") -> None:
        folder = folder or paths.runtime_dir()
        self._timeout = timeout
        self._name = name
        self._address = folder / paths.kernel_socket().name
        self._lease_path = folder / paths.lease_socket().name
        self._session = Session()
        self._lost: ClawError | None = None
        self._condition = asyncio.Condition()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "AsyncClient":
        self._leases = await asyncio.to_thread(LeaseSocket.connect, self._lease_path, self._timeout)
        try:
            # In a thread: asyncio takes a full backlog for a connection.
            sock = await asyncio.to_thread(connect, self._address, self._timeout)
        except OSError as error:
            self._leases.close()
            raise no_kernel(self._address, error.strerror or str(error)) from None
        self._reader, self._writer = await asyncio.open_unix_connection(sock=sock)
        self._zmtp = connection()
        self._writer.write(self._zmtp.outgoing())
        self._reading = asyncio.create_task(self._read())
        try:
            await self._send(self._session.hello(self._leases.token, self._name))
            async with asyncio.timeout(self._timeout):
                while self._session.welcome is None:
                    await self._news()
        except TimeoutError:
            await self.close()
            raise no_kernel(self._address, "it does not answer") from None
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def welcome(self) -> wire.Welcome:
        """What the kernel said of itself."""
        assert self._session.welcome
        return self._session.welcome

    async def submit(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        *,
        model: str = "",
        priority: str = "interactive",
        deadline: float | None = None,
        frames: Sequence[bytes | memoryview] = (),
        leases: Sequence[Loan] = (),
        durable: bool = False,
        keep_alive: float | None = None,
    ) -> AsyncTask:
        """Ask for an operation; the arguments are those of ``Client.submit``."""
        request, out = self._session.submit(
            op,
            params,
            model=model,
            priority=priority,
            deadline=deadline,
            frames=frames,
            leases=[loan.lease for loan in leases],
            durable=durable,
            keep_alive=keep_alive,
        )
        await self._send(out)
        return AsyncTask(self, request)

    async def call(
        self, op: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> Result:
        """Submit and wait."""
        return await (await self.submit(op, params, **options)).result()

    async def query(self, what: str) -> Any:
        """A listing: status, plugins, models, workers or tasks."""
        request, out = self._session.query(what)
        await self._send(out)
        return (await AsyncTask(self, request).result()).value

    async def admin(self, command: str, name: str = "") -> Any:
        """Change what runs; see ``Client.admin``."""
        request, out = self._session.admin(command, name)
        await self._send(out)
        return (await AsyncTask(self, request).result()).value

    async def borrow(
        self,
        op: str,
        size: int,
        *,
        model: str = "",
        priority: str = "interactive",
        rights: wire.Rights = "rw",
    ) -> Loan:
        """Share ``size`` bytes with the worker of an operation; see ``Client.borrow``."""
        request, out = self._session.borrow(op, model, size, priority=priority, rights=rights)
        await self._send(out)
        lease: wire.Lease = (await AsyncTask(self, request).result()).value
        return Loan(lease, self._leases.mapping(lease.segment))

    async def give_back(self, loan: Loan) -> None:
        """Return a loan, and drop its arrays; see ``Client.give_back``."""
        await self._send(Session.give_back(loan.lease))

    def array(
        self, result: Result, tensor: Mapping[str, Any], leases: Sequence[Loan] = ()
    ) -> "numpy.ndarray[Any, Any]":
        """The array that a result names, in its frames or in the leases of its request."""
        return array(result, tensor, leases)

    async def _send(self, frames: Frames) -> None:
        if self._lost:
            raise self._lost
        if self._writer.is_closing():
            raise ClawError("bad_state", "this client is closed", hint="make a new one")
        await self._pass(frames)

    async def _pass(self, frames: Frames) -> None:
        self._writer.writelines(self._zmtp.message(frames))
        try:
            await self._writer.drain()
        except OSError:
            pass  # the reader tells why, once it has read what the kernel said last

    async def _news(self) -> None:
        """Wait until something has arrived, whoever it is for."""
        if self._lost:
            raise self._lost
        async with self._condition:
            try:
                await asyncio.wait_for(self._condition.wait(), SILENCE)
            except TimeoutError:
                self._lose("it does not answer")
        if self._lost:
            raise self._lost

    async def _read(self) -> None:
        """Note what comes, whoever it is for, until the connection ends."""
        while self._lost is None:
            try:
                data = await self._reader.read(_READ)
            except OSError:
                data = b""
            async with self._condition:
                try:
                    await self._take(data)
                except ClawError as error:
                    self._lost = error
                    self._session.lost(error)
                self._condition.notify_all()

    async def _take(self, data: bytes) -> None:
        if not data:
            self._lose("it has closed the connection")
        for frames in self._zmtp.receive(data):
            self._session.receive(frames)
        if due := self._zmtp.outgoing():
            self._writer.write(due)
        for segment in self._leases.unmap(self._session.drops) if self._session.drops else ():
            await self._pass(Session.dropped(segment))

    def _lose(self, why: str) -> None:
        self._lost = no_kernel(self._address, why)
        self._session.lost(self._lost)

    async def close(self) -> None:
        """Disconnect; tasks that have not ended are cancelled by the kernel."""
        if self._reading:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        self._leases.close()
