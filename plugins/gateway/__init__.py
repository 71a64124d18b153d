"""The gateway: existing programs talk to the models of this box, unmodified, over HTTP.

    claw http

It is a plugin like any other. The broker accepts its connections, and what it asks the kernel for
it asks on behalf of whoever asked it (``clawai.sdk.front``). The kernel knows nothing of HTTP.
"""

import ipaddress
import threading
from typing import TYPE_CHECKING

from clawai.sdk.errors import ClawError
from clawai.sdk.hookspecs import hookimpl
from clawai.sdk.httpkeys import Certificate, Key
from clawai.sdk.plugin import Context, Start, operation

if TYPE_CHECKING:
    from clawai.plugins.gateway.keys import Keys

PORT = 8080
"""Of the manifest; ``plugins.ports`` in the configuration names another one."""
_serving: "list[tuple[Context, Keys]]" = []
"""What serves, with its keys; one at a time does."""
_changed = threading.Condition()
LOOK = 0.05
"""Seconds between two looks at whether a task is to stop."""


@hookimpl
def claw_start(worker: Start) -> None:
    """Load the server now: what is missing is said at once, with the command that brings it.

    Raises:
        ClawError: unsupported_system.
    """
    try:
        from clawai.plugins.gateway import server
    except ImportError as error:
        raise ClawError(
            "unsupported_system",
            f"the gateway needs the package {error.name}",
            hint="pip install 'clawai[web]'",
        ) from error
    assert server


@operation("gateway.serve")
def serve(
    ctx: Context,
    keys: list[Key] | None = None,
    required: bool = False,
    certificate: Certificate | None = None,
    behind_proxy: bool = False,
    tools: list[str] | None = None,
    traces: bool = False,
) -> dict[str, int]:
    """Answer HTTP requests until the task is cancelled; how many there were.

    The progress says when it does. A port that other boxes reach needs keys, and a certificate
    unless a proxy before it has one.

    Args:
        keys: What each may ask for who has one.
        required: Who has none is not answered.
        certificate: For TLS.
        behind_proxy: Requests come in the clear, from a proxy that does TLS.
        tools: Operations, or patterns, that are tools of MCP for who has no key.
        traces: Spans go to OpenTelemetry's collector on this box, port 4318.
    """
    from clawai.plugins.gateway.keys import Keys
    from clawai.plugins.gateway.server import run

    listener = ctx.listener(PORT)
    address = listener.getsockname()[0]
    if not ipaddress.ip_address(address).is_loopback:
        if not required:
            text = "other boxes reach this address, and nobody would need a key"
            raise ClawError("not_permitted", text, address, hint="claw http key add NAME")
        if certificate is None and not behind_proxy:
            text = "other boxes reach this address, and keys and questions would go in the clear"
            hint = "--tls-self-signed, or --tls-cert and --tls-key; --behind-proxy if one does TLS"
            raise ClawError("not_permitted", text, address, hint=hint)
    known = Keys(keys or (), required, tuple(tools or ()))
    with _changed:
        while _serving:
            if not _serving[0][0].stopped:
                text = "it serves already"
                raise ClawError("bad_state", text, hint="end the other `claw http` first")
            ctx.checkpoint()
            _changed.wait(LOOK)  # what is told to stop says farewell first
        _serving.append((ctx, known))
    try:
        return run(ctx, listener, known, certificate, traces)
    finally:
        with _changed:
            _serving.clear()
            _changed.notify_all()


@operation("gateway.keys")
def know(keys: list[Key]) -> dict[str, bool]:
    """Have these be all keys from now on, while it serves; whether it does.

    Args:
        keys: Who may ask.
    """
    serving = list(_serving)
    for _, each in serving:
        each.know(keys)
    return {"serving": bool(serving)}
