"""In what form an answer is wanted: free text, any JSON object, JSON of a schema."""

from typing import Annotated, Any, Literal

import msgspec

from clawai.plugins.gateway.fields import BadRequest, Form

OBJECT: dict[str, Any] = {"type": "object"}
"""JSON mode: any object."""


class JsonSchema(msgspec.Struct):
    """``json_schema``. An answer always obeys it, ``strict`` or not; without one it is JSON."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    schema: dict[str, Any] = {}
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct):
    """``response_format``"""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class TextFormat(msgspec.Struct):
    """``text.format``; the fields behind the first are a schema's."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(msgspec.Struct):
    """``text``"""

    format: dict[str, Any] | None = None


RESPONSE_FORMAT = Form(ResponseFormat)
JSON_SCHEMA = Form(JsonSchema)
TEXT_FORMAT = Form(TextFormat)
TEXT = Form(TextOptions, {"verbosity": "the models here know nothing of it"})


def of_chat(given: dict[str, Any] | None, warnings: list[str]) -> dict[str, Any] | None:
    """The schema that ``response_format`` asks for; None: free text.

    Raises:
        BadRequest: it makes no sense.
    """
    if given is None:
        return None
    form, more = RESPONSE_FORMAT.take(given, "response_format.")
    warnings += more
    if form.type != "json_schema":
        return OBJECT if form.type == "json_object" else None
    schema, more = JSON_SCHEMA.take(form.json_schema, "response_format.json_schema.")
    warnings += more
    return schema.schema


def of_response(given: dict[str, Any] | None, warnings: list[str]) -> dict[str, Any] | None:
    """The schema that ``text`` asks for; None: free text.

    Raises:
        BadRequest: it makes no sense.
    """
    options, more = TEXT.take(given or {}, "text.")
    warnings += more
    if options.format is None:
        return None
    form, more = TEXT_FORMAT.take(options.format, "text.format.")
    warnings += more
    if form.type == "json_schema":
        if form.schema is None:
            raise BadRequest("text.format.schema is missing", "text.format.schema")
        return form.schema
    return OBJECT if form.type == "json_object" else None
