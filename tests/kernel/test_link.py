"""Messages with descriptors, small and large, and what does not fit yet."""

import os
import select
import socket

from clawai.kernel.link import LIMIT, Link
from support import no_leak


def pair(blocking: bool = False) -> tuple[Link, Link]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Link(one, blocking), Link(other, blocking)


def test_a_message_takes_its_descriptors_along() -> None:
    with no_leak():
        one, other = pair()
        reading, writing = os.pipe()
        one.send("take", 1, {"a": b"b"}, fds=(writing,))
        received = other.receive()
        assert received
        name, arguments, fds = received
        assert (name, arguments) == ("take", [1, {"a": b"b"}])
        os.write(fds[0], b"through")
        assert os.read(reading, 16) == b"through"
        assert not os.get_inheritable(fds[0])
        for fd in (reading, *fds):
            os.close(fd)
        one.close()
        assert other.receive() is None
        other.close()


def test_a_large_message_travels_in_a_memfd() -> None:
    with no_leak():
        one, other = pair()
        large = b"x" * (4 * LIMIT)
        one.send("large", large, fds=(os.open("/dev/null", os.O_RDONLY),))
        assert not one.outbox
        received = other.receive()
        assert received
        assert received[:2] == ("large", [large])
        assert os.read(received[2][0], 1) == b""
        os.close(received[2][0])
        one.close()
        other.close()


def test_what_does_not_fit_waits_and_comes_in_order() -> None:
    with no_leak():
        one, other = pair()
        for number in range(100):
            one.send("number", number, bytes(LIMIT // 2))
        assert one.outbox
        assert one.mask & select.EPOLLOUT
        seen: list[int] = []
        while len(seen) < 100:
            received = other.receive()
            assert received
            seen.append(received[1][0])
            one.flush()
        assert seen == list(range(100))
        assert one.mask == select.EPOLLIN
        one.close()
        other.close()


def test_nothing_is_lost_but_the_message_when_the_other_side_is_gone() -> None:
    with no_leak():
        one, other = pair()
        other.close()
        one.send("to nobody", fds=(os.open("/dev/null", os.O_RDONLY),))
        assert not one.outbox
        assert one.receive() is None
        one.close()
