"""Timed calls of the ops of language models; see ``timed``."""

import math
from collections.abc import Callable

import numpy as np

from clawai.plugins.accelerator.native import ffi, lib, packed_bytes
from clawai.plugins.accelerator.timed import (
    FFN,
    HEAD,
    HIDDEN,
    VOCABULARY,
    WIDTH,
    Args,
    Array,
    Case,
    Maker,
    Out,
    Y,
    bytes_out,
    case,
    codes,
    floats,
    integers,
    ordinary,
    over,
    scratch,
)

TOKENS = 256
"""Of a chunk of a prompt."""
POSITIONS = 4096
"""In the cache of one head."""
QUERIES = 4
"""Heads that share one of keys and values."""
GROUP = 32
ROW, MID = "width 4096, Llama 3.1 8B", "width 8192, Llama 3.2 1B"
LOGITS = "128256 logits, Llama 3.2 1B"


def weights(fmt: str, rows: int, k: int) -> Array:
    """A packed matrix."""
    return ordinary(packed_bytes(fmt, rows, k))


def q8(n: int) -> tuple[Out, Out, Out]:
    """Codes, scales and sums that an op writes."""
    return Out(n, np.int8), Y(n // GROUP), Y(n // GROUP)


def quantized(n: int) -> tuple[Array, Array, Array]:
    """The same as an input."""
    return codes(n), floats(n // GROUP, 0.005, 0.02), floats(n // GROUP)


def row(fmt: str) -> Maker:
    """One row of a table of embeddings, of 8 that are packed together."""
    nbytes = packed_bytes(fmt, 8, WIDTH) // 8 + 4 * WIDTH
    return lambda: case(ROW, weights(fmt, 8, WIDTH), WIDTH, 3, Y(WIDTH), reads=nbytes)


def gemv(fmt: str) -> Maker:
    """One token through the second matrix of the feed-forward layer."""

    def make() -> Case:
        integer = fmt.startswith("q")
        given = quantized(FFN) if integer else (floats(FFN),)
        w, ops, unit = weights(fmt, HIDDEN, FFN), 2.0 * HIDDEN * FFN, "int8" if integer else "fma"
        args = (w, HIDDEN // 8, FFN, *given, Y(HIDDEN))
        return Case("2048 x 8192, Llama 3.2 1B", args, True, ops, unit)

    return make


def gemm(fmt: str) -> Maker:
    """A chunk of a prompt through 16 rows of a matrix."""

    def make() -> Case:
        k, n = HIDDEN, TOKENS * HIDDEN
        head = (weights(fmt, 16, k), 2, k)
        if fmt.startswith("q"):
            args: Args = (
                *head,
                *quantized(n),
                TOKENS,
                scratch(24 * k, np.uint8),
                Y(16 * TOKENS),
                16,
            )
        else:
            args = (*head, floats(n), k, TOKENS, Y(16 * TOKENS), 16)
        unit = "int8" if fmt.startswith("q") else "fma"
        return Case("16 x 2048, 256 tokens", args, ops=32.0 * k * TOKENS, unit=unit)

    return make


def packed_s8(rows: int, k: int) -> Array:
    """Codes in blocks of 8 rows, as ``pack_s8`` makes them: sums must be right."""
    size = (k + 3) // 4 * 32 + 32
    source, out = codes(8 * k), np.zeros(size, np.uint8)
    pack = lib.claw_ops_named(b"scalar").pack_s8
    pack(ffi.from_buffer("int8_t[]", source), k, 8, k, ffi.from_buffer("uint8_t[]", out))
    return np.tile(out, rows // 8)


def gemm8(kind: str) -> Maker:
    """64 tokens through 256 rows."""

    def make() -> Case:
        rows, k, tokens = 256, 768, 64
        given = codes(tokens * k, np.int8 if kind == "s8" else np.uint8)
        zero = () if kind == "s8" else (128,)
        work = scratch(tokens * (4096 // 64 * 80 + 128) + (1 << 14), np.uint8)  # GEMM8_SCRATCH
        out = Out(tokens * rows, np.int32)
        args = (packed_s8(rows, k), rows // 8, k, given, k, *zero, tokens, work, out, rows)
        about = "256 x 768, 64 tokens, BERT"
        return Case(about, args, ops=2.0 * rows * k * tokens, unit="int8")

    return make


def gemv8() -> Case:
    k, rows = 3072, 768
    args = (packed_s8(rows, k), rows // 8, k, codes(k), Out(rows, np.int32))
    return Case("768 x 3072, BERT", args, True, 2.0 * k * rows, "int8")


def repack(block: int, group: int, packed: str) -> Maker:
    """8 rows of a file."""

    def make() -> Case:
        stride = FFN // group * block
        out = bytes_out(packed_bytes(packed, 8, FFN))
        return case("8 rows of 8192", ordinary(8 * stride), stride, 8, FFN, out, cold=True)

    return make


def kv(eight: bool) -> Case:
    size = 64 * (HEAD + 2 * HEAD // GROUP) if eight else 64 * HEAD
    out = Out(size, np.uint8 if eight else np.uint16)
    args = (floats(HEAD), floats(HEAD), HEAD, 5, size, out, out)
    reads = 8 * HEAD + (2 * HEAD + 8 if eight else 4 * HEAD)
    return Case("a head of 64", args, reads=reads)


def attention(kind: str) -> Maker:
    """A token's heads that share keys and values."""

    def make() -> Case:
        seen = 1024 if kind == "window" else POSITIONS
        block = 64 * (HEAD + 2 * HEAD // GROUP) if kind == "q8" else 64 * HEAD
        cache = ordinary(POSITIONS // 64 * block, np.uint8 if kind == "q8" else np.uint16)
        last = np.full(QUERIES, POSITIONS, np.int32)
        masks = (last,) if kind == "f16" else (0.0, last - np.int32(seen), last)
        args = (
            *(floats(QUERIES * HEAD), QUERIES, HEAD, 0.125, *masks, block, cache, cache),
            *(scratch(64 * HEAD * 2 + QUERIES * 130), Y(QUERIES * HEAD)),
        )
        reads = 2 * cache.nbytes * seen // POSITIONS
        about = f"4 heads of 64, {seen} of {POSITIONS} positions"
        ops = 4.0 * QUERIES * seen * HEAD
        return Case(about, args, True, ops, "fma", reads)

    return make


def gates(n: int, *tail: Out) -> Case:
    return case(MID, floats(n), floats(n), n, *(tail or (Y(n),)))


def requantize(dtype: type) -> Maker:
    n = 2048
    return lambda: case(
        "2048 channels, ResNet-50",
        *(integers(n, -60000, 60000), integers(n, -999, 999), floats(n, 0.001, 0.004)),
        *(n, 3, Out(n, dtype)),
    )


def groupnorm() -> Case:
    n = 320 * 1024
    args = (floats(n), floats(320), floats(320), 320, 32, 1024, 1e-5, Y(n))
    return Case("320 channels of 32 x 32, Stable Diffusion", args)


def affine_codes(dtype: type) -> dict[str, Maker]:
    """To and from codes of a byte."""
    letter, zero = ("u8", 128) if dtype is np.uint8 else ("s8", 0)
    return {
        f"quantize_{letter}": lambda: case(MID, floats(FFN), FFN, 0.02, zero, Out(FFN, dtype)),
        f"dequantize_{letter}": lambda: case(MID, codes(FFN, dtype), FFN, 0.02, zero, Y(FFN)),
    }


def normed(*parts: int) -> Callable[[bool], Maker]:
    """A norm of as many vectors, into floats or codes."""

    def pick(into_q8: bool) -> Maker:
        def make() -> Case:
            out = q8(WIDTH) if into_q8 else (Y(WIDTH),)
            return case(ROW, *[floats(WIDTH) for _ in parts], WIDTH, 1e-5, *out)

        return make

    return pick


_H, _F, _V = WIDTH, FFN, VOCABULARY
_rms, _layer = normed(0, 0), normed(0, 0, 0)
_FMTS_INT, _FMTS_FLOAT = ("q4a", "q4s", "q8a", "q8s"), ("f16", "bf16", "f32")
_PLAIN = "relu hardswish sigmoid tanh silu quick_gelu gelu gelu_tanh softplus exp"

CASES: dict[str, Maker] = {
    "quantize_q8": lambda: case(ROW, floats(_H), _H, *q8(_H)),
    "quantize_a7": lambda: case(ROW, floats(_H), _H, *q8(_H)),
    "dequantize_q8": lambda: case(ROW, codes(_H), floats(_H // GROUP), _H, Y(_H)),
    "quantize_q8_row": lambda: case(ROW, floats(_H), _H, Out(_H, np.int8), Y(1), Out(1, np.int32)),
    **affine_codes(np.uint8),
    **affine_codes(np.int8),
    "rmsnorm": _rms(False),
    "rmsnorm_q8": _rms(True),
    "layernorm_f32": _layer(False),
    "layernorm_q8": _layer(True),
    "add_rmsnorm": lambda: case(ROW, floats(_H), floats(_H), floats(_H), _H, 1e-5, Y(_H), Y(_H)),
    "l2norm_f32": over(_H, 1e-6, about="width 4096, Mistral 7B as an embedder"),
    "groupnorm_f32": groupnorm,
    "add": over(_H, about=ROW, inputs=2),
    "silu_mul": over(_F, about=MID, inputs=2),
    "silu_mul_tile": lambda: case(
        "a tile, 256 tokens", floats(TOKENS * 16), TOKENS, Y(TOKENS * 8), 8
    ),
    "gelu_mul_tile": lambda: case(
        "a tile, 256 tokens", floats(TOKENS * 16), TOKENS, Y(TOKENS * 8), 8
    ),
    "rope_split": lambda: case("a head of 64", floats(HEAD), floats(HEAD), HEAD, HEAD, Y(HEAD)),
    "rope_interleaved": lambda: case(
        "a head of 64", floats(HEAD), floats(2 * HEAD), HEAD, HEAD, Y(HEAD)
    ),
    **{f"row_{fmt}": row(fmt) for fmt in (*_FMTS_INT, *_FMTS_FLOAT)},
    **{f"gemv_{fmt}": gemv(fmt) for fmt in (*_FMTS_INT, *_FMTS_FLOAT)},
    **{f"gemm_{fmt}": gemm(fmt) for fmt in (*_FMTS_INT, *_FMTS_FLOAT)},
    "kv_append": lambda: kv(False),
    "kv_append_q8": lambda: kv(True),
    "attention_f16": attention("f16"),
    "attention_q8": attention("q8"),
    "attention_window_f16": attention("window"),
    **{f"{name}_f32": over(_F, about=MID) for name in _PLAIN.split()},
    "leaky_relu_f32": over(_F, 0.1, about=MID),
    "clamp_f32": over(_F, -1.0, 1.0, about=MID),
    "softcap_f32": over(_F, 30.0, about=MID),
    "geglu_f32": over(_F, about=MID, inputs=2),
    "glu_f32": over(_F, about=MID, inputs=2),
    "silu_mul_q8": lambda: gates(_F, *q8(_F)),
    "geglu_q8": lambda: gates(_F, *q8(_F)),
    "softmax_f32": over(POSITIONS, POSITIONS, 0.125, about="4096 scores"),
    "log_softmax_f32": over(_V, about=LOGITS),
    "logsumexp_f32": lambda: case(LOGITS, floats(_V), _V, Y(1)),
    "argmax_f32": lambda: case(LOGITS, floats(_V), _V, Out(1, np.int32)),
    "topk_f32": lambda: case(f"40 of {LOGITS}", floats(_V), _V, 40, Y(40), Out(40, np.int32)),
    "requantize_s32_u8": requantize(np.uint8),
    "requantize_s32_s8": requantize(np.int8),
    "pack_s8": lambda: case(
        "8 rows of 8192", codes(8 * _F), _F, 8, _F, bytes_out(8 * _F + 32), cold=True
    ),
    "gemm_s8s8_s32": gemm8("s8"),
    "gemm_u8s8_s32": gemm8("u8"),
    "gemv_s8s8_s32": gemv8,
    "repack_q4_0": repack(18, GROUP, "q4s"),
    "repack_q4_1": repack(20, GROUP, "q4a"),
    "repack_q8_0": repack(34, GROUP, "q8s"),
    "repack_f16": repack(2, 1, "f16"),
    "repack_f32": repack(4, 1, "f32"),
    "hadamard_f32": lambda: case("4096", floats(4096), 4096, Y(4096), ops=4096 * math.log2(4096)),
}
