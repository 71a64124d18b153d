"""Memory that is shared, asked back and given to others, with real holders."""

import mmap
import os
import threading
from collections.abc import Callable, Iterator

import numpy
import pytest

from clawai.kernel import limits
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from clawai.sdk.leases import Loan
from clawai.sdk.session import Session
from support import Kernel, memfds, wait_until

MIB = limits.MIB
LARGE = 120 * MIB
"""Bytes that the budget of ``small`` has once."""
WRITER = """
import ctypes
import mmap

from clawai.sdk.plugin import Context, Tensor, operation


@operation("writer.write")
def write(ctx: Context, x: Tensor) -> list[str]:
    array = ctx.array(x)
    failed = []
    mapping = ctx.outlet.segment(ctx.leases[0].segment)
    for name, attempt in {
        "array": lambda: array.__setitem__(0, 1),
        "flags": lambda: array.setflags(write=True),
        "mapping": lambda: mapping.__setitem__(0, 1),
    }.items():
        try:
            attempt()
        except (ValueError, TypeError):
            failed.append(name)
    libc = ctypes.CDLL(None, use_errno=True)
    begin = ctypes.c_void_p(array.ctypes.data & -mmap.PAGESIZE)
    if libc.mprotect(begin, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE):
        failed.append("mprotect")
    return failed
"""


@pytest.fixture
def small(start_kernel: Callable[..., Kernel]) -> Iterator[Kernel]:
    """A daemon with 320 MiB to hand out; its echo worker takes 128."""
    return start_kernel("[memory]\nbudget_mib = 320\n")


def filled(client: Client, size: int, value: int) -> Loan:
    loan = client.borrow("echo.tensor", size)
    loan.array("<u1", (size,))[...] = value
    return loan


def borrow_meanwhile(other: Client, size: int) -> tuple[threading.Thread, list[Loan | ClawError]]:
    """Another client's borrow, on a thread of its own; what came of it."""
    found: list[Loan | ClawError] = []

    def ask() -> None:
        other._owner = os.getpid(), threading.get_ident()
        try:
            found.append(other.borrow("echo.tensor", size))
        except ClawError as error:
            found.append(error)
        other._owner = os.getpid(), threading.main_thread().ident

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, found


def test_idle_memory_of_one_client_goes_to_another(small: Kernel) -> None:
    first, second = small.client(), small.client()
    loan = filled(first, LARGE, 7)
    first.give_back(loan)
    assert first.query("status")["used_bytes"] == 128 * MIB + LARGE
    thread, found = borrow_meanwhile(second, LARGE)
    while thread.is_alive():
        first.query("status")
    assert isinstance(found[0], Loan)
    assert not numpy.any(found[0].array("<u1", (LARGE,))[:: mmap.PAGESIZE])
    assert loan.lease.segment not in first._leases.segments
    names = {held.split("memfd:")[1].split()[0] for held in memfds()}
    assert names == {f"claw-segment-{found[0].lease.segment}"}
    assert first.query("status")["used_bytes"] == 128 * MIB + LARGE
    found.clear()


def test_a_view_that_is_kept_keeps_the_memory(small: Kernel) -> None:
    """A client that still looks at it has not unmapped it, and says so later."""
    first, second = small.client(), small.client()
    loan = filled(first, LARGE, 7)
    kept = loan.array("<u1", (LARGE,))
    first.give_back(loan)
    thread, found = borrow_meanwhile(second, LARGE)
    while thread.is_alive():
        first.query("status")
    error = found[0]
    assert isinstance(error, ClawError)
    assert error.code == "no_memory"
    assert kept[0] == 7
    del kept
    assert first.query("status")["segments"] <= 1
    wait_until(lambda: first.query("status")["segments"] == 0, "it is given back")
    assert second.borrow("echo.tensor", LARGE)


def test_a_client_that_does_not_answer_keeps_the_charge_until_it_leaves(small: Kernel) -> None:
    silent, other = small.client(), small.client()
    silent.give_back(filled(silent, LARGE, 7))
    with pytest.raises(ClawError) as caught:
        other.borrow("echo.tensor", LARGE)
    assert caught.value.code == "no_memory"
    silent.close()
    wait_until(lambda: other.query("status")["segments"] == 0, "it is given back")
    assert other.borrow("echo.tensor", LARGE)


def test_an_old_holder_reads_nothing_of_the_next_one(small: Kernel) -> None:
    """It says that it has unmapped the memory, and has not."""
    liar, victim = small.client(), small.client()
    loan = filled(liar, LARGE, 7)
    old = loan.array("<u1", (LARGE,))
    liar._leases.unmap = lambda wanted: []  # type: ignore[method-assign]
    liar.give_back(loan)
    thread, found = borrow_meanwhile(victim, LARGE)
    while loan.lease.segment not in liar._session.drops:
        liar.query("status")
    liar._send(Session.dropped(loan.lease.segment))
    thread.join()
    assert isinstance(found[0], Loan)
    found[0].array("<u1", (LARGE,))[...] = 99
    assert not numpy.any(old[:: mmap.PAGESIZE]), "its own pages are gone, the others never there"
    old[0] = 1
    assert found[0].array("<u1", (1,))[0] == 99
    assert victim.call("echo.say", {"text": "x"}).value == "x"
    found.clear()


def test_small_leases_of_one_segment_are_told_apart(target: Kernel) -> None:
    client = target.client()
    loans = [filled(client, 8192, value) for value in (1, 2, 3)]
    assert len({loan.lease.segment for loan in loans}) == 1
    for value, loan in enumerate(loans, 1):
        given = client.call("echo.tensor", {"x": loan.tensor("<u1", (8192,))}, leases=[loan])
        array = client.array(given, given.value, leases=[loan])
        assert array.tolist() == [value] * 8192
    with pytest.raises(ClawError) as caught:
        client.call("echo.tensor", {"x": loans[0].tensor("<u1", (8193,))}, leases=loans[:1])
    assert caught.value.code == "bad_params"


def test_a_worker_cannot_write_where_it_may_only_read(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel(start=False)
    kernel.plugin("writer", WRITER, {"writer.write": ""}, memory_mib=128)
    client = kernel.start().client()
    loan = client.borrow("writer.write", 4096, rights="r")
    loan.array("<u1", (1,))[0] = 5
    x = {"dtype": "<u1", "shape": [4096], "lease": 0}
    failed = client.call("writer.write", {"x": x}, leases=[loan]).value
    assert set(failed) == {"array", "flags", "mapping", "mprotect"}
    assert loan.array("<u1", (1,))[0] == 5
    free = client.borrow("writer.write", 4096)
    assert client.call("writer.write", {"x": x}, leases=[free]).value == []
    assert free.array("<u1", (1,))[0] == 1
