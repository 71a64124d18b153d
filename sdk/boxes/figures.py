"""How this box is, from the listings of its kernel."""

import contextlib
import importlib.metadata
from typing import Any

from clawai.sdk.boxes.wire import Figures
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError

ANSWER_S = 3.0
"""Seconds in which a kernel has to greet."""
_VERSION = importlib.metadata.version("clawai")[:64]


class Gauges:
    """Asks the kernel, if there is one; it is never started for that."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._last: dict[str, Any] = {}

    def read(self) -> Figures:
        """How the box is now."""
        try:
            self._client = self._client or Client(timeout=ANSWER_S, name="boxes")
            names = ("status", "box", "tasks", "workers")
            told = {name: self._client.query(name) for name in names}
        except (ClawError, OSError):
            self.close()
            return Figures(version=_VERSION)
        return self._made(told)

    def close(self) -> None:
        """Leave the kernel."""
        with contextlib.suppress(ClawError, OSError):
            if self._client:
                self._client.close()
        self._client = None
        self._last = {}

    def _made(self, told: dict[str, Any]) -> Figures:
        status, box = told["status"], told["box"]
        last, self._last = self._last or box, box
        ticks = box["total_ticks"] - last["total_ticks"]
        busy = 1 - (box["idle_ticks"] - last["idle_ticks"]) / ticks if ticks > 0 else None
        tasks, workers = told["tasks"]["tasks"], told["workers"]["workers"]
        waiting = sum(row["position"] is not None for row in tasks)
        return Figures(
            kernel=True,
            version=_VERSION,
            uptime_s=status["uptime_s"],
            cores=box["cores"],
            busy=None if busy is None else min(1.0, max(0.0, busy)),
            memory_bytes=box["memory_bytes"],
            available_bytes=box["available_bytes"],
            budget_bytes=status["budget_bytes"],
            used_bytes=status["used_bytes"],
            waiting=waiting,
            running=len(tasks) - waiting,
            workers=len(workers),
            models=tuple(sorted({row["model"][:64] for row in workers if row["model"]}))[:16],
            celsius=max((each["celsius"] for each in box["temperatures"]), default=None),
        )
