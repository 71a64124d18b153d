"""`claw bench decode`: tokens a second of a language model, ours beside others.

All sides are processes that stay loaded and are asked in turn, in alternating order, so that a
slower minute of the box hits each; the medians of the rounds are reported. The prompt is the same
list of token ids on all sides; an answer is decoded behind one token, and behind 1,024. Our side
is the engine with its driver as a worker loads them, but outside of the sandbox and the kernel;
``--daemon`` adds the same through kernel, sandbox and client (``through``).

Every figure of ours is also a share of what the box can do, measured in the same run (``roof``).
``decode_64_cpu_ms`` is processor time a token, of all threads, user and system: as many
milliseconds as seconds for 1,000 tokens.

``--shape`` measures a model of a real one's shape with random weights instead (``shape``).
"""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from clawai.sdk import config
from clawai.sdk.cli import output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.roof import Model, Roof
from clawai.sdk.cli.bench.side import CONTEXT, OURS, Side, alternating, prompt_ids
from clawai.sdk.errors import ClawError
from clawai.sdk.store import Store

BATCHING = {
    "llama.cpp": "clawai.sdk.cli.bench.llamacpp",
    "ik_llama.cpp": "clawai.sdk.cli.bench.ik_llamacpp",
}
"""Peers that write several answers at once, too, and read any GGUF file of the Llama family."""
PEERS = BATCHING | {"torch": "clawai.sdk.cli.bench.torch_eager"}
THROUGH = "clawai.sdk.cli.bench.through"
DECODE = 64
DEEP, LONG, SHORT = 1024, 512, 128
JUDGED = 8
"""Tokens of ours that a float32 peer is asked about."""
FARTHEST = 2.0
"""Logits that one of them may be below the peer's likeliest. Rounding moves a logit by some tenths;
another model's are tens apart."""
BARS = (
    Bar(key="decode_64_tok_s", least=2.2, of="llama.cpp"),
    Bar(key="decode_64_at_1024_tok_s", least=2.2, of="llama.cpp"),
    Bar(key="prefill_128_tok_s", least=5.7, of="llama.cpp"),
    Bar(key="prefill_512_tok_s", least=5.0, of="llama.cpp"),
    Bar(key="decode_64_over_torch_ratio", least=3.2),
    Bar(key="cpu_over_torch_ratio", most=0.2),
    Bar(key="daemon_decode_64_ratio", least=0.95),
    Bar(key="daemon_decode_64_at_1024_ratio", least=0.95),
)
"""Those of two threads; with one it is 2x of decode and 5.4x of the short prompt."""


def turn(side: Side, prompt: Sequence[int]) -> None:
    """Measure every case of one side once."""
    side.measure("prefill_512", prefill=prompt[:LONG])
    side.measure("prefill_128", prefill=prompt[:SHORT])
    for name, count in (("decode_64", 1), ("decode_64_at_1024", DEEP)):
        side.tell(prefill=prompt[:count])
        side.measure(name, decode=DECODE)


def figures(side: Side) -> dict[str, float]:
    """The medians, under the keys that stay."""
    middle = {name: statistics.median(times) for name, times in side.times.items()}
    # A side that reads its prompt again before it decodes spends the time of one token more on it.
    steps = DECODE + int(side.facts.get("reads_again", False))
    return {
        "prefill_128_tok_s": round(SHORT / middle["prefill_128"], 2),
        "prefill_512_tok_s": round(LONG / middle["prefill_512"], 2),
        "decode_64_tok_s": round(DECODE / middle["decode_64"], 2),
        "decode_64_at_1024_tok_s": round(DECODE / middle["decode_64_at_1024"], 2),
        "first_token_ms": round(middle["prefill_128"] * 1000, 2),
        "decode_64_cpu_ms": round(1000 * statistics.median(side.cpu["decode_64"]) / steps, 3),
        "resident_bytes": side.ask(resident=True),
    }


