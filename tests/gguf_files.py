"""Writes small GGUF files for tests, also broken ones: every field can be given as is."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clawai.sdk.model.dtypes import DType

LETTERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw)) + raw


def value(item: Any) -> bytes:
    """Type code and value; a list of str, int or float becomes an array."""
    if isinstance(item, Raw):
        return item.data
    if isinstance(item, bool):
        return u32(7) + bytes([item])
    if isinstance(item, int):
        return u32(4) + u32(item) if item < 1 << 32 else u32(10) + u64(item)
    if isinstance(item, float):
        return u32(6) + struct.pack("<f", item)
    if isinstance(item, str):
        return u32(8) + string(item)
    kind = {str: 8, int: 5, float: 6, bool: 7}[type(item[0]) if item else int]
    body = b"".join(
        string(each) if kind == 8 else struct.pack("<" + LETTERS[kind], each) for each in item
    )
    return u32(9) + u32(kind) + u64(len(item)) + body


@dataclass(frozen=True)
class Raw:
    """Bytes to write as they are, type code included."""

    data: bytes


@dataclass
class T:
    """One tensor; ``shape`` outermost first. What is None is filled in correctly."""

    name: str
    shape: Sequence[int]
    dtype: int = DType.F32
    data: bytes | None = None
    offset: int | None = None
    rank: int | None = None


@dataclass
class File:
    """A file; the counts may lie."""

    metadata: Mapping[str, Any] | Sequence[tuple[str, Any]] = field(default_factory=dict)
    tensors: Sequence[T] = ()
    version: int = 3
    keys: int | None = None
    count: int | None = None
    alignment: int = 32

    def build(self) -> bytes:
        items = (
            list(self.metadata.items())
            if isinstance(self.metadata, Mapping)
            else list(self.metadata)
        )
        head = b"GGUF" + u32(self.version)
        head += u64(len(self.tensors) if self.count is None else self.count)
        head += u64(len(items) if self.keys is None else self.keys)
        head += b"".join(string(key) + value(item) for key, item in items)
        described, body = b"", b""
        for tensor in self.tensors:
            data = tensor.data if tensor.data is not None else zeros(tensor)
            offset = len(body) if tensor.offset is None else tensor.offset
            body += data + bytes(-len(data) % self.alignment)
            described += string(tensor.name)
            described += u32(len(tensor.shape) if tensor.rank is None else tensor.rank)
            described += b"".join(u64(dim) for dim in reversed(tensor.shape))
            described += u32(tensor.dtype) + u64(offset)
        head += described
        return head + bytes(-len(head) % self.alignment) + body


def zeros(tensor: T) -> bytes:
    """Zero bytes of the tensor's size (none where the shape makes no sense)."""
    try:
        rows = int(np.prod(tensor.shape[:-1], dtype=object)) if len(tensor.shape) > 1 else 1
        nbytes = rows * DType(tensor.dtype).row_bytes(tensor.shape[-1])
    except ValueError:
        return b""
    return bytes(nbytes) if nbytes < 1 << 20 else b""


def byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level BPE vocabularies (GPT-2's table)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in shown}
    hidden = (byte for byte in range(256) if byte not in table)
    table |= {byte: chr(256 + index) for index, byte in enumerate(hidden)}
    return [table[byte] for byte in range(256)]


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_llama(
    *,
    architecture: str = "llama",
    layers: int = 2,
    width: int = 32,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    context: int = 64,
    seed: int = 0,
    tied: bool = True,
    metadata: Mapping[str, Any] | None = None,
    without: Sequence[str] = (),
    extra: Sequence[T] = (),
) -> bytes:
    """A complete little model with random F32 weights and a byte-level vocabulary of 262."""
    random = np.random.default_rng(seed)
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*control, *byte_letters(), "th", "the", "\u0120the"]
    head_dim = width // heads

    def weight(name: str, *shape: int) -> T:
        scale = 1.0 if len(shape) == 1 else shape[-1] ** -0.5
        values = random.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        if len(shape) == 1:
            values = 1 + values / 10
        return T(name, shape, DType.F32, values.astype(np.float32).tobytes())

    tensors = [weight("token_embd.weight", len(tokens), width)]
    for layer in range(layers):
        at = f"blk.{layer}."
        tensors += [
            weight(f"{at}attn_norm.weight", width),
            weight(f"{at}attn_q.weight", heads * head_dim, width),
            weight(f"{at}attn_k.weight", kv_heads * head_dim, width),
            weight(f"{at}attn_v.weight", kv_heads * head_dim, width),
            weight(f"{at}attn_output.weight", width, heads * head_dim),
            weight(f"{at}ffn_norm.weight", width),
            weight(f"{at}ffn_gate.weight", hidden, width),
            weight(f"{at}ffn_up.weight", hidden, width),
            weight(f"{at}ffn_down.weight", width, hidden),
        ]
        if architecture == "qwen2":
            tensors += [
                weight(f"{at}attn_q.bias", heads * head_dim),
                weight(f"{at}attn_k.bias", kv_heads * head_dim),
                weight(f"{at}attn_v.bias", kv_heads * head_dim),
            ]
        if architecture in ("qwen3", "gemma3"):
            tensors += [weight(f"{at}attn_{q}_norm.weight", head_dim) for q in "qk"]
        if architecture in ("gemma2", "gemma3"):
            tensors += [
                weight(f"{at}post_attention_norm.weight", width),
                weight(f"{at}post_ffw_norm.weight", width),
            ]
    tensors.append(weight("output_norm.weight", width))
    if not tied:
        tensors.append(weight("output.weight", len(tokens), width))
    items: dict[str, Any] = {
        "general.architecture": architecture,
        f"{architecture}.block_count": layers,
        f"{architecture}.context_length": context,
        f"{architecture}.embedding_length": width,
        f"{architecture}.feed_forward_length": hidden,
        f"{architecture}.attention.head_count": heads,
        f"{architecture}.attention.head_count_kv": kv_heads,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": ["t h", "th e", "\u0120 the"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": CHATML,
    }
    items |= metadata or {}
    kept = [each for each in tensors if each.name not in without]
    return File({k: v for k, v in items.items() if k not in without}, [*kept, *extra]).build()
