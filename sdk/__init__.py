"""What others build on: the client, the plugin API, the wire, model formats and the command line.

Importing this package imports nothing else, so that the wire types never pull numpy or ZeroMQ;
the names below are loaded when they are first used.
"""

from importlib import import_module
from typing import Any

_LAZY = {
    "aclient": ["AsyncClient"],
    "client": ["Client"],
    "errors": ["ClawError"],
    "plugin": ["Batch", "Context", "Params", "Tensor", "batched", "operation"],
}
"""Module to its names."""

__all__ = sorted(name for names in _LAZY.values() for name in names)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    for module, names in _LAZY.items():
        if name in names:
            return getattr(import_module(f"clawai.sdk.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
