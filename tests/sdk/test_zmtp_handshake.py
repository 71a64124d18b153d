"""ZMTP's handshake without I/O: against real libzmq, split anywhere, and against what breaks it."""

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.sdk.errors import ClawError
from clawai.sdk.zmtp import COMMAND
from clawai.sdk.zmtp_handshake import GREETING, Conversation, frame
from support import PATIENCE

FRAMES, BYTES = 64, 8 << 20


def connection(role: bytes = b"ROUTER") -> Conversation:
    return Conversation(role, max_frames=FRAMES, max_bytes=BYTES)


def joined(buffers: list[bytes | memoryview]) -> bytes:
    return b"".join(map(bytes, buffers))


def introduced() -> Conversation:
    """A connection after the handshake."""
    one, other = connection(), connection(b"DEALER")
    assert one.receive(other.outgoing()) == []
    one.outgoing()
    assert one.ready
    return one


class Server:
    """An echo server of ours behind a UNIX socket, for one libzmq peer."""

    def __init__(self, piece: int = 1 << 20) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="claw-", dir="/tmp")
        self.path = Path(self.folder.name) / "s"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(1)
        self.listener.settimeout(PATIENCE)
        self.zmtp = connection()
        self.piece = piece
        self.seen = b""
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        peer, _ = self.listener.accept()
        with peer, contextlib.suppress(OSError):
            peer.settimeout(PATIENCE)
            peer.sendall(self.zmtp.outgoing())
            while data := peer.recv(1 << 20):
                self.seen += data[:4096]
                for at in range(0, len(data), self.piece):
                    messages = self.zmtp.receive(data[at : at + self.piece])
                    peer.sendall(self.zmtp.outgoing())
                    for message in messages:
                        peer.sendall(joined(self.zmtp.message(message)))

    def close(self) -> None:
        self.thread.join(PATIENCE)
        self.listener.close()
        self.folder.cleanup()


@contextlib.contextmanager
def libzmq(piece: int = 1 << 20, **options: int) -> Iterator[tuple[Server, "zmq.Socket[bytes]"]]:
    server = Server(piece)
    context = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.setsockopt(zmq.LINGER, 0)
    for name, value in options.items():
        sock.setsockopt(getattr(zmq, name), value)
    try:
        sock.connect(f"ipc://{server.path}")
        yield server, sock
    finally:
        context.destroy(0)
        server.close()


def echoed(sock: "zmq.Socket[bytes]", parts: list[bytes]) -> None:
    sock.send_multipart(parts)
    assert sock.poll(PATIENCE * 1000)
    assert sock.recv_multipart() == parts


def test_libzmq_of_every_size() -> None:
    with libzmq() as (_, sock):
        for size in (0, 1, 254, 255, 256, 257, 65_535, 65_536, 1 << 20, BYTES):
            echoed(sock, [os.urandom(size)])
        echoed(sock, [b""] * FRAMES)
        echoed(sock, [b"x" * n for n in range(FRAMES)])
        echoed(sock, [b"h", b"", b"y" * (4 << 20), b"", b"z"])


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 63, 64, 65])
def test_libzmq_in_small_pieces(piece: int) -> None:
    with libzmq(piece=piece) as (_, sock):
        echoed(sock, [b"header", b"x" * 300, b""])
        for number in range(20):
            sock.send(b"%d" % number)
        for number in range(20):
            assert sock.recv() == b"%d" % number


def test_libzmq_with_heartbeats() -> None:
    """Its PINGs are answered, else it would drop the connection within the timeout."""
    with libzmq(HEARTBEAT_IVL=20, HEARTBEAT_TIMEOUT=2000, HEARTBEAT_TTL=4000) as (server, sock):
        monitor = sock.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        echoed(sock, [b"before"])
        while server.seen.count(b"\x04PING") < 5:
            assert not monitor.poll(5)
        echoed(sock, [b"after"])
        sock.disable_monitor()
        monitor.close(0)


def test_libzmq_of_another_kind_is_refused() -> None:
    server = Server()
    context = zmq.Context()
    sock = context.socket(zmq.PULL)
    sock.setsockopt(zmq.LINGER, 0)
    monitor = sock.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
    )
    server.thread.join(0)
    try:
        with pytest.raises(ClawError) as caught:
            connection().receive(connection(b"PAIR").outgoing())
        assert (caught.value.code, caught.value.got) == ("bad_frame", b"PAIR")
        sock.connect(f"ipc://{server.path}")
        assert monitor.poll(PATIENCE * 1000), "libzmq sees that ROUTER is no partner of PULL"
    finally:
        sock.disable_monitor()
        monitor.close(0)
        context.destroy(0)
        server.close()


# Split anywhere.


STREAM = [[b"head", b"", b"x" * 255], [b"y" * 256], [b""], [b"z"] * 5]


def test_split_at_every_byte() -> None:
    peer = connection(b"DEALER")
    data = peer.outgoing() + b"".join(joined(peer.message(message)) for message in STREAM)
    for cut in range(len(data) + 1):
        one = connection()
        assert one.receive(data[:cut]) + one.receive(data[cut:]) == STREAM
        assert one.buffered == 0


@pytest.mark.parametrize("cut", [0, 1, 64, 65, 100, 1 << 20])
def test_what_comes_behind_the_first_message_is_left(cut: int) -> None:
    """A client may say more right behind its hello."""
    one, peer = connection(), connection(b"DEALER")
    later = joined(peer.message([b"second"]))[:-1]
    data = peer.outgoing() + joined(peer.message([b"first"])) + later
    got = one.receive(data[:cut], 1) + one.receive(data[cut:], 1)
    assert got == [[b"first"]]
    assert one.rest() == later


# What breaks the rules.


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["raw", "greeted", "ready"]))
def test_garbage_never_raises_anything_else(data: bytes, stage: str) -> None:
    one = introduced() if stage == "ready" else connection()
    if stage == "greeted":
        one.receive(GREETING)
    with contextlib.suppress(ClawError):
        for byte in data:
            one.receive(bytes((byte,)))
    assert one.buffered <= 64 + len(data)


@pytest.mark.parametrize(
    "greeting",
    [
        b"GET / HTTP/1.1\r\n",
        b"\xff" + bytes(9),
        GREETING[:10] + b"\x02" + GREETING[11:],
        GREETING[:12] + b"PLAIN".ljust(20, b"\0") + bytes(32),
        GREETING + b"\x00\x01x",
        GREETING + b"\x04\x04\x03FOO",
        GREETING + joined(frame(b"\x05READY\x0bSocket-Type\x00\x00\x00\xff", COMMAND)),
        GREETING + joined(frame(b"\x05READY", COMMAND)),
    ],
)
def test_greetings_that_are_refused(greeting: bytes) -> None:
    with pytest.raises(ClawError) as caught:
        connection().receive(greeting)
    assert caught.value.code == "bad_frame"


def test_a_later_version_is_welcome() -> None:
    one = connection()
    later = GREETING[:10] + b"\x04\x07" + GREETING[12:]
    ready = joined(
        frame(b"\x05READY\x0bsocket-TYPE\x00\x00\x00\x06DEALER\x01X\x00\x00\x00\x00", COMMAND)
    )
    one.receive(later + ready)
    assert one.ready
