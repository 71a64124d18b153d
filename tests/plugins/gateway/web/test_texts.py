"""What the page says is there in every language, whole, and nothing else is."""

import re
import string
from pathlib import Path

from starlette.requests import Request

from clawai.plugins.gateway.web import site, texts

WEB = Path(site.__file__).parent
FAMILIES = (
    "nav", "theme", "state", "class", "level", "try", "kind", "why", "end", "heat", "phase",
)  # fmt: skip
"""Prefixes of keys that are made of the kernel's own words."""


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_every_text_is_there_in_every_language() -> None:
    first, *others = texts.read().values()
    for other in others:
        assert list(other.known) == list(first.known), "the same keys in the same order"
        for key, text in other.known.items():
            assert text.strip() and fields(text) == fields(first.known[key]), key
    assert set(texts.read()) == set(texts.LANGUAGES)


def test_every_text_is_used_and_every_used_one_is_there() -> None:
    known = set(texts.read()["en"].known)
    used: set[str] = set()
    for path in [*WEB.glob("templates/**/*.html"), *WEB.glob("*.py")]:
        used |= set(re.findall(r"""\bt\(\s*['"]([\w.]+)['"]\s*[,)]""", path.read_text("utf-8")))
    assert used <= known, used - known
    assert not {key for key in known - used if key.partition(".")[0] not in FAMILIES}
    assert {f"nav.{name}" for name in site.VIEWS} <= known
    assert {f"theme.{name}" for name in site.THEMES} <= known


def asked(query: str = "", cookie: str = "", accept: str = "") -> str:
    headers = [(b"accept-language", accept.encode()), (b"cookie", cookie.encode())]
    return texts.wanted(
        Request({"type": "http", "query_string": query.encode(), "headers": headers})
    )


def test_the_language_is_the_chosen_one_or_else_what_the_browser_likes_best() -> None:
    assert asked(accept="de, zh-CN;q=0.8, en;q=0.7") == "zh"
    assert asked(accept="en;q=0.5, zh;q=0.5") == "en", "the first of equals"
    assert asked(accept="fr") == asked(accept="zh;q=nonsense, en") == asked() == "en"
    assert asked("lang=zh", "lang=en", "en") == "zh"
    assert asked("lang=xx", "lang=zh", "en") == "zh"
    assert asked(accept=",;q=,zh;q=inf,en;q=nan" * 1000) in texts.LANGUAGES
