"""The broker's process: takes requests of workers, and connects, relays or hands over, and reports.

What a worker says is a stranger's: one that breaks the form is cut off, and costs nobody else
anything. Of a connection the beginning and the end are told to the steward, which writes the log.
"""

import contextlib
import errno
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec

from clawai.kernel.broker import addresses, callers, jail, limits
from clawai.kernel.broker.asking import (
    Carried,
    Client,
    Failed,
    Request,
    Trade,
    as_told,
    requests,
)
from clawai.kernel.broker.dial import Dial, is_own, said
from clawai.kernel.broker.handed import Handed
from clawai.kernel.broker.relay import Relay
from clawai.kernel.broker.resolve import Answer, HostsFile, Lookup, Resolver, system
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.sandbox import syscalls as sc
from clawai.sdk import netrules
from clawai.sdk.errors import ClawError
from clawai.sdk.netrules import Address


class Broker:
    """Everything that the process holds."""

    def __init__(self, link: Link, lookup: Lookup = system, total: int = limits.TOTAL) -> None:
        self.link = link
        self.loop = Loop(lambda _: None)
        self.resolver = Resolver(self.loop, lookup)
        self.clients: dict[int, Client] = {}
        self.serving = True
        self.total = total
        """Connections of all workers together."""
        self._idle: dict[Carried, float] = {}
        """Every connection, and when it was last seen to move."""
        self._looked = 0.0
        self._handlers: dict[str, Any] = {
            "worker": self._worker,
            "gone": self._gone,
            "noted": self._noted,
            "found": self._found,
        }

    def serve(self) -> None:
        """Serve until the steward is gone."""
        self.loop.watch(self.link.fileno(), self._told)
        while self.serving:
            now = time.monotonic()
            clients = self.clients.values()
            waits = [trade.due() for each in clients for trade in each.trades.values()]
            waits += [each.rests for each in clients if each.rests]
            if self._idle:
                waits.append(self._looked + limits.IDLE / 20)
            due = min(waits, default=None)
            self.loop.turn(None if due is None else max(0.0, due - now))
            self._expire(time.monotonic())
        for client in list(self.clients.values()):
            self._cut(client)  # what they had is still written down

    # The steward.

    def _told(self, mask: int) -> None:
        self.link.flush()
        if mask & ~select.EPOLLOUT:
            message = self.link.receive()
            if message is None:
                self.serving = False
                return
            name, arguments, fds = message
            self._handlers[name](*arguments, fds)
        self.loop.rewatch(self.link.fileno(), self.link.mask)

    def _worker(
        self,
        number: int,
        plugin: str,
        keys: list[str],
        serves: bool,
        again: bool,
        ports: list[int],
        fds: list[int],
    ) -> None:
        """A worker may ask; ``again``: another broker served it, and died.

        ``fds``: its channel, and the listening socket of each of ``ports``.
        """
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        listening = {
            port: socket.socket(fileno=fd) for port, fd in zip(ports, fds[1:], strict=True)
        }
        rules = netrules.network_rules(keys)
        client = Client(number, plugin, keys, rules, sock, listening, serves)
        self.clients[number] = client
        self.loop.watch(sock.fileno(), lambda mask: self._asked(client, mask))
        if again:
            self._resume(client)

    def _resume(self, client: Client) -> None:
        """Say that this is another broker, and which requests it has found unread."""
        found: list[Request] = []
        while len(found) < limits.CONNECTIONS:
            try:
                request = self._request(client)
            except BlockingIOError:
                break
            if request is None:
                return
            found.append(request)
        self._answer(client, {"n": 0, "again": True, "kept": [each.n for each in found]})
        for request in found:
            if client.number in self.clients:
                self._begin(client, request, time.monotonic())

    def _gone(self, number: int, _: list[int]) -> None:
        if client := self.clients.get(number):
            self._cut(client)

    def _noted(self, number: int, n: int, _: list[int]) -> None:
        """The steward has taken down that a connection was asked for: its answer may go."""
        client = self.clients.get(number)
        if client and n in client.held:
            self._answer(client, *client.held.pop(n))

    def _report(self, client: Client, n: int, event: str, **fields: Any) -> None:
        """Have something written down."""
        told = {"event": event, "plugin": client.plugin, "worker": client.number, "n": n, **fields}
        self.link.send("audit", told)
        self.loop.rewatch(self.link.fileno(), self.link.mask)

    # Workers.

    def _asked(self, client: Client, mask: int) -> None:
        if client.unsent:
            self._flush(client)
        if client.number not in self.clients or not mask & ~select.EPOLLOUT:
            return
        try:
            request = self._request(client)
        except BlockingIOError:
            return
        if request:
            self._begin(client, request, time.monotonic())
            self._pause(client)

    def _request(self, client: Client) -> Request | None:
        """The next request; None if the worker has ended, or was cut off.

        Raises:
            BlockingIOError: there is none.
        """
        try:
            # Descriptors that come along have no room and are closed by the system.
            data = client.sock.recv(limits.REQUEST + 1)
        except BlockingIOError:
            raise
        except OSError:
            data = b""
        if not data:
            self._cut(client)
            return None
        try:
            if len(data) > limits.REQUEST:
                raise msgspec.DecodeError("too long")
            request = requests.decode(data)
            taken = client.trades, client.relays, client.held, client.opening
            if request.n <= 0 or (not request.over and any(request.n in each for each in taken)):
                raise msgspec.DecodeError("its number is taken")
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            self._report(client, 0, "cut", reason=f"it sent what is no request: {error}"[:200])
            self._cut(client)
            return None
        return request

    def _cut(self, client: Client) -> None:
        """End everything that a worker has."""
        del self.clients[client.number]
        for trade in list(client.trades.values()):
            self._drop(trade)
        for relay in list(client.relays.values()):
            relay.close("gone")
        self.loop.unwatch(client.sock.fileno())
        client.sock.close()
        for listener in client.listeners.values():
            listener.close()
        for _, sock in (*client.unsent, *client.held.values()):
            if sock:
                sock.close()

    def _drop(self, trade: Trade) -> None:
        self.resolver.forget(trade.question)
        if trade.dial:
            trade.dial.drop()

    def _pause(self, client: Client) -> None:
        """Read a worker's requests only while it may have more."""
        if client.number not in self.clients:
            return
        waiting = len(client.trades) + len(client.opening)
        busy = waiting >= limits.WAITING or client.unsent or client.rests
        mask = 0 if busy else select.EPOLLIN
        mask |= select.EPOLLOUT if client.unsent else 0
        self.loop.rewatch(client.sock.fileno(), mask)

    def _answer(
        self, client: Client, told: dict[str, Any], sock: socket.socket | FileIO | None = None
    ) -> None:
        if client.number not in self.clients:
            if sock:
                sock.close()
            return
        client.unsent.append((_encode(told), sock))
        self._flush(client)

    def _flush(self, client: Client) -> None:
        while client.unsent:
            data, sock = client.unsent[0]
            try:
                socket.send_fds(client.sock, [data], [sock.fileno()] if sock else [])
            except BlockingIOError:
                break
            except OSError:
                self._cut(client)
                return
            client.unsent.popleft()
            if sock:
                sock.close()
        if len(client.unsent) > limits.UNSENT:
            self._report(client, 0, "cut", reason="it reads no answers")
            self._cut(client)
            return
        self._pause(client)

    # Connections.

    def _begin(self, client: Client, request: Request, now: float) -> None:
        if request.over:
            if isinstance(handed := client.relays.get(request.n), Handed):
                handed.close("closed")
            return  # else it has ended before, or was the broker's before this one
        if request.accept:
            self._take(client, request, now)
            return
        if request.memory or request.whose:
            self._look(client, request, now)
            return
        try:
            self._require_rate(client, now)
            host = netrules.checked_host(request.host)
            port = netrules.checked_port(request.port)
            if not netrules.is_granted(client.rules, host, port):
                raise netrules.not_granted(client.plugin, client.keys, host, port)
            self._require_room(client)
        except ClawError as error:
            host = str(request.host)[: netrules.LONGEST_NAME]
            self._refuse(client, request.n, host, request.port, error)
            return
        # max() and min() let a nan through as the first of the two.
        seconds = min(limits.CONNECT, max(0.0, request.timeout))
        trade = Trade(request.n, host, port, now + seconds)
        client.trades[request.n] = trade
        known = addresses.known(host)
        if known is not None:
            self._resolved(client, trade, known)
            return
        trade.question = self.resolver.ask(
            client.number, host, lambda answer: self._resolved(client, trade, answer)
        )

    def _require_rate(self, client: Client, now: float) -> None:
        if not client.keeps_rate(now, client.asks):
            text = f"the plugin {client.plugin} connects too often"
            raise Failed("too_many", text, None, f"{limits.RATE:g} a second", retry_after_ms=1000)

    def _require_room(self, client: Client) -> None:
        if client.is_full:
            text = f"the plugin {client.plugin} has too many connections"
            count = len(client.relays)
            raise Failed("too_many", text, count, client.most, "close some first")
        if len(self._idle) >= self.total:
            text = "all plugins together have too many connections"
            raise Failed("too_many", text, len(self._idle), self.total, retry_after_ms=1000)

    def _resolved(self, client: Client, trade: Trade, answer: Answer) -> None:
        now = time.monotonic()
        if isinstance(answer, str) or not answer:
            why = answer or "it has no address"
            text = f"{trade.host} was not found: {why}"
            self._end(client, trade, Failed("not_found", text, trade.host))
            return
        checked = {each: self._why_not(client, trade, each) for each in answer}
        good = [each for each, why in checked.items() if not why]
        if not good:
            bad, why = next(iter(checked.items()))
            error = addresses.refused(client.plugin, trade.host, trade.port, bad, why)
            self._end(client, trade, error, str(bad))
            return
        trade.dial = Dial(
            self.loop,
            good[: limits.ADDRESSES],
            trade.port,
            trade.until,
            lambda sock, address, number: self._dialled(client, trade, sock, address, number),
        )
        trade.dial.start(now)

    def _why_not(self, client: Client, trade: Trade, address: Address) -> str:
        return addresses.why_not(client.rules, trade.host, trade.port, address, is_own(address))

    def _dialled(
        self, client: Client, trade: Trade, sock: socket.socket | None, at: Address, number: int
    ) -> None:
        if sock is None:
            reason, why = said(number)
            where = netrules.spoken(trade.host, trade.port)
            text = f"no connection to {where} ({at}): {why}"
            self._end(client, trade, Failed(reason, text, where), str(at))
            return
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            sock.close()
            self._dialled(client, trade, None, at, error.errno or errno.EMFILE)
            return
        del client.trades[trade.n]
        self._relay(client, trade.n, ours, sock)
        self._tell_connect(client, trade, str(at), "allowed", "")
        client.held[trade.n] = {"n": trade.n, "address": str(at)}, theirs

    def _relay(self, client: Client, n: int, ours: socket.socket, sock: socket.socket) -> None:
        """Carry the bytes of a connection until it ends, which is told."""

        def eof() -> None:
            self._answer(client, {"n": n, "end": ""})

        self._keep(client, n, lambda done: Relay(self.loop, ours, sock, eof, done))

    def _keep(
        self, client: Client, n: int, made: Callable[[Callable[[str], None]], Carried]
    ) -> None:
        """Count a connection until it ends, which is told."""
        began = time.monotonic()

        def done(why: str) -> None:
            del client.relays[n], self._idle[kept]
            flows = {"sent": kept.sent, "received": kept.received}
            seconds = round(time.monotonic() - began, 3)
            self._report(client, n, "end", reason=why, seconds=seconds, **flows)
            if why not in ("closed", "gone"):
                self._answer(client, {"n": n, "end": why})

        kept = client.relays[n] = made(done)
        self._idle[kept] = began

    def _take(self, client: Client, request: Request, now: float) -> None:
        """Accept the next connection to a port of a worker, if there is one.

        The worker itself cannot: so what is written down of those who connected is all of them.
        """
        n, port = request.n, request.port
        if port not in client.listeners:
            text = f"the plugin {client.plugin} does not listen on port {port}"
            error = ClawError("not_permitted", text, port, sorted(client.listeners))
            self._answer(client, {"n": n, "reason": "", "error": as_told(error)})
            return
        client.keeps_rate(now, client.takes)  # if not, it rests after this one
        found = None
        full = client.is_full or len(self._idle) >= self.total
        itself = request.itself and client.serves
        if not full:
            found = _accepted(client.listeners[port], itself)
        if found is None:
            self._answer(client, {"n": n, "none": "full" if full else ""})
            return
        sock, at, ours, theirs = found
        if ours:
            self._relay(client, n, ours, sock)
        else:
            self._keep(client, n, lambda done: Handed(self.loop, sock, done))
        address = at[0].removeprefix("::ffff:")
        self._report(client, n, "accept", port=port, address=address, peer_port=at[1])
        client.held[n] = {"n": n, "peer": list(at), "itself": itself}, theirs

    def _look(self, client: Client, request: Request, now: float) -> None:
        """Have the steward look whose a connection is, or open shared memory of that program.

        This process may open nothing.
        """
        n, host, port = request.n, request.host, request.port
        try:
            if request.memory:
                self._require_rate(client, now)
            else:
                self._require_looks(client, now)
        except Failed as error:
            self._answer(client, {"n": n, "reason": error.reason, "error": as_told(error)})
            return
        # A plugin's connections are this process's, so to the system those of its user.
        here = callers.plain(host), port
        plugin = next((each for each, at in self._dialled_from() if at == here), "")
        client.opening.add(n)
        self.link.send("look", client.number, n, request.memory, host, port, plugin)
        self.loop.rewatch(self.link.fileno(), self.link.mask)

    def _require_looks(self, client: Client, now: float) -> None:
        # An allowance of its own: what it accepts and what it connects to are not counted here.
        if not client.keeps_rate(now, client.looks):
            text = f"the plugin {client.plugin} asks too often whose a connection is"
            wait = int(1000 / limits.LOOKS_RATE)
            raise Failed("too_many", text, None, f"{limits.LOOKS_RATE:g} a second", "", wait)

    def _dialled_from(self) -> Iterator[tuple[str, tuple[Address | None, int]]]:
        """Every connection that was made for a plugin, and where it begins on this box."""
        for client in self.clients.values():
            for each in client.relays.values():
                if isinstance(each, Relay) and (at := each.address):
                    yield client.plugin, (callers.plain(at[0]), at[1])

    def _found(self, number: int, n: int, told: dict[str, Any], fds: list[int]) -> None:
        held = FileIO(fds[0], "r+") if fds else None
        client = self.clients.get(number)
        if client and n in client.opening:
            client.opening.discard(n)
            self._answer(client, {"n": n, **told}, held)
        elif held:
            held.close()

    def _end(self, client: Client, trade: Trade, error: ClawError, address: str = "") -> None:
        """A connection that does not come about."""
        del client.trades[trade.n]
        self._drop(trade)
        self._refuse(client, trade.n, trade.host, trade.port, error, address)

    def _refuse(
        self, client: Client, n: int, host: str, port: int, error: ClawError, address: str = ""
    ) -> None:
        trade = Trade(n, host, port, 0)
        verdict = "failed" if isinstance(error, Failed) else "denied"
        self._tell_connect(client, trade, address, verdict, error.message)
        told = as_told(error)
        client.held[n] = {"n": n, "reason": getattr(error, "reason", ""), "error": told}, None

    def _tell_connect(
        self, client: Client, trade: Trade, address: str, verdict: str, reason: str
    ) -> None:
        where = {"host": trade.host, "port": trade.port, "address": address}
        self._report(client, trade.n, "connect", **where, verdict=verdict, reason=reason)

    def _expire(self, now: float) -> None:
        for client in list(self.clients.values()):
            if client.rests and now >= client.rests:
                client.rests = 0.0
                self._pause(client)
            for trade in [each for each in client.trades.values() if now >= each.due()]:
                if client.number not in self.clients:
                    break  # an answer to it failed, and ended everything that it had
                if trade.dial:
                    trade.dial.expire(now)
                else:
                    where = netrules.spoken(trade.host, trade.port)
                    text = f"{trade.host} was not resolved in time"
                    self._end(client, trade, Failed("timed_out", text, where))
        if now - self._looked < limits.IDLE / 20:
            return
        self._looked = now
        for kept, moved in list(self._idle.items()):
            if not kept.open:
                continue  # the end of another one has ended all that its worker had
            if kept.has_moved():
                self._idle[kept] = now
            elif now - moved > limits.IDLE:
                kept.close("idle")
            if kept.open and kept.carried > limits.BYTES:
                kept.close("limit")  # a relay looks by itself


