"""The client's connection: whole messages, both ways at once, and what was said last."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawai.sdk import wire
from clawai.sdk.channel import Channel, connect
from clawai.sdk.errors import ClawError
from clawai.sdk.zmtp_handshake import Conversation
from support import PATIENCE


class Server:
    """The kernel's end, by hand."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "kernel.sock"
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind(str(self.path))
        self.door.listen()
        self.zmtp = Conversation(b"ROUTER", max_frames=wire.MAX_FRAMES, max_bytes=wire.MAX_MESSAGE)

    def accept(self) -> None:
        self.peer, _ = self.door.accept()
        self.peer.sendall(self.zmtp.outgoing())

    def say(self, *frames: bytes) -> None:
        self.peer.sendall(b"".join(map(bytes, self.zmtp.message(frames))))

    def hear(self) -> list[bytes]:
        messages: list[list[bytes]] = []
        while not messages:
            data = self.peer.recv(1 << 20)
            assert data
            messages = self.zmtp.receive(data)
        return messages[0]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Channel, Server]]:
    server = Server(tmp_path)
    channel = Channel(server.path, 5.0, PATIENCE)
    server.accept()
    try:
        yield channel, server
    finally:
        channel.close()
        server.peer.close()
        server.door.close()


def test_messages_go_both_ways(pair: tuple[Channel, Server]) -> None:
    channel, server = pair
    channel.send([b"a", b"", b"c" * 70_000])
    assert server.hear() == [b"a", b"", b"c" * 70_000]
    server.say(b"x")
    thread = threading.Thread(target=server.say, args=(b"y", b"z" * 600_000))
    thread.start()
    got = []
    while len(got) < 2:
        got += channel.receive(PATIENCE)
    thread.join(PATIENCE)
    assert got == [[b"x"], [b"y", b"z" * 600_000]]
    assert channel.receive(0) == []


def test_both_may_send_more_than_a_socket_holds(pair: tuple[Channel, Server]) -> None:
    """A peer that reads only when it has sent would otherwise wait for us for ever."""
    channel, server = pair
    large = b"k" * (6 << 20)
    heard: list[list[bytes]] = []

    def serve() -> None:
        server.say(large)
        heard.append(server.hear())

    thread = threading.Thread(target=serve)
    thread.start()
    channel.send([large])
    got: list[list[bytes]] = []
    while not got:
        got = channel.receive(PATIENCE)
    thread.join(PATIENCE)
    assert got == heard == [[large]]


def test_what_was_said_last_comes_before_the_end(pair: tuple[Channel, Server]) -> None:
    channel, server = pair
    server.say(b"one")
    server.say(b"two")
    server.peer.close()
    for _ in range(3):
        channel.send([b"into the void" * 1000])
    got = []
    while len(got) < 2:
        got += channel.receive(PATIENCE)
    assert got == [[b"one"], [b"two"]]
    for _ in range(2):
        with pytest.raises(EOFError):
            channel.receive(PATIENCE)


def test_who_takes_nothing_is_given_up(tmp_path: Path) -> None:
    server = Server(tmp_path)
    channel = Channel(server.path, 5.0, 0.05)
    with pytest.raises(TimeoutError):
        channel.send([bytes(7 << 20)])
    channel.close()
    assert channel.closed
    server.door.close()


def test_garbage_is_a_typed_error(pair: tuple[Channel, Server]) -> None:
    channel, server = pair
    server.peer.sendall(b"\xff\xff")
    with pytest.raises(ClawError) as caught:
        channel.receive(PATIENCE)
    assert caught.value.code == "bad_frame"


def test_a_full_backlog_is_waited_for_and_no_longer_than_said(tmp_path: Path) -> None:
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(tmp_path / "s"))
    door.listen(0)
    first = connect(tmp_path / "s", 5.0)
    with pytest.raises(OSError, match="unavailable"):
        connect(tmp_path / "s", 0.05)
    late: list[socket.socket] = []
    thread = threading.Thread(target=lambda: late.append(connect(tmp_path / "s", PATIENCE)))
    thread.start()
    accepted = [door.accept()[0], door.accept()[0]]
    thread.join(PATIENCE)
    for sock in (first, *late, *accepted, door):
        sock.close()
    assert len(late) == 1


def test_the_clients_need_no_libzmq() -> None:
    """Its import alone would take longer than a command of the command line."""
    import subprocess
    import sys

    program = "import sys; import clawai.sdk.client; print('zmq' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
