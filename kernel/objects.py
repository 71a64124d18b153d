"""Weights objects: memfds that one worker fills, and then many map for reading.

A descriptor is kept here until the core drops the object. Sealing walks every page, and closing the
last descriptor frees them: of gigabytes both take long, so the steward does them.
"""

import fcntl
import os
from dataclasses import dataclass, field
from functools import partial

from clawai.kernel import events as ev
from clawai.kernel.loop import Loop
from clawai.kernel.processes import Processes
from clawai.kernel.stewardship import Steward


@dataclass
class Objects:
    """The descriptors behind the core's numbers."""

    loop: Loop
    steward: Steward
    processes: Processes
    fds: dict[int, int] = field(default_factory=dict)

    def make(self, told: ev.MakeWeights) -> None:
        """Create one that nobody can resize, and pass it to the worker that fills it."""
        try:
            fd = os.memfd_create("claw-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self.fds[told.weights] = fd
            os.ftruncate(fd, told.size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
            self.processes.give(told.worker, _header(told.weights, told.size), fd)
        except OSError as error:
            self._failed(told.worker, error)

    def seal(self, told: ev.SealWeights) -> None:
        """Forbid every write; while somebody maps it for writing, the system refuses."""

        def sealed(answer: object, _: list[int]) -> None:
            self.loop.happen(ev.WeightsSealed(told.weights, told.worker, answer is True))

        self.steward.ask("seal", then=sealed, fds=(os.dup(self.fds[told.weights]),))

    def give(self, told: ev.GiveWeights) -> None:
        """Pass a sealed one on."""
        fd = self.fds[told.weights]
        try:
            self.processes.give(told.worker, _header(told.weights, os.fstat(fd).st_size), fd)
        except OSError as error:
            self._failed(told.worker, error)

    def drop(self, told: ev.DropWeights) -> None:
        """Let go of one that nobody maps."""
        fds = (self.fds.pop(told.weights),) if told.weights in self.fds else ()
        gone = partial(self.loop.happen, ev.WeightsGone(told.weights))
        self.steward.ask("release", then=lambda *_: gone(), fds=fds)

    def _failed(self, worker: int, error: OSError) -> None:
        self.loop.happen(ev.WorkerBroke(worker, f"it cannot be given its weights: {error}"))

    def close(self) -> None:
        """Close everything."""
        for fd in self.fds.values():
            os.close(fd)


def _header(number: int, size: int) -> dict[str, int]:
    return {"weights": number, "bytes": size}
