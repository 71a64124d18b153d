"""Mutations of bytes, by seed: what a fuzzer sends is a function of the corpus and one number."""

import random
from collections.abc import Sequence

TOKENS = (
    # msgpack: lengths that lie, types that nest, integers at their ends.
    b"\xc0", b"\xc1", b"\xc4\xff", b"\xc6\xff\xff\xff\xff", b"\xc7\x00\x05", b"\xcb" + bytes(8),
    b"\xcb\x7f\xf8" + bytes(6), b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7), b"\xd9\xff",
    b"\xdb\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
    b"\x91" * 64, b"\x81" * 64, b"\x80", b"\x90", b"\xa0", b"\xff", b"\x7f",
    # Words of the protocol, each as a msgpack string.
    *(bytes((0xA0 | len(word),)) + word for word in (
        b"type", b"id", b"op", b"hello", b"submit", b"cancel", b"query", b"borrow", b"return",
        b"dropped", b"params", b"leases", b"model", b"priority", b"deadline_ms", b"version",
        b"token", b"incarnation", b"done", b"error", b"chunk", b"progress", b"ready", b"reserve",
        b"unready", b"filled", b"yielded", b"pong", b"got", b"echo.say", b"echo.count", b"batch",
        b"durable", b"keep_alive_s", b"weights", b"weights_bytes", b"bytes", b"segment",
    )),
    # ZMTP: flags and lengths.
    b"\x00\x00", b"\x01\x00", b"\x01\x01x", b"\x02" + b"\xff" * 8, b"\x03" + bytes(7) + b"\x01x",
    b"\x04\x01\x00", b"\x05\x00", b"\x06" + (1 << 40).to_bytes(8, "big"), b"\x08\x00",
    b"\x04\x17\x04PING\x00\x00" + b"c" * 16, b"\x04\x05\x05READY", b"\x04\x07\x05ERROR\xff",
    # Text that is none.
    b"\xff\xfe", b"\xed\xa0\x80", b"\x00", b"\x1b[31m", b"../../", b"\xe2\x80\xae",
)  # fmt: skip


def mutate(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """One to eight changes; ``others`` are spliced in."""
    out = bytearray(data)
    for _ in range(1 << chance.randrange(4)):
        CHANGES[chance.randrange(len(CHANGES))](out, others, chance)
    return bytes(out[:LONGEST])


LONGEST = 1 << 16
Changed = bytearray


def _at(out: Changed, chance: random.Random) -> int:
    return chance.randrange(len(out) + 1)


def _flip(out: Changed, _: Sequence[bytes], chance: random.Random) -> None:
    if out:
        out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)


def _set(out: Changed, _: Sequence[bytes], chance: random.Random) -> None:
    if out:
        out[chance.randrange(len(out))] = chance.choice(
            (0, 1, 0x7F, 0x80, 0xFF, chance.getrandbits(8))
        )


def _delete(out: Changed, _: Sequence[bytes], chance: random.Random) -> None:
    start = _at(out, chance)
    del out[start : start + 1 + chance.randrange(16)]


def _insert(out: Changed, _: Sequence[bytes], chance: random.Random) -> None:
    start = _at(out, chance)
    out[start:start] = chance.choice(TOKENS)


def _overwrite(out: Changed, _: Sequence[bytes], chance: random.Random) -> None:
    start, token = _at(out, chance), chance.choice(TOKENS)
    out[start : start + len(token)] = token


def _repeat(out: Changed, _: Sequence[bytes], chance: random.Random) -> None:
    start = _at(out, chance)
    piece = out[start : start + 1 + chance.randrange(32)]
    out[start:start] = piece * (1 << chance.randrange(10))


def _truncate(out: Changed, _: Sequence[bytes], chance: random.Random) -> None:
    del out[_at(out, chance) :]


def _splice(out: Changed, others: Sequence[bytes], chance: random.Random) -> None:
    other = chance.choice(others)
    start, end = sorted((chance.randrange(len(other) + 1), chance.randrange(len(other) + 1)))
    at = _at(out, chance)
    out[at : at + chance.randrange(2) * (end - start)] = other[start:end]


CHANGES = (_flip, _flip, _set, _delete, _insert, _overwrite, _repeat, _truncate, _splice)
