"""A plugin's side of the network: connections that the broker makes, and ports to listen on.

    with ctx.connect("api.example.org", 443) as sock: ...       # the standard library's socket
    ctx.http.get("https://api.example.org/v1/things").json()    # with clawai[http]
    connection, peer = ctx.listener(8080).accept()

No system call that opens a socket is open to a plugin. The broker resolves the name, checks the
address, connects, and passes one end of a socket pair; it carries bytes and never looks at them,
and TLS ends here. A connection that breaks is an error at the next read, never a quiet end.
"""

import contextlib
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from clawai.sdk import netrules
from clawai.sdk.errors import ClawError

if TYPE_CHECKING:
    import httpx

__all__ = ["Caller", "Connection", "Network", "NetworkError", "network_of"]

_T = TypeVar("_T")
_LOOK = 0.1
"""Seconds between two looks at whether the task is to stop."""
_GRACE = 5.0
"""Seconds that the broker may take longer than it was told to."""
_ANSWER = 64 * 1024
_number = struct.Struct("i")
_KEPT = 1024
"""Ends of connections that are remembered until somebody asks."""
_FIELDS = ("got", "allowed", "hint", "retry_after_ms")
_ENDS = {
    "": "",
    "closed": "",
    "reset": "the other host broke the connection",
    "idle": "nothing was sent for too long",
    "limit": "it has carried as much as one connection may",
}


class NetworkError(ClawError):
    """There is no connection, or no more.

    Attributes:
        reason: ``not_found`` (no such name), ``refused``, ``unreachable``, ``timed_out``,
            ``too_many`` (connections, or too often) or ``lost``.
    """

    def __init__(self, reason: str, message: str, **fields: Any) -> None:
        super().__init__("network", message, **fields)
        self.reason = reason


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Caller:
    """Who has made a connection to a plugin's port."""

    uid: int | None
    """The user; None: of another box, of a plugin, or the connection has ended."""
    owner: int
    """The user whose kernel this is."""
    plugin: str = ""
    """The plugin, if it is one of this kernel's."""

    @property
    def is_owner(self) -> bool:
        """Whether it is the kernel's owner, or root."""
        return self.uid is not None and self.uid in (self.owner, 0)


