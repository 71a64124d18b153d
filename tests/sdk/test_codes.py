"""Every code that our sources write is in the catalogue: nothing checks them while they run."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawai.sdk.codes import CODES

ROOT = Path(__file__).parents[2]
FOLDERS = ("kernel", "sdk", "plugins", "sandbox")
MAKERS = ("ClawError", "Error", "Unready")
CATALOGUES = ("CODES", "CALLER", "PEER")
PASSED_ON = {
    # Codes of others: of an error that is made anew, or of a message.
    "error.code", "message.code", "told.code", "told['code']", "text.get('code', fault.key)",
    "_text(raw.error.code)",  # of a plugin in C
}  # fmt: skip


def literals(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        for each in node.elts:
            yield from literals(each)


def name_of(call: ast.expr) -> str:
    return call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "")


def code_of(call: ast.Call) -> ast.expr | None:
    """The code that a call makes an error with."""
    for keyword in call.keywords:
        if keyword.arg == "code":
            return keyword.value
    first = call.args[0] if call.args and name_of(call.func) == "ClawError" else None
    return None if isinstance(first, ast.Starred) else first


def written(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The codes that a module makes errors with, or compares the code of one with."""
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                assigned.setdefault(ast.unparse(target), []).append(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and ast.unparse(node.left).endswith(".code"):
            for each in node.comparators:
                yield from ((node.lineno, code) for code in literals(each))
        if not (isinstance(node, ast.Call) and name_of(node.func) in MAKERS):
            continue
        value = code_of(node)
        if value is None:
            continue
        sources = [value] if not isinstance(value, ast.Name) else assigned.get(value.id, [])
        found = [code for each in sources for code in literals(each)]
        yield from ((node.lineno, code) for code in found)
        if not found and ast.unparse(value) not in PASSED_ON:
            yield node.lineno, f"not a literal: {ast.unparse(value)}"


def of_faults() -> set[str]:
    """The codes of what the kernel's core has against something."""
    texts = json.loads((ROOT / "kernel" / "texts.json").read_text())
    return {text.get("code", key) for key, text in texts.items()}


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_code_that_is_written_is_in_the_catalogue(folder: str) -> None:
    unknown = [
        f"{path.relative_to(ROOT)}:{line}: {code}"
        for path in sources()
        if path.is_relative_to(ROOT / folder)
        for line, code in written(ast.parse(path.read_text()))
        if code not in CODES
    ]
    assert not unknown


def test_every_code_of_the_catalogue_is_written_somewhere() -> None:
    used = {code for path in sources() for _, code in written(ast.parse(path.read_text()))}
    assert not set(CODES) - used - of_faults()
    assert not of_faults() - set(CODES)


def test_the_scan_finds_what_it_looks_for() -> None:
    tree = ast.parse(
        "raise ClawError('a', 'm')\n"
        "wire.Error(id=1, code='b', message='')\n"
        "code = 'c' if x else 'd'\n"
        "ClawError(code, 'm')\n"
        "ClawError(unheard_of, 'm')\n"
        "error.code in ('e', 'f') or error.code == 'g'\n"
        "ClawError(*what)\n"
    )
    assert [code for _, code in sorted(written(tree))] == [
        "a", "b", "c", "d", "not a literal: unheard_of", "e", "f", "g",
    ]  # fmt: skip
