"""The hand that holds ``saturate``: starts, counts and stops the bulk load of one kernel."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clawai.sdk.errors import ClawError

Tasks = Sequence[tuple[str, dict[str, Any]]]


class Saturator:
    """A bulk load that is off until it is started."""

    def __init__(self, folder: Path, tasks: Tasks) -> None:
        orders = json.dumps({"tasks": list(tasks)})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "clawai.sdk.cli.bench.saturate", str(folder), orders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def start(self) -> None:
        """Offer all tasks, and each again when it ends."""
        self._say("start")

    def stop(self) -> None:
        """Wait until nothing of it is under way."""
        self._say("stop")
        self._hear()

    @contextlib.contextmanager
    def counting(self, rates: list[float]) -> Iterator[None]:
        """Add the tasks a second that end meanwhile."""
        before = self.count()
        yield
        after = self.count()
        rates.append((after["done"] - before["done"]) / (after["at"] - before["at"]))

    def count(self) -> dict[str, Any]:
        """Tasks that ended since the start, and when that was asked."""
        self._say("count")
        return self._hear()

    def _say(self, order: str) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # reading tells what became of it
            self._process.stdin.write(f"{order}\n")
            self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        said: dict[str, Any] = json.loads(line) if line else {}
        if "error" in said or not said:
            told = said.get("error", {"code": "worker_failed", "message": "the bulk load ended"})
            raise ClawError(told["code"], f"bulk load: {told['message']}", got=told.get("got"))
        return said

    def close(self) -> None:
        """End it; what it had under way is cancelled."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "Saturator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
