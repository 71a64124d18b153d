"""What the page says, in each language: data files of a key a line, and which of them is wanted."""

import json
from pathlib import Path

from starlette.requests import Request

FOLDER = Path(__file__).parent / "languages"
LANGUAGES = {"en": "English", "zh": "中文"}
"""In the order in which they are offered; the first serves who wants none of them."""


class Texts:
    """Of one language.

    Args:
        known: by key.
    """

    def __init__(self, language: str, known: dict[str, str]) -> None:
        self.language = language
        self.known = known

    def __call__(self, key: str, **values: object) -> str:
        """The text of a key, with what belongs into it."""
        text = self.known[key]
        return text.format(**values) if values else text

    def of(self, prefix: str, name: str) -> str:
        """The text for a word of the kernel's; the word itself if there is none."""
        return self.known.get(f"{prefix}.{name}", name)


def read() -> dict[str, Texts]:
    """All languages."""
    return {
        language: Texts(language, json.loads((FOLDER / f"{language}.json").read_text("utf-8")))
        for language in LANGUAGES
    }


def wanted(request: Request) -> str:
    """The language of a request: what was chosen, or else what its browser would like best."""
    for chosen in (request.query_params.get("lang"), request.cookies.get("lang")):
        if chosen in LANGUAGES:
            return chosen
    found = [(0.0, "")]
    for place, part in enumerate(request.headers.get("accept-language", "")[:400].split(",")):
        name, _, weight = part.strip().partition(";q=")
        language = name.partition("-")[0].lower()
        if language in LANGUAGES:
            found.append((_number(weight) - place / 1000, language))
    return max(found)[1] or next(iter(LANGUAGES))


def _number(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text or 1)))
    except ValueError:
        return 0.0
