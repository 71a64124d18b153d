"""Llama-family files as graphs: what is checked, what is refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk.model import llama
from clawai.sdk.model.gguf import ModelFileError, parse
from clawai.sdk.model.graph import Graph, Op
from gguf_files import T, tiny_llama


def build(**changes: Any) -> Graph:
    return llama.graph(parse(memoryview(tiny_llama(**changes))))


def refuse(match: str, **changes: Any) -> ModelFileError:
    with pytest.raises(ModelFileError, match=match) as caught:
        build(**changes)
    return caught.value


def test_the_nodes_of_a_model() -> None:
    graph = build(layers=3)
    assert Counter(node.op for node in graph.nodes) == {
        Op.EMBED: 1,
        Op.RMSNORM: 7,
        Op.MATMUL: 22,
        Op.ROPE: 6,
        Op.ATTENTION: 3,
        Op.SILU_MUL: 3,
        Op.ADD: 6,
        Op.LAST: 1,
    }
    assert (graph.context, graph.vocabulary, graph.layers) == (64, 262, 3)
    assert graph.inputs == ("tokens",) and graph.outputs == ("logits",)


def test_inputs_are_computed_before_their_use_and_shapes_fit() -> None:
    graph = build()
    known = set(graph.inputs) | {name for name, each in graph.tensors.items() if each.data}
    for node in graph.nodes:
        assert set(node.inputs) <= known, node
        known.add(node.output)
        if node.op is Op.MATMUL:
            x, weight, out = (graph.tensors[name] for name in (*node.inputs[:2], node.output))
            assert (x.shape[1], out.shape[1]) == (weight.shape[1], weight.shape[0])
    assert known == set(graph.tensors)


def test_tied_and_own_output_matrix() -> None:
    assert build().nodes[-1].inputs[1] == "token_embd.weight"
    assert build(tied=False).nodes[-1].inputs[1] == "output.weight"


def test_rope_style_follows_the_architecture() -> None:
    for architecture, style in (("llama", "interleaved"), ("qwen2", "split")):
        ropes = [node for node in build(architecture=architecture).nodes if node.op is Op.ROPE]
        assert {node.attrs["style"] for node in ropes} == {style}
        assert {node.attrs["heads"] for node in ropes} == {4, 2}


def test_qwen2_has_biases() -> None:
    biased = [node for node in build(architecture="qwen2").nodes if len(node.inputs) == 3]
    assert sum(node.op is Op.MATMUL for node in biased) == 6
    refuse(
        "tensor blk.0.attn_q.bias is missing", architecture="qwen2", without=["blk.0.attn_q.bias"]
    )


def test_an_unknown_architecture_lists_the_known_ones() -> None:
    error = refuse("unsupported model architecture", metadata={"general.architecture": "mamba"})
    assert error.got == "mamba" and error.allowed == ["llama", "qwen2"]
    refuse("unsupported model architecture", without=["general.architecture"])


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("rope.scaling.type", {"llama.rope.scaling.type": "yarn"}),
    ("rope.scaling.factor", {"llama.rope.scaling.factor": 4.0}),
    ("rope.scale_linear", {"llama.rope.scale_linear": 2.0}),
    ("expert_count", {"llama.expert_count": 8}),
    ("sliding_window", {"llama.attention.sliding_window": 4096}),
    ("attention.causal", {"llama.attention.causal": False}),
    ("llama.logit_scale", {"llama.logit_scale": 0.5}),
    ("block_count", {"llama.block_count": 0}),
    ("block_count", {"llama.block_count": 1 << 31}),
    ("embedding_length", {"llama.embedding_length": 1 << 31}),
    ("feed_forward_length", {"llama.feed_forward_length": 1 << 31}),
    ("head_count ", {"llama.attention.head_count": 6}),
    ("head_count_kv", {"llama.attention.head_count_kv": 3}),
    ("head_count_kv", {"llama.attention.head_count_kv": 8}),
    ("head_count_kv", {"llama.attention.head_count_kv": [2, 2]}),
    ("value_length", {"llama.attention.value_length": 16}),
    ("key_length", {"llama.attention.key_length": 7, "llama.attention.value_length": 7}),
    ("rope.dimension_count", {"llama.rope.dimension_count": 64}),
    ("rope.dimension_count", {"llama.rope.dimension_count": 3}),
    ("rope.freq_base", {"llama.rope.freq_base": float("nan")}),
    ("rope.freq_base", {"llama.rope.freq_base": 0.0}),
    ("epsilon", {"llama.attention.layer_norm_rms_epsilon": -1.0}),
    ("context_length", {"llama.context_length": 0}),
    ("vocab_size", {"llama.vocab_size": 100}),
    ("block_count has the wrong type", {"llama.block_count": "2"}),
]


@pytest.mark.parametrize(("match", "metadata"), REFUSED)
def test_hyper_parameters_out_of_range_or_not_understood(
    match: str, metadata: dict[str, Any]
) -> None:
    refuse(match, metadata=metadata)


def test_neutral_values_are_accepted() -> None:
    neutral = {
        "llama.rope.scaling.type": "none",
        "llama.expert_count": 0,
        "llama.rope.dimension_count": 8,
        "llama.vocab_size": 262,
    }
    assert build(metadata=neutral).layers == 2


@pytest.mark.parametrize("key", ["llama.block_count", "tokenizer.ggml.tokens"])
def test_missing_metadata(key: str) -> None:
    refuse(f"metadata {key} is missing", without=[key])


@pytest.mark.parametrize(
    "name", ["token_embd.weight", "blk.1.ffn_down.weight", "output_norm.weight"]
)
def test_missing_tensors(name: str) -> None:
    refuse(f"tensor {name} is missing", without=[name])


def test_wrong_shapes_and_types() -> None:
    name = "blk.0.attn_k.weight"
    error = refuse(f"tensor {name} has the wrong shape", without=[name], extra=[T(name, [32, 16])])
    assert (error.got, error.allowed) == ([32, 16], [16, 32])
    refuse("wrong type", without=[name], extra=[T(name, [16, 32], dtype=26)])
    norm = "blk.0.attn_norm.weight"
    refuse("wrong type", without=[norm], extra=[T(norm, [32], dtype=1)])


def test_a_tensor_without_a_place_is_refused() -> None:
    refuse("rope_freqs.weight has no place", extra=[T("rope_freqs.weight", [4])])
    refuse("attn_q.bias has no place", extra=[T("blk.0.attn_q.bias", [32])])


def test_estimate_counts_weights_cache_and_arena(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_llama())
    footprint = llama.estimate(path, 32)
    assert footprint.kv == 32 * 2 * 2 * 16 * 2
    parameters = 262 * 32 + 32 + 2 * (2 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64)
    assert footprint.weights == 4 * parameters
    assert llama.estimate(path).kv == llama.estimate(path, 1 << 19).kv == 64 * 2 * 2 * 16 * 2
    assert footprint.total > footprint.weights + footprint.kv
