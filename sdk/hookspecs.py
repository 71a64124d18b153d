"""The whole extension surface: every hook that a plugin may implement.

Each has a bundled plugin that uses it, a test, and a line in ``docs/plugin-guide.md``; a test finds
that out by reflection. There is no hook that nothing uses. An exception in a hook that runs while
the worker starts fails the start, with its line; one in ``claw_stop`` is logged.
"""

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
def claw_stop() -> None:
    """Called once before the worker ends in good order: unloaded, idle for long, or evicted.

    What it prints is in the log. It has less than a second, and tasks that were cancelled may still
    be ending. It is not called in a worker that is killed, nor when the whole kernel stops: what
    must not be lost is to be written when it is known.
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
