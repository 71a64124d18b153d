"""PyTorch with a safetensors file as a side of `claw bench start`, from the `torch` extra.

    python -m clawai.sdk.cli.bench.torch_load MODEL.gguf THREADS CONTEXT 1 write|load FILE

``write`` makes the file: the same weights, dequantized, in float16. Such models are published in 16
bits, and on cold pages that is PyTorch's fastest: half of float32's bytes to read, and no time for
making them float32 again. ``load`` is what is measured: both libraries are imported and the graph
is known before; the clock runs from opening the file until the model is there, and goes on with the
prompt.
"""

import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from clawai.sdk import paths
from clawai.sdk.cli import output
from clawai.sdk.cli.bench import peer
from clawai.sdk.cli.bench.side import Side
from clawai.sdk.cli.bench.torch_eager import Eager, dequantized
from clawai.sdk.errors import ClawError
from clawai.sdk.files import Unnamed
from clawai.sdk.model import gguf, llama
from clawai.sdk.model.graph import Graph

MODULE = "clawai.sdk.cli.bench.torch_load"
FARTHEST = 2.0
"""Logits that the likeliest token in float32 may be below that in float16."""
RESERVE = 1 << 30
"""Bytes of the disk that are left free."""


class Weights:
    """The safetensors file of a model, in the user's cache; nothing is left of it after ``close``.

    Attributes:
        path: where other processes of this user find it.
        first: the likeliest token after ``prompt``, in float32.
    """

    def __init__(self, model: Path, threads: int, prompt: list[int], context: int) -> None:
        folder = paths.cache_dir() / "bench"
        folder.mkdir(parents=True, exist_ok=True)
        require_room(folder, llama.graph(gguf.read(model)))
        self._made = Unnamed(folder)
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._made.file.fileno()}")
        try:
            side = Side(MODULE, model, threads, context, 1, "write", str(self.path))
            try:
                side.tell(prefill=prompt)
                self.first = int(side.tell(write=1)["tokens"][0])
            finally:
                side.close()
        except BaseException:
            self.close()
            raise

    def check(self, side: Side) -> None:
        """Ask a side that has just read the prompt how it goes on.

        Raises:
            ClawError: worker_failed, if it runs another model.
        """
        gap = side.tell(judge=[self.first])["gaps"][0]
        if not gap <= FARTHEST:  # not a number, neither
            text = "PyTorch does not go on as with the file's own weights"
            allowed = f"up to {FARTHEST} logits below its likeliest token"
            raise ClawError("worker_failed", text, got=gap, allowed=allowed)

    def close(self) -> None:
        """Let go of the file."""
        self._made.__exit__()


def require_room(folder: Path, graph: Graph) -> None:
    """Refuse a model whose weights the disk has no room for.

    Raises:
        ClawError: disk_full.
    """
    shapes = [each.shape for each in graph.tensors.values() if each.data is not None]
    need = 2 * sum(math.prod(int(size) for size in shape) for shape in shapes)
    free = shutil.disk_usage(folder).free - RESERVE
    if need > free:
        raise ClawError(
            "disk_full",
            "the cache has no room for the model in float16",
            got=f"{output.size(max(free, 0))} free in {folder}, besides a reserve",
            allowed=f"{output.size(need)} or more",
            hint="free some disk, or set XDG_CACHE_HOME to another one",
        )


class Written(Eager):
    """The model that was written, in float32: it tells what is right."""

    def write(self, count: int) -> list[int]:
        """See ``peer.Writer``."""
        found = []
        for _ in range(count):
            found.append(self._next)
            self._run([self._next])
        return found


def write(libraries: tuple[Any, Any], graph: Graph, file: str, threads: int, context: int) -> Any:
    """Write the file; returns the model in float32."""
    torch, tensors = libraries
    weights = dict(dequantized(torch, graph))
    made = tensors.save({name: each.half() for name, each in weights.items()})
    # Not by its save_file, which makes another file beside it and renames that.
    Path(file).write_bytes(made)
    return Written(torch, graph, weights, threads, context)


def main() -> None:
    """Write, or load and take orders."""
    model, threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    order, file = sys.argv[5:7]
    try:
        import safetensors.torch
        import torch
    except ImportError as error:
        peer.fail(
            ClawError(
                "unsupported_system",
                "PyTorch or safetensors is not installed here",
                got=f"no package {error.name}",
                hint="pip install 'clawai[torch]'",
            )
        )
        return
    facts: dict[str, Any] = {"name": "torch", "version": f"torch {torch.__version__}"}
    facts["version"] += f", safetensors {safetensors.__version__}"
    try:
        graph = llama.graph(gguf.read(model))
        if order == "write":
            side = write((torch, safetensors.torch), graph, file, threads, context)
        else:
            start = time.perf_counter()
            weights = safetensors.torch.load_file(file)
            side = Eager(torch, graph, weights, threads, context)
            facts["load_s"] = time.perf_counter() - start
    except ClawError as error:
        peer.fail(error)
        return
    except OSError as error:
        text = "the weights for PyTorch could not be written or read"
        peer.fail(ClawError("worker_failed", text, got=error.strerror, hint="is the disk full?"))
        return
    peer.serve(side, facts)
    os._exit(0)


if __name__ == "__main__":
    main()
