"""The processor as a device: our C ops and the executor that runs a whole model step in one call.

An engine asks for it through the hook ``claw_open_device``, who makes model files smaller through
``claw_quantize``; nobody imports it. Nothing is loaded until a hook is called.
"""

from typing import Any

from clawai.sdk.hookspecs import hookimpl


@hookimpl
def claw_prepare() -> None:
    """Compile and run a small graph once."""
    from clawai.plugins.accelerator.warm import warm

    warm()


@hookimpl
def claw_open_device(device: str) -> Any:
    """A ``CpuDriver`` for the device "cpu", None for any other."""
    if device != "cpu":
        return None
    from clawai.plugins.accelerator.driver import CpuDriver

    return CpuDriver()


@hookimpl
def claw_quantize(weights: Any, dtype: Any, importance: Any) -> Any:
    """A float32 matrix as Q8_0, Q4_0 or Q4_1; None for any other type."""
    from clawai.plugins.accelerator.quantize import quantize

    return quantize(weights, dtype, importance)
