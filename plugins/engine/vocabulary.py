"""A vocabulary as a few arrays: quick to write down, and usable at once when it is read again.

A model's tokens and merges are a hundred thousand short strings. To build objects of all of them
takes longer than the first token of an answer; a prompt needs a few. ``Texts`` keeps the strings
end to end, ``Merges`` a sorted table of pairs in which a pair is found by bisection.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, overload

import msgspec
import numpy as np

from clawai.sdk.model.gguf import ModelFileError

CONTROL = 3
"""The kind of tokens that no text becomes, in GGUF files."""


def as_bytes(numbers: Any) -> memoryview:
    """Numbers as uint32, end to end."""
    return memoryview(np.asarray(numbers).astype(np.uint32).tobytes())


class Strings(msgspec.Struct, frozen=True, array_like=True):
    """Strings end to end."""

    text: memoryview
    """UTF-8."""
    ends: memoryview
    """Where each ends, uint32."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Strings":
        """Write them down."""
        pieces = [text.encode() for text in texts]
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.uint64)
        return cls(memoryview(b"".join(pieces)), as_bytes(ends))


class Texts(Sequence[str]):
    """The strings, decoded when they are asked for."""

    def __init__(self, kept: Strings) -> None:
        self.kept = kept
        ends = np.frombuffer(kept.ends, np.uint32)
        if len(ends) and (int(ends[-1]) != len(kept.text) or bool(np.any(ends[1:] < ends[:-1]))):
            raise ModelFileError("the kept strings are damaged")
        self._ends = kept.ends.cast("I")

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        at = index % len(self)
        begin = self._ends[at - 1] if at else 0
        return str(self.kept.text[begin : self._ends[at]], "utf-8")


class Words(msgspec.Struct, frozen=True, array_like=True):
    """Tokens in the order of their texts' UTF-8, to find one by its text."""

    order: memoryview
    """uint32."""

    @classmethod
    def of(cls, tokens: Mapping[str, int]) -> "Words":
        """Write them down."""
        texts = sorted(tokens, key=str.encode)
        return cls(as_bytes([tokens[text] for text in texts]))

    def find(self, text: str, texts: Sequence[str]) -> int | None:
        """The token of a text among ``texts``, if there is one."""
        order, wanted = self.order.cast("I"), text.encode()
        at = bisect_left(order, wanted, key=lambda token: texts[token].encode())
        return order[at] if at < len(order) and texts[order[at]] == text else None


class Merges(msgspec.Struct, frozen=True, array_like=True):
    """Which two tokens make a third, in ascending order of the pair."""

    keys: memoryview
    """left << 32 | right, uint64."""
    ranks: memoryview
    """uint32; the lowest is merged first."""
    made: memoryview
    """The third token, uint32."""

    @classmethod
    def of(cls, left: Sequence[int], right: Sequence[int], made: Sequence[int]) -> "Merges":
        """Write down merges that are given in order of their rank; of a pair the last one holds."""
        keys = np.asarray(left, np.uint64) << np.uint64(32) | np.asarray(right, np.uint64)
        # The first of equals in the reversed order is the last.
        unique, places = np.unique(keys[::-1], return_index=True)
        ranks = len(keys) - 1 - places
        third = as_bytes(np.asarray(made, np.uint32)[ranks])
        return cls(memoryview(unique.tobytes()), as_bytes(ranks), third)

    def in_order(self) -> list[tuple[int, int]]:
        """The pairs by rank."""
        keys = np.frombuffer(self.keys, np.uint64)[np.argsort(np.frombuffer(self.ranks, np.uint32))]
        left, right = keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)
        return list(zip(left.tolist(), right.tolist(), strict=True))


class Merger:
    """Merges the tokens of a word. Thread-safe: what it remembers is only ever added."""

    def __init__(self, merges: Merges) -> None:
        self._keys = merges.keys.cast("Q")
        self._ranks = merges.ranks.cast("I")
        self._made = merges.made.cast("I")
        if not len(self._keys) == len(self._ranks) == len(self._made):
            raise ModelFileError("the kept merges are damaged")
        self._known: dict[int, tuple[int, int] | None] = {}

    def merged(self, ids: list[int]) -> list[int]:
        """Merge the pair of the lowest rank, the leftmost of equals, until none can be."""
        ids = list(ids)
        pairs = [self._pair(a, b) for a, b in pairwise(ids)]
        while pairs:
            at, best = -1, None
            for place, pair in enumerate(pairs):
                if pair is not None and (best is None or pair[0] < best[0]):
                    at, best = place, pair
            if best is None:
                break
            ids[at : at + 2] = [best[1]]
            del pairs[at]
            if at:
                pairs[at - 1] = self._pair(ids[at - 1], ids[at])
            if at < len(pairs):
                pairs[at] = self._pair(ids[at], ids[at + 1])
        return ids

    def _pair(self, left: int, right: int) -> tuple[int, int] | None:
        """Rank and token of a pair that can be merged."""
        key = left << 32 | right
        try:
            return self._known[key]
        except KeyError:
            at = bisect_left(self._keys, key)
            found = at < len(self._keys) and self._keys[at] == key
            value = (self._ranks[at], self._made[at]) if found else None
            self._known[key] = value
            return value
