"""JSON schemas of strangers: bounded, read keyword by keyword, and nothing in silence.

What comes out has only keywords that the grammar obeys. It may be narrower than what came in, never
wider, so an answer in it always validates: integers stay where every program reads them exactly,
and an object that names its properties has no others, unless it says so. A model that may invent
properties seldom comes to an end.

Refused: keywords that the grammar has no way to obey, references to elsewhere, what is too large.

Source: JSON Schema 2020-12 (json-schema.org); ``definitions`` is draft 7's name for ``$defs``.
"""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from clawai.sdk.errors import ClawError

MAX_BYTES = 64 << 10
MAX_NODES = 1000
"""Schemas inside of it: a thousand take some tenths of a second to compile."""
MAX_DEPTH = 32
EXACT = (1 << 53) - 1
"""The largest integer that JavaScript has exactly."""
ANY_OBJECT = {"type": "object"}

_NOTES = frozenset(
    {"$comment", "$schema", "default", "deprecated", "description", "examples", "readOnly"}
    | {"title", "writeOnly"}
)
"""Keywords that say nothing about what is valid."""
_ONE, _MANY, _NAMED = {"items", "additionalProperties"}, {"allOf", "anyOf", "oneOf"}, {"properties"}
_MANY |= {"prefixItems"}
_NAMED |= {"$defs", "definitions", "patternProperties"}
_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_COUNTS = {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
_TEXTS = {"pattern", "format", "$ref"}
_PLAIN = {"type", "enum", "const", "required", "multipleOf"}
KEYWORDS = tuple(sorted(_ONE | _MANY | _NAMED | _NUMBERS | _COUNTS | _TEXTS | _PLAIN))
"""Those that are obeyed."""
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_OPEN = {"allOf", "anyOf", "oneOf", "$ref", "patternProperties", "additionalProperties"}


def checked(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What the grammar obeys of a schema.

    Raises:
        ClawError: bad_params, and where.
    """
    return checked_all({"schema": schema})[0]


def checked_all(schemas: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same of several, which share the limits; errors name them by their keys.

    Raises:
        ClawError: bad_params, and where.
    """
    try:
        size = len(msgspec.json.encode(list(schemas.values())))
    except (RecursionError, TypeError, ValueError, msgspec.MsgspecError):
        size = MAX_BYTES + 1
    if size > MAX_BYTES:
        raise ClawError("bad_params", "the schema is too large", allowed=f"{MAX_BYTES} bytes")
    reader = _Reader()
    return [reader.read(dict(schema), name) for name, schema in schemas.items()]


class _Reader:
    """One reading of some schemas."""

    def __init__(self) -> None:
        self._nodes = 0
        self._closes = True
        """Whether objects may be closed: parts of an ``allOf`` would shut each other out."""

    def read(self, schema: dict[str, Any], where: str) -> dict[str, Any]:
        """A whole one."""
        self._closes = "allOf" not in str(schema)
        return self.object(schema, where, 0)

    def any(self, given: Any, where: str, depth: int) -> Any:
        """A schema, or true or false."""
        if isinstance(given, bool):
            return given
        if not isinstance(given, dict):
            _refuse(where, given, "a schema: an object, true or false")
        return self.object(given, where, depth)

    def object(self, given: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            allowed = f"{MAX_NODES} schemas inside of it, {MAX_DEPTH} deep"
            raise ClawError("bad_params", f"the schema is too large at {where}", allowed=allowed)
        found: dict[str, Any] = {}
        for name, value in given.items():
            if name in _NOTES or (name == "$id" and not depth):
                continue
            found[name] = self._keyword(name, value, f"{where}.{name}", depth)
        self._narrow(found)
        return found

    def _keyword(self, name: str, value: Any, where: str, depth: int) -> Any:
        if name in _ONE:
            return self.any(value, where, depth + 1)
        if name in _MANY:
            if not isinstance(value, list) or not value:
                _refuse(where, value, "a list of schemas")
            return [self.any(each, f"{where}[{n}]", depth + 1) for n, each in enumerate(value)]
        if name in _NAMED:
            if not isinstance(value, dict):
                _refuse(where, value, "an object of schemas")
            return {n: self.any(each, f"{where}.{n}", depth + 1) for n, each in value.items()}
        _plain(name, value, where)
        return value

    def _narrow(self, found: dict[str, Any]) -> None:
        kinds = found.get("type", ())
        whole = kinds == "integer" or (isinstance(kinds, list) and "integer" in kinds)
        if whole and "number" not in kinds and not {"enum", "const"} & set(found):
            if not {"minimum", "exclusiveMinimum"} & set(found):
                found["minimum"] = min(-EXACT, found.get("maximum", 0))
            if not {"maximum", "exclusiveMaximum"} & set(found):
                found["maximum"] = max(EXACT, found.get("minimum", 0))
        named = found.get("properties")
        if named is not None and self._closes and not _OPEN & set(found):
            enough = found.get("minProperties", 0) <= len(named)
            if enough and set(found.get("required", ())) <= set(named):
                found["additionalProperties"] = False


def _plain(name: str, value: Any, where: str) -> None:
    """Refuse a value that means nothing, or not what the grammar would make of it."""
    if name in _NUMBERS or name == "multipleOf":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or abs(value) > EXACT:
            _refuse(where, value, f"a number, up to {EXACT}")
        if name == "multipleOf" and (value != int(value) or value < 1):
            _refuse(where, value, "a whole number, 1 or more")
    elif name in _COUNTS:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1 << 20:
            _refuse(where, value, f"0 to {1 << 20}")
    elif name in _TEXTS:
        if not isinstance(value, str):
            _refuse(where, value, "text")
        if name == "$ref" and not (value == "#" or value.startswith("#/")):
            _refuse(where, value, "a place in this schema, such as #/$defs/NAME")
    elif name == "type":
        kinds = value if isinstance(value, list) else [value]
        if not kinds or not all(kind in _TYPES for kind in kinds):
            _refuse(where, value, list(_TYPES))
    elif name == "required":
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            _refuse(where, value, "a list of names")
    elif name == "enum":
        if not isinstance(value, list) or not value:
            _refuse(where, value, "a list of values")
    elif name != "const":
        raise ClawError(
            "bad_params",
            f"{where}: this keyword cannot be obeyed",
            name[:64],
            list(KEYWORDS),
            hint="say it otherwise, or leave it out and check the answer",
        )


def _refuse(where: str, got: Any, allowed: Any) -> NoReturn:
    raise ClawError("bad_params", where, str(got)[:80], allowed)
