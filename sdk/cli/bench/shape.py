"""`claw bench decode --shape`: a large model's shape with random weights, for boxes without one.

Speed and memory of a language model depend on its shape and types, not on what it knows. The file
is written once, into the user's cache, and stays there until it is deleted (``--forget``); its
blocks are random, of a scale at which activations stay in range. Every side decodes a few tokens
after a prompt of one, in turn, four at a time: between them, as many threads read huge pages and do
nothing else, about as long.

    decode_16_tok_s   tokens a second of one answer
    token_bytes       what the file stores of the weights that a token reads, and its cache
    read_gb_s         the product of both
    read_ratio        the median of all fours: what they read a second, over what those threads
                      read right before and right after
    read_peak_ratio   the same over what they read at most in any of 25 pieces of 15 ms
    huge_ratio        part of our resident bytes that lie in huge pages, too
    resident_bytes    of the process at the end; peak_bytes: at most, loading included
"""

import hashlib
import shutil
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clawai.sdk import paths
from clawai.sdk.cli import output
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.roof import Model, Roof
from clawai.sdk.cli.bench.side import OURS, Reader, Side, alternating
from clawai.sdk.errors import ClawError
from clawai.sdk.files import Unnamed
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.gguf_writer import NewTensor, encoded, header, padding

BARS = (
    Bar(key="read_ratio", least=0.9),
    Bar(key="resident_bytes", most=4.2e9),
)
DECODE = 16
FOUR = 4
"""Tokens at a time: a shared box's memory changes its speed within seconds."""
STEADY_S = 0.5
"""Of reading before and after each four, as long as one takes."""
CONTEXT = 256
PIECE = 1 << 17
"""Blocks that are made at a time."""
REGION = 256 << 20
"""Bytes that a thread reads for a ceiling."""
RESERVE = 1 << 30
"""Bytes of the disk that are left free."""
PROMPT = 270
"""The one token of the prompt."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a Llama's weights look like; all matrices are Q4_0."""

    layers: int
    width: int
    hidden: int
    heads: int
    vocabulary: int

    def tensors(self) -> list[NewTensor]:
        """All of them, in the order in which a step reads them."""
        made = [self._matrix("token_embd", self.vocabulary, self.width)]
        for layer in range(self.layers):
            at = f"blk.{layer}."
            made.append(self._vector(f"{at}attn_norm"))
            made += [self._matrix(f"{at}attn_{one}", self.width, self.width) for one in "qkv"]
            made.append(self._matrix(f"{at}attn_output", self.width, self.width))
            made.append(self._vector(f"{at}ffn_norm"))
            made += [
                self._matrix(f"{at}ffn_{one}", self.hidden, self.width) for one in ("gate", "up")
            ]
            made.append(self._matrix(f"{at}ffn_down", self.width, self.hidden))
        made.append(self._vector("output_norm"))
        return [*made, self._matrix("output", self.vocabulary, self.width)]

    def entries(self) -> dict[str, bytes]:
        """The metadata."""
        values: dict[str, Any] = {
            "general.architecture": "llama",
            "llama.block_count": self.layers,
            "llama.context_length": 2048,
            "llama.embedding_length": self.width,
            "llama.feed_forward_length": self.hidden,
            "llama.attention.head_count": self.heads,
            "llama.attention.head_count_kv": self.heads,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.rope.freq_base": 10000.0,
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "smollm",
            "tokenizer.ggml.tokens": words(self.vocabulary),
            "tokenizer.ggml.token_type": [1] * self.vocabulary,
            "tokenizer.ggml.merges": ["t h"],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
        }
        return {key: encoded(value) for key, value in values.items()}

    @staticmethod
    def _matrix(name: str, rows: int, columns: int) -> NewTensor:
        return NewTensor(f"{name}.weight", (rows, columns), DType.Q4_0)

    def _vector(self, name: str) -> NewTensor:
        return NewTensor(f"{name}.weight", (self.width,), DType.F32)


SHAPES = {"7b": Shape(layers=32, width=4096, hidden=11008, heads=32, vocabulary=32000)}
"""By the name of ``--shape``; Llama 7B."""


