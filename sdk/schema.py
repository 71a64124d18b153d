"""What an operation says of itself: JSON schemas, the form for tool calling, ``operations.json``.

Everything comes from the signature and the docstring of one function. Its first line is the
summary; a line ``NAME: text``, where NAME is a parameter, describes that parameter, with or without
``Args:`` above; the rest is the description. A parameter may also carry its text in its type:
``Annotated[str, "who is greeted"]``.

Who wants to know it asks the operation itself (``wire.NIL`` in place of parameters), which is true
in any language and costs a worker. So that listings need none, ``operations.json`` beside
``plugin.toml`` keeps the answers, with a digest of the files that they were made of: one that is
older than the code is not used. It is written by `claw plugin lint` and `claw plugin dev`. It is
the author's word: good for help and for documentation, never for a check, which is the worker's.
"""

import inspect
import json
import os
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular

QUESTION: Any = wire.NIL
"""In place of the parameters of an operation: it answers with what it is."""
FILE = "operations.json"
LIMIT = 1 << 20
"""Bytes of ``operations.json`` at most."""
FILES = 4096
_SOURCE = 64 << 20
"""Bytes of one file of a plugin's code; with a larger one nothing is kept of it."""
_LEVELS = 16
_LINE = re.compile(r"\s*\*{0,2}`{0,2}(\w+)`{0,2}(?:\s*\([^)]*\))?\s*:\s+(\S.*)")
_HEADING = re.compile(r"(Args|Arguments|Attributes|Fields|Parameters|Params):")
_SECTION = re.compile(r"(Returns|Yields|Raises|Example|Examples|Notes?):")


@dataclass(frozen=True, slots=True)
class Doc:
    """A docstring, taken apart."""

    summary: str
    text: str
    """What is neither the summary nor about a parameter."""
    params: dict[str, str]


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """One operation, as it describes itself; the schemas are plain values."""

    name: str
    summary: str = ""
    description: str = ""
    params: dict[str, Any] = {}
    result: dict[str, Any] | None = None
    """None: its author does not say."""
    chunks: dict[str, Any] | None = None
    """Of a stream: what each piece is."""
    stream: bool = False
    batch: bool = False

    @property
    def fields(self) -> dict[str, dict[str, Any]]:
        """The parameters by name."""
        found: dict[str, dict[str, Any]] = inline(self.params).get("properties", {})
        return found

    @property
    def required(self) -> list[str]:
        """The parameters without a default."""
        return list(inline(self.params).get("required", ()))


class _File(msgspec.Struct, frozen=True, kw_only=True):
    of: str
    operations: list[Described]


def parse_doc(doc: str | None, names: Iterable[str] = ()) -> Doc:
    """Take a docstring apart; ``names`` are those of the parameters."""
    wanted = set(names)
    first, _, rest = inspect.cleandoc(doc or "").partition("\n")
    params: dict[str, str] = {}
    kept: list[str] = []
    current, indent, inside = "", 0, False
    for line in rest.splitlines():
        bare = line.strip()
        depth = len(line) - len(line.lstrip())
        if _HEADING.fullmatch(bare):
            current, inside = "", True
        elif (match := _LINE.match(line)) and match[1] in wanted and match[1] not in params:
            current, indent = match[1], depth
            params[current] = match[2].strip()
        elif current and bare and depth > indent:
            params[current] += f" {bare}"
        else:
            current = ""
            if inside and (not bare or _SECTION.fullmatch(bare)):
                inside = False
            kept.append(line)
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
    return Doc(first.strip()[:500], text[:4000], params)


