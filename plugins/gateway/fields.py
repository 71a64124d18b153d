"""Requests as they come: JSON objects of strangers, read field by field, and nothing in silence.

A field of the form's struct is supported; one that is to be ignored is left out with a warning, and
so is one that nobody knows, since clients grow fields; one that is refused is an error, unless it
has a value that means nothing. ``docs/http.md`` lists all of them, from the forms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


class BadRequest(Exception):
    """A request that cannot be served as it is."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        status: int = 400,
        code: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.status = message, param, status
        self.code, self.headers = code, dict(headers or {})


@dataclass(frozen=True)
class Form(Generic[T]):
    """What an object of a request may have."""

    kind: type[T]
    """Its supported fields."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Field to what it would do."""
    refused: Mapping[str, tuple[str, tuple[Any, ...]]] = field(default_factory=dict)
    """Field to why it is, and the values with which it changes nothing."""

    @cached_property
    def known(self) -> list[str]:
        """Names of the supported fields."""
        return [each.encode_name for each in msgspec.structs.fields(self.kind)]

    def read(self, body: bytes) -> tuple[T, list[str]]:
        """A body in this form, and warnings.

        Raises:
            BadRequest: it is no such object.
        """
        try:
            given = msgspec.json.decode(body or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from None
        return self.take(given)

    def take(self, given: Any, where: str = "") -> tuple[T, list[str]]:
        """The same of what is in a body already, at ``where``.

        Raises:
            BadRequest: as ``read``.
        """
        if not isinstance(given, dict):
            text = f"{where.rstrip('.') or 'the body'} is no JSON object"
            raise BadRequest(text, where.rstrip(".") or None)
        known, warnings, kept = self.known, [], {}
        for name, value in given.items():
            if name in known:
                kept[name] = value
            elif name in self.refused:
                why, harmless = self.refused[name]
                if value is not None and value not in harmless:
                    raise BadRequest(f"{where}{name} is not supported: {why}", f"{where}{name}")
            elif value is not None:
                why = self.ignored.get(name, "nobody knows it here")
                warnings.append(f"{where}{name[:64] or repr(name)} is ignored: {why}")
        try:
            return msgspec.convert(kept, self.kind), warnings
        except msgspec.ValidationError as error:
            text, place = str(error), where
            if "`$" in text:
                text, _, path = text.rpartition(" - at `$")
                place = where + path.rstrip("`").lstrip(".")
            text = f"{place}: {text}" if place else text
            raise BadRequest(text, place.rstrip(".") or None) from None
