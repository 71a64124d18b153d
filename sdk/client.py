"""The synchronous client.

    with Client() as client:
        task = client.submit("llm.generate", {"prompt": "Hello"}, model="smollm2")
        for event in task:
            if event.kind == "chunk":
                print(event.data["text"], end="")
        print(task.result().timings)

A client belongs to one thread. It never reconnects by itself: when the kernel goes, its tasks are
gone with it, and every call says so.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

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


def options(sock: Any) -> None:
    """What a client that uses libzmq should set: no lingering, no reconnecting.

    Not -1: libzmq would then drop what the kernel had said last, such as why it disconnects us.
    """
    import zmq

    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.RECONNECT_IVL, 1 << 30)
    sock.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE)


class Task:
    """One submitted task. Iterate over it for its events, ask it for its result."""

    def __init__(self, client: "Client", request: Request) -> None:
        self._client = client
        self._request = request

    @property
    def done(self) -> bool:
        """Whether the task has ended (and its events may still be waiting to be read)."""
        return self._request.end is not None

    def __iter__(self) -> Iterator[Event]:
        """The events until the end of the task; its error is raised by ``result`` only."""
        while True:
            while self._request.events:
                yield self._request.events.popleft()
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
            self._request.events.clear()
        if isinstance(self._request.end, ClawError):
            raise self._request.end
        return self._request.end

    def cancel(self) -> None:
        """Ask for the end of the task; ``result`` then raises the error ``cancelled``."""
        if self._request.end is None:
            self._client._send(Session.cancel(self._request))


class Client:
    """A connection to the kernel.

    Args:
        timeout: seconds to wait for the kernel to answer hello.
        folder: the kernel's runtime folder, if it is not the usual one.
        name: shown in listings.

    Raises:
        ClawError: no_kernel, bad_version.
    """

    def __init__(self, timeout: float = 5.0, folder: Path | None = None, name: str = "") -> None:
        folder = folder or paths.runtime_dir()
        self._address = folder / paths.kernel_socket().name
        self._session = Session()
        self._leases = LeaseSocket.connect(folder / paths.lease_socket().name, timeout)
        self._lost: ClawError | None = None
        self._owner = (os.getpid(), threading.get_ident())
        try:
            self._channel = Channel(self._address, timeout, SILENCE)
        except OSError as error:
            self._leases.close()
            raise no_kernel(self._address, error.strerror or str(error)) from None
        try:
            self._send(self._session.hello(self._leases.token, name))
            until = time.monotonic() + timeout
            while self._session.welcome is None:
                self._pump(until)
        except BaseException:
            self.close()
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
        """
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
        self._send(out)
        return Task(self, request)

    def call(self, op: str, params: Mapping[str, Any] | None = None, **options: Any) -> Result:
        """Submit and wait; see ``submit``."""
        return self.submit(op, params, **options).result()

    def query(self, what: str) -> Any:
        """A listing: status, plugins, models, workers or tasks."""
        return self._ask(self._session.query(what)).value

    def admin(self, command: str, name: str = "") -> Any:
        """Change what runs: ``shutdown``; or by the name of a model or plugin ``unload``, ``pin``,
        ``unpin``, ``suspend``, ``resume``. The answer says what was affected.
        """
        return self._ask(self._session.admin(command, name)).value

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
        asked = self._session.borrow(op, model, size, priority=priority, rights=rights)
        lease: wire.Lease = self._ask(asked).value
        return Loan(lease, self._leases.mapping(lease.segment))

    def give_back(self, loan: Loan) -> None:
        """Return a loan, and drop its arrays: what they view cannot be given to others.

        The memory stays mapped, to be lent to this client again at once. When the kernel needs it,
        it is unmapped the next time that this client is used.
        """
        self._send(Session.give_back(loan.lease))
        self._take(0)

    def array(
        self, result: Result, tensor: Mapping[str, Any], leases: Sequence[Loan] = ()
    ) -> "numpy.ndarray[Any, Any]":
        """The array that a result names, in its frames or in the leases of its request."""
        return array(result, tensor, leases)

    def _ask(self, asked: tuple[Request, Frames]) -> Result:
        request, out = asked
        self._send(out)
        return Task(self, request).result()

    def _mine(self) -> None:
        """Refuse what ZeroMQ would answer with silence: another thread, a forked child, the end."""
        if self._lost:
            raise self._lost
        if self._channel.closed:
            raise ClawError("bad_state", "this client is closed", hint="make a new one")
        if self._owner != (os.getpid(), threading.get_ident()):
            raise ClawError(
                "bad_state",
                "a client belongs to the thread that made it, and not to a forked child",
                hint="make one client a thread, or use AsyncClient",
            )

    def _send(self, frames: Frames) -> None:
        self._mine()
        self._pass(frames)

    def _pass(self, frames: Frames) -> None:
        try:
            self._channel.send(frames)
        except TimeoutError:
            self._lose("it does not read")

    def _pump(self, until: float | None = None) -> None:
        """Wait for the next message and note it; ``until`` is on the monotonic clock."""
        self._mine()
        pause = SILENCE if until is None else max(0.0, until - time.monotonic())
        if not self._take(pause):
            self._lose("it does not answer")

    def _take(self, seconds: float) -> bool:
        """Note what has come, and unmap what the kernel asks back; whether anything has."""
        try:
            messages = self._channel.receive(seconds)
        except EOFError:
            self._lose("it has closed the connection")
        for frames in messages:
            self._session.receive(frames)
        for segment in self._leases.unmap(self._session.drops) if self._session.drops else ():
            self._pass(Session.dropped(segment))
        return bool(messages)

    def _lose(self, why: str) -> NoReturn:
        self._lost = no_kernel(self._address, why)
        self._session.lost(self._lost)
        raise self._lost

    def close(self) -> None:
        """Disconnect; tasks that have not ended are cancelled by the kernel. Twice is harmless."""
        self._channel.close()
        self._leases.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(timeout: float = 5.0) -> Client:
    """A client of the running kernel."""
    return Client(timeout=timeout)
