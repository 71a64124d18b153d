"""The whole extension surface: every hook that a plugin may implement."""

from collections.abc import Iterable
from typing import Any

import pluggy

hookspec = pluggy.HookspecMarker("clawai")
hookimpl = pluggy.HookimplMarker("clawai")


@hookspec
def claw_start(worker: Any) -> None:
    """Called once in a worker, inside the sandbox, before it takes tasks.

    Args:
        worker: a ``clawai.sdk.plugin.Start``: the model's descriptor, the reservation of memory,
            the drivers.
    """


@hookspec
def claw_operations() -> Iterable[Any]:  # type: ignore[empty-body]
    """Operations that are not functions of the plugin's module, as ``clawai.sdk.plugin.Operation``.

    Called after ``claw_start``. Functions marked ``@operation`` need no implementation of this.
    """


@hookspec(firstresult=True)
def claw_driver(device: str) -> Any:
    """A driver for ``device`` ("cpu", ...), or None if this plugin has none for it.

    Returns:
        An object with the methods of ``clawai.sdk.model.driver.Driver``.
    """
