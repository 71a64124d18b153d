"""Forms from schemas: which control a parameter gets, and what a control's value is.

A schema comes from a plugin, so it is material: what it does not say plainly becomes a text in
which JSON is written.
"""

import json
from base64 import b64decode
from typing import Any

import msgspec

from clawai.plugins.gateway.fields import BadRequest
from clawai.sdk import schema

LONG = 200
"""Characters from which on a text gets several lines."""


class Field(msgspec.Struct, frozen=True):
    """One control."""

    name: str
    kind: str
    """text, long, integer, number, boolean, choice, bytes, tensor or json."""
    required: bool
    about: str
    type: str
    """In words."""
    value: str = ""
    """What it shows at first."""
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()


def fields(described: schema.Described, example: dict[str, Any]) -> list[Field]:
    """A control for each parameter of an operation."""
    defs = schema.inline(described.params).get("$defs", {})
    required = described.required
    return [
        _field(name, found, defs, name in required, example)
        for name, found in described.fields.items()
    ]


def _field(
    name: str,
    found: dict[str, Any],
    defs: dict[str, Any],
    required: bool,
    example: dict[str, Any],
) -> Field:
    plain = _plain(found)
    kind = _kind(plain, defs)
    value = example.get(name, found.get("default"))
    return Field(
        name=name,
        kind=kind,
        required=required,
        about=str(found.get("description", plain.get("description", ""))),
        type=schema.type_text(found, defs),
        value=_value(kind, value),
        least=_number(plain.get("minimum")),
        most=_number(plain.get("maximum", plain.get("maxLength"))),
        choices=tuple(str(each) for each in plain.get("enum", ())),
    )


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """A schema without "or null"; as it is, if it says more than that."""
    options = [each for each in found.get("anyOf", ()) if each.get("type") != "null"]
    return options[0] if len(options) == 1 else found


def _kind(found: dict[str, Any], defs: dict[str, Any]) -> str:
    named = defs.get(str(found.get("$ref", "")).removeprefix("#/$defs/"), {})
    if {"dtype", "shape", "frame"} <= set(named.get("properties", {})):
        return "tensor"
    if "enum" in found and all(isinstance(each, str) for each in found["enum"]):
        return "choice"
    if found.get("contentEncoding") == "base64":
        return "bytes"
    kind = found.get("type")
    if kind == "string":
        return "long" if found.get("maxLength", 0) > LONG else "text"
    return kind if kind in ("integer", "number", "boolean") else "json"


def _value(kind: str, value: Any) -> str:
    if value is None or kind in ("bytes", "tensor"):
        return ""
    return value if isinstance(value, str) and kind != "json" else json.dumps(value)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def as_bytes(params: dict[str, Any], described: schema.Described | None) -> dict[str, Any]:
    """Parameters from JSON, in which bytes are Base64, as the wire has them.

    Raises:
        BadRequest: it is no Base64.
    """
    if described is None:
        return params
    kinds = {field.name: field.kind for field in fields(described, {})}
    try:
        return {
            key: b64decode(value, validate=True)
            if kinds.get(key) == "bytes" and isinstance(value, str)
            else value
            for key, value in params.items()
        }
    except ValueError as error:
        raise BadRequest(f"bytes are written as Base64: {error}", "params") from None
