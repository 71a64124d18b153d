"""A model as nodes and tensors: what an engine builds and a driver compiles.

Shapes are outermost first (C order): a weight of ``MATMUL`` is ``(out, in)``. A dimension may be a
symbol, a string such as ``"tokens"``, that gets its value when a plan runs. Activations are F32.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from clawai.sdk.model.dtypes import DType

Dim = int | str


class Op(Enum):
    """What a node computes. ``x`` stands for activations of shape (tokens, width)."""

    EMBED = "embed"
    """(token ids I32 (tokens,), table (vocab, width)) -> x; attrs: scale (1)"""
    RMSNORM = "rmsnorm"
    """(x, gain (width,)) -> x; attrs: eps"""
    HEAD_NORM = "head_norm"
    """(x (tokens, heads * head_dim), gain (head_dim,)) -> the same, each head normalised as by
    RMSNORM; attrs: eps, heads, head_dim"""
    MATMUL = "matmul"
    """(x (tokens, in), weight (out, in)[, bias (out,)]) -> (tokens, out)"""
    ROPE = "rope"
    """(x (tokens, heads * head_dim)[, divisors (rot_dim/2,)]) -> the same; attrs: heads, head_dim,
    rot_dim, theta, style: "interleaved" (pairs 2i, 2i+1) or "split" (pairs i, i + rot_dim/2),
    stretch (1): positions, which come from the run, are divided by it. Divisors slow down single
    frequencies"""
    ATTENTION = "attention"
    """(q (tokens, heads * head_dim), k (tokens, kv_heads * head_dim), v) -> (tokens, heads *
    head_dim); appends k and v to the cache of attrs["layer"] and attends causally over it;
    attrs: layer, heads, kv_heads, head_dim, scale, window (0: none): each sees itself and at most
    window - 1 before it, softcap (0: none): scaled scores s become softcap * tanh(s / softcap)"""
    SILU_MUL = "silu_mul"
    """(gate, up) -> silu(gate) * up"""
    GELU_MUL = "gelu_mul"
    """(gate, up) -> gelu(gate) * up, gelu in its tanh form"""
    SOFTCAP = "softcap"
    """x -> cap * tanh(x / cap); attrs: cap"""
    ADD = "add"
    """(a, b) -> a + b"""
    LAST = "last"
    """(x (tokens, width)) -> the rows whose logits were asked for, (rows, width)"""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One value of a graph: a weight if ``data`` is set, else an activation."""

    name: str
    shape: tuple[Dim, ...]
    dtype: DType
    data: memoryview | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Node:
    """One step. ``inputs`` and ``output`` name tensors of the graph."""

    op: Op
    inputs: tuple[str, ...]
    output: str
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole model, nodes in an order that computes every input before its use."""

    tensors: Mapping[str, Tensor]
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    context: int
    """Longest sequence that the model was made for, in tokens."""
    vocabulary: int
    layers: int
