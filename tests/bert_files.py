"""Little BERT encoders, as archives, for tests."""

import io
import json
import struct
import tarfile
from typing import Any

import numpy as np

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "dog", "sat", "ran", "##s"]
CONFIG = {
    "model_type": "bert",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 12,
    "vocab_size": len(WORDS),
    "hidden_act": "gelu",
}


def tokenizer() -> dict[str, Any]:
    """Words in lower case, between [CLS] and [SEP]."""
    around = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ]
    special = {name: {"id": name, "ids": [at], "tokens": [name]} for name, at in MARKS.items()}
    return {
        "version": "1.0",
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": around,
            "pair": around,
            "special_tokens": special,
        },
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: at for at, word in enumerate(WORDS)},
        },
    }


MARKS = {"[CLS]": 2, "[SEP]": 3}


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of an encoder."""
    width, hidden = config["hidden_size"], config["intermediate_size"]
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for number in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{number}."
        for name, out, into in (
            ("attention.self.query", width, width),
            ("attention.self.key", width, width),
            ("attention.self.value", width, width),
            ("attention.output.dense", width, width),
            ("intermediate.dense", hidden, width),
            ("output.dense", width, hidden),
        ):
            found[f"{at}{name}.weight"], found[f"{at}{name}.bias"] = (out, into), (out,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            found[f"{at}{name}.weight"] = found[f"{at}{name}.bias"] = (width,)
    return found


def tensors(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Random weights, always the same."""
    made = np.random.default_rng(3)
    return {
        name: made.standard_normal(shape).astype("<f4") * 0.3
        for name, shape in shapes(config).items()
    }


def safetensors(weights: dict[str, np.ndarray]) -> bytes:
    """A file of the format."""
    header, parts, at = {}, [], 0
    for name, each in weights.items():
        data = each.tobytes()
        place = [at, at + len(data)]
        header[name] = {"dtype": "F32", "shape": each.shape, "data_offsets": place}
        parts.append(data)
        at += len(data)
    said = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    return struct.pack("<Q", len(said)) + said + b"".join(parts)


def archive(members: dict[str, bytes]) -> bytes:
    """The members in a tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            told = tarfile.TarInfo(name)
            told.size = len(data)
            tar.addfile(told, io.BytesIO(data))
    return out.getvalue()


def tiny_bert(**changes: bytes) -> bytes:
    """An encoder; ``changes`` replace members (a dot in a name is an underscore there)."""
    members = {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": json.dumps(tokenizer()).encode(),
        "model.safetensors": safetensors(tensors(CONFIG)),
    }
    return archive(members | {name.replace("_", "."): data for name, data in changes.items()})
