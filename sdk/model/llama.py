"""Llama-family GGUF files as graphs.

Reads the hyper-parameters, checks every tensor's presence, shape and type against them, and builds
the graph that a driver compiles. Whatever would change the result and is not understood is refused
by name, never ignored: an unknown architecture, an unknown hyper-parameter of a known one, a
scaled rotary embedding, experts, a tensor that nothing uses.

Rotary style: converters store ``q`` and ``k`` of architecture "llama" permuted, so that rotated
pairs stand side by side ("interleaved"); Qwen2 keeps the original order ("split").

Sources: Llama 2 (arXiv 2307.09288), RoPE (arXiv 2104.09864), GQA (arXiv 2305.13245).
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clawai.sdk.model.driver import Footprint
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.gguf import GGUF, ModelFileError, Strings, TensorInfo, read
from clawai.sdk.model.graph import Graph, Node, Op, Tensor

MAX_LAYERS = 512
MAX_HEADS = 512
MAX_WIDTH = 1 << 16
MAX_HIDDEN = 1 << 20
MAX_VOCABULARY = 1 << 20
MAX_CONTEXT = 1 << 20
MAX_HEAD_DIM = 512

ROPE_STYLE = {"llama": "interleaved", "qwen2": "split"}
"""The supported architectures, and how each pairs the rotated dimensions."""

_REQUIRED = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
}
_OPTIONAL = {
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "rope.scale_linear": (1.0,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.factor": (1.0,),
    "rope.scaling.finetuned": (False,),
    "rope.scaling.type": ("none",),
    "tensor_data_layout": ("", "Meta AI original pth"),
    "use_parallel_residual": (False,),
}
"""Hyper-parameters that are understood only where they change nothing."""


@dataclass(frozen=True, slots=True)
class Hyper:
    """The sizes of a Llama-family model; dimensions in elements, context in tokens."""

    architecture: str
    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rot_dim: int
    theta: float
    eps: float
    context: int
    vocabulary: int

    @property
    def q_width(self) -> int:
        """Columns of the queries."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Columns of the keys, and of the values."""
        return self.kv_heads * self.head_dim


