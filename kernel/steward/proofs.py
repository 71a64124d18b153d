"""What this box offers, proved at every start: the sandbox level, and the means of preemption.

Both are tried out by processes of their own, one after the other, so that neither disturbs what the
other measures. The verdict on the means is kept, and holds until something of the box changes.
Workers wait for both; clients do not.
"""

import base64
import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clawai.kernel.loop import Loop
from clawai.kernel.steward import ladder
from clawai.kernel.steward.beside import Beside
from clawai.kernel.steward.log import LogFile
from clawai.sdk import paths
from clawai.sdk.config import Config

SANDBOX = [sys.executable, "-I", "-B", "-m", "clawai.sandbox.probe"]
LADDER = [sys.executable, "-I", "-B", "-m", "clawai.kernel.steward.ladder"]


@dataclass
class Proofs:
    """Both proofs."""

    loop: Loop
    log: LogFile
    config: Config
    daemon: int
    proved: Callable[[], None]
    """Called once both are there."""
    sandbox: dict[str, Any] | None = None
    """Level, layers and advice."""
    bpf: bytes = b""
    """The system call filter, compiled."""
    means: ladder.Report | None = None

    def __post_init__(self) -> None:
        self._beside = Beside(self.loop)

    @property
    def done(self) -> bool:
        """Whether workers can be started."""
        return self.sandbox is not None and self.means is not None

    def begin(self) -> None:
        """Start with the first that is needed."""
        wanted = self.config.preemption
        memory = paths.state_dir() / "ladder.json"
        kept = ladder.remembered(memory, wanted.rungs, wanted.means, self.daemon)
        if kept:
            with contextlib.suppress(OSError):
                ladder.lift(self.daemon, kept.means)
            self.means = kept
        self._beside.run(SANDBOX, self._sandbox)

    def _sandbox(self, said: bytes) -> None:
        try:
            found = _last_line(said)
            self.bpf = base64.b64decode(found.pop("bpf"))
        except (ValueError, KeyError, TypeError, AttributeError):
            text = said[-500:].decode("utf-8", "replace")
            found = {"level": "none", "advice": [f"the sandbox probe failed: {text}"]}
        self.sandbox = found
        self.log.write("info", f"sandbox level: {found['level']}")
        if self.means:
            self._finish()
            return
        wanted = self.config.preemption
        rungs = ",".join(map(str, wanted.rungs))
        memory = str(paths.state_dir() / "ladder.json")
        self._beside.run([*LADDER, wanted.means, rungs, str(self.daemon), memory], self._ladder)

    def _ladder(self, said: bytes) -> None:
        try:
            self.means = ladder.Report.from_dict(_last_line(said))
        except (ValueError, KeyError, TypeError, AttributeError):
            text = said[-500:].decode("utf-8", "replace")
            self.log.write("error", f"the means of preemption could not be measured: {text}")
            failed = {"all": f"the measurement failed: {text}"}
            rungs = tuple(self.config.preemption.rungs)
            self.means = ladder.Report(ladder.Means("none"), rungs, refused=failed)
        self._finish()

    def _finish(self) -> None:
        assert self.means
        self.log.write("info", f"preemption by weight: {self.means.means.kind}")
        self.proved()

    def end(self) -> None:
        """End what still runs, and remove what was made; all workers are gone."""
        self._beside.end()
        if self.means:
            ladder.clean(self.means.means)


def _last_line(said: bytes) -> Any:
    """The answer of a program, which may have complained before."""
    return json.loads(said.strip().rpartition(b"\n")[2])
