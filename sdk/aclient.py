"""The asynchronous client: the same protocol core as the synchronous one, for asyncio.

async with AsyncClient() as client:
    task = await client.submit("llm.generate", {"prompt": "Hello"}, model="smollm2")
    async for event in task:
        ...
    result = await task.result()
"""

import asyncio
import contextlib
import math
import select
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from clawai.sdk import paths, wire
from clawai.sdk.channel import connect, connection
from clawai.sdk.client import SILENCE, patience
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

    def __aiter__(self) -> Self:
        """The events until the end of the task; its error is raised by ``result`` only."""
        return self

    async def __anext__(self) -> Event:
        """The next of them. No generator: the loop keeps a book of those."""
        while (event := await self._client._next(self._request)) is None:
            if self._request.end is not None:
                raise StopAsyncIteration
            await self._client._news(self._heard)
        return event

    async def result(self) -> Result:
        """Wait for the end.

        Raises:
            ClawError: whatever ended the task.
        """
        while self._request.end is None:
            await self._client._news(self._heard)
            await self._client._drop(self._request)
        if isinstance(self._request.end, ClawError):
            raise self._request.end
        return self._request.end

    def _heard(self) -> bool:
        return bool(self._request.events) or self._request.end is not None

    async def cancel(self) -> None:
        """Ask for the end of the task."""
        if self._request.end is None:
            await self._client._cancel(self._request)


