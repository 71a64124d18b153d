"""Pieces of text, joined so that messages stay few."""

from collections.abc import Generator

import pytest

from clawai.plugins.engine.flow import joined


def pieces(count: int, ended: list[bool]) -> Generator[str, None, int]:
    try:
        for number in range(count):
            yield f"{number} "
        return count
    finally:
        ended.append(True)


def test_the_first_goes_at_once_and_nothing_stays_behind() -> None:
    flow = joined(pieces(1000, []), gap=3600)
    assert next(flow) == "0 "
    assert next(flow) == "".join(f"{number} " for number in range(1, 1000))
    with pytest.raises(StopIteration) as end:
        next(flow)
    assert end.value.value == 1000


def test_without_a_gap_each_is_its_own() -> None:
    assert list(joined(pieces(5, []), gap=0)) == ["0 ", "1 ", "2 ", "3 ", "4 "]
    assert list(joined(pieces(0, []))) == []


def test_who_stops_reading_ends_it() -> None:
    ended: list[bool] = []
    flow = joined(pieces(1000, ended), gap=0)
    next(flow)
    flow.close()
    assert ended == [True]
