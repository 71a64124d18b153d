"""The profile of the C ops, for workers that load the bundled driver for the processor.

The first such worker of a box waits until it was measured, which takes under a second, by a
program of its own; what was found is kept, and later ones, and later kernels, are told it at once.
What the owner wants, by the environment in which the kernel was started, comes after it
(``clawai.sdk.tuning``) and is judged by the worker, which knows the ops.
"""

from collections.abc import Callable

from clawai.kernel.loop import Loop
from clawai.kernel.steward.beside import Beside
from clawai.kernel.steward.log import LogFile
from clawai.kernel.steward.registry import BUNDLED, Registry
from clawai.sdk import tuning
from clawai.sdk.errors import ClawError

DRIVER = "accelerator"


class Ops:
    """What workers are told about the ops."""

    def __init__(self, loop: Loop, log: LogFile, known: Callable[[], None]) -> None:
        self._log = log
        self._beside = Beside(loop)
        self._known = known
        """Called once a line is there that somebody had to wait for."""
        self._line: str | None = None
        self._measuring = False

    def line(self, plugin: str, registry: Registry) -> str | None:
        """What a worker of ``plugin`` is told, which may be nothing; None: wait, it is measured."""
        if not self._concerns(plugin, registry):
            return ""
        if self._line is None and not self._measuring:
            self._begin()
        return self._line

    def _concerns(self, plugin: str, registry: Registry) -> bool:
        if plugin not in registry.plugins:
            return False
        drivers = [each.plugin.name for each in registry.drivers(registry.plugins[plugin])]
        return DRIVER in drivers and registry.places[DRIVER].parent == BUNDLED

    def _begin(self) -> None:
        box = tuning.box()
        kept = tuning.kept(box)
        if kept or not box:
            self._settle(kept)
            return
        self._measuring = True

        def measured(said: bytes) -> None:
            self._measuring = False
            profile = None
            try:
                profile = tuning.check(said)
                tuning.keep(box, profile)
                found = tuning.line(profile.choices) or "the defaults are best"
                self._log.write("info", f"ops measured in {profile.seconds:.2f} s: {found}")
            except ClawError as error:
                self._log.write("warning", f"{error.message}: {error.got}")
            self._settle(profile)
            self._known()

        self._beside.run(tuning.MEASURE, measured)

    def _settle(self, profile: tuning.Profile | None) -> None:
        try:
            self._line = tuning.for_worker(profile)
        except ClawError:  # the worker says the same, to who asked for it
            self._line = tuning.wanted()

    def end(self) -> None:
        """End what still runs."""
        self._beside.end()
