"""The look at an ONNX file before a library reads it: an answer or a refusal, whatever it is."""

import random
from pathlib import Path

import pytest

import onnx_files
from clawai.sdk.errors import ClawError
from clawai.sdk.model import onnx

GOOD = onnx_files.half_plus(2.0)


def header(path: Path, data: bytes) -> onnx.Header:
    return onnx.read(onnx_files.written(path, data))


def field(number: int, data: bytes) -> bytes:
    """A field with bytes in it; below 16 MiB."""
    size, out = len(data), b""
    while size > 127:
        out, size = out + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + out + bytes([size]) + data


def test_it_tells_what_is_there(tmp_path: Path) -> None:
    found = header(tmp_path / "m", GOOD)
    assert (found.ir_version, found.opset, found.nodes, found.domains) == (8, 17, 2, [])
    assert found.weights > 8
    assert header(tmp_path / "m", onnx_files.slow()).nodes == 3, "those of a loop too"
    assert onnx.is_onnx(GOOD[:16]) and not onnx.is_onnx(b"GGUF\x03\x00\x00\x00")


def test_every_cut_and_every_changed_byte_is_an_answer_or_a_refusal(tmp_path: Path) -> None:
    path, draw = tmp_path / "m", random.Random(1)
    whole = GOOD.index(b"\x3a")  # where the graph begins; what follows it may be missing
    for end in range(whole, len(GOOD) - 10):
        with pytest.raises(ClawError) as caught:
            header(path, GOOD[:end])
        assert caught.value.code == "bad_model"
    for _ in range(400):
        data = bytearray(GOOD)
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            header(path, bytes(data))
        except ClawError as error:
            assert error.code == "bad_model"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (onnx_files.elsewhere(), "in another file"),
        (b"", "no ONNX file has this size"),
        (bytes(64), "without a number"),
        (b"\x08\x08" + b"\xff" * 40, "no number ends"),
        (b"\x08\x08" + field(7, b"") + field(7, b"") + bytes([0x18, 0]) * 8, "2 graphs"),
        (b"\x08\x08" + field(2, b"x" * 40), "0 graphs"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ClawError) as caught:
        header(tmp_path / "m", data)
    assert caught.value.code == "bad_model" and words in str(caught.value)


def test_graphs_within_each_other_have_a_bound(tmp_path: Path) -> None:
    graph = b""
    for _ in range(40):
        graph = field(1, field(5, field(6, graph)))  # a node's attribute is a graph
    with pytest.raises(ClawError, match="within each other"):
        header(tmp_path / "m", b"\x08\x08" + field(7, graph))


def test_fields_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "FIELDS", 100)
    with pytest.raises(ClawError, match="too many fields"):
        header(tmp_path / "m", b"\x08\x08" + b"\x18\x00" * 200)