def with_texts(schema: dict[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """``schema`` with the descriptions of its parameters, where it has none of its own."""
    top = _top(schema)
    for name, text in texts.items():
        if name in top.get("properties", {}):
            top["properties"][name].setdefault("description", text)
    return schema


def _top(schema: dict[str, Any]) -> dict[str, Any]:
    """The object that a schema is, behind its first reference."""
    reference = schema.get("$ref", "")
    found: dict[str, Any] = schema.get("$defs", {}).get(reference.removeprefix("#/$defs/"), schema)
    return found


def inline(schema: Mapping[str, Any]) -> dict[str, Any]:
    """``schema`` as one object: without a reference at its top, which many readers refuse."""
    whole = dict(schema)
    top = _top(whole)
    if top is whole:
        return whole
    name = whole["$ref"].removeprefix("#/$defs/")
    others = {key: value for key, value in whole["$defs"].items() if key != name}
    return {**top, **({"$defs": others} if others else {})}


def annotated_texts(hints: Mapping[str, Any]) -> dict[str, str]:
    """The texts that types carry: ``Annotated[str, "who is greeted"]``."""
    found = {}
    for name, hint in hints.items():
        for extra in getattr(hint, "__metadata__", ()):
            if isinstance(extra, str):
                found[name] = extra
    return found


def of_type(hint: Any) -> dict[str, Any] | None:
    """The schema of a type; None where a schema cannot say it."""
    if hint is None or hint is type(None):
        return {"type": "null"}
    members = [each for each in typing.get_args(hint) if each is not ClawError]
    if ClawError in typing.get_args(hint) and len(members) == 1:
        hint = members[0]
    try:
        return msgspec.json.schema(hint)
    except (TypeError, NameError, RecursionError):
        return None


def results(function: Callable[..., Any], hints: Mapping[str, Any], batch: bool) -> dict[str, Any]:
    """The schemas of what a function gives: ``result``, and ``chunks`` of a stream."""
    if "return" not in hints:
        return {}
    hint = hints["return"]
    inner = typing.get_args(hint)
    if inspect.isgeneratorfunction(inspect.unwrap(function)):
        if not inner:
            return {}
        result = inner[2] if len(inner) == 3 else None
        return {"chunks": of_type(inner[0]), "result": of_type(result)}
    if batch:
        return {"result": of_type(inner[0])} if inner else {}
    return {"result": of_type(hint)}


# For tool calling.


def tool_name(op: str) -> str:
    """The name of an operation as a function of a model: dots, which are not allowed, as hyphens.

    Names of operations have no hyphen, so that ``operation_name`` finds the way back.
    """
    name = op.replace(".", "-")
    if len(name) > 64:
        import hashlib  # here: a worker that starts needs none

        name = f"{name[:55]}-{hashlib.sha256(op.encode()).hexdigest()[:8]}"
    return name


def operation_name(tool: str, operations: Iterable[str]) -> str:
    """Which operation a model means.

    Raises:
        ClawError: unknown_operation.
    """
    names = {tool_name(op): op for op in operations}
    if tool not in names:
        raise ClawError("unknown_operation", "no such tool", got=tool, allowed=sorted(names)[:20])
    return names[tool]


def tool(found: Described) -> dict[str, Any]:
    """The function as language models are told of it (OpenAI's form)."""
    schema = inline(found.params)
    schema.pop("title", None)
    if not schema.get("required"):
        schema.pop("required", None)
    text = "\n\n".join(filter(None, (found.summary, found.description)))
    function = {"name": tool_name(found.name), "description": text, "parameters": schema}
    return {"type": "function", "function": function}


def is_sound(found: Described) -> bool:
    """Whether the schemas of a description, which a stranger wrote, have the form of schemas."""
    schemas = (found.params, found.result, found.chunks)
    return all(_is_schema(each, _LEVELS) for each in schemas if each is not None)


_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength", "minItems",
            "maxItems")  # fmt: skip
_FORMS: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("$ref", "contentEncoding", "description"), str),
    (("enum", "required", "anyOf", "oneOf"), list),
    (("properties", "$defs"), dict),
    (("type",), (str, list)),
    (_NUMBERS, (int, float)),
)


def _is_schema(schema: Any, levels: int) -> bool:
    """``schema`` is a map in which what is read here is of the kind that it is read as."""
    if not isinstance(schema, dict) or not levels:
        return False
    for keys, form in _FORMS:
        if not all(isinstance(schema[key], form) for key in keys if key in schema):
            return False
    lists = [schema.get(key, []) for key in ("anyOf", "oneOf")]
    maps = [schema.get(key, {}) for key in ("properties", "$defs")]
    inner = [each for group in lists for each in group]
    inner += [each for group in maps for each in group.values()]
    inner += [schema["items"]] if isinstance(schema.get("items"), dict) else []
    words = [*schema.get("required", ()), *_kinds(schema)]
    return all(isinstance(word, str) for word in words) and all(
        _is_schema(each, levels - 1) for each in inner
    )


