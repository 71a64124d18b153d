"""Turns quantized blocks into float32 with numpy: the definition that faster code is tested by.

Every formula is written in the order of operations of ggml's reference routines, so that results
are equal bit for bit. Slow and simple on purpose; drivers have their own ops.

Block layouts: https://github.com/ggml-org/ggml (ggml-common.h); K-quants: llama.cpp pull 1684.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clawai.sdk.model.dtypes import DType

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


def dequantize(data: bytes | memoryview, dtype: DType, shape: tuple[int, ...]) -> F32:
    """Decode a tensor.

    Args:
        data: the tensor's bytes, blocks in row order.
        dtype: any float or quantized type of ``DType``.
        shape: outermost first; the last one is a multiple of the type's block.

    Returns:
        float32 of ``shape``, freshly allocated.

    Raises:
        ValueError: the bytes do not fit the shape, or the type holds no real numbers.
    """
    if dtype not in _DECODERS:
        raise ValueError(f"{dtype.name} cannot be dequantized; known: {sorted(_DECODERS)}")
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    expected = rows * dtype.row_bytes(shape[-1])
    raw = np.frombuffer(data, dtype=np.uint8)
    if raw.size != expected:
        raise ValueError(f"{dtype.name} of shape {shape} needs {expected} bytes, got {raw.size}")
    blocks = raw.reshape(-1, dtype.geometry.nbytes)
    return np.ascontiguousarray(_DECODERS[dtype](blocks), dtype=np.float32).reshape(shape)


def _half(blocks: U8, start: int) -> F32:
    """The float16 at byte ``start`` of every block, as a column of float32."""
    column = np.ascontiguousarray(blocks[:, start : start + 2])
    return column.view(np.float16).astype(np.float32)


def _nibbles(packed: U8) -> U8:
    """(blocks, n) bytes -> (blocks, 2n): all low nibbles, then all high ones."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=1)


def _fifth_bits(blocks: U8, start: int) -> U8:
    """The 32 bits at byte ``start``, one a value, worth 16 each."""
    bits = np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder="little")
    return (bits << 4).astype(np.uint8)


def _f32(blocks: U8) -> F32:
    return np.ascontiguousarray(blocks).view(np.float32)


def _f16(blocks: U8) -> F32:
    return np.ascontiguousarray(blocks).view(np.float16).astype(np.float32)


def _bf16(blocks: U8) -> F32:
    wide = np.ascontiguousarray(blocks).view(np.uint16).astype(np.uint32)
    return (wide << np.uint32(16)).view(np.float32)


def _q4_0(blocks: U8) -> F32:
    values = _nibbles(blocks[:, 2:18]).astype(np.int8) - np.int8(8)
    return _half(blocks, 0) * values.astype(np.float32)


def _q4_1(blocks: U8) -> F32:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:20]).astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: U8) -> F32:
    values = (_nibbles(blocks[:, 6:22]) | _fifth_bits(blocks, 2)).astype(np.int8) - np.int8(16)
    return _half(blocks, 0) * values.astype(np.float32)


def _q5_1(blocks: U8) -> F32:
    values = _nibbles(blocks[:, 8:24]) | _fifth_bits(blocks, 4)
    return _half(blocks, 0) * values.astype(np.float32) + _half(blocks, 2)


def _q8_0(blocks: U8) -> F32:
    return blocks[:, 2:34].view(np.int8).astype(np.float32) * _half(blocks, 0)


def _k_scales(packed: U8) -> tuple[U8, U8]:
    """The eight 6-bit scales and eight 6-bit minima of a K block, from 12 bytes each.

    Bytes 0-3 and 4-7 hold the first four scales and minima in their low 6 bits; bytes 8-11 hold
    the low nibbles of the last four, whose upper bits are the upper 2 bits of bytes 0-7.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 0x0F) | ((first >> 2) & 0x30)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 2) & 0x30)], axis=1)
    return scales, minima


def _k_affine(blocks: U8, values: U8) -> F32:
    """(blocks, 8, 32) values -> d * scale * value - dmin * minimum."""
    scales, minima = _k_scales(blocks[:, 4:16])
    step = (_half(blocks, 0) * scales.astype(np.float32))[:, :, None]
    low = (_half(blocks, 2) * minima.astype(np.float32))[:, :, None]
    return (step * values.astype(np.float32) - low).reshape(len(blocks), 256)


def _k_nibbles(packed: U8) -> U8:
    """128 bytes -> (blocks, 8, 32): each 32 bytes give a group of low, then one of high nibbles."""
    quads = packed.reshape(-1, 4, 32)
    return np.stack([quads & 0x0F, quads >> 4], axis=2).reshape(-1, 8, 32)


def _q4_k(blocks: U8) -> F32:
    return _k_affine(blocks, _k_nibbles(blocks[:, 16:144]))


def _q5_k(blocks: U8) -> F32:
    shift = np.arange(8, dtype=np.uint8)[None, :, None]
    fifth = (blocks[:, None, 16:48] >> shift) & 1
    return _k_affine(blocks, _k_nibbles(blocks[:, 48:176]) | (fifth << 4).astype(np.uint8))


def _q6_k(blocks: U8) -> F32:
    count = len(blocks)
    low = blocks[:, 0:128].reshape(count, 2, 2, 32)
    low = np.concatenate([low & 0x0F, low >> 4], axis=2)  # (count, 2 halves, 4 groups, 32)
    shift = np.array([0, 2, 4, 6], dtype=np.uint8)[None, None, :, None]
    high = (blocks[:, 128:192].reshape(count, 2, 1, 32) >> shift) & 3
    values = (low | (high << 4)).astype(np.int8) - np.int8(32)
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
    step = (_half(blocks, 208) * scales)[:, :, None]
    return (step * values.reshape(count, 16, 16).astype(np.float32)).reshape(count, 256)


_DECODERS: dict[DType, Callable[[U8], F32]] = {
    DType.F32: _f32,
    DType.F16: _f16,
    DType.BF16: _bf16,
    DType.Q4_0: _q4_0,
    DType.Q4_1: _q4_1,
    DType.Q5_0: _q5_0,
    DType.Q5_1: _q5_1,
    DType.Q8_0: _q8_0,
    DType.Q4_K: _q4_k,
    DType.Q5_K: _q5_k,
    DType.Q6_K: _q6_k,
}
