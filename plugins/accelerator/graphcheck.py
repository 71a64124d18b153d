"""Checks a graph before anything is built from it: a model file is untrusted input.

Every node's inputs, widths, dtypes and attributes are compared with what its op demands, and every
size with the limits of the C library. What passes here compiles; the C side checks the extents of
the result once more, on its own.
"""

import math
from typing import Any

from clawai.plugins.accelerator.native import PACKED, lib
from clawai.sdk.model.driver import UnsupportedGraph
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.graph import Graph, Node, Op, Tensor

VECTORS = (DType.F32, DType.F16, DType.BF16)


def refuse(node: Node, why: str) -> UnsupportedGraph:
    """The error for ``node``, with what was wrong and what is allowed."""
    return UnsupportedGraph(f"node {node.output!r} ({node.op.value}): {why}")


def need_int(node: Node, name: str, low: int, high: int) -> int:
    """An integer attribute within ``low..high``."""
    value = node.attrs.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise refuse(node, f"attribute {name} must be an integer in {low}..{high}, got {value!r}")
    return value


def need_float(
    node: Node, name: str, low: float, high: float, default: float | None = None
) -> float:
    """A finite number attribute within ``low..high``."""
    value: Any = node.attrs.get(name, default)
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not ok or not low <= value <= high:
        raise refuse(node, f"attribute {name} must be a number in {low}..{high}, got {value!r}")
    return float(value)


