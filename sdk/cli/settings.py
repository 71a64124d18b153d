"""`claw config`: every key with its value and meaning; changes are checked before they are kept.

The file is edited line by line, so that the owner's comments stay.
"""

import ast
import inspect
import json
import os
import re
import tomllib
from typing import Any

import click

from clawai.sdk import config, paths
from clawai.sdk.cli import output
from clawai.sdk.errors import ClawError

_SECTION = re.compile(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]\s*(#.*)?$")


def meanings() -> dict[str, str]:
    """Key to the text below it in the source of the configuration, so that both stay one."""
    tree = ast.parse(inspect.getsource(config))
    found: dict[str, str] = {}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        prefix = "" if node.name == "Config" else f"{node.name.lower()}."
        for item, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[prefix + item.target.id] = " ".join(str(after.value.value).split())
    return found


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """``{"memory": {"budget_mib": 0}}`` as ``{"memory.budget_mib": 0}``."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= {f"{key}.{inner}": each for inner, each in value.items()}
        else:
            out[key] = value
    return out


@click.group("config", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def config_command(context: click.Context, as_json: bool) -> None:
    """Show every key of the configuration, its value and its meaning.

    \b
    Examples:
      claw config
      claw config set memory.budget_mib 4096
    """
    if context.invoked_subcommand:
        return
    values, defaults = flat(config.as_dict(config.load())), flat(config.as_dict(config.Config()))
    told = meanings()
    if as_json:
        keys = {
            key: {"value": value, "default": defaults[key], "meaning": told.get(key, "")}
            for key, value in values.items()
        }
        output.print_json({"file": str(paths.config_file()), "keys": keys})
        return
    exists = paths.config_file().exists()
    print(f"{paths.config_file()}{'' if exists else ' (not there yet: all defaults)'}\n")
    rows = []
    for key, value in values.items():
        mark = "" if value == defaults[key] else f"(default {_toml(defaults[key])}) "
        rows.append((key, _toml(value), mark + told.get(key, "")))
    output.table(("KEY", "VALUE", "MEANING"), rows)


@config_command.command("path")
def path_command() -> None:
    """Print the path of the configuration file.

    \b
    Example:
      $EDITOR "$(claw config path)"
    """
    print(paths.config_file())


@config_command.command("get", no_args_is_help=True)
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="A JSON value.")
def get_command(key: str, as_json: bool) -> None:
    """Print the value of KEY, the default if the file does not set it.

    \b
    Example:
      claw config get workers.threads
    """
    _known(key)
    value = flat(config.as_dict(config.load()))[key]
    if as_json:
        output.print_json(value)
    else:
        print(value if isinstance(value, str) else _toml(value))


# Unknown options are let through, so that a negative value needs no "--" before it.
@config_command.command(
    "set", no_args_is_help=True, context_settings={"ignore_unknown_options": True}
)
@click.argument("key")
@click.argument("value")
def set_command(key: str, value: str) -> None:
    """Set KEY to VALUE; a running kernel reads it when it starts again.

    \b
    Example:
      claw config set workers.threads 2
    """
    parsed = _value(key, value)
    edit(key, f"{key.rpartition('.')[2]} = {_toml(parsed)}")
    print(f"{key} = {_toml(parsed)}")
    output.note("a running kernel uses it after: claw down; claw up")


@config_command.command("unset", no_args_is_help=True)
@click.argument("key")
def unset_command(key: str) -> None:
    """Give KEY its default again.

    \b
    Example:
      claw config unset workers.threads
    """
    default = _known(key)
    edit(key, None)
    print(f"{key} = {_toml(default)} (the default)")


def _known(key: str) -> Any:
    """The default of a key.

    Raises:
        ClawError: bad_config, with the nearest key.
    """
    defaults = flat(config.as_dict(config.Config()))
    if key in defaults:
        return defaults[key]
    import difflib

    near = difflib.get_close_matches(key, defaults, 1, 0.4)
    raise ClawError(
        "bad_config",
        f"there is no key {key!r}",
        got=key,
        allowed=sorted(defaults),
        hint=f"did you mean {near[0]}?" if near else "`claw config` shows every key",
    )


def _value(key: str, text: str) -> Any:
    """The value as TOML would read it; a bare word is text where the key wants text."""
    if isinstance(_known(key), str):
        return text
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        read = {}
    # Text that is no single value stays text; the check of the file names the type it should have.
    return read["value"] if len(read) == 1 else text


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(item) for item in value)}]"
    # A JSON string is a TOML basic string, but for DEL, which JSON leaves bare.
    return json.dumps(value).replace("\x7f", "\\u007f") if isinstance(value, str) else str(value)


def edit(key: str, line: str | None) -> None:
    """Replace, add or (None) take out the line of ``key``, check the whole, then keep it."""
    path = paths.config_file()
    _known(key)
    config.load(path)  # a file that is broken already is the owner's to mend
    try:
        before = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        before = ""
    section, _, name = key.rpartition(".")
    text = "\n".join(edited(before.splitlines(), section, name, line)).strip("\n") + "\n"
    changed = config.parse(text.encode(), key)
    expected = flat(config.as_dict(config.load(path)))
    found = flat(config.as_dict(changed))
    # A key in a form that this line editor does not know (quoted, dotted, on several lines).
    if any(found[other] != value for other, value in expected.items() if other != key) or (
        line is None and found[key] != _known(key)
    ):
        raise ClawError(
            "bad_config",
            f"{path} is written in a way that cannot be edited from here",
            hint=f"edit it by hand: {line or f'take {key} out'}",
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def edited(lines: list[str], section: str, name: str, line: str | None) -> list[str]:
    """``lines`` with the line of one key replaced, added or taken out."""
    headers = ((place, _SECTION.match(text)) for place, text in enumerate(lines))
    starts = [(place, match[1]) for place, match in headers if match]
    first = next((place + 1 for place, found in starts if found == section), None)
    if not section:
        first = 0
    if first is None:
        return [*lines, "", f"[{section}]", line] if line is not None else lines
    last = next((place for place, _ in starts if place >= first), len(lines))
    for place in range(first, last):
        if re.match(rf"\s*{re.escape(name)}\s*=", lines[place]):
            return [*lines[:place], *([line] if line is not None else []), *lines[place + 1 :]]
    return [*lines[:first], line, *lines[first:]] if line is not None else lines