def _kinds(schema: Mapping[str, Any]) -> list[Any]:
    """The JSON types that ``type`` names: one, or several."""
    kind = schema.get("type", [])
    return [kind] if isinstance(kind, str) else list(kind)


def type_text(schema: Mapping[str, Any] | None, defs: Mapping[str, Any] | None = None) -> str:
    """A schema as people read it: "integer (1 to 9)", "list of text", "text or null"."""
    if not schema:
        return "any value"
    names = {"string": "text", "array": "list", "object": "map", "number": "number"}
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(each) for each in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(type_text(each, defs) for each in schema[key])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if schema.get("contentEncoding") == "base64":
        return "bytes"
    if len(kinds := _kinds(schema)) > 1:
        return " or ".join(type_text({**schema, "type": each}, defs) for each in kinds)
    kind = kinds[0] if kinds else "any value"
    text = names.get(kind, kind)
    if kind == "array" and isinstance(schema.get("items"), dict) and schema["items"]:
        text += f" of {type_text(schema['items'], defs)}"
    return text + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    """ ", 1 to 9": what a schema says of the size of a value."""
    low = schema.get("minimum", schema.get("minLength", schema.get("minItems")))
    high = schema.get("maximum", schema.get("maxLength", schema.get("maxItems")))
    unit = " characters" if {"minLength", "maxLength"} & set(schema) else ""
    if low is not None and high is not None:
        return f" ({low} to {high}{unit})"
    if low is not None:
        return f" (at least {low}{unit})"
    if high is not None:
        return f" (at most {high}{unit})"
    if "exclusiveMinimum" in schema:
        return f" (more than {schema['exclusiveMinimum']})"
    return ""


# operations.json.


def sources(folder: Path) -> Iterator[Path]:
    """The files that a description depends on: the code, without tests and what is generated."""
    count = 0
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name not in ("tests", "build") and name[0] not in "._"
        )
        for name in sorted(names):
            if not name.endswith((".py", ".so")) or name.startswith("test_"):
                continue
            count += 1
            if count > FILES:
                raise ClawError("too_large", f"files in {folder}", f"over {FILES}", FILES)
            yield Path(parent) / name


def digest(folder: Path) -> str:
    """Of the contents of ``sources``."""
    import hashlib

    whole = hashlib.sha256()
    for path in sources(folder):
        with open_regular(path, follow=True) as file:
            code = file.read(_SOURCE + 1)
        if len(code) > _SOURCE:
            raise ClawError("too_large", f"bytes of {path}", f"over {_SOURCE}", _SOURCE)
        content = hashlib.sha256(code).hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return whole.hexdigest()


def write(folder: Path, found: Iterable[Described]) -> bool:
    """Keep descriptions in ``operations.json``; False if it says just that already."""
    file = _File(of=digest(folder), operations=sorted(found, key=lambda each: each.name))
    text = msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"
    path = folder / FILE
    if path.is_file() and path.read_bytes() == text:
        return False
    draft = path.with_name(f".{FILE}.{os.getpid()}")
    draft.write_bytes(text)
    draft.replace(path)
    return True


def read(folder: Path) -> dict[str, Described] | None:
    """The operations of ``operations.json`` by name; None if there is none that fits the code."""
    try:
        with open_regular(folder / FILE) as file:
            raw = file.read(LIMIT + 1)
        if len(raw) > LIMIT:
            return None
        found = msgspec.json.decode(raw, type=_File)
        if found.of != digest(folder):
            return None
    except (OSError, ClawError, msgspec.MsgspecError, RecursionError):
        return None
    sound = all(is_sound(each) for each in found.operations)
    return {each.name: each for each in found.operations} if sound else None
