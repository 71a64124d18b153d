"""`/openapi.json`: every door, from the forms that read their bodies (OpenAPI 3.1)."""

import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

import msgspec

from clawai.plugins.gateway.door import Door

_REFS = "#/components/schemas/{name}"
_BAD = {
    "400": "The request makes no sense, or asks for what is not there.",
    "403": "The host or the page is not one that is answered.",
    "404": "There is no such model.",
    "408": "The body came too slowly, or the deadline has passed.",
    "409": "The model is in use, or is to stay.",
    "413": "The body is too large.",
    "422": "The model's file cannot be used.",
    "429": "Too much waits: try again later.",
    "502": "The model's worker failed.",
    "503": "There is no memory or no kernel now.",
    "504": "The model's worker hung.",
    "507": "The disk has no room for the model.",
}


def document(doors: Iterable[tuple[str, Door]], models: Sequence[str]) -> dict[str, Any]:
    """The document for some doors.

    Args:
        models: that are stored now.
    """
    doors = list(doors)
    kinds = [form.kind for _, door in doors for form in door.forms]
    _, schemas = msgspec.json.schema_components(kinds, ref_template=_REFS)
    for schema in schemas.values():
        named = schema["properties"].get("model")
        # One that describes itself names no stored model.
        if named and "description" not in named and models:
            schema["properties"]["model"] = {"type": "string", "enum": list(models)}
    paths: dict[str, dict[str, Any]] = {}
    for path, door in doors:
        paths.setdefault(path, {})[door.methods[0].lower()] = _operation(path, door)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ClawAI", "version": metadata.version("clawai")},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(path: str, door: Door) -> dict[str, Any]:
    content: dict[str, Any] = {media: {"schema": {}} for media in door.media}
    found: dict[str, Any] = {
        "operationId": door.methods[0].lower() + re.sub(r"\W+", "_", path).rstrip("_"),
        "summary": (door.answer.__doc__ or "").strip(),
        "responses": {
            "200": {"description": "The answer.", "content": content},
            **{
                status: {"description": why, "content": {"application/json": {"schema": {}}}}
                for status, why in _BAD.items()
                if door.forms or status in ("403", "404", "503")
            },
        },
    }
    if names := re.findall(r"\{(\w+)\}", path):
        text = {"in": "path", "required": True, "schema": {"type": "string"}}
        found["parameters"] = [{"name": name} | text for name in names]
    if door.forms:
        schema = {"$ref": _REFS.format(name=door.forms[0].kind.__name__)}
        found["requestBody"] = {
            "required": not door.optional,
            "content": {door.takes: {"schema": schema}},
        }
    return found
