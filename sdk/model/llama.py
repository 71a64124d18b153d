"""GGUF files of the Llama family as graphs: Llama, Qwen and Gemma (``families``).

Checks every tensor's presence, shape and type against the hyper-parameters, and builds the graph
that a driver compiles. Whatever would change the result and is not understood is refused by name,
never ignored: what ``hyper`` refuses, and a tensor that nothing uses.

Sources: RoPE (arXiv 2104.09864), GQA (arXiv 2305.13245); those of each architecture: ``families``.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

from clawai.sdk.model.driver import Footprint
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.gguf import GGUF, ModelFileError, TensorInfo, read
from clawai.sdk.model.graph import Graph, Node, Op, Tensor
from clawai.sdk.model.hyper import Hyper, hyper


def graph(file: GGUF) -> Graph:
    """Build the graph of a Llama-family file; weights are views of the file.

    Raises:
        ModelFileError: as ``hyper``, or a tensor is missing, superfluous, or of a wrong shape or
            type.
    """
    return _Builder(file, hyper(file)).build()


class _Builder:
    """Adds nodes one after the other; activations are ``("tokens", n)``, then ``("rows", n)``."""

    def __init__(self, file: GGUF, sizes: Hyper) -> None:
        self.h = sizes
        self.file: Mapping[str, TensorInfo] = file.tensors
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []

    def build(self) -> Graph:
        h = self.h
        self.tensors["tokens"] = Tensor("tokens", ("tokens",), DType.I32)
        table = self._matrix("token_embd.weight", h.vocabulary, h.width)
        scale = {"scale": math.sqrt(h.width)} if h.family.scaled_embedding else {}
        x = self._add(Op.EMBED, ("tokens", table), "x", h.width, scale)
        for layer in range(h.layers):
            x = self._attention(layer, x)
            x = self._feed_forward(layer, x)
        x = self._norm("output_norm", x, "final_norm", rows="rows")
        # Without a matrix of its own the output is tied to the embedding.
        tied = "output.weight" not in self.file
        head = table if tied else self._matrix("output.weight", h.vocabulary, h.width)
        logits = self._add(Op.MATMUL, (x, head), "logits", h.vocabulary, rows="rows")
        if h.logit_cap:
            cap = {"cap": h.logit_cap}
            logits = self._add(Op.SOFTCAP, (logits,), "capped", h.vocabulary, cap, "rows")
        self._refuse_unused()
        return Graph(
            tensors=self.tensors,
            nodes=tuple(self.nodes),
            inputs=("tokens",),
            outputs=(logits,),
            context=h.context,
            vocabulary=h.vocabulary,
            layers=h.layers,
        )

    def _attention(self, layer: int, x: str) -> str:
        h, at = self.h, f"blk.{layer}."
        normed = self._norm(f"{at}attn_norm", x, f"{at}attn_in")
        q = self._project(normed, f"{at}attn_q", f"{at}q", h.q_width, h.width)
        k = self._project(normed, f"{at}attn_k", f"{at}k", h.kv_width, h.width)
        v = self._project(normed, f"{at}attn_v", f"{at}v", h.kv_width, h.width)
        if h.family.head_norms:
            q = self._head_norm(q, f"{at}attn_q_norm", f"{at}q_norm", h.heads)
            k = self._head_norm(k, f"{at}attn_k_norm", f"{at}k_norm", h.kv_heads)
        local = h.local(layer)
        q = self._rope(q, f"{at}q_rot", h.heads, local=local)
        k = self._rope(k, f"{at}k_rot", h.kv_heads, local=local)
        attrs = {
            "layer": layer,
            "heads": h.heads,
            "kv_heads": h.kv_heads,
            "head_dim": h.head_dim,
            "scale": h.scale,
        }
        if local:
            attrs["window"] = h.window
        if h.attention_cap:
            attrs["softcap"] = h.attention_cap
        mixed = self._add(Op.ATTENTION, (q, k, v), f"{at}mixed", h.q_width, attrs)
        # Behind the last layer's cache and attention only rows that become logits are of use.
        rows = self._rows(layer)
        if rows == "rows":
            mixed = self._add(Op.LAST, (mixed,), f"{at}mixed_last", h.q_width, rows=rows)
            x = self._add(Op.LAST, (x,), "last", h.width, rows=rows)
        weight = self._matrix(f"{at}attn_output.weight", h.width, h.q_width)
        out = self._add(Op.MATMUL, (mixed, weight), f"{at}attn_out", h.width, rows=rows)
        if h.family.post_norms:
            out = self._norm(f"{at}post_attention_norm", out, f"{at}attn_post", rows)
        return self._add(Op.ADD, (x, out), f"{at}attn_sum", h.width, rows=rows)

    def _rows(self, layer: int) -> str:
        """How many rows the layer has behind its attention."""
        return "rows" if layer == self.h.layers - 1 else "tokens"

    def _feed_forward(self, layer: int, x: str) -> str:
        h, at, rows = self.h, f"blk.{layer}.", self._rows(layer)
        normed = self._norm(f"{at}ffn_norm", x, f"{at}ffn_in", rows)
        gate_weight = self._matrix(f"{at}ffn_gate.weight", h.hidden, h.width)
        up_weight = self._matrix(f"{at}ffn_up.weight", h.hidden, h.width)
        down_weight = self._matrix(f"{at}ffn_down.weight", h.width, h.hidden)
        gate = self._add(Op.MATMUL, (normed, gate_weight), f"{at}gate", h.hidden, rows=rows)
        up = self._add(Op.MATMUL, (normed, up_weight), f"{at}up", h.hidden, rows=rows)
        act = self._add(h.family.gate, (gate, up), f"{at}act", h.hidden, rows=rows)
        down = self._add(Op.MATMUL, (act, down_weight), f"{at}down", h.width, rows=rows)
        if h.family.post_norms:
            down = self._norm(f"{at}post_ffw_norm", down, f"{at}ffn_post", rows)
        return self._add(Op.ADD, (x, down), f"{at}ffn_sum", h.width, rows=rows)

    def _project(self, x: str, weight: str, name: str, rows: int, columns: int) -> str:
        inputs = [x, self._matrix(f"{weight}.weight", rows, columns)]
        if self.h.family.biases:
            inputs.append(self._vector(f"{weight}.bias", rows))
        return self._add(Op.MATMUL, tuple(inputs), name, rows)

    def _head_norm(self, x: str, weight: str, name: str, heads: int) -> str:
        h = self.h
        gain = self._vector(f"{weight}.weight", h.head_dim)
        attrs = {"eps": h.eps, "heads": heads, "head_dim": h.head_dim}
        return self._add(Op.HEAD_NORM, (x, gain), name, heads * h.head_dim, attrs)

    def _rope(self, x: str, name: str, heads: int, *, local: bool) -> str:
        h = self.h
        attrs = {
            "heads": heads,
            "head_dim": h.head_dim,
            "rot_dim": h.rot_dim,
            "theta": h.local_theta if local else h.theta,
            "style": h.family.rope_style,
        }
        inputs = [x]
        # Layers with a window are rotated as they were before the context was made longer.
        if not local and h.stretch != 1.0:
            attrs["stretch"] = h.stretch
        if not local and "rope_freqs.weight" in self.file:
            inputs.append(self._vector("rope_freqs.weight", h.rot_dim // 2))
        return self._add(Op.ROPE, tuple(inputs), name, heads * h.head_dim, attrs)

    def _norm(self, weight: str, x: str, name: str, rows: str = "tokens") -> str:
        gain = self._vector(f"{weight}.weight", self.h.width)
        attrs = {"eps": self.h.eps}
        return self._add(Op.RMSNORM, (x, gain), name, self.h.width, attrs, rows)

    def _add(
        self,
        op: Op,
        inputs: tuple[str, ...],
        name: str,
        width: int,
        attrs: Mapping[str, Any] | None = None,
        rows: str = "tokens",
    ) -> str:
        self.tensors[name] = Tensor(name, (rows, width), DType.F32)
        self.nodes.append(Node(op, inputs, name, attrs or {}))
        return name

    def _matrix(self, name: str, rows: int, columns: int) -> str:
        return self._weight(
            name, (rows, columns), tuple(each for each in DType if each != DType.I32)
        )

    def _vector(self, name: str, size: int) -> str:
        return self._weight(name, (size,), (DType.F32,))

    def _weight(self, name: str, shape: tuple[int, ...], dtypes: tuple[DType, ...]) -> str:
        found = self.file.get(name)
        if found is None:
            raise ModelFileError(f"tensor {name} is missing")
        if found.shape != shape:
            raise ModelFileError(
                f"tensor {name} has the wrong shape", found.where, list(found.shape), list(shape)
            )
        if found.dtype not in dtypes:
            allowed = [each.name for each in dtypes]
            raise ModelFileError(
                f"tensor {name} has the wrong type", found.where, found.dtype.name, allowed
            )
        self.tensors[name] = Tensor(name, shape, found.dtype, found.data)
        return name

    def _refuse_unused(self) -> None:
        for name, found in self.file.items():
            if name not in self.tensors:
                raise ModelFileError(
                    f"tensor {name} has no place in architecture {self.h.architecture}", found.where
                )


def estimate(source: int | str | os.PathLike[str], context: int = 0) -> Footprint:
    """About how many bytes a worker needs, from the header only: nothing is packed or run.

    Args:
        source: a path, or a descriptor that stays the caller's.
        context: length of the KV cache in tokens; 0 or more than the model's own: the model's own.

    Raises:
        ModelFileError: as ``graph``.
        OSError: the path cannot be opened.
    """
    file = read(source)
    sizes = hyper(file)
    model = graph(file)
    tokens = min(context or sizes.context, sizes.context)
    weights = sum(len(each.data) for each in model.tensors.values() if each.data is not None)
    chunk = min(tokens, 256)
    widest = 4 * sizes.width + 2 * sizes.q_width + 4 * sizes.kv_width + 3 * sizes.hidden
    return Footprint(
        weights=weights,
        tables=4 * tokens * sizes.rot_dim,
        kv=tokens * sizes.layers * 2 * sizes.kv_width * 2,
        arena=4 * (chunk * widest + sizes.vocabulary),
    )
