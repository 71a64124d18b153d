"""A scripted kernel: one connection, on which a case says word for word what the client hears."""

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from clawai.sdk import wire
from clawai.sdk.conformance.client import PATIENCE_S, Failed
from clawai.sdk.errors import ClawError
from clawai.sdk.zmtp_handshake import Conversation

WELCOME = {
    "type": "welcome",
    "version": [1, 1],
    "kernel": "0.0.0",
    "pid": 1,
    "principal": "uid:1",
    "leases": False,
}


class Peer:
    """Listens in a folder of its own; ``accept`` when the client was told to connect."""

    def __init__(self, patience: float = PATIENCE_S) -> None:
        self._patience = patience
        self.folder = Path(tempfile.mkdtemp(prefix="claw-peer-", dir="/tmp"))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.folder / "kernel.sock"))
        self._listener.listen(8)
        self._listener.settimeout(self._patience)
        self._sock: socket.socket | None = None
        self._inbox: list[list[bytes]] = []

    def accept(self) -> dict[str, Any]:
        """Take the connection; the client's first message, which is not answered yet."""
        try:
            self._sock, _ = self._listener.accept()
        except TimeoutError:
            raise Failed("it never connected") from None
        self._sock.settimeout(self._patience)
        self._zmtp = Conversation(b"ROUTER", max_frames=wire.MAX_FRAMES, max_bytes=wire.MAX_MESSAGE)
        self._sock.sendall(self._zmtp.outgoing())
        return self.receive()[0]

    def receive(self) -> tuple[dict[str, Any], list[bytes]]:
        """The next message: its header as plain values, and its payload."""
        assert self._sock
        while not self._inbox:
            try:
                data = self._sock.recv(65_536)
                self._inbox += self._zmtp.receive(data)
                if due := self._zmtp.outgoing():
                    self._sock.sendall(due)
            except TimeoutError:
                raise Failed("it never sent what it was told to send") from None
            except (OSError, ClawError) as error:
                raise Failed(f"its connection broke: {error}") from error
            if not data:
                raise Failed("it disconnected")
        head, *payload = self._inbox.pop(0)
        try:
            header: dict[str, Any] = msgspec.msgpack.decode(head, type=dict)
        except msgspec.MsgspecError as error:
            raise Failed(f"its header is not a msgpack map: {error}") from error
        return header, payload

    def expect(self, kind: str) -> dict[str, Any]:
        """The header of the next message, of that type."""
        header, _ = self.receive()
        if header.get("type") != kind:
            raise Failed(f"it sent {header.get('type')!r}, not {kind}")
        return header

    def send(
        self,
        header: dict[str, Any],
        *payload: bytes,
        encode: Callable[[Any], bytes] = msgspec.msgpack.encode,
    ) -> None:
        """Say something."""
        assert self._sock
        with contextlib.suppress(OSError):  # the client is gone, and the case will see it
            self._sock.sendall(b"".join(self._zmtp.message([encode(header), *payload])))

    def hang_up(self) -> None:
        """Close the connection, as a kernel that is killed does."""
        if self._sock:
            self._sock.close()
            self._sock = None

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hang_up()
        self._listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)
