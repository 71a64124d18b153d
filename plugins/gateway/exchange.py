"""HTTP/1 as uvicorn reads it, and what ASGI has no words for: of a request whose body has come, the
body without waiting; of an answer, that all that was said so far is to leave now; and the
connection that it came by.

They stand in the scope, under ``EXCHANGE``. Where another server runs the application they are
missing, and it does without.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from clawai.plugins.gateway.connection import Connection

EXCHANGE = "clawai.exchange"
"""Of a scope: the ``Exchange``."""


class Exchange:
    """One request, and its answer."""

    __slots__ = ("__weakref__", "_cycle")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    @property
    def connection(self) -> Connection:
        """What it came by."""
        transport: Any = self._cycle.transport
        found: Connection = transport.connection
        return found

    def body(self, most: int) -> bytes | None:
        """The body, once; None: it is not whole yet, or longer than ``most`` bytes, or its client
        has left."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected or len(cycle.body) > most:
            return None
        cycle.flow.resume_reading()  # a long one stopped it, and a hang-up would not be seen
        cycle.message_event.clear()
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def flush(self) -> None:
        """Have what was said leave."""
        transport: Any = self._cycle.transport
        transport.flush()


class Protocol(HttpToolsProtocol):
    """uvicorn's, over a transport with ``flush`` (``either``)."""

    def on_headers_complete(self) -> None:
        """Of httptools."""
        super().on_headers_complete()
        scope: Any = self.scope
        scope[EXCHANGE] = Exchange(self.cycle)
