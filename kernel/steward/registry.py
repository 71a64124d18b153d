"""What could run: the plugins in the plugin folders and the models in the store.

Manifests are read, plugin code is not. A folder is read again when somebody asks for an operation
or a model that is not known yet, so that a new one needs no restart.
"""

import difflib
import hashlib
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clawai.kernel.events import Spec
from clawai.kernel.limits import MIB
from clawai.sdk import develop, paths, schema, settings
from clawai.sdk.errors import ClawError
from clawai.sdk.found import scan
from clawai.sdk.grants import Guard
from clawai.sdk.manifest import Model, OperationEntry, Permissions, Plugin, covers, read_model

BUNDLED = Path(__file__).parents[2] / "plugins"
LATELY_S = 1.0
"""So old may be what a request is told of a plugin's code; its worker's start looks again."""
CODE_FILES = 4096
"""Of a plugin's folder, looked at to see whether its code has changed."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One operation of one plugin."""

    operation: OperationEntry
    plugin: str


@dataclass
class Registry:
    """Plugins by name, and operations by name."""

    folders: tuple[Path, ...] = ()
    plugins: dict[str, Plugin] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    offers: dict[str, Offer] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """Folder to why its manifest cannot be used."""
    version: int = 0
    """Changes when a scan has found something else than the one before."""
    uids: dict[str, int] = field(default_factory=dict)
    """Given to plugins so far, for a daemon that is root."""
    guard: Guard = field(default_factory=lambda: Guard(BUNDLED))
    """Knows what the owner has granted."""
    _manifests: dict[str, str] = field(default_factory=dict)
    sequences: int = 0
    """Slots of an engine's worker; 0: what its manifest says."""
    host: str = field(default_factory=lambda: _digest(_files(BUNDLED.parent / "sdk")))
    """Identity of the code that every worker runs around its plugin."""
    developed: list[Path] = field(default_factory=list)
    """Of a plugin each, somebody works at it now."""
    _codes: dict[str, tuple[float, str]] = field(default_factory=dict)
    _described: dict[str, tuple[str, dict[str, schema.Described]]] = field(default_factory=dict)
    """Of each plugin the identity of its files, and what its operations say of themselves."""
    _settings: dict[str, str] = field(default_factory=dict)
    """Of each plugin the identity of what its owner has set."""

    def look(self) -> None:
        """Forget folders that nobody works at any more, and take those where somebody does."""
        if develop.folders() != self.developed:
            self.scan()

    def scan(self) -> None:
        """Read all manifests; the bundled plugins come first and cannot be replaced."""
        before = self.plugins, self._settings
        self._scan()
        self._settings = {name: settings.identity(each) for name, each in self.plugins.items()}
        if (self.plugins, self._settings) != before:
            self.version += 1

    def _scan(self) -> None:
        self.developed, self._codes = develop.folders(), {}
        found, self.problems = scan(BUNDLED, self.folders, self.developed)
        self.plugins = {name: each.plugin for name, each in found.items()}
        self.places = {name: each.folder for name, each in found.items()}
        self._manifests = {name: _identity(folder) for name, folder in self.places.items()}
        self.offers = {}
        for name, plugin in self.plugins.items():
            for entry in plugin.operation:
                first = self.offers.setdefault(entry.name, Offer(entry, name))
                if first.plugin != name:
                    taken = f"the operation {entry.name!r} is offered by {first.plugin!r} already"
                    self.problems[str(self.places[name])] = taken

    def fresh(self, name: str) -> None:
        """See to it that what is known of a plugin is what its manifest says now."""
        self.look()
        if name not in self.places or _identity(self.places[name]) != self._manifests[name]:
            self.scan()

    def refusal(self, plugin: Plugin) -> ClawError | None:
        """Why a plugin may not be started, by what its owner has granted; None if it may."""
        drivers = [(each, self.places[each.plugin.name]) for each in self.drivers(plugin)]
        return self.guard.refusal(plugin, self.places[plugin.plugin.name], drivers)

    def offer(self, op: str) -> Offer:
        """Who offers an operation.

        Raises:
            ClawError: unknown_operation, with the nearest names.
        """
        if op in self.offers:
            self.fresh(self.offers[op].plugin)
        if op not in self.offers:
            self.scan()
        if op not in self.offers:
            near = difflib.get_close_matches(op, self.offers, 3, 0.5)
            raise ClawError(
                "unknown_operation",
                f"no plugin offers {op[:80]!r}",
                got=op[:80],
                allowed=near or sorted(self.offers)[:20],
                hint=f"did you mean {near[0]!r}?" if near else "`claw plugins` lists them",
            )
        return self.offers[op]

    def resolve(self, op: str, model: str, batch: bool, caller: str = "") -> dict[str, Any]:
        """What runs ``op``: the fields of an ``offers.Offer``.

        Args:
            batch: it is for a task of class batch; without a model that has a lane of its own.
            caller: the plugin that asks for it as a child task, if one does.

        Raises:
            ClawError: unknown_operation, unknown_model, bad_params, not_granted, not_permitted.
        """
        if caller:
            self._permit(caller, op, model)
        offer = self.offer(op)
        plugin, entry = self.plugins[offer.plugin], offer.operation
        if refused := self.refusal(plugin):
            raise refused
        size, identity, path = 0, "", ""
        if entry.needs_model:
            if not model:
                raise ClawError(
                    "bad_params",
                    f"{op} needs a model",
                    allowed=model_names(),
                    hint="`claw models` lists what is stored, `claw pull smollm2` fetches one",
                )
            record = stored_model(model)
            self._fits(plugin, op, record)
            place, found = model_file(record)
            size, identity, path = found.st_size, file_identity(found), str(place)
        elif model:
            raise ClawError("bad_params", f"{op} takes no model", got=model[:80], allowed="")
        engine = plugin.plugin.kind == "engine"
        spec = Spec(
            plugin=offer.plugin,
            model=model,
            base_bytes=plugin.limits.memory_mib * MIB,
            model_bytes=size,
            slots=(engine and self.sequences) or plugin.limits.slots,
            identity=identity,
            lane="bulk" if batch and not entry.needs_model else "main",
            code=self.code(plugin, LATELY_S),
            cooperative=engine,
            settings=settings.identity(plugin),
            front=bool(plugin.permissions.on_behalf_of),
        )
        return {
            "spec": spec,
            "idempotent": entry.idempotent,
            "batch": entry.batch,
            "path": path,
        }

    def _fits(self, plugin: Plugin, op: str, model: Model) -> None:
        """Refuse a model whose file is of no format that the plugin takes."""
        taken = plugin.plugin.formats
        if taken and model.format not in taken:
            others = [
                entry.name
                for each in self.plugins.values()
                for entry in each.operation
                if entry.needs_model and model.format in each.plugin.formats
            ]
            raise ClawError(
                "bad_params",
                f"{op} takes {' and '.join(taken).upper()} files, and {model.name} is none",
                got=model.format,
                allowed=list(taken),
                hint=f"what takes it: {', '.join(sorted(others)[:8])}" if others else "",
            )

    def _permit(self, caller: str, op: str, model: str) -> None:
        """Refuse what a plugin's manifest does not ask for."""
        plugin = self.plugins.get(caller)
        asked = plugin.permissions if plugin else Permissions()
        for kind, name, granted in (
            ("operations", op, asked.operations),
            ("models", model, asked.models),
        ):
            if name and not covers(granted, name):
                raise ClawError(
                    "not_permitted",
                    f"the plugin {caller} may not use {name[:80]!r} in a child task",
                    got=name[:80],
                    allowed=sorted(granted),
                    hint=f"name it under [permissions.{kind}] in plugin.toml, with the reason",
                )

    def code(self, plugin: Plugin, age: float = 0.0) -> str:
        """Identity of a plugin's files and of those of its drivers: names, sizes and times.

        Args:
            age: what was found so many seconds ago will do; to look at a hundred files takes 1 ms.
        """
        name, now = plugin.plugin.name, time.monotonic()
        when, code = self._codes.get(name, (0.0, ""))
        if not code or now - when >= age:
            names = (each.plugin.name for each in (plugin, *self.drivers(plugin)))
            code = _digest([line for each in names for line in _files(self.places[each])])
            self._codes[name] = now, code
        return code

    def described(self, name: str) -> dict[str, schema.Described]:
        """What a plugin's operations say of themselves, where that is of the files as they are."""
        code = self.code(self.plugins[name])
        if self._described.get(name, ("",))[0] != code:
            self._described[name] = code, schema.read(self.places[name]) or {}
        return self._described[name][1]

    def drivers(self, plugin: Plugin) -> list[Plugin]:
        """The driver plugins that an engine's worker loads beside it."""
        names = plugin.plugin.drivers
        return [self.plugins[name] for name in names if name in self.plugins]


