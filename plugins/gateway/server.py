"""The server: an event loop in a task, from the first request to the cancel."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from clawai.plugins.gateway.app import Gateway
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
    """Without signal handlers: a worker's are the host's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(ctx: Context, listener: socket.socket) -> dict[str, int]:
    """Serve until ``ctx`` is to stop; how many requests there were."""
    with listener.dup() as copy:  # the server closes it, and the worker may serve again
        return asyncio.run(_serve(ctx, copy))


async def _serve(ctx: Context, listener: socket.socket) -> dict[str, int]:
    async with ctx.front() as kernel:
        gateway = Gateway(kernel, ctx.log, str(ctx.config.get("page", "whole")))
        config = uvicorn.Config(
            gateway,
            loop="asyncio",
            http="h11",
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
                gateway.site.closing.set()
                server.should_exit = True
                break
            await asyncio.sleep(LOOK)
        await serving
        ctx.checkpoint()
        return {"requests": gateway.requests}
