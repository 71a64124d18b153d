"""The catalogue: its forms, what it refuses, and the owner's own entries."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawai.sdk import catalogue
from clawai.sdk.catalogue import HuggingFace, Local, Pypi, Web, parse_source
from clawai.sdk.errors import ClawError

ENTRY = """
[model.{name}]
source = "{source}"
sha256 = "{sha}"
bytes = {size}
licence = "MIT"
capability = "llm"
"""


def entry(name="mine", source="https://host/a.gguf", sha="0" * 64, size=4) -> bytes:
    return ENTRY.format(name=name, source=source, sha=sha, size=size).encode()


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("pypi:a-b==1.2.3#a_b/x.gguf", Pypi("a-b", "1.2.3", "a_b/x.gguf")),
        ("pypi:a==1!2.0+cpu#m", Pypi("a", "1!2.0+cpu", "m")),
        ("https://host/x.gguf", Web("https://host/x.gguf")),
        ("http://127.0.0.1:9/x", Web("http://127.0.0.1:9/x")),
        ("hf:own/repo/a/b.gguf", HuggingFace("own/repo", "a/b.gguf", "main")),
        ("hf:own/repo/b.gguf@v1.0", HuggingFace("own/repo", "b.gguf", "v1.0")),
        ("file:/a/b%20c", Local("/a/b c")),
        ("file:///a/b", Local("/a/b")),
    ],
)
def test_the_forms_of_a_source(text, source):
    assert parse_source(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "smollm2",
        "pypi:a#x",
        "pypi:a>=1#x",
        "pypi:--index-url==1#x",
        "pypi:a==1 --pre#x",
        "pypi:a==1#",
        "http://example.org/x",
        "https:///x",
        "https://host/a b",
        "https://host/\r\nX: y",
        "ftp://host/x",
        "file:relative",
        "file://host/x",
        "hf:repo",
        "hf:own/repo",
        "hf:../../x",
        "data:,x",
    ],
)
def test_what_is_no_source(text):
    with pytest.raises(ClawError) as caught:
        parse_source(text)
    assert caught.value.code == "bad_params"
    assert caught.value.allowed == list(catalogue.FORMS)


@given(st.text(max_size=60))
def test_any_text_is_a_source_or_a_typed_error(text):
    for prefix in ("", "pypi:a==1#", "hf:a/b/", "https://", "file:/"):
        try:
            parse_source(prefix + text)
        except ClawError as error:
            assert error.code == "bad_params"


def test_the_bundled_catalogue_names_the_default_model(home):
    found = catalogue.find("smollm2")
    assert found.bytes == 98_362_432
    assert found.licence == "Apache-2.0"
    assert catalogue.find("smollm2-135m") is not None
    for name, each in catalogue.load().items():
        assert each.name == name
        assert each.description and each.licence and each.file


def test_an_unknown_name_gets_the_nearest(home):
    with pytest.raises(ClawError) as caught:
        catalogue.find("smolm2")
    assert caught.value.code == "unknown_model"
    assert "smollm2" in caught.value.hint


def test_the_owners_entries_win(home: Path):
    own = catalogue.user_file()
    own.parent.mkdir(parents=True)
    own.write_bytes(entry("smollm2", size=7) + entry("other"))
    assert catalogue.find("smollm2").bytes == 7
    assert catalogue.find("other").file == "a.gguf"
    assert "qwen2.5-coder" in catalogue.load()


@pytest.mark.parametrize(
    "text",
    [
        b"[",
        b"\xff",
        b"[model.x]\n",
        entry(name='"../x"'),
        entry(name='"UP"'),
        entry(name='".hidden"'),
        entry(source="https://host/"),
        entry(source="https://host/model.json"),
        entry(source="https://host/.."),
        entry(source="https://host/%2e%2e%2fx"),
        entry(source="gopher://host/x"),
        entry(sha="0" * 63),
        entry(sha="Z" * 64),
        entry(size=0),
        entry(size=-1),
        entry() + b"typo = 1\n",
        entry().replace(b'"https://host/a.gguf"', b"[]"),
        entry().replace(b'"https://host/a.gguf"', b'["https://host/a", "https://host/b"]'),
        b"#" * (catalogue.LIMIT + 1),
    ],
)
def test_a_bad_catalogue_is_refused_whole(home, text):
    own = catalogue.user_file()
    own.parent.mkdir(parents=True)
    own.write_bytes(text)
    with pytest.raises(ClawError) as caught:
        catalogue.load()
    assert caught.value.code == "bad_config"
    assert "catalogue.toml" in caught.value.message


@pytest.mark.parametrize("members", [["a"], ["a", "a"], ["a", "../b"], ["a", "b", "c"]])
def test_members_are_a_name_for_each_source(members):
    text = ENTRY.format(name="mine", source="x", sha="0" * 64, size=4)
    several = text.replace('source = "x"', 'source = ["file:/x", "file:/y"]\nfile = "m.tar"')
    assert catalogue.parse(several.encode() + b'members = ["a", "b"]', "here")["mine"].members
    with pytest.raises(ClawError, match="members"):
        catalogue.parse(several.encode() + f"members = {members}".encode(), "here")
