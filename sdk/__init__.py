"""What others build on: the client, the plugin API, the wire, model formats and the command line.

Importing this package imports nothing else, so that the wire types never pull numpy or ZeroMQ;
the names below are loaded when they are first used.
"""

from importlib import import_module
from typing import Any

_LAZY = {
    "AsyncClient": "clawai.sdk.aclient",
    "Batch": "clawai.sdk.plugin",
    "Client": "clawai.sdk.client",
    "Context": "clawai.sdk.plugin",
    "ClawError": "clawai.sdk.errors",
    "Params": "clawai.sdk.plugin",
    "Tensor": "clawai.sdk.plugin",
    "batched": "clawai.sdk.plugin",
    "operation": "clawai.sdk.plugin",
}

__all__ = sorted(_LAZY)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
