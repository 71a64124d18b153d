"""Pieces of a log that only grows and forgets its beginning, by places that never change."""

from collections.abc import Callable
from typing import Any

from clawai.sdk.errors import ClawError

PIECE = 64 * 1024
"""Bytes that are read at a time."""


def piece(place: str, first: int, last: int, read: Callable[[int, int], bytes]) -> dict[str, Any]:
    """Whole lines of what is kept, ``PIECE`` bytes at most, from a place or up to one.

    Args:
        place: ``N``: those that begin there or later; ``-N``: the last ones before; ``-`` or
            nothing: the last ones of all.
        first: the place of the first byte that is kept.
        last: the place behind the last one.
        read: the bytes between two places.

    Returns:
        ``text``, and the places where it begins and ends, where all that is kept does.

    Raises:
        ClawError: bad_params.
    """
    back = not place or place.startswith("-")
    number = place.removeprefix("-") or str(last)
    if not (number.isdecimal() and len(number) < 20):
        raise ClawError("bad_params", "no such place in the log", place[:40], "N, -N or -")
    at = min(max(int(number), first), last)
    begin, end = (max(first, at - PIECE), at) if back else (at, min(last, at + PIECE))
    data = read(begin, end)
    if back and begin > first:
        cut = data.find(b"\n") + 1
        begin, data = begin + cut, data[cut:]
    data = data[: data.rfind(b"\n") + 1]
    text = data.decode("utf-8", "replace")
    return {"text": text, "begin": begin, "end": begin + len(data), "first": first, "last": last}