def _digest(lines: Iterable[str]) -> str:
    text = "".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:32]


def _files(folder: Path) -> list[str]:
    """A line for each file of a plugin, but for what Python compiles beside it."""
    lines = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            path = f"{parent}/{name}"
            try:
                found = os.lstat(path)
            except OSError:
                continue
            lines.append(f"{path}:{file_identity(found)}\n")
            if len(lines) > CODE_FILES:
                return lines
    return lines


def _identity(folder: Path) -> str:
    """Of a plugin's manifest."""
    try:
        return file_identity((folder / "plugin.toml").stat())
    except OSError:
        return ""


def file_identity(found: os.stat_result) -> str:
    """Which file it is, and which of its contents; ``offers.identity`` makes the same."""
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def model_names() -> list[str]:
    """The stored models."""
    try:
        entries = sorted(os.scandir(paths.models_dir()), key=lambda entry: entry.name)
    except OSError:
        return []
    return [e.name for e in entries if not e.name.startswith(".") and e.is_dir()]


def model_file(model: Model) -> tuple[Path, os.stat_result]:
    """Where a stored model lies; a file of another kind (a link, a pipe) is refused unopened.

    Raises:
        ClawError: bad_model.
    """
    path = paths.models_dir() / model.name / model.file
    hint = f"pull it again: claw rm {model.name}; claw pull {model.name}"
    try:
        found = path.lstat()
    except OSError as error:
        raise ClawError("bad_model", f"{path}: {error.strerror}", hint=hint) from error
    if not stat.S_ISREG(found.st_mode):
        kind = stat.filemode(found.st_mode)
        raise ClawError("bad_model", f"{path} must be a regular file", got=kind, hint=hint)
    return path, found


def stored_model(name: str) -> Model:
    """The record of a stored model.

    Raises:
        ClawError: unknown_model, with the nearest names; bad_config.
    """
    names = model_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, 3, 0.5)
        raise ClawError(
            "unknown_model",
            f"no model {name[:80]!r} is stored here",
            got=name[:80],
            allowed=near or names[:20],
            hint=f"did you mean {near[0]!r}?" if near else f"run: claw pull {name[:80]}",
        )
    return read_model(paths.models_dir() / name)
