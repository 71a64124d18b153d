"""What others build on: the client, the plugin API, the wire, model formats and the command line.

Importing this package imports nothing else, so that the wire types never pull numpy or ZeroMQ;
the names below are loaded when they are first used.
"""

from importlib import import_module
from typing import Any

_PLUGIN = ("Batch", "Context", "Params", "Tensor", "batched", "operation")
_LAZY = {"AsyncClient": "aclient", "Client": "client", "ClawError": "errors"}
_LAZY |= dict.fromkeys(_PLUGIN, "plugin")
"""Name to its module."""

__all__ = sorted(_LAZY)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"clawai.sdk.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
