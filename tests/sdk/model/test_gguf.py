"""The GGUF reader: what it reads equals the official package, what is hostile it refuses."""

import mmap
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf as official
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.sdk.model import gguf
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.gguf import ModelFileError, Strings, parse
from gguf_files import File, Raw, T, string, tiny_llama, u32, u64

GIB = 1 << 30


def refuse(raw: bytes, match: str) -> ModelFileError:
    with pytest.raises(ModelFileError, match=match) as caught:
        parse(memoryview(raw))
    return caught.value


def array(kind: int, count: int, body: bytes = b"") -> Raw:
    return Raw(u32(9) + u32(kind) + u64(count) + body)


def test_every_metadata_type_is_read(tmp_path: Path) -> None:
    raw = {
        0: (struct.pack("<B", 200), 200),
        1: (struct.pack("<b", -3), -3),
        2: (struct.pack("<H", 60_000), 60_000),
        3: (struct.pack("<h", -3000), -3000),
        4: (struct.pack("<I", 4_000_000_000), 4_000_000_000),
        5: (struct.pack("<i", -5), -5),
        6: (struct.pack("<f", 0.5), 0.5),
        7: (b"\1", True),
        10: (u64(1 << 63), 1 << 63),
        11: (struct.pack("<q", -1), -1),
        12: (struct.pack("<d", 0.1), 0.1),
    }
    data = File({f"k{code}": Raw(u32(code) + body) for code, (body, _) in raw.items()}).build()
    metadata = parse(memoryview(data)).metadata
    assert metadata == {f"k{code}": expected for code, (_, expected) in raw.items()}


def test_arrays_are_lazy_views() -> None:
    data = File({"words": ["a", "", "äöü"], "numbers": [1, -2, 3], "none": []}).build()
    metadata = parse(memoryview(data)).metadata
    assert isinstance(metadata["words"], Strings)
    assert list(metadata["words"]) == ["a", "", "äöü"] == metadata["words"][0:3]
    assert metadata["words"][-1] == "äöü" and len(metadata["words"]) == 3
    assert metadata["numbers"].tolist() == [1, -2, 3] and len(metadata["none"]) == 0


def test_equals_the_official_reader(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_llama(tied=False))
    ours, theirs = gguf.read(path), official.GGUFReader(path)
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.shape == tuple(int(dim) for dim in reversed(tensor.shape.tolist()))
        assert mine.start == tensor.data_offset and mine.nbytes == tensor.n_bytes
        assert bytes(mine.data) == tensor.data.tobytes()
    for key, item in theirs.fields.items():
        if key.startswith("GGUF."):
            continue
        mine_value: Any = ours.metadata[key]
        if isinstance(mine_value, Strings | memoryview):
            mine_value = list(mine_value)
        assert mine_value == item.contents()
    assert len(ours.tensors) == len(theirs.tensors)


def test_reads_a_descriptor_and_leaves_it_open(tmp_path: Path) -> None:
    fd = os.memfd_create("model")
    try:
        os.write(fd, tiny_llama())
        file = gguf.read(fd)
        os.fstat(fd)
    finally:
        os.close(fd)
    assert bytes(file.tensors["output_norm.weight"].data)[:4] != b""
    assert file.tensors["output_norm.weight"].data.readonly


