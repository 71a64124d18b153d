"""`claw bench parallel`: several answers at once, beside our own single one and llama.cpp.

Our side is one process: the engine as a worker loads it, a thread for each answer, and one answer
alone in the same rounds. The peer has a process for each number of sequences, with as many slots,
and gets all prompts in one request, which is how it batches best. Sides are asked in turn, in
alternating order; the medians of the rounds are reported. Reading the prompts is not counted. Our
figures are also shares of what the box can do, measured in the same run (``roof``).
"""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from clawai.sdk import config
from clawai.sdk.cli import output
from clawai.sdk.cli.bench import decode
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.roof import Model, Roof
from clawai.sdk.cli.bench.side import OURS, Side, prompt_ids
from clawai.sdk.errors import ClawError
from clawai.sdk.store import Store

PROMPT = 16
"""Tokens of each prompt."""
CONTEXT = 256
"""Of each sequence."""
BARS = tuple(
    bar
    for count in (8, 24)
    for bar in (
        Bar(key=f"total_{count}_tok_s", least=2, of="llama.cpp"),
        Bar(key=f"total_{count}_over_single_ratio", least=3),
    )
)


class Parallel:
    """All sides of one run."""

    def __init__(self, model: Path, threads: int, counts: Sequence[int]) -> None:
        self._model, self._threads, self._counts = model, threads, counts
        self.sides: dict[tuple[str, int], Side] = {}
        """By name and number of sequences; ours has one process for all numbers."""
        self.times: dict[tuple[str, int], list[float]] = {}
        self.roof = Roof(threads)

    def load(self, name: str, module: str, sequences: int) -> None:
        """Start a side. Ours keeps one more sequence, for the single answer."""
        more = 1 if name == "clawai" else 0
        self.sides[name, sequences] = Side(
            module, self._model, self._threads, CONTEXT, sequences + more
        )

    def facts(self, name: str) -> dict[str, Any]:
        """What a side said of itself."""
        return next(side.facts for (each, _), side in self.sides.items() if each == name)

    def cases(self) -> list[tuple[str, int, Side]]:
        """Each measurement of a round: name, sequences, side."""
        found = []
        for (name, most), side in self.sides.items():
            counts = (1, *self._counts) if name == "clawai" else (most,)
            found += [(name, count, side) for count in counts]
        return found

    def round(self, prompts: Sequence[Sequence[int]], *, backwards: bool) -> None:
        """Measure every case once."""
        cases = self.cases()
        for name, count, side in reversed(cases) if backwards else cases:
            if count == 1 and name == "clawai":
                side.ask(prefill=prompts[0])
                seconds = side.ask(decode=decode.DECODE)
            else:
                seconds = side.ask(parallel=prompts[:count], count=decode.DECODE)
            self.times.setdefault((name, count), []).append(seconds)

    def speed(self, name: str, count: int) -> float:
        """Tokens a second of all answers together."""
        return round(count * decode.DECODE / statistics.median(self.times[name, count]), 2)

    def shares(self) -> dict[str, float]:
        """What our figures are of the ceilings: a step reads the weights once for all answers."""
        model = Model.of(self.facts("clawai"))
        found = {}
        for count in (1, *self._counts):
            name = f"total_{count}_tok_s" if count > 1 else "single_tok_s"
            work = model.decode(decode.DECODE, PROMPT, count)
            seconds = statistics.median(self.times["clawai", count]) / decode.DECODE
            found[name] = self.roof.share(model, work, seconds)
        return found

    def close(self) -> None:
        """End the sides."""
        for side in self.sides.values():
            side.close()


def measure(
    model: Path, threads: int, rounds: int, counts: Sequence[int], peers: Sequence[str]
) -> Report:
    """Run all sides in turn.

    Raises:
        ClawError: unsupported_system if a peer is not installed; bad_model; worker_failed.
    """
    status = output.Status()
    all_sides = Parallel(model, threads, counts)
    try:
        status.show(f"loading {model.name}")
        all_sides.load("clawai", OURS, max(counts))
        for peer in peers:
            for count in dict.fromkeys((1, *counts)):
                all_sides.load(peer, decode.BATCHING[peer], count)
        ids = prompt_ids(PROMPT * max(counts), int(all_sides.facts("clawai")["vocabulary"]))
        prompts = [ids[at : at + PROMPT] for at in range(0, len(ids), PROMPT)]
        for number in range(rounds + 1):
            status.show(f"round {number} of {rounds}")
            all_sides.round(prompts, backwards=bool(number % 2))
            if number == 0:  # only warms caches and clocks
                all_sides.times.clear()
                neighbours = Neighbours([side.pid for side in all_sides.sides.values()])
            else:
                all_sides.roof.measure()
        busy = round(neighbours.share(), 3)
        return report(all_sides, model.name, threads, rounds, counts, peers, busy)
    finally:
        status.clear()
        all_sides.close()


def report(
    sides: Parallel,
    model: str,
    threads: int,
    rounds: int,
    counts: Sequence[int],
    peers: Sequence[str],
    busy: float,
) -> Report:
    """The figures, under the keys that stay."""
    settings = {"model": model, "threads": threads, "rounds": rounds, "others_busy_ratio": busy}
    settings |= {"isa": sides.facts("clawai").get("isa", "")}
    settings |= {peer: sides.facts(peer).get("version", "") for peer in peers}
    figures = {"single_tok_s": (single := sides.speed("clawai", 1))}
    for count in counts:
        figures[f"total_{count}_tok_s"] = total = sides.speed("clawai", count)
        figures[f"total_{count}_over_single_ratio"] = round(total / single, 3)
    against = {}
    for peer in peers:
        against[peer] = {"single_tok_s": (theirs := sides.speed(peer, 1))}
        for count in counts:
            against[peer][f"total_{count}_tok_s"] = total = sides.speed(peer, count)
            against[peer][f"total_{count}_over_single_ratio"] = round(total / theirs, 3)
    return Report("parallel", settings, figures, against, sides.roof.figures(), sides.shares())


@click.command("parallel")
@click.option(
    "--model", default="smollm2", show_default=True, help="A stored model or a GGUF file."
)
@click.option(
    "--sequences",
    type=click.IntRange(2, 63),
    multiple=True,
    default=(8, 24),
    show_default=True,
    help="Answers at once; may be given several times.",
)
@click.option("--threads", type=click.IntRange(1, 256), help="Default: as workers have.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option(
    "--against", type=click.Choice(list(decode.BATCHING)), multiple=True, help="Measure it too."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    model: str,
    sequences: tuple[int, ...],
    threads: int | None,
    rounds: int,
    against: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure how fast a language model writes several answers at once.

    \b
    Example:
      claw bench parallel --sequences 8 --sequences 24 --threads 2 --against llama.cpp
    """
    path = Path(model) if model.endswith(".gguf") else Store().get(model).path
    if not path.is_file():
        raise ClawError("unknown_model", f"there is no file {path}", got=model)
    cores = len(os.sched_getaffinity(0))
    threads = threads or config.load().workers.threads or cores
    counts = tuple(dict.fromkeys(sequences))
    finish(measure(path, threads, rounds, counts, tuple(dict.fromkeys(against))), as_json)
