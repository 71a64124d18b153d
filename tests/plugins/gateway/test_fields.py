"""The page that lists every field says what the code does."""

import msgspec
import pytest

import http_table
from clawai.plugins.gateway.fields import BadRequest
from clawai.plugins.gateway.openai import COMPLETION, REFUSED


def test_the_page_lists_what_the_code_knows() -> None:
    text = http_table.PAGE.read_text()
    listed = text.partition(http_table.BEGIN)[2].partition(http_table.END)[0]
    assert listed.strip() == http_table.tables().strip(), "run tests/http_table.py"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_taken_where_it_means_nothing(name: str) -> None:
    for value in (None, *REFUSED[name][1]):
        body = msgspec.json.encode({"model": "m", "prompt": "p", name: value})
        asked, warnings = COMPLETION.read(body)
        assert (asked.prompt, warnings) == ("p", [])
    with pytest.raises(BadRequest, match=f"{name} is not supported") as error:
        body = msgspec.json.encode({"model": "m", "prompt": "p", name: "something"})
        COMPLETION.read(body)
    assert error.value.param == name
