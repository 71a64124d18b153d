"""The event loop and the connection behind it: order, turns, and numbers that are used again."""

import functools
import os
import socket

from clawai.kernel import events as ev
from clawai.kernel.loop import Loop
from clawai.kernel.peers import MESSAGES, PONGS, Peer
from clawai.sdk import wire
from clawai.sdk.zmtp import COMMAND, Connection
from clawai.sdk.zmtp_handshake import frame


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


def test_what_is_gathered_is_heard_together_and_in_order() -> None:
    seen: list[ev.Event] = []
    loop = Loop(seen.append)
    said = [ev.Output(1, number, "chunk") for number in range(5)]
    loop.gather(said[0])
    loop.gather(said[1])
    assert not seen
    left = ev.ClientLeft(7)
    loop.happen(left)  # what else happens comes after what was gathered before
    loop.gather(said[2])
    loop.post()  # one alone is heard as it is
    loop.gather(said[3])
    loop.gather(said[4])
    loop.end_round()
    loop.end_round()
    assert seen == [ev.Together((said[0], said[1])), left, said[2], ev.Together((said[3], said[4]))]
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


def never(*_: object) -> None:
    raise AssertionError("this does not happen")


def test_what_a_peer_sent_is_handled_in_turns() -> None:
    """A flood of one is cut into pieces, although nothing new comes on its socket."""
    loop = Loop(lambda event: None)
    ours, theirs = socket.socketpair()
    peer = Peer(ours)
    ping = wire.encode(wire.Cancel(id=1))
    theirs.sendall(b"".join(map(bytes, Connection.message(ping))) * 100)
    taken: list[list[bytes]] = []
    turns: list[int] = []
    peer.attach(loop, taken.append, never)
    while sum(turns) < 100:
        before = len(taken)
        loop.turn(1)
        turns.append(len(taken) - before)
    assert set(turns[:-1]) == {MESSAGES}
    peer.close()
    theirs.close()
    loop.poller.close()


def test_what_was_read_before_is_handled_first_and_in_turns() -> None:
    """The steward hands over what a client has said behind its hello."""
    loop = Loop(lambda event: None)
    ours, theirs = socket.socketpair()
    whole = [b"".join(map(bytes, Connection.message([b"%d" % number]))) for number in range(30)]
    data = b"".join(whole)
    peer = Peer(ours, data[:50])
    theirs.sendall(data[50:])
    taken: list[list[bytes]] = []
    peer.attach(loop, taken.append, never)
    assert not taken
    loop.turn(1)
    assert len(taken) == MESSAGES
    while len(taken) < 30:
        loop.turn(1)
    assert taken == [[b"%d" % number] for number in range(30)]
    peer.close()
    theirs.close()
    loop.poller.close()


def test_a_pause_lasts_until_everybody_who_asked_for_it_is_done() -> None:
    loop = Loop(lambda event: None)
    ours, theirs = socket.socketpair()
    peer = Peer(ours)
    taken: list[list[bytes]] = []
    peer.attach(loop, taken.append, never)
    peer.paused += 2
    peer.resume()
    theirs.sendall(b"".join(map(bytes, Connection.message([b"x"]))))
    loop.turn(0)
    assert not taken
    peer.resume()
    loop.turn(1)
    assert taken == [[b"x"]]
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
        assert peer.read()
    assert peer.waiting < 2 * PONGS
    peer.close()
    theirs.close()