def hyper(file: GGUF) -> Hyper:
    """Read and check the hyper-parameters.

    Raises:
        ModelFileError: one is missing, out of range, or not supported.
    """
    architecture = file.get("general.architecture", str)
    if architecture not in ROPE_STYLE:
        raise ModelFileError(
            "unsupported model architecture",
            file.offsets.get("general.architecture"),
            architecture,
            sorted(ROPE_STYLE),
        )
    read_ = _Keys(file, architecture)
    read_.refuse_unknown()
    layers = read_.integer("block_count", 1, MAX_LAYERS)
    width = read_.integer("embedding_length", 1, MAX_WIDTH)
    heads = read_.integer("attention.head_count", 1, MAX_HEADS)
    kv_heads = read_.integer("attention.head_count_kv", 1, heads, heads)
    if heads % kv_heads:
        read_.fail("attention.head_count_kv", kv_heads, f"a divisor of {heads}")
    if not read_.has("attention.key_length") and width % heads:
        read_.fail("attention.head_count", heads, f"a divisor of {width}")
    head_dim = read_.integer("attention.key_length", 2, MAX_HEAD_DIM, width // heads)
    read_.integer("attention.value_length", head_dim, head_dim, head_dim)
    if head_dim % 2:
        read_.fail("attention.key_length", head_dim, "an even number")
    rot_dim = read_.integer("rope.dimension_count", 2, head_dim, head_dim)
    if rot_dim % 2:
        read_.fail("rope.dimension_count", rot_dim, "an even number")
    return Hyper(
        architecture=architecture,
        layers=layers,
        width=width,
        hidden=read_.integer("feed_forward_length", 1, MAX_HIDDEN),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rot_dim=rot_dim,
        theta=read_.real("rope.freq_base", 1.0, 1e12, 10_000.0),
        eps=read_.real("attention.layer_norm_rms_epsilon", 1e-12, 0.1),
        context=read_.integer("context_length", 1, MAX_CONTEXT),
        vocabulary=_vocabulary(file, read_),
    )


class _Keys:
    """The metadata below ``<architecture>.``, with ranges."""

    def __init__(self, file: GGUF, architecture: str) -> None:
        self._file = file
        self._prefix = architecture + "."

    def has(self, key: str) -> bool:
        return self._prefix + key in self._file.metadata

    def refuse_unknown(self) -> None:
        known = _REQUIRED | _OPTIONAL | _NEUTRAL.keys()
        for name, value in self._file.metadata.items():
            key = name.removeprefix(self._prefix)
            if key == name:
                continue
            if key not in known:
                self.fail(key, value, sorted(known), "unsupported hyper-parameter")
            if key in _NEUTRAL and value not in _NEUTRAL[key]:
                self.fail(key, value, list(_NEUTRAL[key]), "unsupported hyper-parameter")
        for key in sorted(_REQUIRED):
            if not self.has(key):
                raise ModelFileError(f"metadata {self._prefix}{key} is missing")

    def integer(self, key: str, least: int, most: int, default: int | None = None) -> int:
        value = self._file.get(self._prefix + key, int, default)
        if not least <= value <= most:
            self.fail(key, value, f"{least} to {most}")
        return int(value)

    def real(self, key: str, least: float, most: float, default: float | None = None) -> float:
        value = self._file.get(self._prefix + key, float, default)
        if not (math.isfinite(value) and least <= value <= most):
            self.fail(key, value, f"{least} to {most}")
        return float(value)

    def fail(self, key: str, got: Any, allowed: Any, what: str = "bad hyper-parameter") -> None:
        name = self._prefix + key
        shown = got if isinstance(got, int | float | str | bool) else type(got).__name__
        raise ModelFileError(f"{what} {name}", self._file.offsets.get(name), shown, allowed)


def _vocabulary(file: GGUF, keys: _Keys) -> int:
    tokens = file.get("tokenizer.ggml.tokens", Strings)
    if tokens is None:
        raise ModelFileError("metadata tokenizer.ggml.tokens is missing")
    count = len(tokens)
    if not 1 <= count <= MAX_VOCABULARY:
        where = file.offsets["tokenizer.ggml.tokens"]
        raise ModelFileError("bad vocabulary size", where, count, f"1 to {MAX_VOCABULARY}")
    return keys.integer("vocab_size", count, count, count)


def graph(file: GGUF) -> Graph:
    """Build the graph of a Llama-family file; weights are views of the file.

    Raises:
        ModelFileError: as ``hyper``, or a tensor is missing, superfluous, or of a wrong shape or
            type.
    """
    return _Builder(file, hyper(file)).build()


class _Builder:
    """Adds nodes one after the other; ``shape ("tokens", n)`` is the only kind of activation."""

    def __init__(self, file: GGUF, sizes: Hyper) -> None:
        self.h = sizes
        self.file: Mapping[str, TensorInfo] = file.tensors
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []

    def build(self) -> Graph:
        h = self.h
        self.tensors["tokens"] = Tensor("tokens", ("tokens",), DType.I32)
        table = self._matrix("token_embd.weight", h.vocabulary, h.width)
        x = self._add(Op.EMBED, ("tokens", table), "x", h.width)
        for layer in range(h.layers):
            x = self._attention(layer, x)
            x = self._feed_forward(layer, x)
        x = self._add(Op.LAST, (x,), "last", h.width, rows="rows")
        x = self._norm("output_norm", x, "final_norm", rows="rows")
        # Without a matrix of its own the output is tied to the embedding.
        tied = "output.weight" not in self.file
        head = table if tied else self._matrix("output.weight", h.vocabulary, h.width)
        logits = self._add(Op.MATMUL, (x, head), "logits", h.vocabulary, rows="rows")
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
        q = self._rope(q, f"{at}q_rot", h.heads)
        k = self._rope(k, f"{at}k_rot", h.kv_heads)
        attrs = {
            "layer": layer,
            "heads": h.heads,
            "kv_heads": h.kv_heads,
            "head_dim": h.head_dim,
            "scale": 1.0 / math.sqrt(h.head_dim),
        }
        mixed = self._add(Op.ATTENTION, (q, k, v), f"{at}mixed", h.q_width, attrs)
        weight = self._matrix(f"{at}attn_output.weight", h.width, h.q_width)
        out = self._add(Op.MATMUL, (mixed, weight), f"{at}attn_out", h.width)
        return self._add(Op.ADD, (x, out), f"{at}attn_sum", h.width)

    def _feed_forward(self, layer: int, x: str) -> str:
        h, at = self.h, f"blk.{layer}."
        normed = self._norm(f"{at}ffn_norm", x, f"{at}ffn_in")
        gate_weight = self._matrix(f"{at}ffn_gate.weight", h.hidden, h.width)
        up_weight = self._matrix(f"{at}ffn_up.weight", h.hidden, h.width)
        down_weight = self._matrix(f"{at}ffn_down.weight", h.width, h.hidden)
        gate = self._add(Op.MATMUL, (normed, gate_weight), f"{at}gate", h.hidden)
        up = self._add(Op.MATMUL, (normed, up_weight), f"{at}up", h.hidden)
        act = self._add(Op.SILU_MUL, (gate, up), f"{at}act", h.hidden)
        down = self._add(Op.MATMUL, (act, down_weight), f"{at}down", h.width)
        return self._add(Op.ADD, (x, down), f"{at}ffn_sum", h.width)

    def _project(self, x: str, weight: str, name: str, rows: int, columns: int) -> str:
        inputs = [x, self._matrix(f"{weight}.weight", rows, columns)]
        if self.h.architecture == "qwen2":
            inputs.append(self._vector(f"{weight}.bias", rows))
        return self._add(Op.MATMUL, tuple(inputs), name, rows)

    def _rope(self, x: str, name: str, heads: int) -> str:
        h = self.h
        attrs = {
            "heads": heads,
            "head_dim": h.head_dim,
            "rot_dim": h.rot_dim,
            "theta": h.theta,
            "style": ROPE_STYLE[h.architecture],
        }
        return self._add(Op.ROPE, (x,), name, heads * h.head_dim, attrs)

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
