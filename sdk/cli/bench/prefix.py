"""`claw bench prefix`: how soon an answer begins when its prompt begins like an earlier one.

Through a kernel of the benchmark's own, with the model's sandboxed worker. Each round has a new
beginning of 512 tokens and asks two questions behind it: the first one reads all of the prompt,
the second only what differs. Then the model is unloaded, which forgets all, and the second
questions are asked again: their answers must be the same.

    warm_ratio       time to the first token of the second question over that of the first
    cold_ms, warm_ms the medians of both
    same_ratio       part of the second questions whose answer is the same without anything kept
"""

import statistics
import time
from pathlib import Path
from typing import Any

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.sampling import middle
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from clawai.sdk.store import Store

BARS = (Bar(key="warm_ratio", most=0.2), Bar(key="same_ratio", least=1.0))
NAME = "model"
SHARED = 512
"""Tokens that both questions of a round begin with."""
FIRST, SECOND = " Who spoke first, and why?", " What did the last one carry home?"
TEXT = (
    "the old baker walked to the river and counted boats while rain fell on quiet roofs "
    "nobody asked where seven letters went before winter because every lamp was lit"
)


def beginning(client: Client, number: int) -> str:
    """A text of SHARED tokens or a few more, unlike that of another number from the start."""
    choice, words = TEXT.split(), [f"{number} times {number + 7}:"]
    while True:
        words += [choice[(number + each * (number + 3)) % len(choice)] for each in range(32)]
        text = " ".join(words)
        count = client.call("llm.tokenize", {"text": text}, model=NAME).value["count"]
        if count >= SHARED:
            return text


def ask(client: Client, prompt: str) -> tuple[float, dict[str, Any], str]:
    """Milliseconds to the first piece, how it ended, and the whole answer."""
    params = {"prompt": prompt, "max_tokens": 8}
    start = time.perf_counter()
    first, pieces = 0.0, []
    task = client.submit("llm.generate", params, model=NAME)
    for event in task:
        if event.kind == "chunk":
            first = first or time.perf_counter() - start
            pieces.append(event.data["text"])
    result = task.result().value
    return 1e3 * (first or time.perf_counter() - start), result, "".join(pieces)


def measure(model: Path, rounds: int) -> Report:
    """Ask in pairs, forget, and ask the second ones again.

    Raises:
        ClawError: whatever a request failed with; worker_failed if nothing was kept.
    """
    status = output.Status()
    box = Private("[workers]\nidle_minutes = 0\n")
    cold, warm, asked = [], [], []
    try:
        box.model(NAME, model)
        box.start()
        client = box.client(timeout=120)
        status.show("loading the model")
        ask(client, "Once")
        neighbours = Neighbours(box.processes())
        for number in range(rounds):
            status.show(f"round {number + 1} of {rounds}")
            text = beginning(client, number)
            cold.append(ask(client, text + FIRST)[0])
            took, result, answer = ask(client, text + SECOND)
            warm.append(took)
            asked.append((text + SECOND, answer))
            if result["usage"]["cached_tokens"] < SHARED * 0.9:
                raise ClawError("worker_failed", "the beginning was not kept", got=result["usage"])
        busy = round(neighbours.share(), 3)
        client.admin("unload", NAME)
        status.show("asking again, with nothing kept")
        same = [ask(client, prompt)[2] == answer for prompt, answer in asked]
    finally:
        status.clear()
        box.remove()
    figures = {
        "warm_ratio": round(statistics.median(w / c for w, c in zip(warm, cold, strict=True)), 3),
        "cold_ms": middle(cold, 1),
        "warm_ms": middle(warm, 1),
        "same_ratio": round(sum(same) / len(same), 3),
    }
    settings = {"model": model.name, "shared_tokens": SHARED, "rounds": rounds}
    return Report("prefix", settings | {"others_busy_ratio": busy}, figures)


@click.command("prefix")
@click.option(
    "--model", default="smollm2", show_default=True, help="A stored model or a GGUF file."
)
@click.option("--rounds", type=click.IntRange(1, 100), default=7, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(model: str, rounds: int, as_json: bool) -> None:
    """Measure what a prompt costs that begins like an earlier one.

    \b
    Example:
      claw bench prefix --model smollm2
    """
    path = Path(model) if model.endswith(".gguf") else Store().get(model).path
    if not path.is_file():
        raise ClawError("unknown_model", f"there is no file {path}", got=model)
    finish(measure(path, rounds), as_json)
