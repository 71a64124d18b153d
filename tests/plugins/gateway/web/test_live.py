"""What is sent to who looks: of a table only the rows that are new, and all of it comes about."""

import re

from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

from clawai.plugins.gateway.web.live import CELL, ROW, Pieces

KEPT = re.compile(r'<tr data-key="([^"]*)" data-same></tr>')
KEYS = st.sampled_from(["a", "b", 'q"<tr>', "$1", ""])
TEXTS = st.sampled_from(["1", "2", "</td></tr>", "1</td><td>2"])
TABLES = st.lists(st.tuples(KEYS, TEXTS, TEXTS), max_size=5)


def table(rows: list[tuple[str, ...]]) -> str:
    made = ""
    for key, text, *more in rows:
        cells = "".join(f'<td class="n">{escape(each)}\n</td>\n' for each in more)
        made += f'<tr data-key="{escape(key)}"><th>{escape(text)}</th>{cells}</tr>\n'
    return f"<table><thead><tr><th>x</th></tr></thead><tbody>{made}</tbody></table>{len(rows)}"


def filled(sent: str, rows: dict[str, str]) -> str:
    """As the page does it: a row by its key, a cell by its place in it."""

    def cells(row: re.Match[str]) -> str:
        if "data-same></t" not in row[0]:
            return row[0]
        old = [each[0] for each in CELL.finditer(rows[row[1]])]
        assert len(old) == len(CELL.findall(row[0]))
        kept = iter(old)
        return CELL.sub(
            lambda cell: each if (each := next(kept)) and "data-same" in cell[0] else cell[0],
            row[0],
        )

    return ROW.sub(cells, KEPT.sub(lambda row: rows[row[1]], sent))


@given(st.lists(TABLES, max_size=6))
def test_whoever_keeps_what_is_the_same_has_the_whole(tables: list[list[tuple[str, ...]]]) -> None:
    pieces, has, rows = Pieces(), "", dict[str, str]()
    for each in tables:
        whole = table(each)
        sent = pieces.changed({"it": whole})
        assert (sent == {}) == (has == whole)
        if sent:
            has = filled(sent["it"], rows)
            rows = {row[1]: row[0] for row in ROW.finditer(has)}
        assert has == whole


def test_only_the_key_is_sent_of_a_row_that_is_as_it_was() -> None:
    pieces = Pieces()
    pieces.changed({"it": table([("a", "1"), ("b", "1")])})
    sent = pieces.changed({"it": table([("a", "1"), ("b", "2")])})["it"]
    assert KEPT.findall(sent) == ["a"] and "2" in sent


def test_a_row_without_a_key_is_sent_whole() -> None:
    pieces = Pieces()
    pieces.changed({"it": table([("", "kept"), ("a", "1")])})
    sent = pieces.changed({"it": table([("", "kept"), ("a", "1"), ("b", "1")])})["it"]
    assert KEPT.findall(sent) == ["a"] and "kept" in sent


def test_of_a_row_that_is_another_only_the_cells_that_are_new_are_sent() -> None:
    pieces = Pieces()
    pieces.changed({"it": table([("a", "kept", "1", "kept")])})
    sent = pieces.changed({"it": table([("a", "kept", "2", "kept")])})["it"]
    assert "<th data-same></th><td class" in sent and "kept" not in sent and "2" in sent
    assert "2" in pieces.changed({"it": table([("a", "kept", "2")])})["it"], "one fewer: whole"


def test_of_rows_with_the_same_key_none_is_taken_for_the_other() -> None:
    pieces = Pieces()
    pieces.changed({"it": table([("a", "1"), ("a", "2")])})
    assert "2" in pieces.changed({"it": table([("a", "2")])})["it"]