_encode = msgspec.msgpack.Encoder().encode
Accepted = tuple[socket.socket, Any, socket.socket | None, socket.socket]
"""A connection, who has made it, our end of a pair if there is one, and what the worker gets."""


def _accepted(listener: socket.socket, itself: bool) -> Accepted | None:
    """The next connection to a port; None if there is none, or no room for one.

    Args:
        itself: the worker gets the connection, and not a pair.
    """
    # Whether the socket blocks, its worker decides, which has it too. But nobody else can accept:
    # once the poller has seen a connection, there is one.
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    if poller.poll(0) != [(listener.fileno(), select.POLLIN)]:
        return None
    with contextlib.ExitStack() as stack:
        ours = None
        try:
            if not itself:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                stack.callback(ours.close)
                stack.callback(theirs.close)
            sock, at = listener.accept()
            stack.callback(sock.close)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if itself:
                theirs = sock.dup()
        except OSError:
            return None
        stack.pop_all()
    return sock, at, ours, theirs


def main(arguments: Sequence[str]) -> int:
    """``python -m clawai.kernel.broker.service FD UID [HOSTS]``: serve the steward at ``FD``."""
    steward = os.getppid()
    fd, uid = int(arguments[0]), int(arguments[1])
    hosts = Path(arguments[2]) if len(arguments) > 2 else None
    sc.close_all_but([0, 1, 2, fd])
    sc.set_name("claw-broker")
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the steward decides when to end
    link = Link(socket.socket(fileno=fd))
    room = jail.raise_descriptors(limits.DESCRIPTORS)
    kept = jail.enter(uid, [str(hosts.parent)] if hosts else [])
    if os.getppid() != steward:
        return 0
    link.send("jailed", kept)
    total = min(limits.TOTAL, room // 4)
    Broker(link, HostsFile(hosts) if hosts else system, total).serve()
    return 0


if __name__ == "__main__":
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    os._exit(main(sys.argv[1:]))
