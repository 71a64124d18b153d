"""Pieces of an answer are joined, never lost, reordered or held back at its ends."""

import time
from collections.abc import Generator

import pytest

from clawai.plugins.engine.flow import joined


def answer(pieces: list[str], pause: float = 0.0) -> Generator[str, None, int]:
    for piece in pieces:
        time.sleep(pause)
        yield piece
    return len(pieces)


def taken(texts: Generator[str, None, int]) -> tuple[list[str], int]:
    found = []
    while True:
        try:
            found.append(next(texts))
        except StopIteration as end:
            return found, end.value


def test_the_first_piece_goes_at_once_and_the_rest_together() -> None:
    assert taken(joined(answer(list("abcdef")), gap=60.0)) == (["a", "bcdef"], 6)


def test_slow_pieces_go_one_by_one() -> None:
    assert taken(joined(answer(list("abc"), 0.01), gap=0.005)) == (["a", "b", "c"], 3)


@pytest.mark.parametrize("pieces", [[], ["a"]])
def test_short_answers(pieces: list[str]) -> None:
    assert taken(joined(answer(pieces))) == (pieces, len(pieces))


def test_who_leaves_ends_the_answer() -> None:
    ended = []

    def endless() -> Generator[str, None, int]:
        try:
            while True:
                yield "x"
        finally:
            ended.append(True)

    texts = joined(endless(), gap=0.0)
    assert next(texts) == "x"
    texts.close()
    assert ended


def test_an_error_is_passed_on() -> None:
    def broken() -> Generator[str, None, int]:
        yield "a"
        raise ValueError("no more")

    texts = joined(broken(), gap=60.0)
    assert next(texts) == "a"
    with pytest.raises(ValueError, match="no more"):
        next(texts)