def words(count: int) -> list[str]:
    """A byte-level vocabulary: the letters that stand for the 256 bytes there, then numbers."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(256, 512))
    letters = [chr(byte if byte in shown else next(hidden)) for byte in range(256)]
    return [*letters, "th", *(f"w{index}" for index in range(257, count))]


def contents(shape: Shape) -> Iterator[bytes | memoryview]:
    """The bytes of the file, some megabytes at a time."""
    tensors, random = shape.tensors(), np.random.default_rng(7)
    yield from header(shape.entries(), tensors)
    for tensor in tensors:
        if tensor.dtype is DType.F32:
            yield np.ones(tensor.shape, np.float32).tobytes()
        else:
            yield from _blocks(tensor, random)
        yield padding(tensor.nbytes)


def _blocks(tensor: NewTensor, random: np.random.Generator) -> Iterator[bytes]:
    """Random blocks of Q4_0: a float16 step and 32 nibbles, whose values have a deviation of 4.6.

    The step is such that a row's product with a normed vector is about as large as its elements.
    """
    size = DType.Q4_0.geometry.nbytes
    step = np.float16(tensor.shape[1] ** -0.5 / 4.6)
    left = tensor.nbytes // size
    while left:
        count = min(left, PIECE)
        words = random.integers(0, 1 << 64, -(-count * size // 8), dtype=np.uint64)
        blocks = words.view(np.uint8)[: count * size].reshape(count, size)
        blocks[:, :2] = np.frombuffer(step.tobytes(), np.uint8)
        yield blocks.tobytes()
        left -= count


def file(name: str, layers: int | None, status: output.Status) -> Path:
    """The file of a shape, from the cache, or written there now.

    Raises:
        ClawError: disk_full.
    """
    shape = SHAPES[name]
    shape = replace(shape, layers=layers or shape.layers)
    tensors = shape.tensors()
    head = b"".join(header(shape.entries(), tensors))
    need = len(head) + sum(each.nbytes + len(padding(each.nbytes)) for each in tensors)
    folder = paths.cache_dir() / "bench"
    # Of another version of this program it is another file.
    version = hashlib.sha256(head).hexdigest()[:8]
    path = folder / f"llama-{name}-{shape.layers}-layers-q4_0-{version}.gguf"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free - RESERVE
    if need > free:
        raise ClawError(
            "disk_full",
            "the cache has no room for the shape's file",
            got=f"{output.size(max(free, 0))} free in {folder}, besides a reserve",
            allowed=f"{output.size(need)} or more",
            hint="free some disk, set XDG_CACHE_HOME to another one, or try fewer --layers",
        )
    output.note(f"writing {output.size(need)} once: {path} (delete it when you are done)")
    with Unnamed(folder) as made:
        done = 0
        for piece in contents(shape):
            made.file.write(piece)
            done += len(piece)
            status.show(f"writing {path.name}: {done / need:.0%}")
        try:
            made.link(path)
        except FileExistsError:
            pass  # another run was faster; the bytes are the same
    return path


def available() -> int:
    """Bytes of memory that can be had without pushing others out."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def require_memory(size: int, sides: int, threads: int) -> None:
    """Refuse what would make the box swap: each side may hold the model twice, ours does not, and
    each thread of the two that read memory reads a region of its own.

    Raises:
        ClawError: no_memory.
    """
    need = size * (2 * sides - 1) + 2 * threads * REGION + RESERVE
    if need > (free := available()):
        raise ClawError(
            "no_memory",
            "this box has too little free memory for all sides at once",
            got=f"{output.size(free)} available",
            allowed=f"{output.size(need)} or more for {sides} sides",
            hint="name fewer peers, or try fewer --layers",
        )


def figures(side: Side, nbytes: float, steady: Sequence[float], roof: Roof) -> dict[str, float]:
    """Of one side; ``steady``: bytes a second that were read around each of its fours."""
    fours = list(zip(side.times["decode_4"], steady, strict=True))
    each = DECODE // FOUR
    rounds = [sum(took for took, _ in fours[at : at + each]) for at in range(0, len(fours), each)]
    seconds = statistics.median(rounds) / DECODE
    memory = side.tell(resident=True)
    peak = [took * look["read_gb_s"] for took, look in zip(rounds, roof.looks, strict=True)]
    return {
        "decode_16_tok_s": round(1 / seconds, 2),
        "token_bytes": round(nbytes),
        "read_gb_s": round(nbytes / seconds / 1e9, 2),
        "read_ratio": round(
            statistics.median(nbytes * FOUR / took / read for took, read in fours), 3
        ),
        "read_peak_ratio": round(nbytes * DECODE / 1e9 / statistics.median(peak), 3),
        "huge_ratio": round(memory["huge"] / memory["bytes"], 3),
        "resident_bytes": memory["bytes"],
        "peak_bytes": memory["peak"],
    }


def measure(
    name: str,
    layers: int | None,
    threads: int,
    rounds: int,
    peers: Sequence[str],
    kv: str = "f16",
    forget: bool = False,
) -> Report:
    """Write the file if need be, and decode in turn; ``kv`` is what our KV cache holds.

    Raises:
        ClawError: disk_full, no_memory; unsupported_system if a peer is not installed;
            worker_failed.
    """
    from clawai.sdk.cli.bench.decode import BATCHING

    status, sides = output.Status(), dict[str, Side]()
    modules = {"clawai": OURS} | {peer: BATCHING[peer] for peer in peers}
    path = file(name, layers, status)
    with ExitStack() as stack:
        if forget:
            stack.callback(path.unlink, missing_ok=True)
        stack.callback(status.clear)
        require_memory(path.stat().st_size, len(modules), threads)
        for each, module in modules.items():
            status.show(f"loading {path.name} in {each}")
            more = (kv,) if each == "clawai" else ()
            side = Side(module, path, threads, CONTEXT, 1, *more)
            sides[each] = stack.enter_context(closing(side))
        roof, reader = Roof(threads), stack.enter_context(closing(Reader(threads)))
        steady: dict[str, list[float]] = {each: [] for each in sides}
        for number in range(rounds + 1):
            for each, side in alternating(sides, number):
                status.show(f"round {number} of {rounds}: {each}")
                side.tell(prefill=[PROMPT])
                four = partial(side.measure, "decode_4", decode=FOUR)
                steady[each] += reader.between(STEADY_S, [four] * (DECODE // FOUR))
            if number == 0:  # only warms caches and clocks
                for each, side in sides.items():
                    side.forget()
                    steady[each].clear()
                neighbours = Neighbours([reader.pid, *(side.pid for side in sides.values())])
            else:
                roof.measure()
        settings = {"shape": name, "layers": layers or SHAPES[name].layers, "threads": threads}
        settings |= {"rounds": rounds, "kv": kv, "others_busy_ratio": round(neighbours.share(), 3)}
        settings |= {"isa": sides["clawai"].facts["isa"]}
        settings |= {peer: sides[peer].facts.get("version", "") for peer in peers}
        model = Model.of(sides["clawai"].facts)
        nbytes = model.decode(DECODE, 1).nbytes
        found = {each: figures(side, nbytes, steady[each], roof) for each, side in sides.items()}
    share = {"decode_16_tok_s": found["clawai"]["read_ratio"]}
    return Report("shape", settings, found.pop("clawai"), found, roof.figures(), share)
