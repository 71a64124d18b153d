"""Small random Llama graphs, built by hand, and their forward pass in numpy.

``forward`` computes in float64; with ``mirror=True`` it rounds activations to int8 in groups of 32
before each product with a quantized weight, as the C ops do, so that what is left is rounding.
"""

import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clawai.plugins.accelerator.driver import CpuDriver, CpuPlan
from clawai.sdk.model.dequant import dequantize
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.graph import Graph, Node, Op, Tensor

Array = npt.NDArray[Any]
FLOATS = (DType.F32, DType.F16, DType.BF16)


def random_bytes(
    rng: np.random.Generator, dtype: DType, rows: int, width: int, size: float
) -> bytes:
    """Blocks of any type whose values spread over about +-size."""
    values = rng.standard_normal((rows, width)).astype(np.float32) * size / 2
    if dtype is DType.F32:
        return values.tobytes()
    if dtype is DType.F16:
        return values.astype(np.float16).tobytes()
    if dtype is DType.BF16:
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    block, nbytes = dtype.geometry
    raw = rng.integers(0, 256, (rows * width // block, nbytes), dtype=np.uint8)
    d = (rng.uniform(0.5, 1, len(raw)) * size).astype(np.float32)
    halves: dict[DType, list[tuple[int, Array]]] = {
        DType.Q4_0: [(0, d / 8)],
        DType.Q4_1: [(0, d / 8), (2, -d)],
        DType.Q5_0: [(0, d / 16)],
        DType.Q5_1: [(0, d / 16), (2, -d)],
        DType.Q8_0: [(0, d / 128)],
        DType.Q4_K: [(0, d / 8 / 32), (2, d / 32)],
        DType.Q5_K: [(0, d / 16 / 32), (2, d / 32)],
        DType.Q6_K: [(208, d / 32 / 64)],
    }
    for at, value in halves[dtype]:
        raw[:, at : at + 2] = value.astype(np.float16)[:, None].view(np.uint8)
    return raw.tobytes()


def llama(
    dtype: DType = DType.Q4_1,
    *,
    seed: int = 0,
    width: int = 64,
    ffn: int = 96,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    layers: int = 2,
    vocabulary: int = 101,
    style: str = "interleaved",
    rot_dim: int | None = None,
    tied: bool = True,
    bias: bool = False,
    mixed: DType | None = None,
    context: int = 4096,
    gemma: bool = False,
) -> Graph:
    """A Llama of ``layers`` blocks. ``mixed``: the type of the value and down matrices.

    ``gemma``: with all that Gemma 2 and 3 do otherwise (windows in even layers, norms of heads and
    behind attention and feed-forward, GELU, caps, scaled embeddings, stretched rotations).
    """
    rng = np.random.default_rng(seed)
    tensors: dict[str, Tensor] = {}
    nodes: list[Node] = []

    def weight(name: str, kind: DType, *shape: int, size: float = 0.0) -> str:
        rows = shape[0] if len(shape) == 2 else 1
        size = size or 1.6 * shape[-1] ** -0.5  # activations keep their size from block to block
        data = random_bytes(rng, kind, rows, shape[-1], size)
        tensors[name] = Tensor(name, shape, kind, memoryview(data))
        return name

    def gain(name: str, n: int) -> str:
        data = (1 + rng.standard_normal(n) / 8).astype(np.float32).tobytes()
        tensors[name] = Tensor(name, (n,), DType.F32, memoryview(data))
        return name

    def node(op: Op, output: str, *inputs: str, **attrs: Any) -> str:
        nodes.append(Node(op, inputs, output, attrs))
        return output

    def matmul(output: str, x: str, rows: int, columns: int, kind: DType) -> str:
        inputs = [x, weight(f"{output}.w", kind, rows, columns)]
        if bias:
            inputs.append(weight(f"{output}.b", DType.F32, rows))
        return node(Op.MATMUL, output, *inputs)

    rope: dict[str, Any] = {
        "head_dim": head_dim,
        "rot_dim": rot_dim or head_dim,
        "theta": 10000.0,
        "style": style,
    }
    sizes: dict[str, Any] = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    table = weight("table", dtype, vocabulary, width, size=1.0)
    x = node(Op.EMBED, "x", "tokens", table, **({"scale": 1.5} if gemma else {}))
    if gemma:
        gain("divisors", rope["rot_dim"] // 2)

    def turned(name: str, x: str, count: int, layer: int) -> str:
        if not gemma:
            return node(Op.ROPE, name, x, heads=count, **rope)
        normed = node(
            Op.HEAD_NORM, f"{name}.n", x, gain(f"{name}.g", head_dim),
            eps=1e-6, heads=count, head_dim=head_dim,
        )  # fmt: skip
        if layer % 2 == 0:
            return node(Op.ROPE, name, normed, heads=count, **rope)
        return node(Op.ROPE, name, normed, "divisors", heads=count, stretch=2.0, **rope)

    def after(name: str, x: str) -> str:
        return node(Op.RMSNORM, name, x, gain(f"{name}.g", width), eps=1e-5) if gemma else x

    for i in range(layers):
        h = node(Op.RMSNORM, f"{i}.in", x, gain(f"{i}.g1", width), eps=1e-5)
        q = matmul(f"{i}.q", h, heads * head_dim, width, dtype)
        k = matmul(f"{i}.k", h, kv_heads * head_dim, width, dtype)
        v = matmul(f"{i}.v", h, kv_heads * head_dim, width, mixed or dtype)
        q, k = turned(f"{i}.qr", q, heads, i), turned(f"{i}.kr", k, kv_heads, i)
        limits = {"softcap": 2.0} | ({"window": 7} if i % 2 == 0 else {}) if gemma else {}
        scale = head_dim**-0.5
        a = node(Op.ATTENTION, f"{i}.a", q, k, v, layer=i, scale=scale, **sizes, **limits)
        o = after(f"{i}.op", matmul(f"{i}.o", a, width, heads * head_dim, dtype))
        x = node(Op.ADD, f"{i}.x1", x, o)
        h = node(Op.RMSNORM, f"{i}.mid", x, gain(f"{i}.g2", width), eps=1e-5)
        gate = matmul(f"{i}.gate", h, ffn, width, dtype)
        up = matmul(f"{i}.up", h, ffn, width, dtype)
        act = node(Op.GELU_MUL if gemma else Op.SILU_MUL, f"{i}.act", gate, up)
        down = after(f"{i}.dp", matmul(f"{i}.down", act, width, ffn, mixed or dtype))
        x = node(Op.ADD, f"{i}.x2", down, x)
    x = node(Op.LAST, "last", x)
    x = node(Op.RMSNORM, "norm", x, gain("g", width), eps=1e-5)
    table = "table" if tied else weight("head", dtype, vocabulary, width, size=1.0)
    out = node(Op.MATMUL, "logits", x, table)
    if gemma:
        out = node(Op.SOFTCAP, "capped", out, cap=3.0)
    return Graph(tensors, tuple(nodes), ("tokens",), (out,), context, vocabulary, layers)


def forward(graph: Graph, tokens: Sequence[int], *, mirror: bool = False) -> Array:
    """Logits of every token, float64 (tokens, vocabulary)."""
    values: dict[str, Array] = {}
    for node in graph.nodes:
        values[node.output] = compute(graph, node, values, np.asarray(tokens), mirror)
    return values[graph.outputs[0]]


def weight_of(graph: Graph, name: str) -> Array:
    tensor = graph.tensors[name]
    assert tensor.data is not None
    shape = tuple(int(d) for d in tensor.shape)
    return dequantize(tensor.data, tensor.dtype, shape).astype(np.float64)


def compute(
    graph: Graph, node: Node, values: dict[str, Array], tokens: Array, mirror: bool
) -> Array:
    ins, attrs = node.inputs, node.attrs
    if node.op is Op.EMBED:
        return weight_of(graph, ins[1])[tokens] * attrs.get("scale", 1.0)
    x = values[ins[0]]
    if node.op is Op.RMSNORM:
        return x / np.sqrt((x * x).mean(1, keepdims=True) + attrs["eps"]) * weight_of(graph, ins[1])
    if node.op is Op.MATMUL:
        if mirror and graph.tensors[ins[1]].dtype not in FLOATS:
            x = rounded(x)
        y = x @ weight_of(graph, ins[1]).T
        return y + weight_of(graph, ins[2]) if len(ins) == 3 else y
    if node.op is Op.HEAD_NORM:
        each = x.reshape(len(x), attrs["heads"], attrs["head_dim"])
        size = np.sqrt((each * each).mean(2, keepdims=True) + attrs["eps"])
        return (each / size * weight_of(graph, ins[1])).reshape(x.shape)
    if node.op is Op.ROPE:
        return rotated(x, attrs, weight_of(graph, ins[1]) if len(ins) == 2 else None)
    if node.op is Op.ATTENTION:
        return attended(x, values[ins[1]], values[ins[2]], attrs)
    if node.op is Op.SILU_MUL:
        return x / (1 + np.exp(-x)) * values[ins[1]]
    if node.op is Op.GELU_MUL:
        inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
        return 0.5 * x * (1 + np.tanh(inner)) * values[ins[1]]
    if node.op is Op.SOFTCAP:
        return attrs["cap"] * np.tanh(x / attrs["cap"])
    return x + values[ins[1]] if node.op is Op.ADD else x


def rounded(x: Array) -> Array:
    """int8 in groups of 32, and back."""
    groups = x.reshape(len(x), -1, 32)
    d = np.abs(groups).max(2, keepdims=True) / 127
    return (np.rint(groups / d) * d).reshape(x.shape)


def rotated(x: Array, attrs: Any, divisors: Array | None = None) -> Array:
    rot = attrs["rot_dim"]
    y = x.reshape(len(x), attrs["heads"], attrs["head_dim"]).copy()
    rate = attrs["theta"] ** (-np.arange(0, rot, 2) / rot) / attrs.get("stretch", 1.0)
    if divisors is not None:
        rate = rate / divisors
    angle = np.arange(len(x))[:, None] * rate
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    split = attrs["style"] == "split"
    one = np.arange(rot // 2) if split else np.arange(0, rot, 2)
    two = one + (rot // 2 if split else 1)
    a, b = y[..., one].copy(), y[..., two].copy()
    y[..., one], y[..., two] = a * c - b * s, a * s + b * c
    return y.reshape(x.shape)


def attended(q: Array, k: Array, v: Array, attrs: Any) -> Array:
    n, heads, kv_heads, dim = len(q), attrs["heads"], attrs["kv_heads"], attrs["head_dim"]
    queries = q.reshape(n, heads, dim).swapaxes(0, 1)
    keys, rows = (
        np.repeat(a.reshape(n, kv_heads, dim).swapaxes(0, 1), heads // kv_heads, 0) for a in (k, v)
    )
    scores = queries @ keys.swapaxes(1, 2) * attrs["scale"]
    if cap := attrs.get("softcap"):
        scores = cap * np.tanh(scores / cap)
    ahead = np.arange(n)[None, :] - np.arange(n)[:, None]
    window = attrs.get("window") or n
    scores[:, (ahead > 0) | (ahead <= -window)] = -np.inf
    p = np.exp(scores - scores.max(2, keepdims=True))
    return (p / p.sum(2, keepdims=True) @ rows).swapaxes(0, 1).reshape(n, -1)


def allocate(nbytes: int, purpose: str) -> memoryview:
    """Zeroed, page-aligned memory, as an engine would give it."""
    assert purpose in ("weights", "tables", "kv", "arena")
    return memoryview(mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def compiled(
    graph: Graph,
    *,
    context: int = 64,
    threads: int = 1,
    sequences: int = 1,
    kv: str = "f16",
    give: Any = allocate,
) -> CpuPlan:
    """A plan with weights of its own."""
    driver = CpuDriver()
    weights = give(driver.footprint(graph, context=context, threads=1).weights, "weights")
    driver.pack(graph, weights)
    return driver.compile(
        graph,
        context=context,
        threads=threads,
        weights=weights,
        allocate=give,
        sequences=sequences,
        kv=kv,
    )
