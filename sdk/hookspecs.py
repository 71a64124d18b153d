"""The whole extension surface: every hook that a plugin may implement."""

from collections.abc import Iterable
from typing import Any

import pluggy

hookspec = pluggy.HookspecMarker("clawai")
hookimpl = pluggy.HookimplMarker("clawai")


@hookspec
def claw_operations() -> Iterable[Any]:  # type: ignore[empty-body]
    """The operations that the plugin offers, as ``clawai.sdk.plugin.Operation`` objects.

    A module whose functions carry ``@operation`` needs no implementation of this hook.
    """


@hookspec(firstresult=True)
def claw_driver(device: str) -> Any:
    """A driver for ``device`` ("cpu", ...), or None if this plugin has none for it.

    Returns:
        An object with the methods of ``clawai.sdk.model.driver.Driver``.
    """
