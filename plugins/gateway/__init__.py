"""The gateway: existing programs talk to the models of this box, unmodified, over HTTP.

    claw serve

It is a plugin like any other. The broker accepts its connections, and what it asks the kernel for
it asks on behalf of whoever asked it (``clawai.sdk.front``). The kernel knows nothing of HTTP.
"""

from clawai.sdk.hookspecs import hookimpl
from clawai.sdk.plugin import Context, Start, operation

PORT = 8080
"""Of the manifest; ``plugins.ports`` in the configuration names another one."""


@hookimpl
def claw_start(worker: Start) -> None:
    """Load the server now: what is missing is said at once, with the command that brings it.

    Raises:
        ClawError: unsupported_system.
    """
    try:
        from clawai.plugins.gateway import server
    except ImportError as error:
        from clawai.sdk.errors import ClawError

        raise ClawError(
            "unsupported_system",
            f"the gateway needs the package {error.name}",
            hint="pip install 'clawai[web]'",
        ) from error
    assert server


@operation("gateway.serve")
def serve(ctx: Context) -> dict[str, int]:
    """Answer HTTP requests until the task is cancelled; how many there were.

    The progress says when it does.
    """
    from clawai.plugins.gateway.server import run

    return run(ctx, ctx.listener(PORT))
