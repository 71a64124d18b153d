"""The server: an event loop in a task, from the first request to the cancel.

uvicorn reads HTTP (with httptools) on uvloop: with the standard library's loop and h11 each request
takes twice as long. What connects is accepted by the broker, as the system call is closed here, so
the loop is handed connections and never the listening socket.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from clawai.plugins.gateway.app import Gateway
from clawai.sdk.errors import ClawError
from clawai.sdk.plugin import Context

LOOK = 0.05
"""Seconds between two looks at whether the task is to stop."""
FAREWELL = 2
"""Seconds that open requests have at the end."""
KEEP_ALIVE = 75
"""Seconds that a connection may be idle."""
MOST = 4096
"""Connections at a time; the broker bounds them, too."""


class _Server(uvicorn.Server):
    """Without signal handlers, which are the host's; and it is given its connections."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
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

    def _take(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        except (OSError, ClawError):  # the broker is gone; another one is started
            return
        opening = asyncio.ensure_future(self._open(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection.setblocking(False)

        def protocol() -> asyncio.Protocol:
            return HttpToolsProtocol(self.config, self.server_state, {}, loop)

        with contextlib.suppress(OSError):
            await loop.connect_accepted_socket(protocol, connection)


def run(ctx: Context, listener: socket.socket) -> dict[str, int]:
    """Serve until ``ctx`` is to stop; how many requests there were."""
    with listener.dup() as copy:  # the server closes it, and the worker may serve again
        return uvloop.run(_serve(ctx, copy))


async def _serve(ctx: Context, listener: socket.socket) -> dict[str, int]:
    async with ctx.front() as kernel:
        gateway = Gateway(kernel, ctx.log)
        config = uvicorn.Config(
            gateway,
            http=HttpToolsProtocol,
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
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        told = False
        while not serving.done():
            if server.started and not told:
                told = True
                ctx.progress(None, f"http://127.0.0.1:{listener.getsockname()[1]}")
            if ctx.stopped:
                server.should_exit = True
                break
            await asyncio.sleep(LOOK)
            gateway.tell()
        await serving
        ctx.checkpoint()
        return {"requests": gateway.requests}
