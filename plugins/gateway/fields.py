"""Requests as they come: JSON objects of strangers, read field by field, and nothing in silence.

Each body has a ``msgspec.Struct``. A field in it is supported; one in a table IGNORED is left out with
a warning, and so is one that nobody knows, since clients grow fields; one in a table REFUSED is an
error unless it has the value that means nothing. ``docs/http.md`` lists all of them, from here.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


class BadRequest(Exception):
    """A request that cannot be served as it is."""

    def __init__(self, message: str, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.status = message, param, status


def read(
    body: bytes,
    kind: type[T],
    ignored: Mapping[str, str],
    refused: Mapping[str, tuple[str, tuple[Any, ...]]],
) -> tuple[T, list[str]]:
    """A body as ``kind``, and warnings.

    Args:
        ignored: field to what it would do.
        refused: field to why it is, and the values with which it changes nothing.

    Raises:
        BadRequest: it is no such object.
    """
    try:
        given = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise BadRequest(f"the body is a JSON {type(given).__name__}, and must be an object")
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    warnings, kept = [], {}
    for name, value in given.items():
        if name in known:
            kept[name] = value
        elif name in refused:
            why, harmless = refused[name]
            if value is not None and value not in harmless:
                raise BadRequest(f"{name} is not supported: {why}", name)
        elif value is not None:
            warnings.append(f"{name[:64]} is ignored: {ignored.get(name, 'nobody knows it here')}")
    try:
        return msgspec.convert(kept, kind), warnings
    except msgspec.ValidationError as error:
        text = str(error)
        param = text.rpartition("`$.")[2].rstrip("`") if "`$." in text else None
        raise BadRequest(text, param) from None
