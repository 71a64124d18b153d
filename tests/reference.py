"""A driver in plain numpy: what a graph means, for tests of faster drivers and of the engine.

Weights are dequantized to float32 and nothing else is rounded; every node is one line of
mathematics. It follows ``clawai.sdk.model.driver`` and honours the control word between nodes.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from clawai.sdk.model.dequant import dequantize
from clawai.sdk.model.driver import Left, Stopped
from clawai.sdk.model.graph import Graph, Node, Op
from clawai.sdk.wire import HOLD, STOP


class ReferenceDriver:
    """Compiles by dequantizing."""

    name = "reference"

    def compile(self, graph: Graph, *, context: int, sequences: int = 1) -> "ReferencePlan":
        return ReferencePlan(graph, context, sequences)


def gelu(x: Any) -> Any:
    """In its tanh form."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _is_cache(node: Node) -> bool:
    return node.op is Op.ATTENTION


class ReferencePlan:
    """Weights, and sequences that run node by node."""

    def __init__(self, graph: Graph, context: int, sequences: int) -> None:
        self.context = context
        self.graph = graph
        self.weights = {
            name: dequantize(each.data, each.dtype, tuple(int(dim) for dim in each.shape))
            for name, each in graph.tensors.items()
            if each.data is not None
        }
        self.leaving = False
        self.sequences = tuple(ReferenceSequence(self) for _ in range(sequences))

    def preempt(self, on: bool) -> None:
        self.leaving = on

    def close(self) -> None:
        self.weights.clear()


class ReferenceSequence:
    """One sequence."""

    def __init__(self, plan: ReferencePlan) -> None:
        self.position = 0
        self.runs: list[list[int]] = []
        """The tokens of every run, for tests of what an engine asks for."""
        self._plan = plan
        self._control: memoryview | None = None
        self._keys: dict[int, Any] = {}
        self._values: dict[int, Any] = {}
        self._times: list[tuple[str, int]] = []
        self._left: tuple[dict[str, Any], bool, int] | None = None
        for node in filter(_is_cache, plan.graph.nodes):
            shape = (plan.context, node.attrs["kv_heads"], node.attrs["head_dim"])
            self._keys[node.attrs["layer"]] = np.zeros(shape, np.float32)
            self._values[node.attrs["layer"]] = np.zeros(shape, np.float32)

    def start(self, control: memoryview | None, keep: int = 0) -> None:
        self.rewind(keep)
        self._control = control

    def run(self, tokens: Sequence[int], *, all_logits: bool = False) -> Any:
        ids, graph = np.asarray(tokens), self._plan.graph
        if not len(ids) or ids.min() < 0 or ids.max() >= graph.vocabulary:
            raise ValueError(f"ids must be in 0..{graph.vocabulary - 1}, at least one")
        if self.position + len(ids) > self._plan.context:
            raise ValueError(f"{self.position} + {len(ids)} tokens exceed {self._plan.context}")
        self.runs.append(list(tokens))
        self._times = []
        self._left = {**self._plan.weights, graph.inputs[0]: ids}, all_logits, 0
        return self.resume()

    def resume(self) -> Any:
        assert self._left is not None
        (values, all_logits, first), graph = self._left, self._plan.graph
        for at, node in enumerate(graph.nodes[first:], first):
            word = self._control[0] & 0xFF if self._control is not None else 0
            if word == STOP:
                self._left = None
                raise Stopped
            if word == HOLD or self._plan.leaving:
                self._left = values, all_logits, at
                raise Left
            start = time.perf_counter_ns()
            inputs = [values[name] for name in node.inputs]
            values[node.output] = self._compute(node, inputs, all_logits)
            self._times.append((node.op.value, time.perf_counter_ns() - start))
        self.position += len(values[graph.inputs[0]])
        self._left = None
        return values[graph.outputs[0]]

    def rewind(self, position: int) -> None:
        if not 0 <= position <= self.position:
            raise ValueError(f"cannot rewind from {self.position} to {position}")
        self.position = position
        self._left = None

    def op_times(self) -> list[tuple[str, int]]:
        return self._times

    def _compute(self, node: Node, inputs: list[Any], all_logits: bool) -> Any:
        a = node.attrs
        match node.op:
            case Op.EMBED:
                return inputs[1][inputs[0]] * np.float32(a.get("scale", 1.0))
            case Op.RMSNORM:
                mean = (inputs[0] ** 2).mean(axis=-1, keepdims=True)
                return inputs[0] / np.sqrt(mean + np.float32(a["eps"])) * inputs[1]
            case Op.MATMUL:
                return inputs[0] @ inputs[1].T + (inputs[2] if len(inputs) == 3 else 0)
            case Op.ROPE:
                return self._rope(inputs[0], a, *inputs[1:])
            case Op.ATTENTION:
                return self._attention(*inputs, a)
            case Op.SILU_MUL:
                return inputs[0] / (1 + np.exp(-inputs[0])) * inputs[1]
            case Op.GELU_MUL:
                return gelu(inputs[0]) * inputs[1]
            case Op.SOFTCAP:
                return a["cap"] * np.tanh(inputs[0] / a["cap"])
            case Op.HEAD_NORM:
                x = inputs[0].reshape(len(inputs[0]), a["heads"], a["head_dim"])
                mean = np.mean(x * x, axis=-1, keepdims=True)
                return (x / np.sqrt(mean + a["eps"]) * inputs[1]).reshape(inputs[0].shape)
            case Op.ADD:
                return inputs[0] + inputs[1]
            case Op.LAST:
                return inputs[0] if all_logits else inputs[0][-1:]
        raise AssertionError(node.op)

    def _rope(self, x: Any, a: Any, divisors: Any = 1.0) -> Any:
        count, half = len(x), a["rot_dim"] // 2
        out = x.reshape(count, a["heads"], a["head_dim"]).copy()
        rates = a["theta"] ** (-np.arange(half) * 2.0 / a["rot_dim"]) / divisors
        rates /= a.get("stretch", 1.0)
        angles = (np.arange(self.position, self.position + count)[:, None] * rates)[:, None, :]
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        if a["style"] == "interleaved":
            first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
        else:
            first, second = slice(0, half), slice(half, 2 * half)
        left, right = out[..., first].copy(), out[..., second].copy()
        out[..., first] = left * cos - right * sin
        out[..., second] = left * sin + right * cos
        return out.reshape(count, -1)

    def _attention(self, q: Any, k: Any, v: Any, a: Any) -> Any:
        count, start = len(q), self.position
        end, group = start + count, a["heads"] // a["kv_heads"]
        keys, values = self._keys[a["layer"]], self._values[a["layer"]]
        keys[start:end] = k.reshape(count, a["kv_heads"], a["head_dim"])
        values[start:end] = v.reshape(count, a["kv_heads"], a["head_dim"])
        heads = q.reshape(count, a["kv_heads"], group, a["head_dim"])
        scores = np.einsum("tkgd,skd->kgts", heads, keys[:end], optimize=True) * a["scale"]
        if cap := a.get("softcap"):
            scores = cap * np.tanh(scores / cap)
        ahead = np.arange(end)[None, :] - np.arange(start, end)[:, None]
        hidden = ahead > 0
        if window := a.get("window"):
            hidden |= ahead <= -window
        scores = np.where(hidden, -np.inf, scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("kgts,skd->tkgd", weights, values[:end], optimize=True)
        return mixed.reshape(count, -1).astype(np.float32)
