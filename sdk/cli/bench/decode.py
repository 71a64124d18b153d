"""`claw bench decode`: tokens a second of a language model, ours beside llama.cpp.

Both sides are processes that stay loaded and are asked in turn, in alternating order, so that a
slower minute of the box hits both; the medians of the rounds are reported. The prompt is the same
list of token ids on both sides; an answer is decoded behind one token, and behind 1,024. Our side
is the engine with its driver as a worker loads them, but outside of the sandbox and the kernel.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from clawai.sdk import config, tuning
from clawai.sdk.cli import ops, output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.errors import ClawError
from clawai.sdk.store import Store

OURS = "clawai.plugins.engine.bench"
PEERS = {
    "llama.cpp": "clawai.sdk.cli.bench.llamacpp",
    "ik_llama.cpp": "clawai.sdk.cli.bench.ik_llamacpp",
}
CONTEXT = 2048
DECODE = 64
DEEP, LONG, SHORT = 1024, 512, 128
BARS = (
    Bar(key="decode_64_tok_s", least=2.2, of="llama.cpp"),
    Bar(key="decode_64_at_1024_tok_s", least=2.2, of="llama.cpp"),
    Bar(key="prefill_128_tok_s", least=5.7, of="llama.cpp"),
    Bar(key="prefill_512_tok_s", least=5.0, of="llama.cpp"),
)
"""Those of two threads; with one it is 2x of decode and 5.4x of the short prompt."""


class Side:
    """One running side."""

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
        """Start a module with these words and wait until it is ready."""
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
        try:
            self.facts: dict[str, Any] = self._read()["ready"]
        except BaseException:
            self.close()
            raise

    def ask(self, **order: Any) -> float:
        """Send one order and wait for its figure."""
        return float(next(iter(self.tell(**order).values())))

    def tell(self, **order: Any) -> dict[str, Any]:
        """Send one order and wait for the whole answer."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # reading tells that it ended
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        return self._read()

    def round(self, prompt: Sequence[int]) -> None:
        """Measure every case once."""
        for name, order in (
            ("prefill_512", {"prefill": prompt[:LONG]}),
            ("prefill_128", {"prefill": prompt[:SHORT]}),
            ("", {"prefill": prompt[:1]}),
            ("decode_64", {"decode": DECODE}),
            ("", {"prefill": prompt[:DEEP]}),
            ("decode_64_at_1024", {"decode": DECODE}),
        ):
            self.times.setdefault(name, []).append(self.ask(**order))

    def figures(self) -> dict[str, float]:
        """The medians, under the keys that stay."""
        middle = {name: statistics.median(times) for name, times in self.times.items()}
        return {
            "prefill_128_tok_s": round(SHORT / middle["prefill_128"], 2),
            "prefill_512_tok_s": round(LONG / middle["prefill_512"], 2),
            "decode_64_tok_s": round(DECODE / middle["decode_64"], 2),
            "decode_64_at_1024_tok_s": round(DECODE / middle["decode_64_at_1024"], 2),
            "first_token_ms": round(middle["prefill_128"] * 1000, 2),
            "resident_bytes": self.ask(resident=True),
        }

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


def told_ops() -> dict[str, str]:
    """What a worker is told of this box's ops, measured now if it was not yet."""
    profile = tuning.kept(tuning.box()) or ops.measure()
    return {tuning.VARIABLE: tuning.for_worker(profile)}


def prompt_ids(count: int, vocabulary: int) -> list[int]:
    """Ids without the control tokens at the front; spread, so that no table's rows are in cache."""
    first = min(1000, vocabulary // 2)
    return [first + number * 7919 % (vocabulary - first) for number in range(count)]


def measure(
    model: Path, threads: int, rounds: int, peers: Sequence[str], kv: str = "f16"
) -> Report:
    """Run all sides in turn; ``kv`` is what our KV cache holds, peers keep theirs.

    Raises:
        ClawError: unsupported_system if a peer is not installed; bad_model; worker_failed.
    """
    sides: dict[str, Side] = {}
    status = output.Status()
    try:
        for name, module in {"clawai": OURS, **{peer: PEERS[peer] for peer in peers}}.items():
            status.show(f"loading {model.name} in {name}")
            ours = (kv,) if name == "clawai" else ()
            sides[name] = Side(module, model, threads, CONTEXT, 1, *ours)
        prompt = prompt_ids(DEEP, sides["clawai"].facts["vocabulary"])
        for number in range(rounds + 1):
            order = list(sides.items())
            for name, side in order if number % 2 else reversed(order):
                status.show(f"round {number} of {rounds}: {name}")
                side.round(prompt)
            if number == 0:  # only warms caches and clocks
                for side in sides.values():
                    side.times.clear()
                neighbours = Neighbours([side.pid for side in sides.values()])
        busy = round(neighbours.share(), 3)
        figures = {name: side.figures() for name, side in sides.items()}
        facts = {name: side.facts for name, side in sides.items()}
    finally:
        status.clear()
        for side in sides.values():
            side.close()
    settings = {"model": model.name, "threads": threads, "rounds": rounds, "kv": kv}
    settings |= {"others_busy_ratio": busy}
    settings |= {"isa": facts["clawai"].get("isa", "")}
    settings |= {peer: facts[peer].get("version", "") for peer in peers}
    return Report("decode", settings, figures.pop("clawai"), figures)


@click.command("decode")
@click.option(
    "--model", default="smollm2", show_default=True, help="A stored model or a GGUF file."
)
@click.option("--threads", type=click.IntRange(1, 256), help="Default: as workers have.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option("--against", type=click.Choice(list(PEERS)), multiple=True, help="Measure it too.")
@click.option(
    "--kv", type=click.Choice(config.KV), default="f16", show_default=True, help="Our KV cache."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    model: str, threads: int | None, rounds: int, against: tuple[str, ...], kv: str, as_json: bool
) -> None:
    """Measure how fast a language model reads a prompt and writes an answer.

    \b
    Example:
      claw bench decode --model smollm2 --threads 2 --against llama.cpp --against ik_llama.cpp
    """
    path = Path(model) if model.endswith(".gguf") else Store().get(model).path
    if not path.is_file():
        raise ClawError("unknown_model", f"there is no file {path}", got=model)
    cores = len(os.sched_getaffinity(0))
    threads = threads or config.load().workers.threads or cores
    finish(measure(path, threads, rounds, against, kv), as_json)
