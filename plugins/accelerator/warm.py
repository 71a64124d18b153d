"""A first plan, before there is a model: what is slow only once is over when one comes.

The library is loaded, the profile read, the modules imported, and the code that lowers, compiles
and runs has been through once, with a graph of one small layer.
"""

import mmap
from typing import Any

import numpy as np

from clawai.plugins.accelerator.driver import CpuDriver
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.graph import Graph, Node, Op, Tensor

WIDTH, VOCABULARY, CONTEXT = 128, 64, 16


def warm() -> None:
    """Do everything once that a start does."""
    graph, driver = small(), CpuDriver()
    saved = driver.saved(graph, context=CONTEXT)
    other = CpuDriver()
    other.restore(graph, saved)
    need = other.footprint(graph, context=CONTEXT, threads=1)
    weights = memory(need.weights)
    other.pack(graph, weights)
    plan = other.compile(
        graph,
        context=CONTEXT,
        threads=1,
        weights=weights,
        allocate=lambda nbytes, _: memory(nbytes),
    )
    sequence = plan.sequences[0]
    sequence.start(None)
    sequence.run([1, 2, 3])
    sequence.run([4])
    plan.close()


def memory(nbytes: int) -> memoryview:
    """Of our own: a sandbox has no other."""
    return memoryview(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def small() -> Graph:
    """A Llama of one layer; all of its weights are zero."""
    table = matrix("table", VOCABULARY)
    square = matrix("square", WIDTH)
    ones = np.ones(WIDTH, np.float32)
    gain = Tensor("gain", (WIDTH,), DType.F32, memoryview(ones.data).cast("B"))
    tensors = {each.name: each for each in (table, square, gain)}
    tensors["tokens"] = Tensor("tokens", ("tokens",), DType.I32)
    nodes: list[Node] = []

    def add(op: Op, *inputs: str, rows: str = "tokens", **attrs: Any) -> str:
        name = f"x{len(nodes)}"
        width = VOCABULARY if inputs[-1] == "table" and op is Op.MATMUL else WIDTH
        tensors[name] = Tensor(name, (rows, width), DType.F32)
        nodes.append(Node(op, inputs, name, attrs))
        return name

    heads: dict[str, Any] = {"heads": 2, "kv_heads": 2, "head_dim": 64}
    turn: dict[str, Any] = {
        "heads": 2,
        "head_dim": 64,
        "rot_dim": 64,
        "theta": 1e4,
        "style": "interleaved",
    }
    x = add(Op.EMBED, "tokens", "table")
    y = add(Op.RMSNORM, x, "gain", eps=1e-5)
    q, k = (add(Op.ROPE, add(Op.MATMUL, y, "square"), **turn) for _ in range(2))
    v = add(Op.MATMUL, y, "square")
    seen = add(Op.ATTENTION, q, k, v, layer=0, scale=0.125, **heads)
    x = add(Op.ADD, x, add(Op.MATMUL, seen, "square"))
    y = add(Op.RMSNORM, x, "gain", eps=1e-5)
    both = [add(Op.MATMUL, y, "square") for _ in range(2)]
    x = add(Op.ADD, x, add(Op.MATMUL, add(Op.SILU_MUL, *both), "square"))
    x = add(Op.RMSNORM, add(Op.LAST, x, rows="rows"), "gain", rows="rows", eps=1e-5)
    out = add(Op.MATMUL, x, "table", rows="rows")
    return Graph(tensors, tuple(nodes), ("tokens",), (out,), CONTEXT, VOCABULARY, 1)


def matrix(name: str, rows: int) -> Tensor:
    """Zeros as Q4_1."""
    nbytes = rows * DType.Q4_1.row_bytes(WIDTH)
    return Tensor(name, (rows, WIDTH), DType.Q4_1, memoryview(bytes(nbytes)))
