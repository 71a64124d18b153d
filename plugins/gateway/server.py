"""The server: an event loop in a task, from the first request to the cancel."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from clawai.plugins.gateway.app import Gateway
from clawai.plugins.gateway.either import Either
from clawai.plugins.gateway.regions import Regions
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
        regions = Regions(ctx.shared_memory)
        gateway = Gateway(kernel, ctx.log, regions)
        grpc = gateway.grpc.server()

        def either(server_state: Any, **options: Any) -> Either:
            http = partial(H11Protocol, server_state=server_state, **options)
            return Either(server_state.connections, http, grpc._protocol_factory)

        config = uvicorn.Config(
            gateway,
            loop="asyncio",
            http=cast(Any, either),
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
        await serving
        regions.close()
        ctx.checkpoint()
        return {"requests": gateway.requests}
