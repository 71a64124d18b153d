"""Which tensor gets which type, and what the header of the new file says."""

import numpy as np
import pytest

from clawai.plugins.quantizer.plan import figures, plan
from clawai.plugins.quantizer.worker import PIECE, chunks, matrices
from clawai.sdk.model.dequant import dequantize
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.gguf import GGUF, ModelFileError, parse
from gguf_files import File, T, tiny_llama

TENSORS = [
    T("token_embd.weight", (10, 64), DType.F16),
    T("output.weight", (10, 64), DType.Q4_1),
    T("blk.0.attn_norm.weight", (64,), DType.F32),
    T("blk.0.half_norm.weight", (64,), DType.F16),
    T("blk.0.ffn_up.weight", (6, 64), DType.BF16),
    T("blk.0.experts.weight", (2, 3, 64), DType.F32),
    T("blk.0.odd.weight", (5, 40), DType.F16),
    T("blk.0.table", (4, 32), DType.I32),
]


def of(tensors: list[T], **metadata: object) -> GGUF:
    raw = File(metadata, tensors, alignment=int(str(metadata.get("general.alignment", 32)))).build()
    return parse(memoryview(raw))


def types(file: GGUF, wanted: DType, delicate: DType | None = None) -> dict[str, str]:
    return {step.made.name: step.made.dtype.name for step in plan(file, wanted, delicate).steps}


def test_each_tensor_gets_its_type() -> None:
    found = types(of(TENSORS), DType.Q4_0)
    assert found == {
        "token_embd.weight": "Q8_0",
        "output.weight": "Q4_1",  # had fewer bits already
        "blk.0.attn_norm.weight": "F32",
        "blk.0.half_norm.weight": "F32",
        "blk.0.ffn_up.weight": "Q4_0",
        "blk.0.experts.weight": "Q4_0",
        "blk.0.odd.weight": "F16",
        "blk.0.table": "I32",
    }
    asked = types(of(TENSORS), DType.Q4_0, DType.Q4_1)
    assert asked["token_embd.weight"] == asked["output.weight"] == "Q4_1"
    assert types(of(TENSORS), DType.Q8_0)["blk.0.ffn_up.weight"] == "Q8_0"


@pytest.mark.parametrize("alignment", [32, 4096])
def test_the_header_is_that_of_the_source_but_for_types_and_places(alignment: int) -> None:
    metadata = {"general.name": "x", "general.file_type": 1, "a.list": ["b", "c"]}
    file = of(TENSORS, **metadata, **{"general.alignment": alignment})
    made = plan(file, DType.Q4_1)
    raw = b"".join(made.head) + b"".join(bytes(s.made.nbytes) + rest for s, rest in made.pieces())
    assert len(raw) == made.nbytes
    found = parse(memoryview(raw))
    changed = {"general.file_type", "general.quantization_version"}
    assert {k: bytes(v) for k, v in found.entries.items() if k not in changed} == {
        k: bytes(v) for k, v in file.entries.items() if k not in changed
    }
    assert [found.metadata[key] for key in sorted(changed)] == [3, 2]
    assert list(found.tensors) == list(file.tensors)
    assert all(each.start % alignment == 0 for each in found.tensors.values())


def test_a_model_of_ours_keeps_its_tokenizer() -> None:
    file = parse(memoryview(tiny_llama()))
    head = parse(
        memoryview(
            b"".join(plan(file, DType.Q8_0).head)
            + bytes(sum(len(each.data) for each in file.tensors.values()))
        )
    )
    tokens = "tokenizer.ggml.tokens"
    assert list(head.metadata[tokens]) == list(file.metadata[tokens])


def test_figures_count_weights_and_bits() -> None:
    file = of([T("a", (4, 64), DType.F16), T("n", (64,), DType.F32)])
    told = figures(file, plan(file, DType.Q8_0))
    assert told["parameters"] == 5 * 64
    assert told["source"] == {
        "bytes": file.nbytes,
        "bits_per_weight": 8 * (512 + 256) / 320,
        "types": {"F16": 512, "F32": 256},
    }
    assert told["result"]["types"] == {"Q8_0": 8 * 34, "F32": 256}  # type: ignore[index]


def test_a_bad_alignment_is_refused() -> None:
    with pytest.raises(ModelFileError, match=r"general\.alignment"):
        of([T("a", (4, 64))], **{"general.alignment": 48})


@pytest.mark.parametrize("shape", [(7, 64), (1, 2 * PIECE + 96), (3, PIECE + 32), (PIECE, 1)])
def test_weights_pass_in_pieces(shape: tuple[int, ...]) -> None:
    raw = np.random.default_rng(0).integers(0, 1000, shape).astype(np.float16).tobytes()
    file = of([T("a", shape, DType.F16, raw)])
    (step,) = plan(file, DType.Q8_0).steps
    pieces = list(matrices(step))
    assert all(piece.size <= PIECE for piece in pieces)
    whole = np.concatenate([piece.reshape(-1) for piece in pieces])
    np.testing.assert_array_equal(whole, dequantize(raw, DType.F16, shape).reshape(-1))


def test_bytes_pass_in_chunks() -> None:
    parts = [b"a" * 10, b"", b"b" * (2 * PIECE + 5), b"c" * (PIECE - 3), b"d"]
    found = list(chunks(parts))
    assert b"".join(found) == b"".join(parts)
    assert all(0 < len(each) <= PIECE for each in found)
    assert list(chunks([])) == []
