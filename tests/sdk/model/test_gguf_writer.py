"""The GGUF writer: our reader and the official package read back what it wrote."""

from pathlib import Path
from typing import Any

import gguf as official
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.sdk.model import gguf
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.gguf import ModelFileError, Strings, parse
from clawai.sdk.model.gguf_writer import NewTensor, encoded, header, padding
from clawai.sdk.model.loaded import described
from gguf_files import tiny_llama

METADATA = {
    "general.architecture": "llama",
    "a.bool": True,
    "an.int": 7,
    "a.large": 1 << 40,
    "a.negative": -3,
    "a.float": 0.5,
    "some.texts": ["a", "", "\u00e9\U0001f600"],
    "some.ints": [1, -2, 3],
    "some.floats": [0.25, -1.0],
    "some.bools": [True, False],
    "nothing": [],
}


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, Strings | memoryview) else value


def file_of(
    metadata: dict[str, Any], tensors: list[NewTensor], alignment: int = 32
) -> tuple[bytes, dict[str, bytes]]:
    """A whole file with random data, and that data."""
    random = np.random.default_rng(0)
    head = header({key: encoded(each) for key, each in metadata.items()}, tensors, alignment)
    body, datas = b"".join(head), {}
    for tensor in tensors:
        datas[tensor.name] = random.bytes(tensor.nbytes)
        body += datas[tensor.name] + padding(tensor.nbytes, alignment)
    return body, datas


TENSORS = [
    NewTensor("one", (3,), DType.F32),
    NewTensor("two", (5, 64), DType.Q4_1),
    NewTensor("three", (2, 3, 32), DType.Q8_0),
    NewTensor("four", (2, 1, 2, 7), DType.F16),
]


@pytest.mark.parametrize("alignment", [32, 256])
def test_what_was_written_is_read(alignment: int) -> None:
    metadata = METADATA | ({"general.alignment": alignment} if alignment != 32 else {})
    raw, datas = file_of(metadata, TENSORS, alignment)
    file = parse(memoryview(raw))
    assert file.version == 3
    assert {key: plain(value) for key, value in file.metadata.items()} == metadata
    assert gguf.alignment(file) == alignment
    for tensor in TENSORS:
        found = file.tensors[tensor.name]
        assert (found.shape, found.dtype) == (tensor.shape, tensor.dtype)
        assert found.start % alignment == 0
        assert bytes(found.data) == datas[tensor.name]
    assert list(file.tensors) == [tensor.name for tensor in TENSORS]


def test_the_official_package_reads_it(tmp_path: Path) -> None:
    metadata = {key: value for key, value in METADATA.items() if value != []}
    raw, datas = file_of(metadata, TENSORS)
    (tmp_path / "x.gguf").write_bytes(raw)
    reader = official.GGUFReader(tmp_path / "x.gguf")
    for key, value in metadata.items():
        assert reader.fields[key].contents() == value, key
    for found, tensor in zip(reader.tensors, TENSORS, strict=True):
        assert found.name == tensor.name and found.tensor_type.name == tensor.dtype.name
        assert tuple(int(size) for size in found.shape[::-1]) == tensor.shape
        assert found.data.tobytes() == datas[tensor.name]


def test_metadata_of_another_file_is_carried_over_byte_by_byte() -> None:
    raw = tiny_llama(layers=1)
    file = parse(memoryview(raw))
    tensors = [NewTensor(each.name, each.shape, each.dtype) for each in file.tensors.values()]
    head = b"".join(header(file.entries, tensors))
    assert head == raw[: len(head)]
    assert len(head) == min(each.start for each in file.tensors.values())


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=20),
        st.one_of(
            st.booleans(),
            st.integers(-(2**63), 2**64 - 1),
            st.floats(width=32, allow_nan=False),
            st.text(max_size=20),
            st.lists(st.text(max_size=5), max_size=5),
            st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
        ),
        max_size=6,
    ).filter(lambda each: "general.alignment" not in each)
)
def test_any_metadata_makes_the_round(metadata: dict[str, Any]) -> None:
    raw = b"".join(header({key: encoded(value) for key, value in metadata.items()}, ()))
    found = parse(memoryview(raw)).metadata
    assert {key: plain(value) for key, value in found.items()} == metadata


@pytest.mark.parametrize("value", [None, b"x", {}, [1, "a"], [[1]], object()])
def test_what_no_metadata_can_be(value: Any) -> None:
    with pytest.raises(TypeError):
        encoded(value)


@pytest.mark.parametrize("value", [1 << 64, -(1 << 63) - 1, [1 << 31], [-(1 << 31) - 1], 1e300])
def test_what_is_too_large_for_metadata(value: Any) -> None:
    with pytest.raises(OverflowError):
        encoded(value)


def test_another_formats_vocabulary_is_held_to_the_limits_of_a_file() -> None:
    text = described({"tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.token_type": [1, 3]})
    assert list(text.get("tokenizer.ggml.tokens", Strings)) == ["a", "b"]
    assert text.get("tokenizer.ggml.token_type", memoryview).tolist() == [1, 3]
    with pytest.raises(ModelFileError, match="too long"):
        described({"tokenizer.ggml.tokens": ["a" * 70_000]})
