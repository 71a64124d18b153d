"""The processor as a device: our C ops and the executor that runs a whole model step in one call.

An engine asks for it through the hook ``claw_driver`` and never imports it. Nothing is loaded until
the hook is called.
"""

from typing import Any

from clawai.sdk.hookspecs import hookimpl


@hookimpl
def claw_driver(device: str) -> Any:
    """A ``CpuDriver`` for the device "cpu", None for any other."""
    if device != "cpu":
        return None
    from clawai.plugins.accelerator.driver import CpuDriver

    return CpuDriver()