def resident_files() -> int:
    """Bytes of mapped files that are resident in this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssFile")


def test_data_that_is_let_go_is_no_longer_resident_and_can_be_read_again(tmp_path: Path) -> None:
    size = 8 << 20
    body = os.urandom(1 << 20) * (size >> 20)
    path = tmp_path / "large.gguf"
    tensors = [T("small", (8,)), T("large", (size // 4,), DType.F32, body)]
    path.write_bytes(File({}, tensors).build())
    data = gguf.read(path).tensors["large"].data
    assert bytes(data) == body
    full = resident_files()
    gguf.let_go(data)
    assert full - resident_files() > size - (1 << 20)
    assert bytes(data) == body


def test_letting_go_touches_only_files_that_were_mapped_here() -> None:
    memory = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:4] = b"kept"
    gguf.let_go(memoryview(memory))
    gguf.let_go(memoryview(bytearray(1 << 16)))
    assert memory[:4] == b"kept"


def test_version_2_is_read() -> None:
    assert parse(memoryview(File({"a": 1}, version=2).build())).version == 2


def test_the_error_says_where_and_survives_pickling() -> None:
    error = refuse(File({"k": Raw(u32(13) + b"\0" * 16)}).build(), "unknown type of metadata k")
    assert error.code == "bad_model" and error.got == 13
    assert error.where == 24 + 8 + 1 and f"byte {error.where}" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.where, again.allowed) == (str(error), error.where, error.allowed)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "other magic": (b"GGML" + bytes(64), "not a GGUF file"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(64), "big-endian"),
    "version 1": (File(version=1).build(), "unsupported GGUF version"),
    "version 4": (File(version=4).build(), "unsupported GGUF version"),
    "2^60 tensors": (File(count=1 << 60).build(), "more tensors than the file can hold"),
    "2^60 keys": (File(keys=1 << 60).build(), "more metadata keys than the file can hold"),
    "2^64-1 keys": (File(keys=2**64 - 1).build(), "more metadata keys"),
    "keys that are not there": (File({"a": 1}, keys=4).build() + bytes(3), "more metadata keys"),
    "key of 2^60 bytes": (
        b"GGUF" + u32(3) + u64(0) + u64(1) + u64(1 << 60) + bytes(64),
        "a metadata key is too long",
    ),
    "key beyond the end": (
        b"GGUF" + u32(3) + u64(0) + u64(1) + u64(200) + bytes(64),
        "a metadata key reaches beyond the end",
    ),
    "key that is not UTF-8": (File([(b"\xff\xfe", 1)]).build(), "not UTF-8"),
    "key twice": (File([("a", 1), ("a", 2)]).build(), "a metadata key stands twice"),
    "string beyond the end": (
        File({"a": Raw(u32(8) + u64(4096) + b"x")}).build(),
        "value of a reaches beyond the end",
    ),
    "string of 2^63 bytes": (File({"a": Raw(u32(8) + u64(1 << 63))}).build(), "a is too long"),
    "string that is not UTF-8": (
        File({"a": Raw(u32(8) + string(b"ab\xc0\xaf"))}).build(),
        "not UTF-8",
    ),
    "unknown value type": (File({"a": Raw(u32(99) + bytes(8))}).build(), "unknown type"),
    "bool of 2": (File({"a": Raw(u32(7) + b"\2")}).build(), "no boolean"),
    "array of 2^60 numbers": (File({"a": array(4, 1 << 60)}).build(), "more elements of a"),
    "array of 2^60 strings": (File({"a": array(8, 1 << 60)}).build(), "more elements of a"),
    "array whose bytes overflow": (File({"a": array(10, 1 << 61)}).build(), "more elements of a"),
    "array of arrays": (File({"a": array(9, 1, array(9, 1).data)}).build(), "nested array"),
    "array of unknown": (File({"a": array(77, 1, bytes(64))}).build(), "unknown element type"),
    "array of bad booleans": (File({"a": array(7, 2, b"\1\7")}).build(), "no booleans"),
    "array string beyond the end": (
        File({"a": array(8, 2, string("x") + u64(60_000))}).build() + bytes(32),
        r"a\[1\] is too long",
    ),
    "alignment 0": (File({"general.alignment": 0}).build(), "bad general.alignment"),
    "alignment 24": (File({"general.alignment": 24}).build(), "bad general.alignment"),
    "alignment 2^31": (File({"general.alignment": 1 << 31}).build(), "bad general.alignment"),
    "alignment as text": (File({"general.alignment": "32"}).build(), "wrong type"),
    "tensor name twice": (File({}, [T("a", [1]), T("a", [1])]).build(), "stands twice"),
    "tensor name too long": (File({}, [T("a" * 65, [1])]).build(), "name is too long"),
    "rank 0": (File({}, [T("a", [], data=b"")]).build(), "number of dimensions"),
    "rank 2^32-1": (File({}, [T("a", [1], rank=2**32 - 1)]).build(), "number of dimensions"),
    "rank 5": (File({}, [T("a", [1, 1, 1, 1, 1])]).build(), "number of dimensions"),
    "dimension 0": (File({}, [T("a", [4, 0], data=b"")]).build(), "bad shape of tensor a"),
    "dimension 2^63": (File({}, [T("a", [1 << 63], data=b"")]).build(), "bad shape"),
    "product overflows 64 bits": (
        File({}, [T("a", [1 << 32, 1 << 32, 2], data=b"")]).build(),
        "beyond the end of the file",
    ),
    "product overflows to 4": (
        File({}, [T("a", [1 << 31, 1 << 33, 4], data=bytes(64))]).build(),
        "beyond the end of the file",
    ),
    "unknown dtype": (File({}, [T("a", [32], dtype=4)]).build(), "unsupported type of tensor a"),
    "dtype 2^32-1": (File({}, [T("a", [32], dtype=2**32 - 1)]).build(), "unsupported type"),
    "row of broken blocks": (File({}, [T("a", [2, 33], dtype=DType.Q4_1)]).build(), "broken row"),
    "offset outside": (
        File({}, [T("a", [8], offset=1 << 20)]).build(),
        "beyond the end of the file",
    ),
    "offset 2^64-32": (
        File({}, [T("a", [8], offset=2**64 - 32)]).build(),
        "beyond the end of the file",
    ),
    "misaligned": (File({}, [T("a", [8], offset=4)]).build() + bytes(64), "misaligned tensor a"),
    "overlap": (
        File({}, [T("a", [16]), T("b", [16], offset=32)]).build(),
        "tensors a and b overlap",
    ),
    "same place": (File({}, [T("a", [8]), T("b", [8], offset=0)]).build(), "overlap"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case: str) -> None:
    raw, match = HOSTILE[case]
    tracemalloc.start()
    try:
        refuse(raw, match)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20, "a hostile count must fail before anything is allocated for it"


def test_strings_inside_arrays_are_checked_when_they_are_read() -> None:
    file = parse(memoryview(File({"a": array(8, 1, string(b"\xff"))}).build()))
    with pytest.raises(ModelFileError, match="not UTF-8"):
        list(file.metadata["a"])


def test_the_elements_of_all_arrays_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_ELEMENTS", 10)
    raw = File({"a": [1] * 6, "b": [1] * 6}).build()
    assert refuse(raw, "more elements of b").allowed == 4


@pytest.mark.parametrize("size", [0, 3, 23])
def test_files_too_short_for_a_header(tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(b"GGUF" * 6)
    os.truncate(path, size)
    with pytest.raises(ModelFileError, match="ends inside of the header"):
        gguf.read(path)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(ModelFileError, match="regular file"):
            gguf.read(path)
    with pytest.raises(FileNotFoundError):
        gguf.read(tmp_path / "missing")


def test_a_sparse_file_of_many_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    path.write_bytes(File({"a": 1}).build())
    os.truncate(path, 64 * GIB)
    assert gguf.read(path).nbytes == 64 * GIB


def test_typed_access() -> None:
    file = parse(memoryview(File({"flag": True, "n": 3}).build()))
    assert file.get("n", int) == 3 and file.get("missing", int, 7) == 7
    with pytest.raises(ModelFileError, match="metadata flag has the wrong type") as caught:
        file.get("flag", int)
    assert (caught.value.got, caught.value.allowed) == ("bool", "int")


BASE = tiny_llama(layers=1)
HEADER = BASE.index(b"output_norm.weight") + 64


def attempt(raw: bytes) -> None:
    """Either parses, with every view inside of the file, or raises the one typed error."""
    tracemalloc.start()
    try:
        file = parse(memoryview(raw))
        for key in file.metadata:
            if isinstance(file.metadata[key], Strings):
                list(file.metadata[key])
        assert all(each.start + each.nbytes <= len(raw) for each in file.tensors.values())
        assert all(len(each.data) == each.nbytes for each in file.tensors.values())
    except ModelFileError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(BASE)))
def test_truncated_files(length: int) -> None:
    attempt(BASE[:length])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(4, HEADER),
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from([u64(2**64 - 1), u64(1 << 60), u64(1 << 31), u32(9), bytes(8)]),
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_mutated_files(changes: list[tuple[int, bytes]]) -> None:
    raw = bytearray(BASE)
    for at, patch in changes:
        raw[at : at + len(patch)] = patch
    attempt(bytes(raw))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=256))
def test_random_bytes_behind_a_header(body: bytes) -> None:
    attempt(b"GGUF" + u32(3) + body)
