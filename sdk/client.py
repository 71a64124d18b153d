"""The synchronous client.

    with Client() as client:
        task = client.submit("llm.generate", {"prompt": "Hello"}, model="smollm2")
        for event in task:
            if event.kind == "chunk":
                print(event.data["text"], end="")
        print(task.result().timings)

A client belongs to one thread: make one for each, or use ``AsyncClient``. When the kernel goes, its
tasks are gone with it, and every call says so, unless the client is to look for the next one
(``reconnect``). A stream that is not read is held where it is made, after ``session.WINDOW`` bytes.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from clawai.sdk import paths, wire
from clawai.sdk.channel import Channel
from clawai.sdk.errors import ClawError
from clawai.sdk.leases import LeaseSocket, Loan, array, no_kernel
from clawai.sdk.session import Event, Frames, Request, Result, Session

if TYPE_CHECKING:
    import numpy

__all__ = ["Client", "Event", "Result", "Task", "connect"]

SILENCE = 15.0
"""Seconds without a word while a task is open; the kernel speaks at least once a second."""


def patience(reconnect: bool | float) -> float:
    """Seconds for which the next kernel is looked for."""
    seconds = 30.0 if reconnect is True else float(reconnect)
    if not 0 <= seconds < 1 << 31:
        raise ClawError("bad_params", "reconnect", got=reconnect, allowed="0 seconds or more")
    return seconds


def options(sock: Any) -> None:
    """What a client that uses libzmq should set: no lingering, no reconnecting.

    Not -1: libzmq would then drop what the kernel had said last, such as why it disconnects us.
    """
    import zmq

    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.RECONNECT_IVL, 1 << 30)
    sock.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE)


class Pump(Protocol):
    """What a ``Task`` needs of whoever it was submitted by."""

    def _cancel(self, request: Request) -> None: ...
    def _pump(self) -> None: ...
    def _next(self, request: Request) -> Event | None: ...
    def _drop(self, request: Request) -> None: ...


class Task:
    """One submitted task. Iterate over it for its events, ask it for its result."""

    def __init__(self, client: "Pump", request: Request) -> None:
        self._client = client
        self._request = request

    @property
    def done(self) -> bool:
        """Whether the task has ended (and its events may still be waiting to be read)."""
        return self._request.end is not None

    def __iter__(self) -> Iterator[Event]:
        """The events until the end of the task; its error is raised by ``result`` only."""
        while True:
            while (event := self._client._next(self._request)) is not None:
                yield event
            if self._request.end is not None:
                return
            self._client._pump()

    def result(self) -> Result:
        """Wait for the end. Events that were not read are dropped.

        Raises:
            ClawError: whatever ended the task.
        """
        while self._request.end is None:
            self._client._pump()
            self._client._drop(self._request)
        if isinstance(self._request.end, ClawError):
            raise self._request.end
        return self._request.end

    def cancel(self) -> None:
        """Ask for the end of the task; ``result`` then raises the error ``cancelled``."""
        if self._request.end is None:
            self._client._cancel(self._request)


class Client:
    """A connection to the kernel.

    Args:
        timeout: seconds to wait for the kernel to answer hello.
        folder: the kernel's runtime folder, if it is not the usual one.
        name: shown in listings.
        reconnect: whether to look for the next kernel when this one goes, and for how many seconds
            (True: 30). What is open then is asked for again if it only asks, or its operation is
            idempotent and has streamed nothing; else it ends with ``connection_lost``. Loans end.

    Raises:
        ClawError: no_kernel, bad_version.
    """

    def __init__(
        self,
        timeout: float = 5.0,
        folder: Path | None = None,
        name: str = "",
        reconnect: bool | float = False,
    ) -> None:
        self._folder = folder or paths.runtime_dir()
        self._address = self._folder / paths.kernel_socket().name
        self._timeout, self._name = timeout, name
        self._patience = patience(reconnect)
        self._session = Session(keep=self._patience > 0)
        self._lost: ClawError | None = None
        self._down = False
        """The connection is lost, and is made anew before the next message."""
        self._closed = False
        self._owner = (os.getpid(), threading.get_ident())
        self._connect()

    def _connect(self) -> None:
        """Connect and say hello.

        Raises:
            ClawError: no_kernel, bad_version.
        """
        self._leases = LeaseSocket.connect(self._folder / paths.lease_socket().name, self._timeout)
        try:
            self._channel = Channel(self._address, self._timeout, SILENCE)
        except OSError as error:
            self._leases.close()
            raise no_kernel(self._address, error.strerror or str(error)) from None
        try:
            self._pass(self._session.hello(self._leases.token, self._name))
            until = time.monotonic() + self._timeout
            while self._session.welcome is None:
                if not self._take(max(0.0, until - time.monotonic())):
                    raise EOFError("it does not answer")
        except EOFError as error:
            self._disconnect()
            raise no_kernel(self._address, str(error)) from None
        except BaseException:
            self._disconnect()
            raise

    @property
    def welcome(self) -> wire.Welcome:
        """What the kernel said of itself."""
        assert self._session.welcome
        return self._session.welcome

    def submit(
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
    ) -> Task:
        """Ask for an operation.

        Args:
            params: plain values, as msgpack can carry them.
            priority: critical, interactive, normal or batch.
            deadline: seconds from now.
            frames: payload, such as small arrays.
            leases: segments borrowed for the same operation and model.
            durable: on the disk before it is accepted; it survives this client and the kernel. The
                event ``accepted`` has its ``job``.
            keep_alive: seconds that its worker stays loaded afterwards; None: as configured.
            retries: so many times more if it ends with an error that says when to try again
                (``retry_after_ms``); only if the operation is idempotent and nothing was streamed.
            wait: for room, where the kernel would refuse what is too much: here while this client
                has as many requests open as it may have, and later while the queue is full.
        """
        self._ready()
        while wait and len(self._session.requests) >= self.welcome.max_open:
            self._pump()
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
            now=time.monotonic(),
        )
        self._send(out)
        return Task(self, request)

    def call(self, op: str, params: Mapping[str, Any] | None = None, **options: Any) -> Result:
        """Submit and wait; see ``submit``."""
        return self.submit(op, params, **options).result()

    def query(self, what: str) -> Any:
        """A listing: status, plugins, operations, models, workers or tasks."""
        return self._ask(lambda: self._session.query(what)).value

    def admin(self, command: str, name: str = "") -> Any:
        """Change what runs: ``shutdown``; or by the name of a model or plugin ``unload``, ``pin``,
        ``unpin``, ``suspend``, ``resume``, which say what was affected; ``pull``, ``remove``, which
        begin, and say how far they are, as ``query`` does of ``pull:`` and their number.
        """
        return self._ask(lambda: self._session.admin(command, name)).value

    def borrow(
        self,
        op: str,
        size: int,
        *,
        model: str = "",
        priority: str = "interactive",
        rights: wire.Rights = "rw",
    ) -> Loan:
        """Share ``size`` bytes with the worker of an operation.

        Args:
            priority: of the tasks that will use it.
            rights: with "r" the worker cannot write there, whatever its code does.

        Raises:
            ClawError: no_memory, never_fits, queue_full.
        """
        options: dict[str, Any] = {"priority": priority, "rights": rights}
        lease: wire.Lease = self._ask(
            lambda: self._session.borrow(op, model, size, **options)
        ).value
        return Loan(lease, self._leases.mapping(lease.segment))

    def give_back(self, loan: Loan) -> None:
        """Return a loan, and drop its arrays: what they view cannot be given to others.

        The memory stays mapped, to be lent to this client again at once. When the kernel needs it,
        it is unmapped the next time that this client is used.
        """
        if self._down:
            return  # it has ended with its connection
        self._send(Session.give_back(loan.lease))
        try:
            self._take(0)
        except EOFError as error:
            self._lose(str(error))

    def array(
        self, result: Result, tensor: Mapping[str, Any], leases: Sequence[Loan] = ()
    ) -> "numpy.ndarray[Any, Any]":
        """The array that a result names, in its frames or in the leases of its request."""
        return array(result, tensor, leases)

    def _ask(self, ask: Callable[[], tuple[Request, Frames]]) -> Result:
        self._ready()
        request, out = ask()
        self._send(out)
        return Task(self, request).result()

    def _mine(self) -> None:
        """Refuse what ZeroMQ would answer with silence: another thread, a forked child, the end."""
        if self._lost:
            raise self._lost
        if self._closed:
            raise ClawError("bad_state", "this client is closed", hint="make a new one")
        if self._owner != (os.getpid(), threading.get_ident()):
            raise ClawError(
                "bad_state",
                "a client belongs to the thread that made it, and not to a forked child",
                hint="make one client a thread, or use AsyncClient",
            )

    def _ready(self) -> None:
        """See to a connection before something is asked: then nothing of that is in doubt."""
        self._mine()
        if not self._patience:
            return
        if not self._down:
            try:
                self._take(0)
            except EOFError as error:
                self._lose(str(error))
        if self._down:
            self._reconnect()

    def _cancel(self, request: Request) -> None:
        self._mine()
        if not (self._session.withdraw(request) or self._down):
            self._send(Session.cancel(request))

    def _send(self, frames: Frames) -> None:
        self._mine()
        try:
            self._pass(frames)
        except EOFError as error:
            self._lose(str(error))

    def _pass(self, frames: Frames) -> None:
        try:
            self._channel.send(frames)
        except TimeoutError:
            raise EOFError("it does not read") from None

    def _next(self, request: Request) -> Event | None:
        """The next event of a task; the kernel is told when much was taken."""
        event = self._session.take(request)
        if self._session.outbox and not (self._lost or self._down or self._closed):
            self._flush()
        return event

    def _drop(self, request: Request) -> None:
        self._session.drop(request)
        self._flush()

    def _flush(self) -> None:
        while self._session.outbox and not self._down:
            self._send(self._session.outbox.pop(0))

    def _pump(self) -> None:
        """Wait for the next messages and note them, or until something is to be sent again."""
        self._mine()
        if self._down:
            self._reconnect()
        now = time.monotonic()
        due = self._session.due
        try:
            if not self._take(max(0.0, min(SILENCE, due - now))) and due > time.monotonic():
                raise EOFError("it does not answer")
        except EOFError as error:
            self._lose(str(error))
            return
        self._session.resend(time.monotonic())
        self._flush()

    def _take(self, seconds: float) -> bool:
        """Note what has come, and unmap what the kernel asks back; whether anything has.

        Raises:
            EOFError: the connection is lost; why, in words.
        """
        try:
            messages = self._channel.receive(seconds)
        except EOFError:
            raise EOFError("it has closed the connection") from None
        for frames in messages:
            self._session.receive(frames, time.monotonic())
        for segment in self._leases.unmap(self._session.drops) if self._session.drops else ():
            self._pass(Session.dropped(segment))
        return bool(messages)

    def _lose(self, why: str) -> None:
        """The connection is gone.

        Raises:
            ClawError: no_kernel, unless this client looks for the next one.
        """
        error = no_kernel(self._address, why)
        if not self._patience:
            self._lost = error
            self._session.lost(error)
            raise error
        self._disconnect()
        self._down = True
        self._session.cut(error, time.monotonic())

    def _reconnect(self) -> None:
        """Look for the next kernel, and ask it for what can be asked for again.

        Raises:
            ClawError: no_kernel, as none came in time.
        """
        until = time.monotonic() + self._patience
        ends = [request.deadline for request in self._session.requests.values()]
        until = min(until, max(ends, default=until))
        attempt = 0
        while True:
            try:
                self._connect()
                break
            except ClawError as error:
                pause = self._session.pause(attempt)
                if error.code != "no_kernel" or time.monotonic() + pause > until:
                    self._session.lost(error)
                    raise
            time.sleep(pause)
            attempt += 1
        self._down = False
        self._session.resume(time.monotonic())
        self._flush()

    def _disconnect(self) -> None:
        self._channel.close()
        self._leases.close()

    def close(self) -> None:
        """Disconnect; tasks that have not ended are cancelled by the kernel. Twice is harmless."""
        self._closed = True
        self._disconnect()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(timeout: float = 5.0) -> Client:
    """A client of the running kernel."""
    return Client(timeout=timeout)
