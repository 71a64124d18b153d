"""Models of several files: what is put in comes out, and a stranger's archive breaks nothing."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_files import CONFIG, shapes, tensors
from bert_files import safetensors as encoded
from clawai.sdk.errors import ClawError
from clawai.sdk.model import bundle, safetensors


def opened(data: bytes) -> dict[str, memoryview]:
    fd = os.memfd_create("bundle")
    try:
        os.write(fd, data)
        return bundle.read(fd)
    finally:
        os.close(fd)


def made(tmp_path: Path, members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    for name, data in members.items():
        (tmp_path / name).write_bytes(data)
        bundle.add(out, name, tmp_path / name)
    return out.getvalue() + bundle.END


def test_what_is_put_in_comes_out_and_tar_reads_it(tmp_path: Path) -> None:
    members = {"a.json": b"{}", "b": b"", "c.bin": os.urandom(1000), "d": bytes(512)}
    data = made(tmp_path, members)
    assert {name: bytes(each) for name, each in opened(data).items()} == members
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {i.name: tar.extractfile(i).read() for i in tar} == members
    os.utime(tmp_path / "a.json", (1, 1))
    assert made(tmp_path, members) == data  # nothing but names and contents decides


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_only_files_are_members(kind: bytes) -> None:
    told = tarfile.TarInfo("x")
    told.type, told.linkname = kind, "/etc/passwd"
    with pytest.raises(ClawError, match="is no file"):
        opened(told.tobuf(tarfile.USTAR_FORMAT) + bundle.END)


def test_a_member_cannot_be_larger_than_the_file(tmp_path: Path) -> None:
    data = made(tmp_path, {"a": bytes(4000)})
    with pytest.raises(ClawError, match="is no file of at most 3584 bytes"):
        opened(data[: 512 + 3584])


def test_a_name_comes_once(tmp_path: Path) -> None:
    one = made(tmp_path, {"a": b"1"})[: -len(bundle.END)]
    with pytest.raises(ClawError, match="one too many"):
        opened(one + one + bundle.END)


@given(st.binary(max_size=4096), st.integers(0, 6000), st.binary(min_size=1, max_size=64))
def test_any_bytes_are_read_or_refused(noise: bytes, at: int, spoilt: bytes) -> None:
    weights = {"w": tensors(CONFIG)["encoder.layer.0.output.dense.weight"]}
    told = tarfile.TarInfo("model.safetensors")
    file = encoded(weights)
    told.size = len(file)
    whole = bytearray(told.tobuf(tarfile.USTAR_FORMAT) + file + bytes(-len(file) % 512))
    whole += bundle.END
    at %= len(whole)
    whole[at : at + len(spoilt)] = spoilt
    for data in (bytes(whole), noise):
        try:
            members = opened(data)
        except ClawError as error:
            assert error.code == "bad_model"
            continue
        for each in members.values():
            try:
                found = safetensors.read(each)
            except ClawError as error:
                assert error.code == "bad_model"
            else:
                assert sum(len(tensor.data) for tensor in found.values()) <= len(each) * len(found)


def test_tensors_are_read() -> None:
    weights = tensors(CONFIG)
    found = safetensors.read(memoryview(encoded(weights)))
    assert {name: each.shape for name, each in found.items()} == shapes(CONFIG)
    assert all(bytes(found[name].data) == each.tobytes() for name, each in weights.items())
