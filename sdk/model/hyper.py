"""The hyper-parameters of a GGUF file of the Llama family, each checked before it is believed.

Refused by name: an architecture that is not in ``families``, a hyper-parameter that it does not
have, one that is out of range, one that is understood only where it changes nothing.
"""

import math
from dataclasses import dataclass
from typing import Any

from clawai.sdk.model.families import FAMILIES, Family
from clawai.sdk.model.gguf import GGUF, ModelFileError, Strings

MAX_LAYERS = 512
MAX_HEADS = 512
MAX_WIDTH = 1 << 16
MAX_HIDDEN = 1 << 20
MAX_VOCABULARY = 1 << 20
MAX_CONTEXT = 1 << 20
MAX_HEAD_DIM = 512

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
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "vocab_size",
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "rope.scale_linear": (1.0,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.finetuned": (False,),
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
    stretch: float = 1.0
    """Of the positions of layers without a window."""
    local_theta: float = 0.0
    window: int = 0
    """Positions that a layer with a window sees."""
    window_pattern: int = 0
    attention_cap: float = 0.0
    logit_cap: float = 0.0

    @property
    def family(self) -> Family:
        """What its architecture is made of."""
        return FAMILIES[self.architecture]

    @property
    def scale(self) -> float:
        """Of the products of queries and keys."""
        wide = self.layers == self.family.wide_layers
        return 1.0 / math.sqrt(self.width / self.heads if wide else self.head_dim)

    def local(self, layer: int) -> bool:
        """Whether a layer sees a window only."""
        return bool(self.window and (layer + 1) % self.window_pattern)

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
    if architecture not in FAMILIES:
        raise ModelFileError(
            "unsupported model architecture",
            file.offsets.get("general.architecture"),
            architecture,
            sorted(FAMILIES),
        )
    family = FAMILIES[architecture]
    read_ = _Keys(file, architecture)
    read_.refuse_unknown(family)
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
        theta=(theta := read_.real("rope.freq_base", 1.0, 1e12, 10_000.0)),
        eps=read_.real("attention.layer_norm_rms_epsilon", 1e-12, 0.1),
        context=read_.integer("context_length", 1, MAX_CONTEXT),
        vocabulary=_vocabulary(file, read_),
        stretch=_stretch(read_),
        local_theta=read_.real("rope.freq_base_swa", 1.0, 1e12, family.local_theta or theta),
        **_extras(read_, family),
    )


def _stretch(keys: "_Keys") -> float:
    """By what positions are divided; other ways to scale rotations are refused."""
    kind = keys.text("rope.scaling.type", "none")
    if kind == "linear":
        return keys.real("rope.scaling.factor", 1.0, 1e6)
    if kind != "none":
        keys.fail("rope.scaling.type", kind, ["none", "linear"], "unsupported hyper-parameter")
    factor = keys.real("rope.scaling.factor", 0.0, 1e6, 1.0)
    if factor not in (0.0, 1.0):
        keys.fail("rope.scaling.factor", factor, 'a "rope.scaling.type" of linear beside it')
    return 1.0


def _extras(keys: "_Keys", family: Family) -> dict[str, Any]:
    """Windows and caps, where the architecture has them."""
    window = pattern = 0
    if family.window_pattern:
        window = keys.integer("attention.sliding_window", 0, MAX_CONTEXT, 0)
        pattern = keys.integer(
            "attention.sliding_window_pattern", 1, MAX_LAYERS, family.window_pattern
        )
    caps = {"attention_cap": "attn_logit_softcapping", "logit_cap": "final_logit_softcapping"}
    found = {name: keys.real(key, 0.0, 1e6, 0.0) for name, key in caps.items()}
    return {"window": window, "window_pattern": pattern, **found}


class _Keys:
    """The metadata below ``<architecture>.``, with ranges."""

    def __init__(self, file: GGUF, architecture: str) -> None:
        self._file = file
        self._prefix = architecture + "."

    def has(self, key: str) -> bool:
        return self._prefix + key in self._file.metadata

    def refuse_unknown(self, family: Family) -> None:
        known = _REQUIRED | _OPTIONAL | _NEUTRAL.keys() | family.optional
        for name, value in self._file.metadata.items():
            key = name.removeprefix(self._prefix)
            if key == name:
                continue
            if key not in known:
                self.fail(key, value, sorted(known), "unsupported hyper-parameter")
            neutral = key in _NEUTRAL and key not in family.optional
            if neutral and value not in _NEUTRAL[key]:
                self.fail(key, value, list(_NEUTRAL[key]), "unsupported hyper-parameter")
        for key in sorted(_REQUIRED):
            if not self.has(key):
                raise ModelFileError(f"metadata {self._prefix}{key} is missing")

    def integer(self, key: str, least: int, most: int, default: int | None = None) -> int:
        value = self._file.get(self._prefix + key, int, default)
        if not least <= value <= most:
            self.fail(key, value, f"{least} to {most}")
        return int(value)

    def text(self, key: str, default: str) -> str:
        return str(self._file.get(self._prefix + key, str, default))

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
