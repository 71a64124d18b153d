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
def claw_prepare() -> None:
    """Called, inside the sandbox, in a worker that waits and does not know its model yet.

    Do what every model needs and takes time: imports, tables, a first use of what is slow at first.
    Nobody waits meanwhile. ``claw_start`` follows once there is a model; a worker that is started
    for one at once is not prepared, so nothing may depend on it.
    """


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
def claw_open_device(device: str) -> Any:
    """A driver for ``device`` ("cpu", ...), or None if this plugin has none for it.

    Returns:
        An object with the methods of ``clawai.sdk.model.driver.Driver``.
    """


@hookspec(firstresult=True)
def claw_load_model(fd: int) -> Any:
    """The model in the file ``fd``, or None if this plugin does not know the format.

    The file comes from a stranger: every count, length and offset is to be checked against the
    bytes that are there before it is used. ``clawai.sdk.model.gguf`` shows how.

    Args:
        fd: a regular file, open for reading, that stays the worker's. Whoever asks may have moved
            its position: use ``os.pread`` or map it.

    Returns:
        A ``clawai.sdk.model.loaded.LoadedModel``.

    Raises:
        ClawError: bad_model, if the format is known but the file cannot be used.
    """


@hookspec(firstresult=True)
def claw_quantize(weights: Any, dtype: Any, importance: Any) -> Any:
    """A matrix in the blocks of a GGUF type, or None if this plugin cannot make that type.

    Args:
        weights: numpy float32 of shape (rows, k), C order, all finite and within +-65504.
        dtype: of ``clawai.sdk.model.dtypes.DType``; k is a multiple of its block.
        importance: numpy float32 of shape (k,), none negative: how much the error of each column
            counts, such as the mean square of what it is multiplied with. None: all alike.

    Returns:
        bytes, a memoryview or the like: rows * dtype.row_bytes(k) bytes.
    """
