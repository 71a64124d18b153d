"""Loans as both clients see them, and what is unmapped when the kernel asks for it."""

import asyncio
import mmap
import os
import socket
from collections.abc import Iterator

import msgspec
import numpy
import pytest

from clawai.sdk import AsyncClient, wire
from clawai.sdk.errors import ClawError
from clawai.sdk.leases import LeaseSocket, Loan
from clawai.sdk.session import Session
from support import Kernel


@pytest.fixture
def door() -> Iterator[tuple[LeaseSocket, socket.socket]]:
    """The client's end of a lease socket, and the kernel's."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    held = LeaseSocket(theirs, b"")
    yield held, ours
    held.close()
    ours.close()


def send(sock: socket.socket, segment: int, size: int = 8192) -> None:
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    header = msgspec.msgpack.encode({"segment": segment, "bytes": size})
    socket.send_fds(sock, [header], [fd])
    os.close(fd)


def test_a_loan_is_its_part_of_the_segment(door: tuple[LeaseSocket, socket.socket]) -> None:
    held, kernel = door
    send(kernel, 3)
    lease = wire.Lease(segment=3, offset=4096, length=4096, generation=5)
    loan = Loan(lease, held.mapping(3))
    loan.array("<u2", (2048,))[...] = 0x0101
    assert held.mapping(3)[:4096] == bytes(4096)
    assert held.mapping(3)[4096:] == b"\1" * 4096
    assert bytes(loan.buffer[:2]) == b"\1\1"
    with pytest.raises(ClawError) as caught:
        loan.array("<u1", (4097,))
    assert caught.value.code == "bad_params"


def test_what_is_asked_back_is_unmapped_when_nothing_views_it(
    door: tuple[LeaseSocket, socket.socket],
) -> None:
    held, kernel = door
    for number in (1, 2, 3):
        send(kernel, number)
    array = numpy.frombuffer(held.mapping(2), "u1")
    wanted = {1, 2, 3}  # the third has come, but its lease was never looked at
    assert held.unmap(wanted) == [1, 3]
    assert wanted == {2}
    assert list(held.segments) == [2]
    del array
    assert held.unmap(wanted) == [2]
    assert not wanted
    assert not held.segments


def test_the_session_notes_what_is_asked_back() -> None:
    session = Session()
    session.receive([bytes(part) for part in wire.encode(wire.Drop(segment=4))])
    assert session.drops == {4}
    told = wire.decode([bytes(part) for part in Session.dropped(4)], wire.FromClient)
    assert told == wire.Dropped(segment=4)


@pytest.mark.parametrize("wrong", [{"rights": "w"}, {"priority": "soon"}])
def test_wrong_words_are_refused_before_they_are_sent(wrong: dict[str, str]) -> None:
    with pytest.raises(ClawError) as caught:
        Session().borrow("echo.tensor", "", 4096, **wrong)  # type: ignore[arg-type]
    assert caught.value.code == "bad_params"


def test_the_asynchronous_client_borrows_too(kernel: Kernel) -> None:
    async def main() -> None:
        async with AsyncClient(folder=kernel.folder) as client:
            loan = await client.borrow("echo.tensor", 1 << 20)
            loan.array("<u1", (1 << 20,))[...] = 9
            x = loan.tensor("<u1", (1 << 20,))
            task = await client.submit("echo.tensor", {"x": x}, leases=[loan])
            result = await task.result()
            array = client.array(result, result.value, leases=[loan])
            assert not numpy.any(array[:: mmap.PAGESIZE] != 9)
            del array
            await client.give_back(loan)
            again = await client.borrow("echo.tensor", 1 << 20)
            assert again.lease.segment == loan.lease.segment

    asyncio.run(main())


def test_the_asynchronous_client_unmaps_what_is_asked_back(kernel: Kernel) -> None:
    async def main() -> None:
        async with AsyncClient(folder=kernel.folder) as client:
            loan = await client.borrow("echo.tensor", 1 << 20)
            await client.give_back(loan)
            with kernel.client() as other:
                other.admin("unload", "echo")
            while (await client.query("status"))["segments"]:
                pass
            assert not client._leases.segments

    asyncio.run(main())
