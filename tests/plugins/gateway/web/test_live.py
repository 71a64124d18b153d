"""What is sent to who looks: of a table only the rows that are new, and all of it comes about."""

import re

from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

from clawai.plugins.gateway.web.live import ROW, Pieces

KEPT = re.compile(r'<tr data-key="([^"]*)" data-same></tr>')
KEYS = st.sampled_from(["a", "b", 'q"<tr>', "$1", ""])
TABLES = st.lists(st.tuples(KEYS, st.sampled_from(["1", "2", "</tr>"])), max_size=5)


def table(rows: list[tuple[str, str]]) -> str:
    made = "".join(
        f'<tr data-key="{escape(key)}"><td>{escape(text)}\n</td></tr>\n' for key, text in rows
    )
    return f"<table><thead><tr><th>x</th></tr></thead><tbody>{made}</tbody></table>{len(rows)}"


def filled(sent: str, rows: dict[str, str]) -> str:
    return KEPT.sub(lambda row: rows[row[1]], sent)


@given(st.lists(TABLES, max_size=6))
def test_whoever_keeps_what_is_the_same_has_the_whole(tables: list[list[tuple[str, str]]]) -> None:
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


def test_of_rows_with_the_same_key_none_is_taken_for_the_other() -> None:
    pieces = Pieces()
    pieces.changed({"it": table([("a", "1"), ("a", "2")])})
    assert "2" in pieces.changed({"it": table([("a", "2")])})["it"]
