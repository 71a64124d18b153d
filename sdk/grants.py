"""What the owner has granted: to which plugin, in which version, with exactly which files.

``grants.json`` beside ``config.toml`` is written by ``claw plugin install`` and ``remove``, and
read by the steward before it starts a worker. A plugin that asks for nothing needs no grant, nor
does a bundled one. While a plugin is replaced its old and its new grant both stand, so
that whichever folder is found has its own.

A folder that its author works at is granted what it asks for, whatever it holds, while the
session of ``claw plugin dev`` lives (``clawai.sdk.develop``), which ends with that process.
"""

import contextlib
import json
import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from clawai.sdk import contents, develop, paths, private, signing
from clawai.sdk.asks import Ask, asks, grown, short
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Plugin


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One version of one plugin, as the owner has said yes to it."""

    version: str
    hash: str
    """Of its contents, as they were packed."""
    files: str
    """Of every file in its folder, as they were installed."""
    permissions: tuple[Ask, ...]
    granted: str
    """When, in UTC."""
    source: str
    """What it was installed from."""
    signer: str = ""
    """The key that had signed the package."""


class Book(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``grants.json``"""

    format: int = 1
    plugins: dict[str, tuple[Grant, ...]] = {}
    """By name; more than one only while a plugin is replaced."""


def book_file() -> Path:
    """Where the grants lie."""
    return paths.config_dir() / "grants.json"


def read() -> Book:
    """All grants.

    Raises:
        ClawError: not_permitted, if others may write them; bad_config.
    """
    path = book_file()
    try:
        book = msgspec.json.decode(private.load(path), type=Book)
    except FileNotFoundError:
        return Book()
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ClawError(
            "bad_config",
            f"{path}: {error}",
            hint="mend it by hand; or delete it, and install the plugins again",
        ) from error
    if book.format != 1:
        raise ClawError("bad_config", f"{path} is of another format", book.format, 1)
    return book


def change(name: str, grants: Iterable[Grant]) -> None:
    """Let these be all the grants of a plugin; the caller holds ``lock``."""
    plugins = dict(read().plugins)
    plugins[name] = tuple(grants)
    kept = {name: each for name, each in sorted(plugins.items()) if each}
    text = json.dumps(msgspec.to_builtins(Book(plugins=kept)), indent=2, ensure_ascii=True)
    private.save(book_file(), f"{text}\n".encode())


def lock() -> contextlib.AbstractContextManager[None]:
    """Held while plugins are installed or removed: one at a time."""
    return private.locked(paths.config_dir() / "plugins.lock")


def grant(plugin: Plugin, folder: Path, source: str, hash: str = "", signer: str = "") -> Grant:  # noqa: A002
    """The grant for a plugin as it stands in ``folder`` now, with all that it asks for."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    files = contents.tree_hash(folder)
    if not files:
        raise ClawError("bad_package", f"{folder} cannot be granted: it holds more than files")
    return Grant(plugin.plugin.version, hash, files, asks(plugin), now, source, signer)


def _refused(name: str, why: str, hint: str) -> ClawError:
    return ClawError("not_granted", f"the plugin {name} is not started: {why}", hint=hint)


@dataclass
class Guard:
    """Says which plugins may start; looks at files only when they have changed."""

    bundled: Path
    """The folder of those that are trusted."""
    require_signature: bool = False
    _read: tuple[object, Book | ClawError] = (None, Book())
    _trees: dict[Path, tuple[str, str]] = field(default_factory=dict)

    def refusal(
        self, plugin: Plugin, folder: Path, drivers: Sequence[tuple[Plugin, Path]] = ()
    ) -> ClawError | None:
        """Why a plugin may not start; None if it may.

        Args:
            drivers: plugins that its worker loads, and so gives its own permissions.
        """
        lends = folder.parent == self.bundled or bool(asks(plugin))
        for each, place in drivers:
            if refused := self._refusal(each, place, pinned=lends):
                return refused
        return self._refusal(plugin, folder, pinned=False)

    def _refusal(self, plugin: Plugin, folder: Path, pinned: bool) -> ClawError | None:
        wanted = asks(plugin)
        pinned = pinned or bool(wanted) or self.require_signature
        if folder.parent == self.bundled or not pinned or developed(folder):
            return None
        name = plugin.plugin.name
        book = self.book()
        if isinstance(book, ClawError):
            hint = book.hint or f"mend or delete {book_file()}; claw plugin install {name} again"
            return _refused(name, book.message, hint)
        held = book.plugins.get(name, ())
        if not held:
            why = "it was not installed, only copied"
            if wanted:
                why = f"it asks for permissions that nobody has granted ({short(wanted)})"
            return _refused(name, why, f"claw plugin install {shlex.quote(str(folder))}")
        files, version = self.files(folder), plugin.plugin.version
        fit = [each for each in held if (each.files, each.version) == (files, version)]
        if not fit:
            why = f"its files are not those that were installed as version {held[-1].version}"
            hint = f"claw plugin info {name}; claw plugin install {shlex.quote(str(folder))}"
            return _refused(name, why, hint)
        if more := grown(wanted, fit[0].permissions):
            why = f"it asks for permissions that were not granted ({short(more)})"
            return _refused(name, why, f"claw plugin install {shlex.quote(str(folder))}")
        return self._unsigned(name, fit[0])

    def _unsigned(self, name: str, held: Grant) -> ClawError | None:
        if not self.require_signature:
            return None
        try:
            if held.signer and signing.name_of(held.signer):
                return None
        except ClawError as error:
            return _refused(name, error.message, error.hint)
        why = "plugins.require_signature is set, and no key that you trust has signed it"
        hint = f"claw plugin info {name}; claw plugin trust KEY"
        return _refused(name, why, hint)

    def files(self, folder: Path) -> str:
        """The hash of a folder's files."""
        identity = contents.tree_identity(folder)
        known, files = self._trees.get(folder, ("", ""))
        if not identity or identity != known:
            files = contents.tree_hash(folder)
            self._trees[folder] = identity, files
        return files

    def book(self) -> Book | ClawError:
        """The grants, read again when their file has changed; or why they cannot be read."""
        try:
            found = book_file().lstat()
            identity = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_mode)
        except OSError:
            identity = (0, 0, 0, 0)
        if identity != self._read[0]:
            try:
                self._read = identity, read()
            except OSError as error:
                self._read = None, ClawError("bad_config", f"{book_file()}: {error.strerror}")
            except ClawError as error:
                self._read = identity, error
        return self._read[1]


def developed(folder: Path) -> bool:
    """Whether its author works at the plugin in this folder now, and has it run as it is."""
    running = develop.granted()
    return bool(running) and folder.resolve() in running
