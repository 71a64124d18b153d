"""What the rules look at: the folder, its manifest and code, and the plugin as it runs."""

import ast
import contextlib
import functools
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clawai.sdk import develop, schema
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import OperationEntry, Plugin, read_plugin

if TYPE_CHECKING:
    from clawai.sdk.sandboxed import SandboxKernel

LEVELS = ("bronze", "silver", "gold", "platinum")
_SOURCE = 1 << 20


class NotChecked(Exception):
    """A rule cannot be applied, and why; the plugin does not reach its level."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    name: str
    level: str
    reason: str
    """Why a plugin should keep it, in a line."""
    check: Callable[["Subject"], Iterable[str]]
    """The problems; none: it is kept."""


@dataclass
class Subject:
    """One plugin."""

    folder: Path
    tests: bool = False
    """Whether its tests may be run, and it be granted what it asks for meanwhile."""
    loaded: bool = False
    """Whether it has said what its operations are."""
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @functools.cached_property
    def manifest(self) -> Plugin | None:
        """The manifest; None if it cannot be read."""
        try:
            return read_plugin(self.folder)
        except ClawError:
            return None

    @property
    def plugin(self) -> Plugin:
        """The manifest.

        Raises:
            NotChecked: it cannot be read.
        """
        if self.manifest is None:
            raise NotChecked("plugin.toml cannot be read")
        return self.manifest

    @functools.cached_property
    def raw(self) -> dict[str, Any]:
        """``plugin.toml`` as it is written, without what is added for what is missing."""
        assert self.plugin
        return tomllib.loads((self.folder / "plugin.toml").read_text(encoding="utf-8"))

    @property
    def python(self) -> bool:
        """Whether the plugin is written in Python."""
        return self.plugin.plugin.language == "python"

    @functools.cached_property
    def trees(self) -> dict[Path, ast.Module]:
        """The syntax trees of its Python files, its tests excepted.

        Raises:
            NotChecked: one cannot be read.
        """
        found = {}
        for path in schema.sources(self.folder):
            if path.suffix != ".py":
                continue
            try:
                text = path.read_text(encoding="utf-8")[:_SOURCE]
                found[path] = ast.parse(text, str(path))
            except (SyntaxError, ValueError, RecursionError) as error:
                raise NotChecked(f"{path.name} cannot be parsed: {error}") from None
        return found

    def nodes(self) -> Iterator[tuple[str, Any]]:
        """Every node of the code, each with where it stands (``hello.py:3``)."""
        for path, tree in self.trees.items():
            name = path.relative_to(self.folder)
            for node in ast.walk(tree):
                yield f"{name}:{getattr(node, 'lineno', 1)}", node

    @functools.cached_property
    def bundled(self) -> bool:
        """Whether it is a part of ClawAI."""
        return develop.is_bundled(self.folder)

    @functools.cached_property
    def kernel(self) -> "SandboxKernel":
        """A kernel of its own that has the plugin."""
        from clawai.sdk.sandboxed import SandboxKernel

        return self._open.enter_context(SandboxKernel(self.folder, granted=self.tests))

    @property
    def described(self) -> dict[str, schema.Described]:
        """What the operations say of themselves.

        Raises:
            NotChecked: it does not start.
        """
        if isinstance(self._described, NotChecked):
            raise self._described
        return self._described

    @functools.cached_property
    def _described(self) -> dict[str, schema.Described] | NotChecked:
        """The same, asked once: also why not is an answer."""
        try:
            found = self._ask()
        except NotChecked as why:
            return why.with_traceback(None)
        self.loaded = True
        return found

    def _ask(self) -> dict[str, schema.Described]:
        if self.plugin.plugin.kind == "driver":
            return {}
        if any(entry.needs_model for entry in self.plugin.operation):
            return self._read_out()
        try:
            return {op.name: self.kernel.describe(op.name) for op in self.plugin.operation}
        except ClawError as error:
            raise NotChecked(f"it does not start: {error.message}") from None

    def _read_out(self) -> dict[str, schema.Described]:
        """Import an engine of ours in a process of its own: a worker would need a model."""
        if not self.bundled:
            raise NotChecked("it needs a model, and starts with one only")
        code = (
            "import sys, importlib, json, msgspec\n"
            "from clawai.sdk.plain import unpack\n"
            "from clawai.sdk.plugin import operations_of\n"
            "module = importlib.import_module(sys.argv[1])\n"
            "plugin = getattr(module, 'claw_plugin', module)\n"
            "found = plugin.claw_operations() if hasattr(plugin, 'claw_operations') else []\n"
            "found = [*found, *operations_of(vars(module))]\n"
            "told = [unpack(msgspec.msgpack.encode(each.info())) for each in found]\n"
            "print(json.dumps(told))\n"
        )
        command = [sys.executable, "-I", "-c", code, self.plugin.plugin.module]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotChecked(f"it cannot be imported: {done.stderr.strip().splitlines()[-1]}")
        found = msgspec.convert(json.loads(done.stdout), list[schema.Described])
        return {each.name: each for each in found}

    def keep(self) -> bool:
        """Write ``operations.json``, where the folder can be written; whether it is another now."""
        if not self.described:
            return False
        try:
            return schema.write(self.folder, self.described.values())
        except OSError:
            return False

    def trials(self) -> list[tuple[OperationEntry, dict[str, Any]]]:
        """The operations that can be tried, each with its example.

        Raises:
            NotChecked: one has no example and needs parameters.
        """
        found = []
        for entry in self.plugin.operation:
            if entry.needs_model:
                raise NotChecked(f"{entry.name} needs a model")
            described = self.described.get(entry.name)
            if not entry.example and described and described.required:
                raise NotChecked(f"{entry.name} has no example in plugin.toml")
            found.append((entry, dict(entry.example)))
        return found

    def __enter__(self) -> "Subject":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
