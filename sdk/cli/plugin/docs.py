"""`claw plugin docs`: a plugin's page, made of its manifest and of what its operations say."""

import json
from collections.abc import Iterator
from pathlib import Path

import click

from clawai.sdk import develop, schema, settings
from clawai.sdk.cli import arguments, output
from clawai.sdk.errors import ClawError
from clawai.sdk.lint.subject import NotChecked, Subject
from clawai.sdk.manifest import OperationEntry, Plugin, read_plugin


def page(folder: Path) -> str:
    """The page in Markdown.

    Raises:
        ClawError: bad_config; or why the plugin cannot say what it does.
    """
    develop.require_plugin(folder)
    manifest = read_plugin(folder)
    described = _described(folder)
    lines = [f"# {_text(manifest.plugin.name)}", "", _text(manifest.plugin.description), ""]
    lines.append(f"Version {_text(manifest.plugin.version)}, {_text(manifest.plugin.language)}.")
    lines += ["", *_permissions(manifest)]
    for entry in manifest.operation:
        lines += ["", *_operation(entry, described.get(entry.name))]
    return "\n".join(lines).rstrip() + "\n"


def _described(folder: Path) -> dict[str, schema.Described]:
    """From ``operations.json``, if it fits the code; else of the plugin in the sandbox."""
    kept = schema.read(folder)
    if kept is not None:
        return kept
    try:
        with Subject(folder.resolve()) as subject:
            return subject.described
    except NotChecked as why:
        hint = "`claw plugin dev` shows why" if "start" in str(why) else ""
        raise ClawError("worker_failed", str(why), hint=hint) from None


def _permissions(manifest: Plugin) -> Iterator[str]:
    asked = manifest.permissions
    yield from ("It asks for:", "") if _asks(manifest) else ("It asks for no permission.",)
    for kind in ("read", "write", "network", "listen", "programs", "devices", "operations",
                 "models", "shared_memory", "limits", "kernel"):  # fmt: skip
        for thing, reason in getattr(asked, kind).items():
            yield f"- {kind} `{_code(thing)}`: {_text(reason)}"
    for name, reason in manifest.secrets.items():
        yield f"- the secret `{_code(name)}`: {_text(reason)}"
    if manifest.limits.data_mib:
        yield f"- files of its own, {manifest.limits.data_mib} MiB at most"
    if asked.on_behalf_of:
        yield f"- acting for others: {_text(asked.on_behalf_of)}"
    if manifest.config:
        command = f"claw plugin config {_code(manifest.plugin.name)}"
        yield from ("", f"It can be configured (`{command}`):", "")
    for key, setting in manifest.config.items():
        about = " ".join(_text(setting.description).split())
        yield f"- `{_code(key)}` ({_text(settings.allowed(setting))}): {about}".rstrip(": ")


def _asks(manifest: Plugin) -> bool:
    asked = manifest.permissions
    listed = any(getattr(asked, name) for name in asked.__struct_fields__ if name != "profile")
    return listed or bool(manifest.secrets) or bool(manifest.limits.data_mib)


def _operation(entry: OperationEntry, found: schema.Described | None) -> Iterator[str]:
    yield f"## {_text(entry.name)}"
    yield ""
    if found is None:
        yield _text(entry.description)
        return
    yield _text(found.summary or entry.description)
    if found.description:
        yield from ("", *(_text(line) for line in found.description.splitlines()))
    yield ""
    if rows := arguments.parameter_rows(found):
        yield "| parameter | type | default | meaning |"
        yield "| --- | --- | --- | --- |"
        for row in rows:
            yield "| " + " | ".join(_cell(cell) for cell in row) + " |"
    else:
        yield "It takes no parameters."
    yield ""
    if found.chunks or entry.stream:
        yield f"It streams {schema.type_text(found.chunks)}."
    if found.result:
        yield f"It gives {schema.type_text(found.result)}."
    again = "can run again after a crash" if entry.idempotent else "runs at most once"
    yield f"It {again}." + (" It needs a model." if entry.needs_model else "")
    yield ""
    yield "```sh"
    words = arguments.example(found, entry.example or None)
    yield _text(words + (" --model MODEL" if entry.needs_model else ""))
    yield "```"
    yield ""
    yield "As a function for tool calling:"
    yield ""
    yield "```json"
    tool = json.dumps(schema.tool(found), indent=2, ensure_ascii=False)
    yield from output.clean(tool).splitlines()
    yield "```"


def _text(text: str) -> str:
    return output.clean(text).strip()


def _code(text: str) -> str:
    return _text(text).replace("`", "'")


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|").replace("\n", " ")


def _folder(name: str) -> Path:
    """A folder, or that of a plugin that the running kernel has.

    Raises:
        ClawError: unknown_plugin.
    """
    if Path(name, "plugin.toml").is_file():
        return Path(name)
    from clawai.sdk.cli.daemon import connect

    with connect(start=True) as client:
        rows = client.query("plugins")["plugins"]
    for row in rows:
        if row["name"] == name:
            return Path(row["folder"])
    raise ClawError(
        "unknown_plugin",
        f"neither a plugin's folder nor an installed plugin: {name}",
        got=name[:80],
        allowed=[row["name"] for row in rows],
    )


@click.command("docs")
@click.argument("plugin", metavar="FOLDER|NAME")
def command(plugin: str) -> None:
    """Print the page of a plugin, in Markdown.

    It is made of plugin.toml and of what the operations say of themselves: signatures, docstrings.

    \b
    Examples:
      claw plugin docs echo
      claw plugin docs ./hello > hello.md
    """
    click.echo(page(_folder(plugin)), nl=False)
