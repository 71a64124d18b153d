"""A running side of `claw bench decode` and `parallel`: the process, and what it was asked."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clawai.sdk import tuning
from clawai.sdk.cli import ops
from clawai.sdk.cli.bench import roofline
from clawai.sdk.errors import ClawError

OURS = "clawai.plugins.engine.bench"
CONTEXT = 2048


class Side:
    """One process that takes the orders of ``peer``.

    Attributes:
        pid, facts: of the process, and what it said of itself when it was ready.
        times, cpu: seconds of each case, of the clock and of the processor, one a round.
    """

    def __init__(
        self,
        module: str,
        model: Path,
        threads: int,
        context: int = CONTEXT,
        sequences: int = 1,
        *more: str,
    ) -> None:
        self.start(module, [str(model), *map(str, (threads, context, sequences)), *more])

    def start(self, module: str, words: Sequence[str]) -> None:
        """Start a module with these words and wait until it is ready.

        Raises:
            ClawError: what the side failed with.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("CLAW_DEBUG") else subprocess.DEVNULL,
            text=True,
            env=os.environ | told_ops(),
        )
        self._module = module
        self.pid = self._process.pid
        self.times: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}
        try:
            self.facts: dict[str, Any] = self._read()["ready"]
        except BaseException:
            self.close()
            raise

    def tell(self, **order: Any) -> dict[str, Any]:
        """Send one order and wait for its answer.

        Raises:
            ClawError: worker_failed, or what the side failed with.
        """
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # reading tells that it ended
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        return self._read()

    def ask(self, **order: Any) -> float:
        """The first figure of an answer."""
        return float(next(iter(self.tell(**order).values())))

    def measure(self, name: str, **order: Any) -> None:
        """Note what an order took as one round of a case."""
        answer = self.tell(**order)
        self.times.setdefault(name, []).append(answer["seconds"])
        self.cpu.setdefault(name, []).append(answer["cpu"])

    def forget(self) -> None:
        """Drop what was noted: it only warmed caches and clocks."""
        self.times.clear()
        self.cpu.clear()

    def _read(self) -> dict[str, Any]:
        """The next line of JSON; the libraries of a peer may print lines of their own."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                if "error" in answer:
                    raise ClawError(**answer["error"])
                return answer
        raise ClawError(
            "worker_failed",
            f"the side {self._module} ended",
            got=f"exit status {self._process.wait()}",
            hint="CLAW_DEBUG=1 shows what it printed",
        )

    def close(self) -> None:
        """End the side."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Reader(Side):
    """What reads memory for seconds on end, in turn with the sides: a ceiling of their seconds.

    A box that shares its memory with others has faster and slower seconds, and by turns a half
    faster: what was read just before and just after is what a side could have read.
    """

    def __init__(self, threads: int) -> None:
        self.start(roofline.PROGRAM, [str(threads), "steady"])

    def between(self, seconds: float, works: Sequence[Callable[[], None]]) -> list[float]:
        """Bytes a second that were read before each work and after it, for ``seconds`` each.

        What is read between two works counts for both.
        """
        before, rates = self.tell(read=seconds), []
        for work in works:
            work()
            after = self.tell(read=seconds)
            took = before["seconds"] + after["seconds"]
            rates.append((before["bytes"] + after["bytes"]) / took)
            before = after
        return rates


def told_ops() -> dict[str, str]:
    """What a worker is told of this box's ops, measured now if it was not yet."""
    profile = tuning.kept(tuning.box()) or ops.measure()
    return {tuning.VARIABLE: tuning.for_worker(profile)}


def prompt_ids(count: int, vocabulary: int) -> list[int]:
    """Ids without the control tokens at the front; spread, so that no table's rows are in cache."""
    first = min(1000, vocabulary // 2)
    return [first + number * 7919 % (vocabulary - first) for number in range(count)]


def alternating(sides: dict[str, Side], number: int) -> Sequence[tuple[str, Side]]:
    """Whose turn it is in a round: forwards in odd ones, backwards in even ones."""
    order = list(sides.items())
    return order if number % 2 else order[::-1]