class Connection(socket.socket):
    """A socket to another host. What ``recv`` gives at its end is told apart.

    If the other host has ended the connection properly, nothing (``b""``); else ``NetworkError``
    with reason ``lost``.
    """

    _network: "Network"
    _number = 0
    _peer: Any = None
    _unsaid = "gone", "gone"
    """What an end and a reset are of which the broker has said nothing."""

    @classmethod
    def of(cls, network: "Network", number: int, fd: int, peer: Any = None) -> "Connection":
        """The connection behind a descriptor that the broker passed; ``peer`` has made it."""
        sock = cls(fileno=fd)
        sock._network, sock._number, sock._peer = network, number, peer
        return sock

    def getpeername(self) -> Any:
        """Of one that was accepted: who has made it."""
        return self._peer or super().getpeername()

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """As ``socket.recv``; see the class."""
        data = self._read(lambda: super(Connection, self).recv(bufsize, flags))
        if not data and bufsize:
            self._network.ended(self._number, self._unsaid[0])
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0, /) -> int:
        """As ``socket.recv_into``; see the class."""
        count = self._read(lambda: super(Connection, self).recv_into(buffer, nbytes, flags))
        if not count and len(memoryview(buffer)):
            self._network.ended(self._number, self._unsaid[0])
        return count

    def _read(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except ConnectionResetError:
            # The broker closed its end with bytes of ours unread: why, it has said.
            self._network.ended(self._number, self._unsaid[1])
            raise


class Taken(Connection):
    """A connection that a front has itself: no pair, nobody between.

    The broker holds it, too: it ends once the broker hears that this lets go of it. It does so by
    ``close``, and by ``detach``, as event loops that were given a socket end it. What takes the
    descriptor out in order to go on with it (``ssl.SSLContext.wrap_socket``) is not for these.
    """

    _unsaid = "", "reset"

    def close(self) -> None:
        """As ``socket.close``."""
        was_open = self.fileno() >= 0
        super().close()
        if was_open and self.fileno() < 0:  # no file made of it holds it open
            self._network.let_go(self._number)

    def detach(self) -> int:
        """As ``socket.detach``, by whoever has closed the descriptor or is about to."""
        fd = super().detach()
        if fd >= 0:
            self._network.let_go(self._number)
        return fd


class Listener(socket.socket):
    """A listening socket that can be waited for; what connects, the broker accepts and passes."""

    _network: "Network"
    _port = 0

    @classmethod
    def of(cls, network: "Network", port: int, fd: int) -> "Listener":
        """The one behind a descriptor that came with the worker's start."""
        sock = cls(fileno=fd)
        sock._network, sock._port = network, port
        return sock

    def dup(self) -> "Listener":
        """Another one of the same port, for a server that closes what it serves on."""
        return Listener.of(self._network, self._port, os.dup(self.fileno()))

    def listen(self, backlog: int = 0, /) -> None:
        """It does already; event loops say it again."""

    def accept(self) -> tuple[Connection, Any]:
        """As ``socket.accept``, with its timeout.

        Raises:
            OSError: as there; the port was closed.
            NetworkError: the broker is gone for good.
        """
        return self._next(itself=False)

    def take(self) -> tuple[Connection, Any]:
        """As ``accept``; a front gets the connection itself, see ``Taken``."""
        return self._next(itself=True)

    def _next(self, itself: bool) -> tuple[Connection, Any]:
        timeout = self.gettimeout()
        until = None if timeout is None else time.monotonic() + timeout
        poller = select.poll()
        poller.register(self, select.POLLIN)
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            ready = poller.poll(None if left is None else left * 1000)
            if ready and ready[0][1] != select.POLLIN:
                raise OSError(errno.EINVAL, "the port was closed")
            if ready and (found := self._network.accept(self._port, itself)):
                return found
            if until is not None and time.monotonic() >= until:
                if timeout:
                    raise TimeoutError("timed out")
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


class Network:
    """What one worker may do on the network. Any thread may use it.

    Args:
        plugin: its name.
        keys: of ``permissions.network``.
        channel: to the broker; None where nothing was asked for.
        listeners: port to the descriptor of a listening socket.
    """

    def __init__(
        self,
        plugin: str,
        keys: Sequence[str] = (),
        channel: socket.socket | None = None,
        listeners: Mapping[int, int] | None = None,
    ) -> None:
        self.plugin = plugin
        self.keys = tuple(keys)
        self._channel = channel
        self._listeners = {
            port: Listener.of(self, port, fd) for port, fd in (listeners or {}).items()
        }
        self._state = threading.Condition()
        self._reading = False
        """One of the threads that wait reads for all."""
        self._last = 0
        self._waiting: dict[int, tuple[dict[str, Any], int] | None] = {}
        """Number of a request to its answer, and the descriptor that came with it."""
        self._ends: dict[int, str] = {}
        """Number of a connection to how it ended, until that is asked."""
        self._gone = False
        self._http: httpx.Client | None = None

    @classmethod
    def of_worker(cls, fds: Mapping[str, int], args: Mapping[str, Any]) -> "Network":
        """What the worker's host was given at its start."""
        channel = socket.socket(fileno=fds["broker"]) if "broker" in fds else None
        listening = {
            int(name.removeprefix("listen:")): fd
            for name, fd in fds.items()
            if name.startswith("listen:")
        }
        return cls(args["plugin"], args.get("network", ()), channel, listening)

    def connect(
        self,
        host: str,
        port: int,
        timeout: float = 30.0,
        look: Callable[[], None] = _nothing,
    ) -> Connection:
        """A connection to a host.

        Args:
            timeout: seconds, at most 60, for resolving and connecting. The socket blocks.
            look: called now and then while this waits; what it raises ends the waiting.

        Raises:
            ClawError: bad_params, not_permitted.
            NetworkError: there is none; ``reason`` says why.
        """
        name, number = netrules.checked_host(host), netrules.checked_port(port)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
            raise ClawError("bad_params", "not a time to wait", repr(timeout)[:80], "0 or more")
        if self._channel is None:
            raise netrules.not_granted(self.plugin, self.keys, name, number)
        until = time.monotonic() + min(timeout, 60.0) + _GRACE
        request = {"host": name, "port": number, "timeout": float(min(timeout, 60.0))}
        n, told, fd = self._asked(request, netrules.spoken(name, number), until, look)
        if fd >= 0:
            return Connection.of(self, n, fd)
        raise _error(told)

    def accept(self, port: int, itself: bool = False) -> tuple[Connection, Any] | None:
        """The next connection to a port, and who has made it; None if there is none just now.

        Args:
            itself: a front gets no pair to the broker, but a ``Taken``.

        Raises:
            ClawError: not_permitted.
            NetworkError: the broker is gone for good.
        """
        request = {"host": "", "port": port, "timeout": 0.0, "accept": True, "itself": itself}
        n, told, fd = self._asked(request, f"port {port}", time.monotonic() + _GRACE, _nothing)
        if fd >= 0:
            peer = tuple(told["peer"])
            kind = Taken if told["itself"] else Connection
            return kind.of(self, n, fd, peer), peer
        if told.get("none") == "full":
            time.sleep(_LOOK)  # until one of the others has ended there is no use in asking again
        elif "none" not in told and told.get("reason") != "lost":  # else another broker is there
            self.let_go(n)  # it was accepted, and there was no room for it
            raise _error(told)
        return None

    def let_go(self, number: int) -> None:
        """Tell the broker that a connection which this worker had itself is closed here."""
        request = {"n": number, "host": "", "port": 0, "timeout": 0.0, "over": True}
        with contextlib.suppress(NetworkError):  # without a broker nobody else holds it
            self._ask(msgspec.msgpack.encode(request), time.monotonic() + _GRACE, _nothing)

    def shared_memory(self, name: str, peer: tuple[str, int]) -> int:
        """A descriptor of shared memory; see ``Context.shared_memory``."""
        if self._channel is None:
            hint = "ask for it in plugin.toml: [permissions.shared_memory], with the reason"
            text = f"the plugin {self.plugin} may have no shared memory opened"
            raise ClawError("not_permitted", text, got=name[:200], hint=hint)
        request = {**_from(peer), "memory": name[:250] or "."}
        until = time.monotonic() + _GRACE
        _, told, fd = self._asked(request, f"the shared memory {name[:80]}", until, _nothing)
        if fd >= 0:
            return fd
        raise _error(told)

    def caller(self, peer: tuple[str, int]) -> Caller:
        """Whose a connection is; see ``Context.caller``."""
        if self._channel is None:
            hint = "ask for a port in plugin.toml: [permissions.listen], with the reason"
            text = f"nobody is connected to the plugin {self.plugin}"
            raise ClawError("not_permitted", text, hint=hint)
        request = {**_from(peer), "whose": True}
        until = time.monotonic() + _GRACE
        _, told, _ = self._asked(request, "whose a connection is", until, _nothing)
        if "error" in told:
            raise _error(told)
        return Caller(told["uid"], told["owner"], told["plugin"])

    def _asked(
        self, request: dict[str, Any], where: str, until: float, look: Callable[[], None]
    ) -> tuple[int, dict[str, Any], int]:
        """Ask the broker: the number of the request, the answer, and the descriptor or -1."""
        with self._state:
            self._last += 1
            n = self._last
            self._waiting[n] = None
        try:
            self._ask(msgspec.msgpack.encode({"n": n, **request}), until, look)
            return n, *self._answer(n, where, until, look)
        finally:
            with self._state:
                answer = self._waiting.pop(n, None)
            if answer and answer[1] >= 0:  # it came after nobody waited any more
                os.close(answer[1])
                self.let_go(n)

    def _ask(self, request: bytes, until: float, look: Callable[[], None]) -> None:
        """Send a request; the broker takes only so many at a time."""
        assert self._channel
        while True:
            try:
                self._channel.send(request, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                look()
                self._pump(_LOOK, select.POLLOUT)
                if time.monotonic() > until:
                    text = "the broker takes no more requests for now"
                    raise NetworkError("too_many", text, retry_after_ms=1000) from None
            except OSError:
                raise _no_broker() from None

    def _answer(
        self, n: int, where: str, until: float, look: Callable[[], None]
    ) -> tuple[dict[str, Any], int]:
        """Wait for the answer to a request."""
        while True:
            with self._state:
                answer = self._waiting[n]
                if answer:
                    self._waiting[n] = None
                    return answer
                if self._gone:
                    raise _no_broker()
            look()
            left = until - time.monotonic()
            if left <= 0:
                raise NetworkError("timed_out", f"no connection to {where} in time", got=where)
            self._take_turns(n, min(_LOOK, left))

    def _take_turns(self, n: int, seconds: float) -> None:
        """Read what the broker says, or wait for the thread that does."""
        with self._state:
            if self._waiting.get(n) or self._gone:
                return
            if self._reading:
                self._state.wait(seconds)
                return
            self._reading = True
        try:
            self._pump(seconds)
        finally:
            with self._state:
                self._reading = False
                self._state.notify_all()

    def _pump(self, seconds: float, mask: int = 0) -> None:
        """Wait for what the broker says, or for ``mask``; take all there is."""
        assert self._channel
        poller = select.poll()
        poller.register(self._channel, select.POLLIN | mask)
        poller.poll(seconds * 1000)
        while self._receive():
            pass

    def _receive(self) -> bool:
        """Take one message; False if there is none."""
        assert self._channel
        with self._state:
            try:
                # Not socket.recv_fds, which forgets its flags.
                wanted = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                room = socket.CMSG_SPACE(_number.size)
                data, rights, flags, _ = self._channel.recvmsg(_ANSWER, room, wanted)
            except BlockingIOError:
                return False
            except OSError:
                data, rights, flags = b"", [], 0
            fds = [fd for _, _, packed in rights for (fd,) in _number.iter_unpack(packed)]
            if not data:
                self._gone = True
                self._state.notify_all()
                return False
            self._told(msgspec.msgpack.decode(data), fds, bool(flags & socket.MSG_CTRUNC))
            return True

    def _told(self, told: dict[str, Any], fds: list[int], cut: bool) -> None:
        """Handle a message of the broker; the lock is held."""
        n = told["n"]
        if "end" in told:
            self._ends[n] = told["end"]
            if len(self._ends) > _KEPT:
                del self._ends[next(iter(self._ends))]
            return
        if "again" in told:  # what the broker before this one had read, nobody will answer
            kept = told["kept"]
            text = "the network broker was started again; open connections have ended"
            lost = {"reason": "lost", "error": {"code": "network", "message": text}}
            open_ones = [each for each, got in self._waiting.items() if got is None]
            self._waiting.update({each: (lost, -1) for each in open_ones if each not in kept})
        elif self._waiting.get(n, ()) is None:
            if cut:  # the system had no room for the descriptor
                text = f"the plugin {self.plugin} has too many files open"
                told = {"reason": "too_many", "error": {"code": "network", "message": text}}
            self._waiting[n] = told, fds.pop() if fds else -1
        late = bool(fds)
        for fd in fds:
            os.close(fd)
        if late:  # nobody waits any more, and the broker holds it too
            self.let_go(n)
        self._state.notify_all()

    def ended(self, number: int, unsaid: str = "gone") -> None:
        """Say how a connection ended that has nothing more to read.

        Args:
            unsaid: how, if the broker has not told.

        Raises:
            NetworkError: not properly.
        """
        while self._receive():
            pass
        with self._state:
            # The broker says it before it ends the pair; if it has not, it is gone itself.
            how = self._ends.get(number, unsaid)
        if why := _ENDS.get(how, "the network broker ended"):
            raise NetworkError("lost", f"the connection was lost: {why}")

    def listener(self, port: int) -> Listener:
        """The listening socket of a port.

        Raises:
            ClawError: not_permitted.
        """
        if port not in self._listeners:
            raise ClawError(
                "not_permitted",
                f"the plugin {self.plugin} may not listen on port {port}",
                got=port,
                allowed=sorted(self._listeners),
                hint=f'ask for it in plugin.toml, [permissions.listen]: "{port}" = "why"',
            )
        return self._listeners[port]

    @property
    def http(self) -> "httpx.Client":
        """A client that all tasks share; it keeps connections open between requests."""
        with self._state:
            if self._http is None:
                import_httpx()
                from clawai.sdk.http import client

                self._http = client(self)
            return self._http


def import_httpx() -> Any:
    """The module httpx.

    Raises:
        ClawError: unsupported_system.
    """
    try:
        import httpx
    except ImportError:
        hint = "pip install 'clawai[http]', or use ctx.connect"
        raise ClawError("unsupported_system", "httpx is not installed here", hint=hint) from None
    return httpx


def network_of(outlet: object) -> Network:
    """The network of a task's outlet: where there is none, everything is refused."""
    network = getattr(outlet, "network", None)
    return network if isinstance(network, Network) else Network("under test")


def _from(peer: tuple[str, int]) -> dict[str, Any]:
    """The fields of a request about a connection to one of the ports."""
    return {"host": peer[0], "port": peer[1], "timeout": 0.0}


def _error(answer: dict[str, Any]) -> ClawError:
    """The error that the broker answered with."""
    told = answer["error"]
    fields = {name: told[name] for name in _FIELDS if name in told}
    if reason := answer["reason"]:
        return NetworkError(reason, told["message"], **fields)
    return ClawError(told["code"], told["message"], **fields)


def _no_broker() -> NetworkError:
    return NetworkError(
        "lost",
        "the network broker has closed this worker's channel",
        hint="`claw audit` and `claw logs` say why",
    )


def is_connected(sock: socket.socket) -> bool:
    """Whether an idle connection can still be used: nothing to read, no end."""
    try:
        return not select.select([sock], [], [], 0)[0]
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno == errno.EBADF:
            return False
        raise
