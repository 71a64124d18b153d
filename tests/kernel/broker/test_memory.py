"""Shared memory of a program that is connected: whose connection it is, and what may be asked."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_parts import Steward, free_port, stewards
from clawai.kernel.broker import memory
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Permissions
from clawai.sdk.net import Network
from support import no_leak

NAME = f"claw-test-broker-{os.getpid()}"


@pytest.fixture(scope="module")
def steward() -> Iterator[Steward]:
    """One broker for all."""
    with no_leak(), stewards() as made:
        yield made


@pytest.fixture
def lent() -> Iterator[Path]:
    """Memory of this user's."""
    path = memory.FOLDER / NAME
    path.write_bytes(b"lent")
    yield path
    path.unlink()


def worker(steward: Steward, *names: str) -> tuple[int, Network, int]:
    """A worker that listens and may have these opened: its number, what it has, the port."""
    port = free_port()
    asked = Permissions(listen={str(port): "?"}, shared_memory=dict.fromkeys(names, "?"))
    number, made = steward.numbered(asked=asked)
    return number, made, port


def test_it_is_opened_for_whom_it_belongs_to_and_written_down(steward: Steward, lent: Path) -> None:
    number, made, port = worker(steward, "claw-test-*")
    with socket.create_connection(("127.0.0.1", port)) as outside:
        fd = made.shared_memory(NAME, outside.getsockname())
        try:
            assert os.pread(fd, 9, 0) == b"lent"
            os.pwrite(fd, b"L", 0)
        finally:
            os.close(fd)
        assert lent.read_bytes() == b"Lent"
        record = steward.record(worker=number, event="memory")
        assert (record["name"], record["owner"], record["reason"]) == (NAME, os.getuid(), "")
        peer = outside.getsockname()
    with pytest.raises(ClawError, match="connected just now"):
        made.shared_memory(NAME, (peer[0], 1))


@pytest.mark.parametrize(
    ("names", "name", "words"),
    [
        (("other*",), NAME, "may not have"),
        (("claw",), NAME, "may not have"),
        ((), NAME, "may not have"),
        (("*",), "../etc/passwd", "no name of"),
        (("*",), "", "no name of"),
        (("*",), "a" * 300, "no name of"),
        (("*",), "claw-test-nobody", "cannot be opened"),
    ],
    # The name differs between the processes that collect the tests.
    ids=["another", "a beginning", "nothing", "a path", "no name", "a long name", "nobody's"],
)
def test_what_may_not_be_asked(
    steward: Steward, lent: Path, names: tuple[str, ...], name: str, words: str
) -> None:
    number, made, port = worker(steward, *names)
    with socket.create_connection(("127.0.0.1", port)) as outside:
        with pytest.raises(ClawError, match=words):
            made.shared_memory(name, outside.getsockname())
        assert words in steward.record(worker=number, event="memory")["reason"]


def test_only_a_regular_file_of_the_owner(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"x")
    os.close(memory.opened("mine", os.getuid(), tmp_path))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("mine")
    for name, owner in (("mine", os.getuid() + 1), ("pipe", os.getuid()), ("link", os.getuid())):
        with pytest.raises(ClawError) as caught:
            memory.opened(name, owner, tmp_path)
        assert caught.value.code == "not_permitted"
