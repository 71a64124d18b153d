"""ZMTP without I/O: against real libzmq, split anywhere, and against what breaks its rules."""

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
from clawai.sdk.zmtp import COMMAND, GREETING, MORE, Connection, frame
from support import PATIENCE

FRAMES, BYTES = 64, 8 << 20
PAIRS = {b"ROUTER": zmq.DEALER, b"PAIR": zmq.PAIR}


def connection(role: bytes = b"ROUTER") -> Connection:
    return Connection(role, max_frames=FRAMES, max_bytes=BYTES)


def joined(buffers: list[bytes | memoryview]) -> bytes:
    return b"".join(map(bytes, buffers))


def introduced(role: bytes = b"ROUTER") -> Connection:
    """A connection after the handshake."""
    one = connection(role)
    other = connection({b"ROUTER": b"DEALER", b"DEALER": b"ROUTER", b"PAIR": b"PAIR"}[role])
    assert one.receive(other.outgoing()) == []
    one.outgoing()
    assert one.ready
    return one


class Server:
    """An echo server of ours behind a UNIX socket, for one libzmq peer."""

    def __init__(self, role: bytes, piece: int = 1 << 20) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="claw-", dir="/tmp")
        self.path = Path(self.folder.name) / "s"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(1)
        self.listener.settimeout(PATIENCE)
        self.zmtp = connection(role)
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
def libzmq(
    role: bytes = b"ROUTER", piece: int = 1 << 20, **options: int
) -> Iterator[tuple[Server, "zmq.Socket[bytes]"]]:
    server = Server(role, piece)
    context = zmq.Context()
    sock = context.socket(PAIRS[role])
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


@pytest.mark.parametrize("role", PAIRS)
def test_libzmq_of_every_size(role: bytes) -> None:
    with libzmq(role) as (_, sock):
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
    server = Server(b"ROUTER")
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


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.binary(max_size=700), min_size=1, max_size=FRAMES), min_size=1, max_size=4
    ),
    st.lists(st.integers(1, 400), min_size=1, max_size=30),
    st.integers(1, 5),
)
def test_any_messages_in_any_pieces(
    messages: list[list[bytes]], pieces: list[int], most: int
) -> None:
    one, peer = connection(), connection(b"DEALER")
    data = peer.outgoing() + b"".join(joined(peer.message(message)) for message in messages)
    got: list[list[bytes]] = []
    at = 0
    while at < len(data):
        size = pieces[at % len(pieces)]
        got += one.receive(data[at : at + size], most)
        while one.stalled:
            got += one.receive(b"", most)
        at += size
    assert got == messages


def test_a_limit_of_messages_keeps_the_rest_as_bytes() -> None:
    one = introduced()
    data = joined(one.message([b"x"])) * 100
    assert len(one.receive(data, 8)) == 8
    assert one.stalled
    assert one.buffered == 92 * 3
    count = 8
    while one.stalled:
        count += len(one.receive(b"", 8))
    assert count == 100
    assert one.buffered == 0


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
    ("data", "code"),
    [
        (b"\xf8\x00", "bad_frame"),
        (b"\x08", "bad_frame"),
        (bytes((COMMAND | MORE, 1)) + b"x", "bad_frame"),
        (b"\x02" + (BYTES + 1).to_bytes(8, "big"), "too_large"),
        (b"\x02" + b"\xff" * 8, "too_large"),
        (b"\x03" + BYTES.to_bytes(8, "big")[:8], ""),
        (b"\x06" + (513).to_bytes(8, "big"), "too_large"),
        (b"\x01\x00" * FRAMES, ""),
        (b"\x01\x00" * (FRAMES + 1), "too_large"),
        (b"\x01\x00" * FRAMES + b"\x00\x00", "too_large"),
        (joined(frame(b"\x05ERROR\x03no!", COMMAND)), "bad_frame"),
        (joined(frame(b"\x09SUBSCRIBE", COMMAND)), ""),
        (joined(frame(b"", COMMAND)), ""),
        (joined(frame(b"\xff", COMMAND)), ""),
    ],
)
def test_rules(data: bytes, code: str) -> None:
    one = introduced()
    if code:
        with pytest.raises(ClawError) as caught:
            one.receive(data)
        assert caught.value.code == code
    else:
        assert one.receive(data) == []


def test_a_limit_is_checked_before_the_bytes_come() -> None:
    one = introduced()
    half = b"\x03" + (BYTES // 2).to_bytes(8, "big") + bytes(BYTES // 2)
    assert one.receive(half) == []
    with pytest.raises(ClawError, match="bytes of one message"):
        one.receive(b"\x02" + (BYTES // 2 + 1).to_bytes(8, "big"))
    assert one.buffered <= BYTES // 2 + 9


def test_commands_between_the_parts_of_a_message() -> None:
    one = introduced()
    ping = joined(frame(b"\x04PING\x00\x0aabc", COMMAND))
    parts = joined(frame(b"a", MORE)) + ping + joined(frame(b"b", 0))
    assert one.receive(parts) == [[b"a", b"b"]]
    assert one.outgoing() == joined(frame(b"\x04PONGabc", COMMAND))


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
