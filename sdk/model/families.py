"""The architectures of language models that are understood, and in what each differs from Llama.

A row states facts of the published models and of how their GGUF converters store them. Whoever adds
one lists the hyper-parameters that it needs; what is not listed is refused by name.

Sources: Llama 2 (arXiv 2307.09288), Qwen2 (2407.10671), Qwen3 (2505.09388), Gemma (2403.08295),
Gemma 2 (2408.00118), Gemma 3 (2503.19786).
"""

from dataclasses import dataclass
from typing import Literal

from clawai.sdk.model.graph import Op


@dataclass(frozen=True, slots=True)
class Family:
    """What a graph of one architecture looks like."""

    rope_style: Literal["interleaved", "split"] = "split"
    """Llama's ``q`` and ``k`` are stored permuted, so that rotated pairs stand side by side."""
    biases: bool = False
    """Queries, keys and values add a bias."""
    head_norms: bool = False
    """Each head of queries and keys is normalised before it is rotated."""
    post_norms: bool = False
    """What attention and feed-forward give is normalised before it is added."""
    gate: Op = Op.SILU_MUL
    scaled_embedding: bool = False
    """Embeddings are multiplied by the square root of the width."""
    window_pattern: int = 0
    """n > 0: every n-th layer sees everything, those between a window. 0: all see everything."""
    local_theta: float | None = None
    """Base of the rotations of layers with a window, where it differs from the others'."""
    wide_layers: int = 0
    """With so many layers queries are scaled by width / heads in place of the size of a head."""
    optional: frozenset[str] = frozenset()
    """Hyper-parameters of this architecture beyond those that all have."""


FAMILIES: dict[str, Family] = {
    "llama": Family(rope_style="interleaved"),
    "qwen2": Family(biases=True),
    "qwen3": Family(head_norms=True),
    "gemma": Family(gate=Op.GELU_MUL, scaled_embedding=True),
    "gemma2": Family(
        post_norms=True,
        gate=Op.GELU_MUL,
        scaled_embedding=True,
        window_pattern=2,
        wide_layers=46,
        optional=frozenset(
            {
                "attention.sliding_window",
                "attn_logit_softcapping",
                "final_logit_softcapping",
            }
        ),
    ),
    "gemma3": Family(
        head_norms=True,
        post_norms=True,
        gate=Op.GELU_MUL,
        scaled_embedding=True,
        window_pattern=6,
        local_theta=10_000.0,
        wide_layers=62,
        optional=frozenset(
            {
                "attention.sliding_window",
                "attention.sliding_window_pattern",
                "final_logit_softcapping",
                "rope.freq_base_swa",
            }
        ),
    ),
}
"""By ``general.architecture`` of the file."""