class AsyncClient:
    """A connection to the kernel; any number of tasks of one event loop may share it.

    The arguments are those of ``Client``.
    """

    def __init__(
        self,
        timeout: float = 5.0,
        folder: Path | None = None,
        name: str = "",
        reconnect: bool | float = False,
    ) -> None:
        folder = folder or paths.runtime_dir()
        self._timeout = timeout
        self._name = name
        self._address = folder / paths.kernel_socket().name
        self._lease_path = folder / paths.lease_socket().name
        self._patience = patience(reconnect)
        self._session = Session(keep=self._patience > 0)
        self._lost: ClawError | None = None
        self._down = False
        """The connection is lost, and is made anew before the next message."""
        self._refused: ClawError | None = None
        """Why the connection that is being made is none."""
        self._attempts = 0
        """How often that was tried, to its end."""
        self._closed = False
        self._waiting: dict[asyncio.Future[bool], Callable[[], bool]] = {}
        """Those who wait, and for what: who hears of nothing is not woken."""
        self._heard_at = 0.0
        """When anything came."""
        self._connecting = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await self._connect()
        return self

    async def _connect(self) -> None:
        """Connect and say hello.

        Raises:
            ClawError: no_kernel, bad_version.
        """
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
        self._refused = None
        self._reading = asyncio.create_task(self._read())
        try:
            await self._pass(self._session.hello(self._leases.token, self._name))
            if not await self._until(self._is_welcome, self._timeout):
                raise no_kernel(self._address, "it does not answer")
            if self._refused:
                raise self._refused
        except BaseException:
            await self._disconnect()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _is_welcome(self) -> bool:
        """Whether the kernel has said if it takes us."""
        return not (self._session.welcome is None and self._refused is None)

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
        retries: int = 0,
        wait: bool = False,
        behalf: str = "",
    ) -> AsyncTask:
        """Ask for an operation; the arguments are those of ``Client.submit``.

        Args:
            behalf: for whom, of a front (``clawai.sdk.front``).
        """
        await self._ready()
        while wait and not self._room():
            await self._news(self._room)
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
            retries=retries,
            wait=wait,
            behalf=behalf,
            now=self._loop.time(),
        )
        await self._send(out)
        return AsyncTask(self, request)

    async def call(
        self, op: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> Result:
        """Submit and wait."""
        return await (await self.submit(op, params, **options)).result()

    async def query(self, what: str) -> Any:
        """A listing: status, plugins, operations, models, workers or tasks."""
        return (await self._ask(lambda: self._session.query(what))).value

    async def admin(self, command: str, name: str = "") -> Any:
        """Change what runs; see ``Client.admin``."""
        return (await self._ask(lambda: self._session.admin(command, name))).value

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
        options: dict[str, Any] = {"priority": priority, "rights": rights}
        ask = self._ask(lambda: self._session.borrow(op, model, size, **options))
        lease: wire.Lease = (await ask).value
        return Loan(lease, self._leases.mapping(lease.segment))

    async def give_back(self, loan: Loan) -> None:
        """Return a loan, and drop its arrays; see ``Client.give_back``."""
        self._mine()
        if not self._down:  # else it has ended with its connection
            await self._pass(Session.give_back(loan.lease))

    def array(
        self, result: Result, tensor: Mapping[str, Any], leases: Sequence[Loan] = ()
    ) -> "numpy.ndarray[Any, Any]":
        """The array that a result names, in its frames or in the leases of its request."""
        return array(result, tensor, leases)

    def _mine(self) -> None:
        """Refuse another event loop, and the end."""
        if self._lost:
            raise self._lost
        if self._closed:
            raise ClawError("bad_state", "this client is closed", hint="make a new one")
        if asyncio.get_running_loop() is not self._loop:
            text = "a client belongs to the event loop that made it"
            raise ClawError("bad_state", text, hint="make one client a loop")

    def _room(self) -> bool:
        return len(self._session.requests) < self.welcome.max_open

    async def _ask(self, ask: Callable[[], tuple[Request, Frames]]) -> Result:
        await self._ready()
        request, out = ask()
        await self._send(out)
        return await AsyncTask(self, request).result()

    async def _ready(self) -> None:
        """See to a connection before something is asked: then nothing of that is in doubt."""
        self._mine()
        if not self._patience:
            return
        if not self._connecting.locked() and _hung_up(self._writer):
            while not (self._down or self._lost):  # until all that it had said is read
                await self._hear(lambda: False, SILENCE)
        if self._down or self._connecting.locked():
            await self._reconnect()
            self._mine()

    async def _cancel(self, request: Request) -> None:
        self._mine()
        if not (self._session.withdraw(request) or self._down):
            await self._send(Session.cancel(request))

    async def _send(self, frames: Frames) -> None:
        self._mine()
        await self._pass(frames)

    async def _pass(self, frames: Frames) -> None:
        self._writer.writelines(self._zmtp.message(frames))
        with contextlib.suppress(OSError):  # the reader tells why, once it has read all
            await self._writer.drain()

    async def _next(self, request: Request) -> Event | None:
        """The next event of a task; the kernel is told when much was taken."""
        event = self._session.take(request)
        if self._session.outbox:
            await self._flush()
        return event

    async def _drop(self, request: Request) -> None:
        self._session.drop(request)
        await self._flush()

    async def _flush(self) -> None:
        while self._session.outbox and not (self._lost or self._down or self._closed):
            await self._pass(self._session.outbox.pop(0))

    async def _news(self, heard: Callable[[], bool]) -> None:
        """Wait until ``heard``, or something is to be sent again, or the connection is lost."""
        self._mine()
        if self._down or self._connecting.locked():
            await self._reconnect()
            return
        due = self._session.due
        pause = max(0.0, min(SILENCE, due - self._loop.time()))
        if not await self._hear(heard, pause, due) and pause >= SILENCE:
            self._lose("it does not answer")
        if self._session.due < math.inf:
            self._session.resend(self._loop.time())
        if self._session.outbox:
            await self._flush()
        if self._lost:
            raise self._lost

    async def _hear(
        self, heard: Callable[[], bool], seconds: float, due: float = -math.inf
    ) -> bool:
        """Wait until ``heard``, or something is to be sent before ``due``, or the connection is
        lost; False: all that time there was only silence."""
        session = self._session

        def news() -> bool:
            if heard() or self._down or self._lost is not None or session.due < due:
                return True
            return self._connecting.locked()

        began = self._loop.time()
        return await self._until(news, seconds) or self._heard_at > began

    async def _until(self, news: Callable[[], bool], seconds: float) -> bool:
        """Wait for something that the reader brings; False: it has not."""
        if news():
            return True
        waiter: asyncio.Future[bool] = self._loop.create_future()
        timer = self._loop.call_later(seconds, _wake, waiter, False)
        self._waiting[waiter] = news
        try:
            return await waiter
        finally:
            timer.cancel()
            del self._waiting[waiter]

    def _tell(self) -> None:
        """Wake those for whom something has come."""
        self._heard_at = self._loop.time()
        for waiter, news in self._waiting.items():
            if news():
                _wake(waiter, True)

    async def _read(self) -> None:
        """Note what comes, whoever it is for, until the connection ends."""
        while not (self._lost or self._down or self._refused):
            try:
                data = await self._reader.read(_READ)
            except OSError:
                data = b""
            try:
                await self._take(data)
            except ClawError as error:
                self._broken(error)
            self._tell()

    def _broken(self, error: ClawError) -> None:
        """The kernel complains of this connection, or makes no sense."""
        if self._session.welcome is None:
            self._refused = error
        else:
            self._lost = error
            self._session.lost(error)

    async def _take(self, data: bytes) -> None:
        if not data:
            self._lose("it has closed the connection")
            return
        for frames in self._zmtp.receive(data):
            self._session.receive(frames, self._loop.time())
        if due := self._zmtp.outgoing():
            self._writer.write(due)
        await self._flush()
        for segment in self._leases.unmap(self._session.drops) if self._session.drops else ():
            await self._pass(Session.dropped(segment))

    def _lose(self, why: str) -> None:
        error = no_kernel(self._address, why)
        if self._session.welcome is None:
            self._refused = error
        elif self._patience:
            self._down = True
            self._session.cut(error, self._loop.time())
        else:
            self._lost = error
            self._session.lost(error)

    async def _reconnect(self) -> None:
        """Look for the next kernel, and ask it for what can be asked for again.

        Raises:
            ClawError: no_kernel, as none came in time.
        """
        attempts = self._attempts
        async with self._connecting:
            if attempts != self._attempts or not self._down:
                return  # another task has tried meanwhile
            await self._disconnect()
            try:
                await self._search()
            except ClawError as error:
                self._session.lost(error)
                raise
            finally:
                self._attempts += 1

    async def _search(self) -> None:
        """Try to connect until it works or the time is over."""
        until = self._loop.time() + self._patience
        ends = [request.deadline for request in self._session.requests.values()]
        until = min(until, max(ends, default=until))
        attempt = 0
        while True:
            try:
                self._down = False
                await self._connect()
                break
            except ClawError as error:
                self._down = True
                pause = self._session.pause(attempt)
                if error.code != "no_kernel" or self._loop.time() + pause > until:
                    raise
            await asyncio.sleep(pause)
            attempt += 1
        self._session.resume(self._loop.time())
        await self._flush()

    async def _disconnect(self) -> None:
        reading, self._reading = self._reading, None
        if reading:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        self._leases.close()

    async def close(self) -> None:
        """Disconnect; tasks that have not ended are cancelled by the kernel."""
        self._closed = True
        await self._disconnect()


def _wake(waiter: "asyncio.Future[bool]", news: bool) -> None:
    if not waiter.done():
        waiter.set_result(news)


def _hung_up(writer: asyncio.StreamWriter) -> bool:
    """Whether the other side has closed, which the loop may not have looked at yet."""
    fd = writer.get_extra_info("socket").fileno()
    poller = select.poll()
    if fd >= 0:
        poller.register(fd, select.POLLRDHUP)
    return fd < 0 or bool(poller.poll(0))