def shares(side: Side, roof: Roof, daemon: Side | None = None) -> dict[str, float]:
    """What our figures are of the ceilings, those through the daemon too."""
    model = Model.of(side.facts)
    middle = {name: statistics.median(times) for name, times in side.times.items()}
    found = {
        f"prefill_{count}_tok_s": roof.share(
            model, model.prefill(count), middle[f"prefill_{count}"]
        )
        for count in (SHORT, LONG)
    }
    for name, depth in (("decode_64", 1), ("decode_64_at_1024", DEEP)):
        work = model.decode(DECODE, depth)
        found[f"{name}_tok_s"] = roof.share(model, work, middle[name] / DECODE)
        if daemon:
            for key, case in (("daemon", name), ("daemon_engine", f"{name}_engine")):
                seconds = statistics.median(daemon.times[case]) / DECODE
                found[f"{key}_{name}_tok_s"] = roof.share(model, work, seconds)
    return found | {"first_token_ms": found["prefill_128_tok_s"]}


def over_torch(sides: dict[str, Side], found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Our speed and processor time to those of PyTorch, which must agree with our answers.

    Raises:
        ClawError: worker_failed, if it runs another model.
    """
    ours, theirs = found["clawai"], found["torch"]
    prompt = prompt_ids(SHORT, sides["clawai"].facts["vocabulary"])
    for side in (sides["clawai"], sides["torch"]):
        side.tell(prefill=prompt)
    gaps = sides["torch"].tell(judge=sides["clawai"].tell(write=JUDGED)["tokens"])["gaps"]
    if max(gaps) > FARTHEST:
        text = "PyTorch does not agree with our answers"
        raise ClawError("worker_failed", text, got=gaps, allowed=f"up to {FARTHEST} logits below")
    return {
        "decode_64_over_torch_ratio": round(ours["decode_64_tok_s"] / theirs["decode_64_tok_s"], 3),
        "cpu_over_torch_ratio": round(ours["decode_64_cpu_ms"] / theirs["decode_64_cpu_ms"], 4),
        "torch_logits_below": round(max(gaps), 3),
    }


def over_daemon(daemon: Side) -> dict[str, float]:
    """What kernel, sandbox and client leave of our speed, by the client's clock and the engine's.

    Each answer is compared with one in process right before it: a box changes within a round.
    """
    found = {}
    for name in ("decode_64", "decode_64_at_1024"):
        theirs, inside = daemon.times[name], daemon.times[f"{name}_engine"]
        pairs = zip(daemon.times[f"{name}_beside"], theirs, strict=True)
        found[f"daemon_{name}_tok_s"] = round(DECODE / statistics.median(theirs), 2)
        found[f"daemon_engine_{name}_tok_s"] = round(DECODE / statistics.median(inside), 2)
        found[f"daemon_{name}_ratio"] = round(statistics.median(a / b for a, b in pairs), 3)
    return found


class Run:
    """All sides of one run."""

    def __init__(
        self, model: Path, threads: int, peers: Sequence[str], daemon: bool, kv: str
    ) -> None:
        self.model, self.threads, self.peers = model, threads, tuple(dict.fromkeys(peers))
        self.kv = kv
        modules = {"clawai": OURS} | {peer: PEERS[peer] for peer in self.peers}
        self.modules = modules | ({"daemon": THROUGH} if daemon else {})
        self.sides: dict[str, Side] = {}
        self.roof = Roof(threads)
        self.busy = 0.0

    def measure(self, rounds: int, status: output.Status) -> None:
        """Load all and measure them in turn."""
        for name, module in self.modules.items():
            status.show(f"loading {self.model.name} in {name}")
            more = () if name in PEERS else (self.kv,)
            self.sides[name] = Side(module, self.model, self.threads, CONTEXT, 1, *more)
        prompt = prompt_ids(DEEP, self.sides["clawai"].facts["vocabulary"])
        if "daemon" in self.sides:  # its prompts are texts, so that all have those
            prompt = self.sides["daemon"].facts["prompt"]
        for number in range(rounds + 1):
            for name, side in alternating(self.sides, number):
                status.show(f"round {number} of {rounds}: {name}")
                self.turn(name, side, prompt)
            if number == 0:  # only warms caches and clocks
                for side in self.sides.values():
                    side.forget()
                neighbours = Neighbours(self.pids())
                continue
            status.show(f"round {number} of {rounds}: the box")
            self.roof.measure()
        self.busy = round(neighbours.share(), 3)

    def turn(self, name: str, side: Side, prompt: Sequence[int]) -> None:
        """One side's cases; through the daemon only answers are measured."""
        if name != "daemon":
            turn(side, prompt)
            return
        ours = self.sides["clawai"]
        for case, count in (("decode_64", 1), ("decode_64_at_1024", DEEP)):
            ours.tell(prefill=prompt[:count])
            side.times.setdefault(f"{case}_beside", []).append(ours.ask(decode=DECODE))
            answer = side.tell(through=count, count=DECODE)
            side.times.setdefault(case, []).append(answer["client"])
            side.times.setdefault(f"{case}_engine", []).append(answer["engine"])

    def pids(self) -> list[int]:
        """All that is measured: the sides, and what belongs to one."""
        more = [pid for side in self.sides.values() for pid in side.facts.get("pids", ())]
        return [side.pid for side in self.sides.values()] + more

    def report(self, rounds: int) -> Report:
        """What was found."""
        ours = self.sides["clawai"]
        found = {name: figures(self.sides[name]) for name in ("clawai", *self.peers)}
        mine = found["clawai"]
        if "torch" in found:
            mine = mine | over_torch(self.sides, found)
        if "daemon" in self.sides:
            mine = mine | over_daemon(self.sides["daemon"])
        settings: dict[str, Any] = {"model": self.model.name, "threads": self.threads}
        settings |= {"rounds": rounds, "kv": self.kv, "others_busy_ratio": self.busy}
        settings |= {"isa": ours.facts.get("isa", "")}
        settings |= {peer: self.sides[peer].facts.get("version", "") for peer in self.peers}
        against = {peer: found[peer] for peer in self.peers}
        parts = shares(ours, self.roof, self.sides.get("daemon"))
        return Report("decode", settings, mine, against, self.roof.figures(), parts)

    def close(self) -> None:
        """End the sides."""
        for side in self.sides.values():
            side.close()


def measure(
    model: Path,
    threads: int,
    rounds: int,
    peers: Sequence[str],
    daemon: bool = False,
    kv: str = "f16",
) -> Report:
    """Run all sides in turn; ``kv`` is what our KV cache holds, peers keep theirs.

    Raises:
        ClawError: unsupported_system if a peer is not installed; bad_model; worker_failed.
    """
    status = output.Status()
    run = Run(model, threads, peers, daemon, kv)
    try:
        run.measure(rounds, status)
        return run.report(rounds)
    finally:
        status.clear()
        run.close()


@click.command("decode")
@click.option(
    "--model", default="smollm2", show_default=True, help="A stored model or a GGUF file."
)
@click.option(
    "--shape", type=click.Choice(["7b"]), help="Random weights in this shape instead of a model."
)
@click.option("--layers", type=click.IntRange(1, 32), help="Of --shape; all, if not given.")
@click.option("--forget", is_flag=True, help="Delete the file of --shape afterwards.")
@click.option("--threads", type=click.IntRange(1, 256), help="Default: as workers have.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option("--against", type=click.Choice(list(PEERS)), multiple=True, help="Measure it too.")
@click.option(
    "--kv", type=click.Choice(config.KV), default="f16", show_default=True, help="Our KV cache."
)
@click.option("--daemon", is_flag=True, help="Also through kernel, sandbox and client.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    model: str,
    shape: str | None,
    layers: int | None,
    forget: bool,
    threads: int | None,
    rounds: int,
    against: tuple[str, ...],
    kv: str,
    daemon: bool,
    as_json: bool,
) -> None:
    """Measure how fast a language model reads a prompt and writes an answer.

    \b
    Examples:
      claw bench decode --model smollm2 --threads 2 --against llama.cpp --against ik_llama.cpp
      claw bench decode --against torch
      claw bench decode --daemon
      claw bench decode --shape 7b --against llama.cpp
    """
    cores = len(os.sched_getaffinity(0))
    threads = threads or config.load().workers.threads or cores
    if shape is not None:
        from clawai.sdk.cli.bench import shape as shapes

        if daemon or "torch" in against:
            raise click.UsageError("--shape goes with llama.cpp and ik_llama.cpp only.")
        peers = tuple(dict.fromkeys(against))
        finish(shapes.measure(shape, layers, threads, rounds, peers, kv, forget), as_json)
        return
    if layers is not None or forget:
        raise click.UsageError("--layers and --forget go with --shape.")
    path = Path(model) if model.endswith(".gguf") else Store().get(model).path
    if not path.is_file():
        raise ClawError("unknown_model", f"there is no file {path}", got=model)
    finish(measure(path, threads, rounds, against, daemon, kv), as_json)
