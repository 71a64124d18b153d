"""The event loop and the connection behind it: order, turns, and numbers that are used again."""

import functools
import os
import select
import socket

from clawai.kernel import events as ev
from clawai.kernel.loop import Loop
from clawai.kernel.peers import MESSAGES, PONGS, Peer
from clawai.sdk import wire
from clawai.sdk.zmtp import COMMAND, Connection, frame


def test_one_event_at_a_time_in_order() -> None:
    seen: list[int] = []

    def carry_out(event: ev.Event) -> None:
        assert isinstance(event, ev.ClientLeft)
        seen.append(event.client)
        if event.client < 3:
            loop.happen(ev.ClientLeft(event.client + 10))
            assert event.client + 10 not in seen, "not before this one is done"

    loop = Loop(carry_out)
    for number in (1, 2, 3):
        loop.happen(ev.ClientLeft(number))
    assert seen == [1, 11, 2, 12, 3]
    loop.poller.close()


def test_an_event_is_not_for_the_next_owner_of_its_descriptor() -> None:
    loop = Loop(lambda event: None)
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[str] = []
    replaced: list[socket.socket] = []

    def close_the_other(me: int) -> None:
        called.append("old")
        for ours, _ in pairs:
            if ours.fileno() not in (me, -1) and not replaced:
                number = ours.fileno()
                loop.unwatch(number)
                ours.close()
                fresh = socket.socket(fileno=os.dup2(me, number))
                replaced.append(fresh)
                loop.watch(number, lambda _: called.append("new"))

    for ours, theirs in pairs:
        loop.watch(
            ours.fileno(), functools.partial(lambda fd, _: close_the_other(fd), ours.fileno())
        )
        theirs.send(b"x")
    loop.turn(1)
    assert called == ["old"]
    for sock in [*replaced, *(sock for pair in pairs for sock in pair)]:
        sock.close()
    loop.poller.close()


def test_what_a_peer_sent_is_handled_in_turns() -> None:
    """A flood of one is cut into pieces, although nothing new comes on its socket."""
    loop = Loop(lambda event: None)
    ours, theirs = socket.socketpair()
    peer = Peer(ours)
    other = Connection(max_frames=64, max_bytes=1 << 20)
    ping = wire.encode(wire.Cancel(id=1))
    theirs.sendall(b"".join(map(bytes, other.message(ping))) * 100)
    turns: list[int] = []

    def ready(_: int) -> None:
        messages = peer.receive()
        assert messages is not None
        turns.append(len(messages))
        if peer.zmtp.stalled:
            loop.again.add(peer.fileno())

    loop.watch(peer.fileno(), ready, select.EPOLLIN)
    while sum(turns) < 100:
        loop.turn(1)
    assert set(turns[:-1]) == {MESSAGES}
    peer.close()
    theirs.close()
    loop.poller.close()


def test_who_does_not_read_gets_no_pongs() -> None:
    ours, theirs = socket.socketpair()
    peer = Peer(ours)
    ping = b"".join(map(bytes, frame(b"\x04PING\x00\x00" + b"c" * 16, COMMAND)))
    theirs.setblocking(False)
    for _ in range(2000):
        theirs.send(ping * 500)
        assert peer.receive() == []
    assert peer.waiting < 2 * PONGS
    peer.close()
    theirs.close()