class GraphCheck:
    """Walks a graph once; afterwards ``width`` and ``rows_only`` describe every activation."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.width: dict[str, int] = {}
        self.rows_only: set[str] = set()
        """Activations that exist only for the rows whose logits were asked for."""
        self.layers_seen: set[int] = set()
        self._limits()
        for node in graph.nodes:
            self._node(node)
        self._outputs()

    def weight(self, node: Node, index: int, *shape: int) -> Tensor:
        """The constant at input ``index``, of exactly ``shape`` (-1: any)."""
        tensor = self.graph.tensors.get(node.inputs[index])
        if tensor is None or tensor.data is None:
            raise refuse(node, f"input {node.inputs[index]!r} must be a weight of the graph")
        dims = tensor.shape
        if len(dims) != len(shape) or any(
            isinstance(d, bool) or not isinstance(d, int) or d < 1 or want not in (-1, d)
            for d, want in zip(dims, shape, strict=True)
        ):
            raise refuse(node, f"weight {tensor.name!r} must have shape {shape}, got {dims}")
        allowed = VECTORS if len(shape) == 1 else tuple(PACKED)
        if tensor.dtype not in allowed:
            names = ", ".join(d.name for d in allowed)
            raise refuse(node, f"weight {tensor.name!r} is {tensor.dtype!r}, allowed: {names}")
        rows = math.prod(int(d) for d in dims[:-1])
        if rows > lib.CLAW_MAX_ROWS or int(dims[-1]) > lib.CLAW_MAX_WIDTH:
            raise refuse(
                node,
                f"weight {tensor.name!r} has shape {dims}; at most {lib.CLAW_MAX_ROWS} rows of "
                f"{lib.CLAW_MAX_WIDTH}",
            )
        if int(dims[-1]) % tensor.dtype.geometry.block:
            raise refuse(
                node,
                f"rows of {tensor.name!r} ({tensor.dtype.name}) need a multiple of "
                f"{tensor.dtype.geometry.block} elements, got {dims[-1]}",
            )
        return tensor

    def active(self, node: Node, index: int, width: int = -1) -> int:
        """The width of the activation at input ``index``, which must be ``width`` if given."""
        name = node.inputs[index]
        if name not in self.width:
            raise refuse(node, f"input {name!r} is not computed by an earlier node")
        if width not in (-1, self.width[name]):
            raise refuse(node, f"input {name!r} is {self.width[name]} wide, must be {width}")
        return self.width[name]

    def _limits(self) -> None:
        graph = self.graph
        for name, value, top in (
            ("vocabulary", graph.vocabulary, lib.CLAW_MAX_ROWS),
            ("context", graph.context, 1 << 40),
            ("layers", graph.layers, 4096),
            ("number of nodes", len(graph.nodes), lib.CLAW_MAX_STEPS // 4),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= top:
                raise UnsupportedGraph(f"{name} must be an integer in 1..{top}, got {value!r}")
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise UnsupportedGraph(
                f"one input (token ids) and one output (logits) are supported, got "
                f"{len(graph.inputs)} and {len(graph.outputs)}"
            )

    def _node(self, node: Node) -> None:
        counts = {Op.EMBED: (2,), Op.RMSNORM: (2,), Op.MATMUL: (2, 3), Op.ROPE: (1, 2)}
        counts |= {Op.ATTENTION: (3,), Op.SILU_MUL: (2,), Op.ADD: (2,), Op.LAST: (1,)}
        counts |= {Op.HEAD_NORM: (2,), Op.GELU_MUL: (2,), Op.SOFTCAP: (1,)}
        if node.op not in counts:
            raise UnsupportedGraph(f"node {node.output!r}: op {node.op!r} is not supported")
        if len(node.inputs) not in counts[node.op]:
            raise refuse(node, f"takes {counts[node.op]} inputs, got {len(node.inputs)}")
        known = self.graph.tensors.get(node.output)
        if node.output in self.width or (known is not None and known.data is not None):
            raise refuse(node, "its output is already taken by a weight or another node")
        if node.output in self.graph.inputs:
            raise refuse(node, "its output is an input of the graph")
        self.width[node.output] = getattr(self, f"_{node.op.value}")(node)
        if self._domain(node):
            self.rows_only.add(node.output)

    def _domain(self, node: Node) -> bool:
        inputs = [name for name in node.inputs if name in self.width]
        rows = [name in self.rows_only for name in inputs]
        if node.op is Op.LAST:
            if any(rows):
                raise refuse(node, "its input has been through another LAST")
            return True
        if any(rows) and (not all(rows) or node.op in (Op.ROPE, Op.ATTENTION)):
            raise refuse(node, "needs every token, but an input has been through LAST")
        return any(rows)

    def _embed(self, node: Node) -> int:
        if node.inputs[0] not in self.graph.inputs:
            raise refuse(node, f"input {node.inputs[0]!r} must be the graph's input")
        need_float(node, "scale", -1e6, 1e6, 1.0)
        return int(self.weight(node, 1, self.graph.vocabulary, -1).shape[1])

    def _rmsnorm(self, node: Node) -> int:
        width = self.active(node, 0)
        self.weight(node, 1, width)
        need_float(node, "eps", 0.0, 1.0)
        return width

    def _head_norm(self, node: Node) -> int:
        heads, dim = need_int(node, "heads", 1, 4096), self._head_dim(node)
        self.weight(node, 1, dim)
        need_float(node, "eps", 0.0, 1.0)
        return self.active(node, 0, heads * dim)

    def _matmul(self, node: Node) -> int:
        width = int(self.weight(node, 1, -1, self.active(node, 0)).shape[0])
        if len(node.inputs) == 3:
            self.weight(node, 2, width)
        return width

    def _rope(self, node: Node) -> int:
        heads = need_int(node, "heads", 1, 4096)
        dim = self._head_dim(node)
        rot = need_int(node, "rot_dim", 2, dim)
        if rot % 2:
            raise refuse(node, f"attribute rot_dim must be even, got {rot}")
        need_float(node, "theta", 1.0, 1e12)
        need_float(node, "stretch", 1.0, 1e6, 1.0)
        if len(node.inputs) == 2:
            self.weight(node, 1, rot // 2)
        if node.attrs.get("style") not in ("interleaved", "split"):
            raise refuse(
                node, f"style must be interleaved or split, got {node.attrs.get('style')!r}"
            )
        return self.active(node, 0, heads * dim)

    def _attention(self, node: Node) -> int:
        kv_heads, heads = need_int(node, "kv_heads", 1, 4096), need_int(node, "heads", 1, 4096)
        dim = self._head_dim(node)
        if heads % kv_heads:
            raise refuse(node, f"{heads} heads are no multiple of {kv_heads} KV heads")
        layer = need_int(node, "layer", 0, self.graph.layers - 1)
        if layer in self.layers_seen:
            raise refuse(node, f"layer {layer} already has an attention node")
        self.layers_seen.add(layer)
        need_float(node, "scale", -1e6, 1e6)
        need_float(node, "softcap", 0.0, 1e6, 0.0)
        if "window" in node.attrs:
            need_int(node, "window", 0, 1 << 40)
        self.active(node, 1, kv_heads * dim)
        self.active(node, 2, kv_heads * dim)
        return self.active(node, 0, heads * dim)

    def _head_dim(self, node: Node) -> int:
        dim = need_int(node, "head_dim", 8, lib.CLAW_MAX_HEAD_DIM)
        if dim % 8:
            raise refuse(node, f"attribute head_dim must be a multiple of 8, got {dim}")
        return dim

    def _silu_mul(self, node: Node) -> int:
        return self.active(node, 1, self.active(node, 0))

    def _gelu_mul(self, node: Node) -> int:
        return self._silu_mul(node)

    def _softcap(self, node: Node) -> int:
        need_float(node, "cap", 1e-6, 1e6)
        return self.active(node, 0)

    def _add(self, node: Node) -> int:
        return self.active(node, 1, self.active(node, 0))

    def _last(self, node: Node) -> int:
        return self.active(node, 0)

    def _outputs(self) -> None:
        name = self.graph.outputs[0]
        if name not in self.rows_only or self.width.get(name) != self.graph.vocabulary:
            raise UnsupportedGraph(
                f"output {name!r} must be logits as wide as the vocabulary "
                f"({self.graph.vocabulary}), computed from a LAST node"
            )
        last = self.graph.nodes[-1]
        if last.output != name:
            raise refuse(last, "the last node must give the graph's output")
        maker = last
        if last.op is Op.SOFTCAP:
            maker = next(n for n in self.graph.nodes if n.output == last.inputs[0])
            readers = [n for n in self.graph.nodes if maker.output in n.inputs]
            if readers != [last]:
                raise refuse(last, "nobody else may read what it caps")
        if maker.op is not Op.MATMUL:
            raise refuse(last, "the graph's output must be that of a MATMUL, capped or not")
