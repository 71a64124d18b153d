"""The server: an event loop in a task, from the first request to the cancel.

uvicorn reads HTTP (with httptools) on uvloop: with the standard library's loop and h11 each request
takes twice as long. What connects is accepted by the broker, as the system call is closed here, so
the loop is handed connections and never the listening socket.
"""

import asyncio
import contextlib
import gc
import socket
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import grpclib.server
import uvicorn
import uvloop

from clawai.plugins.gateway.app import Gateway
from clawai.plugins.gateway.connection import Connection
from clawai.plugins.gateway.either import Either
from clawai.plugins.gateway.exchange import Protocol
from clawai.plugins.gateway.keys import Guarded, Keys
from clawai.plugins.gateway.regions import Regions
from clawai.sdk.errors import ClawError
from clawai.sdk.httpkeys import Certificate
from clawai.sdk.net import Listener, import_httpx
from clawai.sdk.plugin import Context

if TYPE_CHECKING:
    from clawai.plugins.gateway.traces import Traces

LOOK = 0.05
"""Seconds between two looks at whether the task is to stop."""
FAREWELL = 2
"""Seconds that open requests have at the end."""
KEEP_ALIVE = 75
"""Seconds that a connection may be idle."""
HANDSHAKE = 10.0
"""Seconds that one of TLS may take."""
GARBAGE = 20_000, 20, 20
"""Objects that are made until the youngest are looked through for cycles, and so on."""
MOST = 4096
"""Connections at a time; the broker bounds them, too."""


class _Server(uvicorn.Server):
    """Without signal handlers, which are the host's; and it is given its connections."""

    def __init__(
        self, config: uvicorn.Config, tls: ssl.SSLContext | None, grpc: grpclib.server.Server
    ) -> None:
        super().__init__(config)
        self._tls = tls
        self._grpc = grpc

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: Sequence[Any] | None = None) -> None:
        """Begin to take connections."""
        self.servers = []
        self._opening: set[asyncio.Task[None]] = set()
        for listener in sockets or ():
            listener.setblocking(False)
            asyncio.get_running_loop().add_reader(listener.fileno(), self._take, listener)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more of them, and end those that are open."""
        for listener in sockets or ():
            asyncio.get_running_loop().remove_reader(listener.fileno())
        await super().shutdown(sockets)

    def _take(self, listener: Listener) -> None:
        try:
            connection, peer = listener.take()
        except BlockingIOError:
            return
        except (OSError, ClawError):  # the broker is gone; another one is started
            return
        opening = asyncio.ensure_future(self._open(connection, peer))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket, peer: Any) -> None:
        loop = asyncio.get_running_loop()
        connection.setblocking(False)

        http = partial(Protocol, self.config, self.server_state, {}, loop)

        def protocol() -> asyncio.Protocol:
            grpc = self._grpc._protocol_factory
            # Address and port; what IPv6 has besides, uvicorn does not take for an address.
            opened = self.server_state.connections
            return Either(opened, http, grpc, peer[:2], Connection(connection))

        secured: dict[str, Any] = {}
        if self._tls:
            secured = {"ssl": self._tls, "ssl_handshake_timeout": HANDSHAKE}
        with contextlib.suppress(OSError):  # ssl's errors, too: who knocks wrongly
            await loop.connect_accepted_socket(protocol, connection, **secured)


def spoken(listener: socket.socket) -> str:
    """The address of a listening socket, as in an URL."""
    host, port = listener.getsockname()[:2]
    host = "127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def secured(given: Certificate) -> ssl.SSLContext:
    """TLS 1.2 and newer with a certificate.

    Raises:
        ClawError: bad_params, if the two do not belong together, or are none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Who speaks both shall speak HTTP/1, which comes first; who offers only the other speaks gRPC.
    context.set_alpn_protocols(["http/1.1", "h2"])
    # The library reads files only; this one lies in the memory of the sandbox, for a moment.
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"{given.key}\n{given.chain}\n")
        file.flush()
        try:
            context.load_cert_chain(file.name, password=lambda: "")
        except (ssl.SSLError, OSError, ValueError) as error:
            text = f"the certificate or its key cannot be used: {error}"
            hint = "both in PEM, the key without a password, and of one another"
            raise ClawError("bad_params", text, hint=hint) from None
    return context


def run(
    ctx: Context,
    listener: Listener,
    keys: Keys,
    certificate: Certificate | None,
    traces: bool,
) -> dict[str, int]:
    """Serve until ``ctx`` is to stop; how many requests there were."""
    # What is imported by now stays; and to look for cycles after every request, which makes some
    # hundreds of objects, would cost each of them a part of a millisecond.
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    tls = secured(certificate) if certificate else None
    told = traced(ctx) if traces else None
    with listener.dup() as copy:  # the server closes it, and the worker may serve again
        try:
            return uvloop.run(_serve(ctx, copy, keys, tls, told))
        finally:
            if told:
                told.close()


def traced(ctx: Context) -> "Traces":
    """What sends traces.

    Raises:
        ClawError: unsupported_system.
    """
    try:
        from clawai.plugins.gateway.traces import Traces

        import_httpx()
    except ImportError as error:
        text = f"traces need the package {error.name}"
        raise ClawError("unsupported_system", text, hint="pip install 'clawai[otel]'") from error
    return Traces(ctx)


async def _serve(
    ctx: Context,
    listener: Listener,
    keys: Keys,
    tls: ssl.SSLContext | None,
    traces: "Traces | None",
) -> dict[str, int]:
    async with ctx.front(Guarded) as kernel:
        regions = Regions(ctx.shared_memory)
        page = str(ctx.config.get("page", "whole"))
        models = str(ctx.config.get("models", "change"))
        gateway = Gateway(kernel, ctx.log, keys, regions, ctx.caller, page, models)
        gateway.traces = traces
        config = uvicorn.Config(
            gateway,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=FAREWELL,
            limit_concurrency=MOST,
        )
        server = _Server(config, tls, gateway.grpc.server())
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        told = False
        while not serving.done():
            if server.started and not told:
                told = True
                ctx.progress(None, f"{'https' if tls else 'http'}://{spoken(listener)}")
            if ctx.stopped:
                gateway.site.closing.set()
                server.should_exit = True
                break
            await asyncio.sleep(LOOK)
            gateway.tell()
        await serving
        await gateway.tools.close()
        regions.close()
        ctx.checkpoint()
        return {"requests": gateway.requests}
