"""The rules that read a plugin's folder, and what its operations say of themselves."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from clawai.sdk.errors import ClawError
from clawai.sdk.lint.subject import Rule, Subject
from clawai.sdk.manifest import read_plugin

_SEMVER = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
_REASON = 8
"""Characters that a reason has at least."""

NETWORK = {
    "aiohttp", "asyncio.open_connection", "ftplib", "http", "httpx", "imaplib", "poplib",
    "requests", "smtplib", "socket", "socketserver", "ssl", "telnetlib", "urllib.request",
    "urllib3", "websockets", "xmlrpc",
}  # fmt: skip
PROGRAMS = {
    "subprocess", "multiprocessing", "pty", "os.system", "os.popen", "os.fork", "os.posix_spawn",
    "os.execv", "os.execvp", "os.execve", "os.spawnv",
}  # fmt: skip
_INSIDE = ("clawai.kernel", "clawai.sandbox", "clawai.plugins")
_PATHS = ("open", "Path", "pathlib.Path", "os.open", "io.open", "os.listdir", "os.scandir")


def _manifest(subject: Subject) -> Iterator[str]:
    try:
        read_plugin(subject.folder)
    except ClawError as error:
        yield error.message


def _links(subject: Subject) -> Iterator[str]:
    for path in sorted(subject.folder.rglob("*")):
        if path.is_symlink() and ".venv" not in path.parts:
            yield f"{path.relative_to(subject.folder)} is a link"


def _name(subject: Subject) -> Iterator[str]:
    first = subject.plugin.plugin.module.partition(".")[0]
    if first in sys.stdlib_module_names:
        yield f"the module {first!r} is one of Python's own"
        return
    spec = find_spec(first) if first != "clawai" else None
    if spec and spec.origin and not spec.origin.startswith(str(subject.folder)):
        yield f"the module {first!r} is installed here already: {spec.origin}"


def _imports(subject: Subject) -> Iterator[str]:
    own = f"clawai.plugins.{subject.plugin.plugin.name}"
    for where, name in _imported(subject):
        mine = subject.bundled and (name == own or name.startswith(f"{own}."))
        if not mine and any(name == each or name.startswith(f"{each}.") for each in _INSIDE):
            yield f"{where} imports {name}, which is not for plugins"


def _described(subject: Subject) -> Iterator[str]:
    if not subject.plugin.plugin.description:
        yield "[plugin] has no description"
    for entry in subject.plugin.operation:
        if not entry.description:
            yield f"{entry.name} has no description in plugin.toml"


def _version(subject: Subject) -> Iterator[str]:
    version = subject.plugin.plugin.version
    if not _SEMVER.fullmatch(version):
        yield f"the version {version!r} is not MAJOR.MINOR.PATCH"


def _summaries(subject: Subject) -> Iterator[str]:
    for name, found in subject.described.items():
        if not found.summary:
            yield f"the function of {name} has no docstring"


def _parameters(subject: Subject) -> Iterator[str]:
    for name, found in subject.described.items():
        for key, field in found.fields.items():
            if not field.get("description"):
                yield f"{name}: nothing is said of {key}; add a line `{key}: ...` to the docstring"


def _results(subject: Subject) -> Iterator[str]:
    for name, found in subject.described.items():
        if found.result is None and found.chunks is None:
            yield f"{name}: the function has no annotation of what it returns"


def _flags(subject: Subject) -> Iterator[str]:
    for entry in subject.plugin.operation:
        found = subject.described.get(entry.name)
        if found and found.stream and not entry.stream:
            yield f"{entry.name} is a generator, and plugin.toml does not say stream = true"
        if found and found.batch and entry.batch == 1:
            yield f"{entry.name} takes batches, and plugin.toml does not say how large (batch = N)"


def _idempotent(subject: Subject) -> Iterator[str]:
    for entry in subject.raw.get("operation", ()):
        if "idempotent" not in entry:
            yield f"{entry['name']}: say idempotent = true or false"


def _limits(subject: Subject) -> Iterator[str]:
    if subject.plugin.plugin.kind != "driver" and "memory_mib" not in subject.raw.get("limits", {}):
        yield "[limits] does not say memory_mib"


def _reasons(subject: Subject) -> Iterator[str]:
    for kind, asked in subject.raw.get("permissions", {}).items():
        if isinstance(asked, dict):
            for thing, reason in asked.items():
                if len(str(reason).strip()) < _REASON:
                    yield f"[permissions] {kind} {thing!r}: no reason that explains it"
        elif kind == "on_behalf_of" and len(str(asked).strip()) < _REASON:
            yield f"[permissions] {kind}: no reason that explains it"


def _undeclared(subject: Subject) -> Iterator[str]:
    asked = subject.plugin.permissions
    for where, name in _used(subject):
        if _among(name, NETWORK) and not (asked.network or asked.listen):
            yield f"{where} uses {name} without the permission `network` or `listen`"
        if _among(name, PROGRAMS) and not asked.programs:
            yield f"{where} uses {name} without the permission `programs`"
    allowed = (*asked.read, *asked.write, "/tmp", "/dev/null", "/proc/self")
    for where, node in subject.nodes():
        path = _literal_path(node)
        if path and not any(path == each or path.startswith(f"{each}/") for each in allowed):
            yield f"{where} opens {path} without the permission `read` or `write`"


def _readme(subject: Subject) -> Iterator[str]:
    path = subject.folder / "README.md"
    if not path.is_file():
        yield "there is no README.md"
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    for entry in subject.plugin.operation:
        if entry.name not in text:
            yield f"README.md does not name {entry.name}"


def _examples(subject: Subject) -> Iterator[str]:
    for entry in subject.plugin.operation:
        found = subject.described.get(entry.name)
        if found and found.required and not entry.example:
            yield f"{entry.name} has no example in plugin.toml"


def _checkpoints(subject: Subject) -> Iterator[str]:
    for path, tree in subject.trees.items():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef) or not _is_operation(function):
                continue
            for loop in ast.walk(function):
                if isinstance(loop, ast.While) and not _looks(loop):
                    where = f"{path.relative_to(subject.folder)}:{loop.lineno}"
                    yield f"{where}: the loop neither calls checkpoint() nor yields"


def _tests(subject: Subject) -> Iterator[str]:
    found = [*subject.folder.glob("test_*.py"), *subject.folder.glob("tests/**/test_*.py")]
    if not found:
        yield "there is no test_*.py"
        return
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in found)
    for entry in subject.plugin.operation:
        if entry.name not in text:
            yield f"no test names {entry.name}"


# Looking at code.


def _is_operation(function: ast.FunctionDef) -> bool:
    names = [_dotted(each.func if isinstance(each, ast.Call) else each)
             for each in function.decorator_list]  # fmt: skip
    return any(name.rpartition(".")[2] in ("operation", "batched") for name in names)


def _looks(loop: ast.While) -> bool:
    """Whether a loop obeys: it yields, or calls checkpoint, or looks at ``stopped``."""
    for node in ast.walk(loop):
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if isinstance(node, ast.Attribute) and node.attr in ("checkpoint", "stopped"):
            return True
    return False


def _imported(subject: Subject) -> Iterator[tuple[str, str]]:
    """Every module that is imported, with ``from`` also each name below it."""
    for where, node in subject.nodes():
        if isinstance(node, ast.Import):
            for each in node.names:
                yield where, each.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield where, node.module
            for each in node.names:
                yield where, f"{node.module}.{each.name}"


def _used(subject: Subject) -> Iterator[tuple[str, str]]:
    """Every module that is imported and every dotted name that is called, once each a line."""
    seen = set()
    for where, name in _imported(subject):
        if name.rpartition(".")[0] not in (NETWORK | PROGRAMS) and (where, name) not in seen:
            seen.add((where, name))
            yield where, name
    for where, node in subject.nodes():
        name = _dotted(node.func) if isinstance(node, ast.Call) else ""
        if name in (NETWORK | PROGRAMS) and (where, name) not in seen:
            seen.add((where, name))
            yield where, name


def _among(name: str, names: set[str]) -> bool:
    return name in names or any(name.startswith(f"{each}.") for each in names)


def _dotted(node: Any) -> str:
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _literal_path(node: Any) -> str:
    """The absolute path that a call names in its text; empty for any other."""
    if not isinstance(node, ast.Call) or _dotted(node.func) not in _PATHS or not node.args:
        return ""
    first = node.args[0]
    value = first.value if isinstance(first, ast.Constant) else ""
    return value if isinstance(value, str) and value.startswith("/") else ""


RULES = (
    Rule("manifest", "bronze", "without a plugin.toml that can be read there is no plugin",
         _manifest),
    Rule("links", "bronze", "a link leads to what is not packed, and may lead anywhere", _links),
    Rule("module-name", "bronze", "another module of this name would be imported instead", _name),
    Rule("imports", "bronze", "only clawai.sdk is for plugins; the rest changes without notice",
         _imports),
    Rule("descriptions", "bronze", "a listing must say what the plugin is for", _described),
    Rule("version", "silver", "who upgrades must see what a new version means", _version),
    Rule("docstrings", "silver", "people and models choose an operation by its summary",
         _summaries),
    Rule("parameters", "silver", "nobody can guess what a parameter means", _parameters),
    Rule("results", "silver", "who calls it must know what comes back", _results),
    Rule("flags", "silver", "the kernel goes by plugin.toml, so it must fit the code", _flags),
    Rule("idempotent", "silver", "the kernel must know what it may run again after a crash",
         _idempotent),
    Rule("limits", "silver", "what is not limited is charged by a guess", _limits),
    Rule("reasons", "silver", "the owner grants a permission for its reason", _reasons),
    Rule("undeclared", "silver", "what the sandbox denies fails only when it is used", _undeclared),
    Rule("readme", "silver", "the first thing that people read", _readme),
    Rule("examples", "gold", "an example is help, documentation and a trial in one", _examples),
    Rule("checkpoints", "gold", "a loop that never looks makes urgent tasks wait", _checkpoints),
    Rule("tests", "gold", "what is not tested does not work for long", _tests),
)  # fmt: skip
