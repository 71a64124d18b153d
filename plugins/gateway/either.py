"""One port for HTTP/1 and for gRPC: the first bytes of a connection say which it is."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from clawai.plugins.gateway.connection import Connection

BEGIN = b"PRI "
"""How HTTP/2 begins where both sides know it; no method of HTTP/1 is called so."""


class Either(asyncio.Protocol):
    """Waits for the first bytes, and lets go.

    Args:
        open_connections: of the server, which tells each when it ends.
        http, grpc: make what takes over.
        peer: who has connected: the socket is the broker's.
        connection: what the system says of it.
    """

    def __init__(
        self,
        open_connections: set[Any],
        http: Callable[[], asyncio.Protocol],
        grpc: Callable[[], asyncio.Protocol],
        peer: Any,
        connection: Connection,
    ) -> None:
        self._open, self._peer = open_connections, peer
        self._connection = connection
        self._http, self._grpc = http, grpc
        self._seen = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self._transport = transport
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        self._seen += data
        if len(self._seen) < len(BEGIN) and BEGIN.startswith(self._seen):
            return
        is_grpc = self._seen.startswith(BEGIN)
        chosen: asyncio.Protocol = self._grpc() if is_grpc else self._http()
        self._open.discard(self)
        if is_grpc:
            chosen = _Watched(chosen, self._open)
        self._transport.set_protocol(chosen)
        named = _Named(self._transport, self._peer, self._connection)
        chosen.connection_made(cast(asyncio.Transport, named))
        chosen.data_received(self._seen)

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        self._open.discard(self)

    def shutdown(self) -> None:
        """The server ends."""
        self._transport.close()


class _Named:
    """A transport that says who is behind the broker's socket, and sends in one piece what is
    written in one go: each write would wake the client, and be overtaken by it."""

    def __init__(self, transport: Any, peer: Any, connection: Connection) -> None:
        self._transport, self._peer = transport, peer
        self.connection = connection
        self._loop = asyncio.get_running_loop()
        self._written: list[bytes] = []
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """As a transport's; it leaves with ``flush``, at the latest when its writer waits."""
        if not self._written:
            self._loop.call_soon(self.flush)
        self._written.append(data)

    def flush(self) -> None:
        """Let go of what was written."""
        if self._written:
            written, self._written = self._written, []
            if not self.is_closing():
                self._transport.write(b"".join(written))

    def close(self) -> None:
        """As a transport's."""
        self.flush()
        self._transport.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As a transport's."""
        if name == "peername":
            return self._peer
        return None if name == "socket" else self._transport.get_extra_info(name, default)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Watched(asyncio.Protocol):
    """A gRPC connection that the server counts among its own, and can end."""

    def __init__(self, inner: asyncio.Protocol, open_connections: set[Any]) -> None:
        self._inner, self._open = inner, open_connections
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self._transport = transport
        self._open.add(self)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        self._open.discard(self)
        self._inner.connection_lost(exc)

    def shutdown(self) -> None:
        """The server ends."""
        self._transport.close()
