"""When a client hears that its task was accepted: first of all, once, or not at all."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.boost import Boost
from clawai.kernel.clients import Clients
from clawai.kernel.core import Core
from clawai.kernel.loop import Loop
from clawai.sdk import wire
from clawai.sdk.zmtp import Connection
from support import Kernel

SLOW = """
import time
from clawai.sdk.plugin import operation

@operation("slow.nap")
def nap() -> int:
    time.sleep(0.5)
    return 1

@operation("slow.count")
def count():
    yield 1
    time.sleep(0.2)
    yield 2
"""


class Side:
    """The shell's side of one client, and what that client hears."""

    def __init__(self) -> None:
        self.loop = Loop(lambda event: None)
        core: Any = Core(1 << 30)
        nothing: Any = None
        self.clients = Clients(self.loop, nothing, nothing, core, Boost(0, bool), nothing)
        ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.clients.connected(1, 0, False, b"", b"", ours.detach())
        self.zmtp = Connection(max_frames=9, max_bytes=1 << 20)

    def accept(self, request: int, job: str = "") -> None:
        self.clients.reply(ev.Reply(1, wire.Accepted(id=request, task=request, job=job)))

    def say(self, request: int, message: wire.Message) -> None:
        self.clients.passed(ev.Pass(1, request, ev.Hidden(message)))

    def heard(self) -> list[tuple[str, int]]:
        self.loop.post()
        try:
            found = self.zmtp.receive(self.theirs.recv(1 << 16))
        except BlockingIOError:
            return []
        said: list[Any] = [wire.decode(frames, wire.ToClient) for frames in found]
        return [(type(each).__name__, each.id) for each in said]


@pytest.fixture
def side() -> Iterator[Side]:
    made = Side()
    yield made
    made.clients.close()
    made.theirs.close()
    made.loop.poller.close()


def test_a_short_task_has_its_end_only(side: Side) -> None:
    side.accept(1)
    assert side.clients.next_timer() is not None
    assert side.heard() == []
    side.say(1, wire.Done(id=7))
    assert side.heard() == [("Done", 1)]
    assert side.clients.next_timer() is None, "nothing is left to be said"
    side.accept(2)
    side.clients.passed(ev.Pass(1, 2, ev.Fault("cancelled")))
    assert side.heard() == [("Error", 2)]


def test_the_first_news_come_after_it(side: Side) -> None:
    side.accept(1)
    side.accept(2)
    side.say(2, wire.Chunk(id=7))
    assert side.heard() == [("Accepted", 2), ("Chunk", 2)]
    side.say(2, wire.Done(id=7))
    side.say(1, wire.Progress(id=6, fraction=0.5))
    assert side.heard() == [("Done", 2), ("Accepted", 1), ("Progress", 1)]


def test_it_is_said_when_it_is_due_and_once(side: Side) -> None:
    side.accept(1)
    side.accept(2)
    due = side.clients.next_timer()
    assert due is not None
    side.clients.expire(due - 1)
    assert side.heard() == []
    side.clients.expire(due)
    assert side.heard() == [("Accepted", 1), ("Accepted", 2)]
    side.clients.expire(due + limits.SECOND)
    side.say(1, wire.Done(id=7))
    assert side.heard() == [("Done", 1)]


def test_of_a_durable_task_it_is_said_at_once(side: Side) -> None:
    side.accept(1, "job")
    assert side.heard() == [("Accepted", 1)]


def test_who_has_left_is_told_nothing(side: Side) -> None:
    side.accept(1)
    side.clients.by_number[1].peer.closed = True
    due = side.clients.next_timer()
    assert due is not None
    side.clients.expire(due)
    assert side.clients.next_timer() is None


def test_through_a_kernel(kernel: Kernel) -> None:
    kernel.plugin("slow", SLOW, {"slow.nap": "", "slow.count": "stream = true"})
    with kernel.raw().hello() as peer:
        for number, op in ((1, "slow.nap"), (2, "slow.count")):
            peer.send(wire.Submit(id=number, op=op, params=wire.EMPTY_MAP))
            said = []
            while not said or not isinstance(said[-1], wire.Done):
                message = peer.message()
                if getattr(message, "id", None) == number:
                    said.append(message)
            assert isinstance(said[0], wire.Accepted)
            assert sum(isinstance(each, wire.Accepted) for each in said) == 1
