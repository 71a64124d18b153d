"""The parameters of a Python plugin's operations, read from its source; nothing of it runs.

For who wants to know what a plugin does before it may start. What cannot be read this way (an
operation made by code, a signature of names defined elsewhere) is left out, not guessed.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular
from clawai.sdk.manifest import Plugin

LIMIT = 1 << 20
"""Bytes of a source file; a larger one is not read."""
_FILES = 200
_EXPRESSION = 120
_OURS = ("Context", "Batch")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Signature:
    """One operation as its function is written."""

    parameters: tuple[tuple[str, str, str], ...]
    """Name, type and default as they stand there; the default is empty for a required one."""
    summary: str
    """First line of the docstring."""


def read(folder: Path, plugin: Plugin) -> dict[str, Signature]:
    """The signatures of the operations that the manifest declares, as far as they can be read."""
    declared = {entry.name for entry in plugin.operation}
    found: dict[str, Signature] = {}
    if plugin.plugin.language != "python":
        return found
    for count, path in enumerate(sorted(folder.rglob("*.py"))):
        if count >= _FILES:
            break
        try:
            with open_regular(path) as file:
                source = file.read(LIMIT + 1)
            tree = ast.parse(source) if len(source) <= LIMIT else ast.Module([], [])
            found |= _of(tree, declared - found.keys())
        except (OSError, ClawError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return found


def _of(tree: ast.Module, declared: set[str]) -> dict[str, Signature]:
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, _Function):
            for decorator in node.decorator_list:
                name = _operation(decorator)
                if name in declared:
                    found[name] = Signature(_parameters(node, classes), _summary(node))
    return found


def _operation(decorator: ast.expr) -> str:
    """The operation that a decorator names; empty if it is another one."""
    match decorator:
        case ast.Call(
            func=ast.Name(id="operation" | "batched") | ast.Attribute(attr="operation" | "batched"),
            args=[ast.Constant(value=str(name))],
        ):
            return name
    return ""


def _summary(node: _Function) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0][:500]


def _parameters(
    node: _Function, classes: dict[str, ast.ClassDef]
) -> tuple[tuple[str, str, str], ...]:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    plain = len(node.args.posonlyargs) + len(node.args.args)
    missing: list[ast.expr | None] = [None] * (plain - len(node.args.defaults))
    defaults = [*missing, *node.args.defaults, *node.args.kw_defaults]
    found: list[tuple[str, str, str]] = []
    for argument, default in zip(arguments, defaults, strict=True):
        kind = _written(argument.annotation)
        if kind.rpartition(".")[2] in _OURS or argument.arg == "self":
            continue
        inner = kind.removeprefix("list[").removesuffix("]")
        if inner != kind and _is_params(classes.get(inner)):
            return _fields(classes[inner])  # one task of a batch
        found.append((argument.arg, kind, _written(default)))
    return tuple(found)


def _is_params(node: ast.ClassDef | None) -> bool:
    bases = node.bases if node else []
    return any(ast.unparse(base).rpartition(".")[2] == "Params" for base in bases)


def _fields(node: ast.ClassDef) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (item.target.id, _written(item.annotation), _written(item.value))
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    )


def _written(node: ast.expr | None) -> str:
    """An expression as source, cut where it is longer than anybody reads."""
    text = ast.unparse(node) if node else ""
    return text if len(text) <= _EXPRESSION else f"{text[:_EXPRESSION]}…"
