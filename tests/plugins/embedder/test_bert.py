"""The encoder's arithmetic, against a second, plain one in float64, and hostile models."""

import json
import math

import numpy as np
import pytest

from bert_files import CONFIG, safetensors, shapes, tensors
from clawai.plugins.embedder.bert import Bert, gelu, parsed
from clawai.sdk.errors import ClawError
from clawai.sdk.model import safetensors as reader

TEXTS = [[2, 5, 3], [2, 4, 6, 7, 8, 9, 1, 3], [2, 3], [2, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 3]]


def model(weights: dict[str, np.ndarray], **changes: object) -> Bert:
    config = parsed(json.dumps(CONFIG | changes).encode())
    return Bert(config, reader.read(memoryview(safetensors(weights))))


def plain(weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """One text, word by word, as the papers say it."""
    w = {name: each.astype(np.float64) for name, each in weights.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        return (
            x / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        q, k, v = (linear(x, f"{at}attention.self.{each}") for each in ("query", "key", "value"))
        heads = []
        for head in range(2):
            part = slice(8 * head, 8 * head + 8)
            scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(8))
            heads.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
        mixed = linear(np.concatenate(heads, 1), f"{at}attention.output.dense")
        x = norm(x + mixed, f"{at}attention.output.LayerNorm")
        wide = linear(x, f"{at}intermediate.dense")
        erf = np.vectorize(math.erf)(wide / math.sqrt(2))
        x = norm(x + linear(wide * (1 + erf) / 2, f"{at}output.dense"), f"{at}output.LayerNorm")
    return x.mean(0)


def test_texts_together_are_as_each_alone_in_plain_arithmetic() -> None:
    weights = tensors(CONFIG)
    found = model(weights).encode(TEXTS, lambda: None)
    for ids, row in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(row, plain(weights, ids), atol=2e-5)


def test_gelu_is_the_exact_form() -> None:
    x = np.linspace(-12, 12, 4801).astype(np.float32)
    exact = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()])
    np.testing.assert_allclose(gelu(x.copy()), exact, atol=1e-6)


def test_a_run_ends_between_two_layers() -> None:
    class Enough(Exception):
        pass

    looks = iter([None, Enough()])

    def obey() -> None:
        if said := next(looks):
            raise said

    with pytest.raises(Enough):
        model(tensors(CONFIG)).encode(TEXTS, obey)


@pytest.mark.parametrize("name", list(shapes(CONFIG))[::5])
def test_a_tensor_that_is_missing_or_of_another_shape_is_refused(name: str) -> None:
    weights = tensors(CONFIG)
    with pytest.raises(ClawError, match=name):
        model({key: each for key, each in weights.items() if key != name})
    with pytest.raises(ClawError, match=name):
        model(weights | {name: np.zeros((3, 5), "<f4")})


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "relu"},
        {"model_type": "roberta"},
        {"num_attention_heads": 3},
        {"position_embedding_type": "relative_key"},
        {"vocab_size": 1 << 30},
    ],
)
def test_a_configuration_that_would_change_the_result_is_refused(
    changes: dict[str, object],
) -> None:
    with pytest.raises(ClawError, match=r"config\.json"):
        model(tensors(CONFIG), **changes)
