"""`key=value` words of `claw call`, read by what the operation says that it takes; and its help."""

import difflib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from clawai.sdk import schema
from clawai.sdk.cli import output
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import read_plugin

if TYPE_CHECKING:
    from clawai.sdk.client import Client


def describe(client: "Client", op: str, **options: Any) -> schema.Described:
    """What an operation says of itself: as its folder keeps it, else asked of its worker.

    Args:
        options: of ``Client.submit``, such as the model without which it cannot be asked.

    Raises:
        ClawError: unknown_operation; bad_params, from a worker that cannot say.
    """
    folder = _folder(client, op)
    kept = schema.read(folder) if folder else None
    return kept[op] if kept and op in kept else ask(client, op, **options)


def example_of(client: "Client", op: str) -> dict[str, Any] | None:
    """The example of an operation's manifest, if it has one."""
    if folder := _folder(client, op):
        for entry in read_plugin(folder).operation:
            if entry.name == op:
                return entry.example or None
    return None


def _folder(client: "Client", op: str) -> Path | None:
    """Of the plugin that offers an operation."""
    for plugin in client.query("plugins")["plugins"]:
        if op in plugin["operations"]:
            return Path(plugin["folder"])
    return None


def ask(client: "Client", op: str, **options: Any) -> schema.Described:
    """What the worker of an operation says that it is; see ``describe``."""
    return as_described(op, client.submit(op, schema.QUESTION, **options).result().value)


def as_described(op: str, answer: Any) -> schema.Described:
    """What a worker has answered.

    Raises:
        ClawError: bad_worker.
    """
    try:
        found = msgspec.convert(answer, schema.Described)
    except msgspec.ValidationError as error:
        raise ClawError("bad_worker", f"{op} describes itself wrongly: {error}") from None
    if not schema.is_sound(found):
        raise ClawError("bad_worker", f"{op} describes itself by what is no JSON schema")
    return found


def pairs_of(words: Sequence[str]) -> dict[str, str]:
    """The words as keys and texts.

    Raises:
        click.UsageError: one is not ``key=value``.
    """
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise click.UsageError(f"A parameter is written key=value; got {word!r}.")
        found[key] = value
    return found


def guess(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Values without a schema: JSON where it can be read as such, else text."""
    return {key: _json_or_text(value) for key, value in pairs.items()}


def convert(pairs: Mapping[str, str], found: schema.Described) -> dict[str, Any]:
    """Values as the operation wants them.

    Raises:
        ClawError: bad_params, naming the parameter, what was given and what is allowed.
    """
    fields, defs = found.fields, schema.inline(found.params).get("$defs", {})
    hint = f"`claw call {found.name} --help` shows the parameters"
    for key in pairs:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1, 0.5)
            raise ClawError(
                "bad_params",
                f"{found.name} has no parameter {key!r}",
                got=key,
                allowed=list(fields),
                hint=f"did you mean {near[0]!r}?" if near else hint,
            )
    values = {key: _value(key, text, fields[key], defs, hint) for key, text in pairs.items()}
    if missing := [key for key in found.required if key not in values]:
        raise ClawError(
            "bad_params",
            f"{found.name} needs {' and '.join(missing)}",
            got=list(values),
            allowed=[f"{key}={schema.type_text(fields[key])}" for key in missing],
            hint=hint,
        )
    return values


def _value(key: str, text: str, field: dict[str, Any], defs: dict[str, Any], hint: str) -> Any:
    kinds = _kinds(field, defs)
    value = _json_or_text(text)
    if not kinds or _is(value, kinds):
        return value
    if "string" in kinds:  # 123, true, {...: what it reads as is not what is wanted
        return text
    if isinstance(value, int) and not isinstance(value, bool) and "number" in kinds:
        return value
    allowed = schema.type_text(field)
    raise ClawError(
        "bad_params", f"the parameter {key}", got=text[:200], allowed=allowed, hint=hint
    )


_JSON = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}


def _is(value: Any, kinds: set[str]) -> bool:
    if isinstance(value, bool):
        return "boolean" in kinds
    return any(isinstance(value, _JSON[kind]) for kind in kinds)


def _kinds(field: Mapping[str, Any], defs: Mapping[str, Any], levels: int = 8) -> set[str]:
    """The JSON types that a schema takes; empty: any, or it cannot be said."""
    if not levels:
        return set()
    if "$ref" in field:
        name = str(field["$ref"]).rpartition("/")[2]
        return _kinds(defs.get(name, {}), defs, levels - 1)
    for key in ("anyOf", "oneOf"):
        if key in field:
            each = [_kinds(one, defs, levels - 1) for one in field[key]]
            return set().union(*each) if all(each) else set()
    values = field.get("enum", [field["const"]] if "const" in field else [])
    if values:
        return {name for name, kind in _JSON.items() for v in values if type(v) is kind}
    kind = field.get("type", [])
    kinds = {kind} if isinstance(kind, str) else set(kind)
    return kinds if kinds <= set(_JSON) else set()


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


# Help.


def example(found: schema.Described, values: Mapping[str, Any] | None = None) -> str:
    """A command that calls it: with the manifest's example, else with what it needs at least."""
    if values is None:
        values = {key: _sample(found.fields[key]) for key in found.required}
    return example_words(found.name, values)


def example_words(op: str, values: Mapping[str, Any]) -> str:
    """The command that calls ``op`` with these values."""
    words = ["claw", "call", op]
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        words.append(shlex.quote(f"{key}={text}"))
    return " ".join(words)


def _sample(field: Mapping[str, Any]) -> Any:
    """Some value of a type, to show where one belongs."""
    if field.get("enum"):
        return field["enum"][0]
    kind = str(field.get("type"))
    if kind == "integer":
        return max(1, field.get("minimum", 1))
    samples: dict[Any, Any] = {"number": 1.0, "boolean": True, "array": [], "object": {}}
    return samples.get(kind, "...")


def show(found: schema.Described, as_json: bool, values: Mapping[str, Any] | None = None) -> None:
    """Print what an operation is; what its author wrote drives no terminal."""
    if as_json:
        output.print_json(schema.tool(found))
        return
    print(f"Usage: claw call {found.name} [KEY=VALUE]...\n")
    for text in (found.summary, found.description):
        if text:
            print("\n".join(f"  {line}" for line in output.clean(text).splitlines()) + "\n")
    rows = list(parameter_rows(found))
    if rows:
        output.table(("PARAMETER", "TYPE", "DEFAULT", "MEANING"), rows)
    else:
        print("It takes no parameters.")
    print()
    kind = "streams" if found.chunks or found.stream else "gives"
    shown = found.chunks if found.chunks is not None else found.result
    if shown:
        print(f"It {kind}: {output.clean(schema.type_text(shown))}")
    print(f"Example: {output.clean(example(found, values))}")


def parameter_rows(found: schema.Described) -> list[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each parameter; those that are needed come first."""
    rows = []
    needed = set(found.required)
    for name, field in sorted(found.fields.items(), key=lambda item: item[0] not in needed):
        default = "needed" if name in needed else "-"
        if "default" in field:
            default = json.dumps(field["default"], ensure_ascii=False)
        rows.append((name, schema.type_text(field), default, str(field.get("description", "-"))))
    return rows
