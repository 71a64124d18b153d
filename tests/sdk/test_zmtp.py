"""ZMTP's frames without I/O: split anywhere, within their limits, against what breaks the rules."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.sdk.errors import ClawError
from clawai.sdk.zmtp import COMMAND, MORE, Connection
from clawai.sdk.zmtp_handshake import frame

FRAMES, BYTES = 64, 8 << 20


def connection(early: bytes = b"") -> Connection:
    return Connection(max_frames=FRAMES, max_bytes=BYTES, early=early)


def joined(buffers: list[bytes | memoryview]) -> bytes:
    return b"".join(map(bytes, buffers))


STREAM = [[b"head", b"", b"x" * 255], [b"y" * 256], [b""], [b"z"] * 5]


def test_split_at_every_byte() -> None:
    peer = connection()
    data = b"".join(joined(peer.message(message)) for message in STREAM)
    for cut in range(len(data) + 1):
        one = connection()
        assert one.receive(data[:cut]) + one.receive(data[cut:]) == STREAM
        assert one.buffered == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.binary(max_size=700), min_size=1, max_size=FRAMES), min_size=1, max_size=4
    ),
    st.lists(st.integers(1, 400), min_size=1, max_size=30),
    st.integers(1, 5),
)
def test_any_messages_in_any_pieces(
    messages: list[list[bytes]], pieces: list[int], most: int
) -> None:
    one, peer = connection(), connection()
    data = b"".join(joined(peer.message(message)) for message in messages)
    got: list[list[bytes]] = []
    at = 0
    while at < len(data):
        size = pieces[at % len(pieces)]
        got += one.receive(data[at : at + size], most)
        while one.stalled:
            got += one.receive(b"", most)
        at += size
    assert got == messages


def test_what_was_read_before_comes_first() -> None:
    data = joined(Connection.message([b"a"]) + Connection.message([b"b", b"c"]))
    for cut in range(1, len(data) + 1):
        one = connection(data[:cut])
        assert one.stalled
        assert one.receive(b"") + one.receive(data[cut:]) == [[b"a"], [b"b", b"c"]]
        assert not one.stalled


def test_a_limit_of_messages_keeps_the_rest_as_bytes() -> None:
    one = connection()
    data = joined(one.message([b"x"])) * 100
    assert len(one.receive(data, 8)) == 8
    assert one.stalled
    assert one.buffered == 92 * 3
    count = 8
    while one.stalled:
        count += len(one.receive(b"", 8))
    assert count == 100
    assert one.buffered == 0


# What breaks the rules.


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_never_raises_anything_else(data: bytes) -> None:
    one = connection()
    with contextlib.suppress(ClawError):
        for byte in data:
            one.receive(bytes((byte,)))
    assert one.buffered <= len(data)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xf8\x00", "bad_frame"),
        (b"\x08", "bad_frame"),
        (bytes((COMMAND | MORE, 1)) + b"x", "bad_frame"),
        (b"\x02" + (BYTES + 1).to_bytes(8, "big"), "too_large"),
        (b"\x02" + b"\xff" * 8, "too_large"),
        (b"\x03" + BYTES.to_bytes(8, "big")[:8], ""),
        (b"\x06" + (513).to_bytes(8, "big"), "too_large"),
        (b"\x01\x00" * FRAMES, ""),
        (b"\x01\x00" * (FRAMES + 1), "too_large"),
        (b"\x01\x00" * FRAMES + b"\x00\x00", "too_large"),
        (joined(frame(b"\x05ERROR\x03no!", COMMAND)), "bad_frame"),
        (joined(frame(b"\x09SUBSCRIBE", COMMAND)), ""),
        (joined(frame(b"", COMMAND)), ""),
        (joined(frame(b"\xff", COMMAND)), ""),
    ],
)
def test_rules(data: bytes, code: str) -> None:
    one = connection()
    if code:
        with pytest.raises(ClawError) as caught:
            one.receive(data)
        assert caught.value.code == code
    else:
        assert one.receive(data) == []


def test_a_limit_is_checked_before_the_bytes_come() -> None:
    one = connection()
    half = b"\x03" + (BYTES // 2).to_bytes(8, "big") + bytes(BYTES // 2)
    assert one.receive(half) == []
    with pytest.raises(ClawError, match="bytes of one message"):
        one.receive(b"\x02" + (BYTES // 2 + 1).to_bytes(8, "big"))
    assert one.buffered <= BYTES // 2 + 9


def test_commands_between_the_parts_of_a_message() -> None:
    one = connection()
    ping = joined(frame(b"\x04PING\x00\x0aabc", COMMAND))
    parts = joined(frame(b"a", MORE)) + ping + joined(frame(b"b", 0))
    assert one.receive(parts) == [[b"a", b"b"]]
    assert one.outgoing() == joined(frame(b"\x04PONGabc", COMMAND))
