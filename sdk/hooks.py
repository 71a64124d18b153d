"""What one plugin of a worker asks the others for: a device, a model's graph, quantized weights.

A worker is composed of its own plugin and the drivers that its manifest names; the first that
answers counts, its own plugin before the drivers. What nobody answers is an error that says so.
"""

import os
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from clawai.sdk import hookspecs
from clawai.sdk.errors import ClawError

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from clawai.sdk.model.dtypes import DType
    from clawai.sdk.model.loaded import LoadedModel

LARGEST = 65504.0
"""The largest weight that is quantized: block types keep their scales as float16."""


def manager() -> pluggy.PluginManager:
    """One that knows our hooks and no plugin yet."""
    plugins = pluggy.PluginManager("clawai")
    plugins.add_hookspecs(hookspecs)
    return plugins


def register(plugins: pluggy.PluginManager, modules: Iterable[ModuleType]) -> None:
    """Have it know the plugins of modules: the module, or with state the object that it names."""
    for module in modules:
        plugins.register(getattr(module, "claw_plugin", module))


def open_device(plugins: pluggy.PluginManager, device: str) -> Any:
    """The first driver for a device.

    Raises:
        ClawError: worker_failed, if no plugin has one.
    """
    driver = plugins.hook.claw_open_device(device=device)
    if driver is None:
        raise ClawError(
            "worker_failed",
            f"no plugin of this worker drives {device!r}",
            got=device,
            hint='name a driver for it in plugin.toml, such as drivers = ["accelerator"]',
        )
    return driver


def load_model(plugins: pluggy.PluginManager, fd: int) -> "LoadedModel":
    """The model in a file, from the first plugin that knows its format.

    Raises:
        ClawError: bad_model, if nobody does, or the file cannot be used; worker_failed, if there
            is no file, or the answer is no model.
    """
    from clawai.sdk.model.loaded import LoadedModel

    if fd < 0:
        raise ClawError("worker_failed", "this worker was started without a model", hint=_MODEL)
    found = plugins.hook.claw_load_model(fd=fd)
    if found is None:
        raise ClawError(
            "bad_model",
            "no plugin of this worker knows the format of the model's file",
            got=_begins(fd),
            allowed="a GGUF file, or a format that a plugin among its drivers loads",
        )
    if not isinstance(found, LoadedModel):
        got = type(found).__name__
        raise ClawError("worker_failed", "claw_load_model gave no LoadedModel", got=got)
    return found


def quantize(
    plugins: pluggy.PluginManager,
    weights: "NDArray[float32]",
    dtype: "DType",
    importance: "NDArray[float32] | None" = None,
) -> Any:
    """A matrix in the blocks of ``dtype``, from the first plugin that can make them.

    Raises:
        ClawError: bad_params, if the weights or their importance cannot be quantized;
            worker_failed, if nobody can make the type, or the answer has another size.
    """
    _check(weights, dtype, importance)
    made = plugins.hook.claw_quantize(weights=weights, dtype=dtype, importance=importance)
    if made is None:
        raise ClawError(
            "worker_failed",
            f"no plugin of this worker quantizes to {dtype.name}",
            got=dtype.name,
            hint='name a driver that does in plugin.toml, such as drivers = ["accelerator"]',
        )
    rows, k = weights.shape
    got, expected = memoryview(made).nbytes, rows * dtype.row_bytes(k)
    if got != expected:
        raise ClawError("worker_failed", f"bytes of {rows} x {k} as {dtype.name}", got, expected)
    return made


def _check(
    weights: "NDArray[float32]", dtype: "DType", importance: "NDArray[float32] | None"
) -> None:
    import numpy

    block = dtype.geometry.block
    columns = weights.shape[-1] if weights.ndim == 2 else 0
    if weights.dtype != numpy.float32 or not columns or columns % block:
        raise ClawError(
            "bad_params",
            f"these cannot be weights of {dtype.name}",
            got=f"{weights.dtype} {list(weights.shape)}",
            allowed=f"float32 (rows, k), k a multiple of {block}",
        )
    largest = float(numpy.abs(weights).max(initial=0))
    if not largest <= LARGEST:  # nor is NaN
        allowed = f"finite numbers within +-{LARGEST:.0f}"
        raise ClawError("bad_params", "a weight cannot be quantized", got=largest, allowed=allowed)
    if importance is None:
        return
    if importance.dtype != numpy.float32 or importance.shape != (columns,):
        got, allowed = f"{importance.dtype} {list(importance.shape)}", f"float32 ({columns},)"
        raise ClawError("bad_params", "not an importance of each column", got=got, allowed=allowed)
    if not (numpy.isfinite(importance).all() and (importance >= 0).all()):
        allowed = "finite numbers, none negative"
        raise ClawError("bad_params", "a column's importance", allowed=allowed)


_MODEL = "set needs_model = true for the operations in plugin.toml"


def _begins(fd: int) -> str:
    """What a file begins with, for people who read errors."""
    try:
        return f"it begins with {os.pread(fd, 8, 0)!r}"
    except OSError as error:
        return str(error.strerror)
