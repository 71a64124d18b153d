"""`claw bench speculate`: what drafts by prompt lookup gain, and what they cost where they cannot.

Each question of `questions` is answered greedily with drafts and without, one after the other and
in changing order, in one process: the engine with its driver as a worker loads them. What is timed
is the answer behind its first token. Of each kind of question:

    KIND_ratio           speed with drafts over speed without, over all answers of the kind;
                         the median of the rounds
    KIND_accepted_ratio  part of the drafted tokens that came into the answer
    KIND_drafted_ratio   drafted tokens for each token of the answers
    same_ratio           part of the answers that are the same with and without
"""

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from clawai.sdk import config
from clawai.sdk.cli import output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.questions import QUESTIONS
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.side import OURS, Side
from clawai.sdk.errors import ClawError
from clawai.sdk.store import Store

CONTEXT = 1024
TOKENS = 160
"""Of an answer at most."""
BARS = (
    *(Bar(key=f"{kind}_ratio", least=1.2) for kind in ("repeat", "code", "quote", "data")),
    *(Bar(key=f"{kind}_ratio", least=0.98) for kind in ("story", "question")),
    Bar(key="same_ratio", least=1.0),
)
Answers = tuple[dict[str, Any], dict[str, Any]]
"""Without drafts, and with."""


class Kind:
    """What was found of one kind of question."""

    def __init__(self) -> None:
        self.ratios: list[float] = []
        """Of each round."""
        self.last: list[Answers] = []
        """Of the last round; each has the same tokens."""

    def add(self, answers: Sequence[Answers]) -> None:
        """The answers of a round."""
        self.last = list(answers)
        times = [sum(pair[with_drafts]["us"] for pair in answers) for with_drafts in (0, 1)]
        self.ratios.append(times[0] / max(times[1], 1))

    def figures(self, name: str) -> dict[str, float]:
        """Under the keys that stay."""
        drafted, accepted, tokens = (
            sum(pair[1][key] for pair in self.last) for key in ("drafted", "accepted", "tokens")
        )
        return {
            f"{name}_ratio": round(statistics.median(self.ratios), 3),
            f"{name}_accepted_ratio": round(accepted / max(drafted, 1), 3),
            f"{name}_drafted_ratio": round(drafted / max(tokens, 1), 3),
        }


def ask(side: Side, question: str, tokens: int, *, drafts_first: bool) -> Answers:
    """Both answers to a question."""
    said = {
        drafts: side.tell(reply=question, count=tokens, drafts=drafts)
        for drafts in ((True, False) if drafts_first else (False, True))
    }
    return said[False], said[True]


def measure(
    model: Path,
    threads: int,
    rounds: int,
    tokens: int,
    questions: Mapping[str, Sequence[str]] = QUESTIONS,
) -> Report:
    """Ask everything in each round.

    Raises:
        ClawError: bad_model; worker_failed.
    """
    status = output.Status()
    side = Side(OURS, model, threads, CONTEXT, 2)
    kinds = {name: Kind() for name in questions}
    try:
        side.tell(reply="Hello", count=16, drafts=False)  # only warms caches and clocks
        neighbours = Neighbours([side.pid])
        for number in range(rounds):
            for name, asked in questions.items():
                status.show(f"round {number + 1} of {rounds}: {name}")
                kinds[name].add(
                    [
                        ask(side, question, tokens, drafts_first=bool((number + at) % 2))
                        for at, question in enumerate(asked)
                    ]
                )
        busy = round(neighbours.share(), 3)
        isa = side.facts.get("isa", "")
    finally:
        status.clear()
        side.close()
    pairs = [pair for kind in kinds.values() for pair in kind.last]
    figures: dict[str, float] = {}
    for name, kind in kinds.items():
        figures |= kind.figures(name)
    figures["same_ratio"] = round(
        sum(one["text"] == two["text"] for one, two in pairs) / max(len(pairs), 1), 3
    )
    settings = {"model": model.name, "threads": threads, "rounds": rounds, "tokens": tokens}
    return Report("speculate", settings | {"others_busy_ratio": busy, "isa": isa}, figures)


@click.command("speculate")
@click.option(
    "--model", default="smollm2", show_default=True, help="A stored model or a GGUF file."
)
@click.option("--threads", type=click.IntRange(1, 256), help="Default: as workers have.")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option(
    "--tokens",
    type=click.IntRange(2, CONTEXT // 2),
    default=TOKENS,
    show_default=True,
    help="Of an answer at most.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(model: str, threads: int | None, rounds: int, tokens: int, as_json: bool) -> None:
    """Measure what it gains to guess tokens from what was said before.

    \b
    Example:
      claw bench speculate --model smollm2 --threads 2
    """
    path = Path(model) if model.endswith(".gguf") else Store().get(model).path
    if not path.is_file():
        raise ClawError("unknown_model", f"there is no file {path}", got=model)
    cores = len(os.sched_getaffinity(0))
    threads = threads or config.load().workers.threads or cores
    finish(measure(path, threads, rounds, tokens), as_json)
