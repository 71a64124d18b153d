"""Llama-family files as graphs: what is checked, what is refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk.model import llama
from clawai.sdk.model.gguf import ModelFileError, parse
from clawai.sdk.model.graph import Graph, Node, Op
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
        Op.LAST: 2,  # of the last layer: what it adds to, and what attention found
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


def ops_of(graph: Graph, op: Op) -> list[Node]:
    return [node for node in graph.nodes if node.op is op]


def test_qwen3_normalises_heads() -> None:
    graph = build(architecture="qwen3")
    assert [n.attrs["heads"] for n in ops_of(graph, Op.HEAD_NORM)] == [4, 2, 4, 2]
    assert all(len(n.inputs) == 2 for n in ops_of(graph, Op.MATMUL))
    refuse("attn_k_norm", architecture="qwen3", without=["blk.0.attn_k_norm.weight"])


def test_gemma_scales_embeddings_and_gates_by_gelu() -> None:
    graph = build(architecture="gemma")
    assert ops_of(graph, Op.EMBED)[0].attrs == {"scale": pytest.approx(32**0.5)}
    assert len(ops_of(graph, Op.GELU_MUL)) == 2 and not ops_of(graph, Op.SILU_MUL)
    assert {n.attrs["style"] for n in ops_of(graph, Op.ROPE)} == {"split"}


def test_gemma2_has_caps_and_windows_in_every_other_layer() -> None:
    own = {"attention.sliding_window": 16, "attn_logit_softcapping": 50.0}
    own |= {"final_logit_softcapping": 30.0}
    metadata = {f"gemma2.{key}": value for key, value in own.items()}
    graph = build(architecture="gemma2", layers=4, metadata=metadata)
    seen = [(n.attrs.get("window"), n.attrs["softcap"]) for n in ops_of(graph, Op.ATTENTION)]
    assert seen == [(16, 50.0), (None, 50.0)] * 2
    assert len(ops_of(graph, Op.RMSNORM)) == 4 * 4 + 1
    assert graph.nodes[-1].op is Op.SOFTCAP and graph.nodes[-1].attrs == {"cap": 30.0}
    assert graph.outputs == (graph.nodes[-1].output,)
    refuse("sliding_window", architecture="gemma", metadata={"gemma.attention.sliding_window": 4})
    refuse("logit_softcapping", metadata={"llama.final_logit_softcapping": 30.0})


def test_gemma3_rotates_layers_with_a_window_by_another_base() -> None:
    own = {"attention.sliding_window": 16, "rope.freq_base": 1e6}
    own |= {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    metadata = {f"gemma3.{key}": value for key, value in own.items()}
    graph = build(architecture="gemma3", layers=7, metadata=metadata)
    windows = [n.attrs.get("window") for n in ops_of(graph, Op.ATTENTION)]
    assert windows == [16] * 5 + [None, 16]
    turns = [(n.attrs["theta"], n.attrs.get("stretch")) for n in ops_of(graph, Op.ROPE)][::2]
    assert turns == [(1e4, None)] * 5 + [(1e6, 8.0), (1e4, None)]


def test_llama3_divides_frequencies() -> None:
    graph = build(extra=[T("rope_freqs.weight", [4])])
    assert {n.inputs[1] for n in ops_of(graph, Op.ROPE)} == {"rope_freqs.weight"}
    refuse("wrong shape", extra=[T("rope_freqs.weight", [8])])


def test_wide_models_scale_queries_by_their_width() -> None:
    scale = ops_of(build(architecture="gemma2", layers=46), Op.ATTENTION)[0].attrs["scale"]
    assert scale == pytest.approx((32 / 4) ** -0.5)


def test_an_unknown_architecture_lists_the_known_ones() -> None:
    error = refuse("unsupported model architecture", metadata={"general.architecture": "mamba"})
    assert error.got == "mamba" and error.allowed == [
        "gemma",
        "gemma2",
        "gemma3",
        "llama",
        "qwen2",
        "qwen3",
    ]
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
    refuse("rope_freqs.bias has no place", extra=[T("rope_freqs.bias", [4])])
    refuse("attn_q_norm.weight has no place", extra=[T("blk.0.attn_q_norm.weight", [8])])
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
