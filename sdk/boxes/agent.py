"""Ships the log and the figures of this box to another one: `claw boxes ship`.

It remembers nothing: where to go on, the collector says, so that it may be killed at any moment.
It reads the log file itself, so that the last words of a kernel that died are shipped, too. One
batch is on its way at a time. What the collector cannot take now stays where it is, in the log.
"""

import math
import time
from collections.abc import Callable
from functools import partial

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from clawai.sdk import paths
from clawai.sdk.boxes import wire
from clawai.sdk.boxes.figures import Gauges
from clawai.sdk.boxes.tail import BLOCK, Tail
from clawai.sdk.errors import ClawError

LOOK = 0.25
"""Seconds between two looks at the log."""
REST = 5.0
"""Seconds that a busy collector is left alone at most, whatever it says."""
PAUSES = 0.5, 30.0
"""Seconds before the next try: at first, and at most."""
RATE = 256 << 10
"""Bytes of the log a second, if nobody has said otherwise."""
ANSWER = 64 << 10
"""Bytes of an answer at most."""


class Link:
    """One connection; it is never used again once something was wrong.

    Args:
        server: the public key of the collector.
        own: the public and the secret key of this box.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, server: bytes,
        own: tuple[bytes, bytes],
    ) -> None:  # fmt: skip
        self.idle: Callable[[], None] = lambda: None
        """Called now and then while an answer is waited for."""
        self._address = address
        self._socket = context.socket(zmq.DEALER)
        for option, value in _OPTIONS.items():
            self._socket.setsockopt(option, value)
        self._socket.curve_serverkey = server
        self._socket.curve_publickey, self._socket.curve_secretkey = own
        self._monitor = self._socket.get_monitor_socket(_EVENTS)
        self._up = False
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            text = f"no address to ship to: {error.strerror}"
            raise ClawError("bad_params", text, address, "tcp://HOST:PORT") from None

    def ask(self, message: wire.FromAgent) -> wire.FromCollector:
        """Send a message, and what is answered.

        Raises:
            ClawError: network, connection_lost, not_permitted: with what to do about it.
        """
        until = time.monotonic() + wire.PATIENCE
        while not self._up:
            self._wait(until)
        try:
            self._socket.send(wire.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            raise ClawError("connection_lost", "the connection broke", self._address) from None
        while not self._socket.poll(0):
            self._wait(until)
        try:
            return wire.from_collector.decode(self._socket.recv(zmq.NOBLOCK))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ClawError("connection_lost", f"it answers what makes no sense: {error}") from None

    def close(self) -> None:
        """Let go of it."""
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)

    def _wait(self, until: float) -> None:
        """Until something has happened to the connection, or something has come."""
        left = until - time.monotonic()
        if left <= 0:
            if self._up:
                raise ClawError("connection_lost", "it does not answer", self._address)
            raise ClawError("network", "nobody answers there", self._address, hint=_NOBODY)
        both = zmq.Poller()
        both.register(self._socket, zmq.POLLIN)
        both.register(self._monitor, zmq.POLLIN)
        if self._monitor not in dict(both.poll(math.ceil(1000 * min(left, LOOK)))):
            self.idle()
            return
        told = recv_monitor_message(self._monitor)
        event = told["event"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._up = True
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            raise ClawError("not_permitted", "it does not know this box", self._address, hint=_ADD)
        elif event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED) and self._up:
            raise ClawError("connection_lost", "the connection broke", self._address)
        elif event in (zmq.EVENT_CLOSED, zmq.EVENT_CONNECT_RETRIED):
            raise ClawError("network", "nobody listens there", self._address, hint=_NOBODY)
        elif event != zmq.EVENT_CONNECTED:
            text = "it listens, but the handshake fails, as with a wrong --server-key"
            raise ClawError("not_permitted", text, self._address, hint=_KEY)


_NOBODY = "is `claw boxes collect` running there, and does its port let others in?"
_ADD = "there: claw boxes add NAME KEY, with what `claw boxes key` prints here"
_KEY = "`claw boxes key` prints it there"
_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_OPTIONS = {
    zmq.LINGER: 0,
    zmq.IPV6: 1,
    zmq.RECONNECT_IVL: -1,
    zmq.CONNECT_TIMEOUT: 5000,
    zmq.HANDSHAKE_IVL: 5000,
    zmq.HEARTBEAT_IVL: 5000,
    zmq.HEARTBEAT_TIMEOUT: 15000,
    zmq.MAXMSGSIZE: ANSWER,
}


class Agent:
    """Reads here and tells there.

    Args:
        rate: bytes of the log a second at most.
        say: for the person who looks.
        once: what there is now, and no more.
    """

    def __init__(
        self,
        connect: Callable[[], Link],
        rate: float = RATE,
        say: Callable[[str], None] = print,
        once: bool = False,
    ) -> None:
        self._connect = connect
        self._rate = max(rate, 1.0)
        self._say, self._once = say, once
        self._tail = Tail(paths.log_file())
        self._gauges = Gauges()
        self._reported = -math.inf
        self._free = 0.0
        """When more of the log may be sent."""

    def run(self) -> None:
        """Ship until Ctrl-C, whatever comes in between.

        Raises:
            ClawError: bad_state, if another agent of this box has begun; anything, if it is to ship
                once.
        """
        pause, said = PAUSES[0], ""
        try:
            while True:
                began = time.monotonic()
                try:
                    self._ship()
                    return
                except ClawError as error:
                    if error.code == "bad_state" or self._once:
                        raise
                    if (text := f"{error.message}; {error.hint}".rstrip("; ")) != said:
                        self._say(f"{text}; it is tried again")
                        said = text
                if time.monotonic() - began > PAUSES[1]:
                    pause, said = PAUSES[0], ""
                self._rest(pause)
                pause = min(2 * pause, PAUSES[1])
        finally:
            self._tail.close()
            self._gauges.close()

    def _rest(self, seconds: float) -> None:
        """Wait, and see meanwhile how the log goes on: what is lost then is counted."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._tail.look()
            time.sleep(min(left, LOOK))

    def _ship(self) -> None:
        """Over one connection, until it breaks, or once was enough."""
        link = self._connect()
        link.idle = partial(self._tail.look, drop=False)
        try:
            while True:
                welcome = _welcomed(link.ask(wire.Hello()))
                self._tail.seek(welcome.cursor)
                self._say(f"ships as {welcome.name}")
                self._reported = -math.inf
                if self._stream(link, welcome.session):
                    return
        finally:
            link.close()

    def _stream(self, link: Link, session: int) -> bool:
        """Batch after batch, until hello has to be said anew, or (True) once was enough."""
        number = 0
        while True:
            batch = self._next(session, number + 1)
            if batch is None and self._once and time.monotonic() >= self._free:
                return True
            if batch is None:
                time.sleep(LOOK)
                continue
            while isinstance(said := link.ask(batch), wire.Refused):
                if said.why == "session":
                    return False
                if said.why != "busy":
                    raise _refused(said)
                time.sleep(min(max(LOOK, said.seconds), REST))  # the log turns meanwhile
                self._tail.look(drop=False)
                batch = msgspec.structs.replace(batch, sent=time.time())
            number += 1
            self._tail.done()

    def _next(self, session: int, number: int) -> wire.Batch | None:
        """What there is to tell; None: nothing now."""
        now = time.monotonic()
        lines, cursor, gap = self._tail.read(wire.BATCH) if now >= self._free else ([], None, None)
        if lines:
            size = sum(len(line.text) for line in lines)
            self._free = now + size / self._rate
        figures = None
        if now - self._reported >= wire.REPORT:
            figures, self._reported = self._gauges.read(), now
        if not (lines or gap or figures):
            return None
        return wire.Batch(session, number, time.time(), cursor, tuple(lines), gap, figures)


def _welcomed(said: wire.FromCollector) -> wire.Welcome:
    if isinstance(said, wire.Refused):
        raise _refused(said)
    if not isinstance(said, wire.Welcome):
        raise ClawError("connection_lost", "it does not welcome this box")
    return said


def _refused(said: wire.Refused) -> ClawError:
    if said.why == "stale":
        hint = "end one of them; each box has a key of its own"
        return ClawError("bad_state", "another agent ships with this box's key", hint=hint)
    code = "not_permitted" if said.why == "unknown" else "connection_lost"
    return ClawError(code, f"it refuses: {said.text or said.why}", hint=_ADD * (code[0] == "n"))


assert BLOCK <= wire.BATCH
