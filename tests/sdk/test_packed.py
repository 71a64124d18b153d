"""Packed files: written by the kernel's side, read by the worker's, whatever lies in them."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawai.kernel.steward.packed import write
from clawai.sdk import packed, weights
from clawai.sdk.packed import DATA_AT, Packed, PackedFileError
from clawai.sdk.weights import huge_in_file

TITLE = {"plugin": "engine", "model": "m", "code": "c"}
WEIGHTS = bytes(range(256)) * 40_000  # 9.8 MiB: three chunks
NOTES = b"notes" * 100


def made(folder: Path, weights: bytes = WEIGHTS, notes: bytes = NOTES) -> Path:
    """A packed file, from a memfd as a worker fills it."""
    data = weights + packed.envelope("layout-1", notes)
    fd = os.memfd_create("test")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        write(folder / "it.claw", TITLE, fd, len(data))
    finally:
        os.close(fd)
    return folder / "it.claw"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "packed"
    folder.mkdir(mode=0o700)
    return folder


def read(path: Path) -> tuple[Packed, bytes]:
    with path.open("rb") as file:
        found = Packed.read(file.fileno())
        memory = bytearray(found.nbytes)
        found.copy(memoryview(memory))
        return found, bytes(memory)


def test_the_child_that_writes_stands_back_and_only_that(place: Path) -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    made(place)
    assert os.getpriority(os.PRIO_PROCESS, 0) == usual
    code = (
        "import os\nfrom clawai.kernel.steward.packed import step_aside\n"
        "step_aside(os.getppid(), 1)\nprint(os.getpriority(os.PRIO_PROCESS, 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) == min(usual + 10, 19)


@pytest.mark.parametrize("size", [0, 1, packed.CHUNK - 1, packed.CHUNK, len(WEIGHTS)])
def test_what_was_written_is_read(place: Path, size: int) -> None:
    path = made(place, WEIGHTS[:size])
    found, weights = read(path)
    assert (found.layout, found.notes, weights) == ("layout-1", NOTES, WEIGHTS[:size])
    assert path.stat().st_mode & 0o077 == 0, "nobody else may read it"
    with path.open("rb") as file:
        assert packed.intact(file.fileno())
    assert sorted(each.name for each in place.iterdir()) == ["it.claw"]


@pytest.mark.parametrize("where", [70, DATA_AT, DATA_AT + packed.CHUNK + 5, -1, -33, -80])
def test_any_changed_byte_is_found(place: Path, where: int) -> None:
    path = made(place)
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    with path.open("rb") as file:
        assert not packed.intact(file.fileno())


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: b"", "too short"),
        (lambda data: b"GGUF" + data[4:], "magic"),
        (lambda data: data[:8] + b"\x09" + data[9:], "version"),
        (lambda data: data[:-1], "bytes for"),
        (lambda data: data + b"x", "bytes for"),
        (lambda data: data[:12] + b"\xff" * 4 + data[16:], "bytes for"),
        (lambda data: data[:16] + b"\xff" * 8 + data[24:], "bytes for"),
    ],
)
def test_what_is_no_packed_file_is_refused(place: Path, damage: object, why: str) -> None:
    path = made(place, WEIGHTS[:100])
    assert callable(damage)
    path.write_bytes(damage(path.read_bytes()))
    with path.open("rb") as file, pytest.raises(PackedFileError, match=why):
        Packed.read(file.fileno())


@given(tail=st.binary(min_size=0, max_size=64))
def test_whatever_stands_behind_the_weights(tail: bytes) -> None:
    """A worker wrote it, so its end may be anything: it is read, or refused in words."""
    fd = os.memfd_create("test")
    try:
        os.write(fd, bytes(10) + tail)
        try:
            behind, weights = packed.read_envelope(fd, 0, 10 + len(tail))
        except PackedFileError:
            return
        assert 0 <= weights <= 10 + len(tail) and isinstance(behind.notes, memoryview)
    finally:
        os.close(fd)


def test_two_ways_to_see_huge_pages_agree(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the file system gives: the system is asked, and before Linux 6.7 its lists read."""

    def refused(*_: object) -> bool:
        raise OSError(errno.ENOTTY, "not of this system")

    with made(place).open("rb") as file:
        found = [huge_in_file(file.fileno(), DATA_AT, len(WEIGHTS))]
        monkeypatch.setattr(weights, "_scan", refused)
        found.append(huge_in_file(file.fileno(), DATA_AT, len(WEIGHTS)))
    assert found[0] == found[1]
    assert not huge_in_file(-1, DATA_AT, len(WEIGHTS)), "nor is what cannot be looked at"


def test_lists_of_mappings_are_read() -> None:
    size = f"{weights.HUGE // 1024} kB"
    lines = [
        "200000-400000 r--s 00000000 08:01 1 /a\n", f"FilePmdMapped: {size}\n",
        "600000-a00000 r--s 00200000 08:01 1 /a\n", "Rss: 8 kB\n", f"FilePmdMapped: {size}\n",
        "c00000-e00000 r--s 00000000 08:01 1 /b\n", "FilePmdMapped: 0 kB\n",
    ]  # fmt: skip
    assert weights._told_huge(lines, [0x600000, 0x800000, 0xC00000]) == 1


def test_one_that_is_too_large_for_the_disk_is_not_begun(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    real = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1 << 20))
    with pytest.raises(OSError, match="20% of what the disk has free"):
        made(place)
    assert not list(place.iterdir())


def test_what_is_replaced_goes_and_then_what_was_used_longest_ago(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    for number, title in enumerate(
        ({"model": "m", "code": "old"}, {"model": "a"}, {"model": "b"}, {"model": "c"})
    ):
        path = made(place, WEIGHTS[: 1 << 20])
        index = hashlib.sha256(b"").digest()
        text = str({"plugin": "engine", **title}).replace("'", '"').encode()
        with path.open("r+b") as file:
            file.write(packed.header(packed_bytes(path), text, index))
        os.utime(path, (number, number))
        path.rename(place / f"{number}.claw")
    (place / "half.123.part").write_bytes(b"x")
    size = sum(path.stat().st_blocks * 512 for path in place.glob("[123].claw"))
    real = shutil.disk_usage(place)
    # Room for three of this size.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=4 * size))
    made(place, WEIGHTS[: 1 << 20])
    assert sorted(path.name for path in place.iterdir()) == ["2.claw", "3.claw", "it.claw"]


def packed_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return packed.read_header(file.fileno()).nbytes
