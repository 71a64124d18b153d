"""`claw bench start`: from a request for a model that is not loaded to its first token.

Through a kernel of the benchmark's own, which has packed the model before and has a worker waiting
without a model. Each round unloads the model, then asks it to go on with eight tokens; the clock
runs from the request to the first token at the client. Cold: the files of the model are dropped
from the page cache first, which is checked.

llama.cpp loads without memory mapping, in a process that has its libraries already, without its
warm-up; its clock stops at the first token of as many tokens. PyTorch has its libraries, too, and
loads the same weights from a safetensors file (``torch_load``).

    warm_ms, cold_ms        ours, medians
    load_ms, first_ms       of the warm ones: until the worker is ready, and from then on
    cold_over_torch_ratio   our cold_ms to PyTorch's
"""

import ctypes
import mmap
import os
import statistics
import time
from pathlib import Path

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.decode import PEERS
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.sampling import middle
from clawai.sdk.cli.bench.side import Side, prompt_ids
from clawai.sdk.cli.bench.torch_load import MODULE as TORCH
from clawai.sdk.cli.bench.torch_load import Weights
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from clawai.sdk.model import gguf, llama
from clawai.sdk.store import Store

BARS = (
    Bar(key="warm_ms", most=40.0),
    Bar(key="cold_ms", most=1 / 3, of="llama.cpp"),
    Bar(key="cold_over_torch_ratio", most=1 / 3),
)
NAME = "model"
PROMPT = "The capital of France is the city of"
TOKENS, CONTEXT = 8, 512
"""Of a peer."""
SPARE_S = 2.5
"""After a start, until another worker waits."""


def drop(*paths: Path) -> None:
    """Have the next reader of these files wait for the disk.

    Raises:
        ClawError: worker_failed, if they stay in memory: somebody maps them.
    """
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            kept = cached(file.fileno())
        if kept > 0.02:
            hint = "close what else uses the model"
            raise ClawError("worker_failed", f"{path.name} stays in memory", got=kept, hint=hint)


def cached(fd: int) -> float:
    """Which part of a file is in the page cache."""
    size = os.fstat(fd).st_size
    pages = -(-size // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    try:
        if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), found):
            raise OSError(ctypes.get_errno(), "mincore")
    finally:
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    return sum(byte & 1 for byte in found) / pages


def ask(client: Client) -> tuple[float, float]:
    """Milliseconds to the first token, and of these until the worker was ready."""
    start = time.perf_counter()
    first = 0.0
    task = client.submit("llm.generate", {"prompt": PROMPT, "max_tokens": 2}, model=NAME)
    for event in task:
        if event.kind == "chunk" and not first:
            first = time.perf_counter() - start
    loaded = (task.result().timings or {})["load_us"]
    return 1e3 * (first or time.perf_counter() - start), loaded / 1e3


def unload(box: Private, client: Client) -> None:
    """Unload the model; back when its worker has ended and another one waits."""
    client.admin("unload", NAME)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and client.query("workers")["workers"]:
        time.sleep(0.02)
    time.sleep(SPARE_S)


def ours(model: Path, rounds: int, status: output.Status) -> dict[str, list[float]]:
    """Warm and cold starts through a kernel."""
    box = Private("[workers]\nidle_minutes = 0\n")
    found: dict[str, list[float]] = {"warm": [], "cold": [], "load": [], "first": []}
    try:
        stored = box.model(NAME, model)
        box.start()
        client = box.client(timeout=120)
        status.show("packing the model")
        ask(client)
        packed = wait_for_file(box.base / "cache" / "clawai" / "packed")
        for number in range(rounds + 1):
            status.show(f"round {number} of {rounds}")
            for kind in ("warm", "cold"):
                unload(box, client)
                if kind == "cold":
                    drop(packed, stored)
                first, loaded = ask(client)
                if number:  # the first round warms the kernel up
                    found[kind].append(first)
                    if kind == "warm":
                        found["load"].append(loaded)
                        found["first"].append(first - loaded)
    finally:
        box.remove()
    return found


def wait_for_file(folder: Path) -> Path:
    """The packed file, once it is there.

    Raises:
        ClawError: worker_failed, if it is not written.
    """
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for path in folder.glob("*.claw"):
            return path
        time.sleep(0.1)
    raise ClawError("worker_failed", "the packed weights were not kept", hint="`claw logs`")


def theirs(
    peer: str, model: Path, prompt: list[int], threads: int, rounds: int, weights: Weights | None
) -> dict[str, float]:
    """A peer's medians; each round is a process of its own.

    Raises:
        ClawError: worker_failed, if PyTorch does not go on as with the file's own weights.
    """
    found: dict[str, list[float]] = {"warm": [], "cold": []}
    module, file, words = PEERS[peer], model, ["load"]
    if weights:
        module, file = TORCH, weights.path
        words.append(str(file))
    for _ in range(rounds):
        for kind in found:
            if kind == "cold":
                drop(file)
            side = Side(module, model, threads, CONTEXT, 1, *words)
            try:
                found[kind].append(1e3 * (side.facts["load_s"] + side.ask(prefill=prompt)))
                if weights:
                    weights.check(side)
            finally:
                side.close()
    return {f"{kind}_ms": middle(times, 1) for kind, times in found.items()}


def measure(model: Path, threads: int, rounds: int, against: tuple[str, ...]) -> Report:
    """Both sides, one after the other.

    Raises:
        ClawError: whatever a request failed with.
    """
    status = output.Status()
    neighbours = Neighbours(())
    prompt = prompt_ids(TOKENS, llama.graph(gguf.read(model)).vocabulary)
    peers, weights = {}, None
    try:
        if "torch" in against:
            status.show("writing the weights for torch")
            weights = Weights(model, threads, prompt, CONTEXT)
        times = ours(model, rounds, status)
        for peer in dict.fromkeys(against):
            status.show(peer)
            own = weights if peer == "torch" else None
            peers[peer] = theirs(peer, model, prompt, threads, rounds, own)
    finally:
        status.clear()
        if weights:
            weights.close()
    figures = {f"{kind}_ms": round(statistics.median(each), 1) for kind, each in times.items()}
    if "torch" in peers:
        ratio = figures["cold_ms"] / peers["torch"]["cold_ms"]
        figures["cold_over_torch_ratio"] = round(ratio, 3)
    settings = {"model": model.name, "rounds": rounds, "prompt": PROMPT}
    return Report("start", settings | {"others_busy_ratio": neighbours.share()}, figures, peers)


@click.command("start")
@click.option(
    "--model", default="smollm2", show_default=True, help="A stored model or a GGUF file."
)
@click.option("--threads", type=click.IntRange(1, 256), default=os.cpu_count() or 1)
@click.option("--rounds", type=click.IntRange(1, 100), default=7, show_default=True)
@click.option(
    "--against",
    multiple=True,
    type=click.Choice(["llama.cpp", "torch"]),
    help="A peer; several can be.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(model: str, threads: int, rounds: int, against: tuple[str, ...], as_json: bool) -> None:
    """How soon a model that is not loaded has its first token.

    \b
    Example:
      claw bench start --against llama.cpp --against torch
    """
    path = Path(model) if model.endswith(".gguf") else Store().get(model).path
    if not path.is_file():
        raise ClawError("unknown_model", f"there is no file {path}", got=model)
    finish(measure(path, threads, rounds, against), as_json)
