"""What a plugin's folder holds: the files that make it up, and the hash that names them.

``collect`` takes what is packed and installed: regular files, without what begins with a dot and
what Python compiles. Its hash is that of the plugin, the same on every box. ``tree_hash`` covers
every byte in an installed folder, whatever it is called, so that nothing can hide from it.
"""

import hashlib
import json
import os
import stat
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO, Protocol

import msgspec

from clawai.sdk.checks import CONTROLS
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular
from clawai.sdk.manifest import Plugin

FORMAT = 1
FILES = 4096
BYTES = 256 << 20
DEPTH = 16
"""Folders within each other."""
PATH = 240
"""Bytes of a file's path in its plugin."""
INDEX, SIGNATURE = "clawplugin.json", "clawplugin.sig"
"""Names that a package needs for itself."""
_LEFT_OUT = ("__pycache__",)
CHUNK = 1 << 20


class Source(Protocol):
    """Gives bytes, fewer than asked for only at its end."""

    def read(self, size: int = -1, /) -> bytes:
        """The next ``size`` bytes."""
        ...


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, msgspec.Meta(ge=0, le=BYTES)]
    executable: bool


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The files of a plugin by their paths, with / between folders: ``clawplugin.json``."""

    format: int
    name: str
    version: str
    files: dict[str, Item]

    def encoded(self) -> bytes:
        """The one form that these contents are written in."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        text = json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=True)
        return f"{text}\n".encode()

    @property
    def hash(self) -> str:
        """Names this plugin, in this version, with exactly these files."""
        return hashlib.sha256(self.encoded()).hexdigest()


def check_names(
    names: Iterator[str] | list[str], refuse: Callable[[str, object], Exception]
) -> None:
    """Refuse paths that could leave the folder, be disguised, or mean each other somewhere.

    Raises:
        ClawError: what ``refuse`` makes of the reason and of the name.
    """
    seen: dict[str, str] = {}
    for name in names:
        if wrong := _wrong(name):
            raise refuse(wrong, name[:PATH])
        parts = name.split("/")
        for place in range(1, len(parts) + 1):
            # A box may take two names that differ in case, or in how an accent is written, for one.
            part = "/".join(parts[:place])
            folded = unicodedata.normalize("NFC", part).casefold()
            if seen.setdefault(folded, part) != part:
                raise refuse("two names that some boxes take for one", [seen[folded], part])
    files = set(names)
    for name in files:
        parents = {str(parent) for parent in PurePosixPath(name).parents}
        if both := parents & files:
            raise refuse("a name is both a file and a folder", min(both))


def _wrong(name: str) -> str:
    """What is wrong with a path inside of a plugin; empty if nothing is."""
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "." in parts or "" in parts:
        return "a path that leaves the folder or is not in its shortest form"
    if "\\" in name or ":" in name or CONTROLS.search(name):
        return "a name with a character that some boxes or terminals do not take as it is"
    if any(part.startswith(".") or part in _LEFT_OUT for part in parts):
        return "a hidden file or what Python compiles, which no plugin brings along"
    if len(name.encode()) > PATH or len(parts) > DEPTH:
        return f"a path of more than {PATH} bytes or {DEPTH} folders"
    if name in (INDEX, SIGNATURE):
        return "a name that packages need for themselves"
    return ""


def collect(folder: Path, plugin: Plugin) -> Contents:
    """The contents of a plugin's folder, every file read and hashed.

    Raises:
        ClawError: bad_package: a link, a pipe, a bad name, too many or too large files.
    """
    items: dict[str, Item] = {}
    total = 0
    for name, path in _chosen(folder, PurePosixPath()):
        digest, size, executable = _hashed(path)
        total += size
        if total > BYTES or len(items) >= FILES:
            raise _refused(folder, "the plugin is too large", f"{total} bytes, {len(items)} files")
        items[name] = Item(digest, size, executable)
    names = sorted(items)
    check_names(names, lambda wrong, got: _refused(folder, wrong, got))
    return Contents(
        FORMAT, plugin.plugin.name, plugin.plugin.version, {name: items[name] for name in names}
    )


def _refused(where: Path, why: str, got: object) -> ClawError:
    allowed = f"at most {FILES} regular files, {BYTES >> 20} MiB in all, with plain names"
    return ClawError("bad_package", f"{where}: {why}", got, allowed)


def _chosen(folder: Path, inside: PurePosixPath) -> Iterator[tuple[str, Path]]:
    """The files that are packed, by their paths in the plugin; a link or a special is refused."""
    if len(inside.parts) >= DEPTH:
        raise _refused(folder, f"more than {DEPTH} folders within each other", str(inside))
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name in _LEFT_OUT:
            continue
        if not inside.parts and entry.name.endswith(".clawplugin"):
            continue  # what was packed here before
        name, path = inside / entry.name, Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _chosen(path, name)
        elif entry.is_file(follow_symlinks=False):
            yield str(name), path
        else:
            kind = stat.filemode(entry.stat(follow_symlinks=False).st_mode)
            raise _refused(path, "neither a file nor a folder (a link, a pipe, ...)", kind)


def _hashed(path: Path) -> tuple[str, int, bool]:
    """Hash and size of a file, and whether its owner may execute it."""
    with open_regular(path) as file:
        digest, size = hashlib.sha256(), 0
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            if size > BYTES:
                break  # one that grows; ``collect`` refuses it
        return digest.hexdigest(), size, bool(os.fstat(file.fileno()).st_mode & stat.S_IXUSR)


def copy_checked(source: Source, target: BinaryIO | None, item: Item, what: str) -> int:
    """Copy the bytes of one file if they are those that its item names; their CRC-32.

    Raises:
        ClawError: bad_package.
    """
    digest, left, crc = hashlib.sha256(), item.size, 0
    while left and (chunk := source.read(min(CHUNK, left))):
        digest.update(chunk)
        crc = zlib.crc32(chunk, crc)
        left -= len(chunk)
        if target:
            target.write(chunk)
    if left:
        raise ClawError("bad_package", f"{what} is cut off", item.size - left, item.size)
    if digest.hexdigest() != item.sha256:
        got = digest.hexdigest()
        raise ClawError("bad_package", f"{what} is not what its hash says", got, item.sha256)
    return crc


def write_file(folder: Path, name: str, item: Item, source: Source, what: str) -> int:
    """Write one file of a plugin into a folder that is ours alone; its CRC-32."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as target:
        return copy_checked(source, target, item, what)


def open_to_workers(folder: Path, contents: Contents) -> None:
    """Let everybody read an installed plugin: under root its worker is another user."""
    for parent, _, names in os.walk(folder):
        Path(parent).chmod(0o755)
        for name in names:
            path = Path(parent, name)
            item = contents.files.get(path.relative_to(folder).as_posix())
            path.chmod(0o755 if item and item.executable else 0o644)


def every_file(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """All that a folder holds but folders, by its path there, in order."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in sorted([*names, *links]):
            path = f"{parent}/{name}"
            yield path.removeprefix(f"{folder}/"), os.lstat(path)


def tree_identity(folder: Path) -> str:
    """Changes when any file of a folder does; costs a look at each, no reading."""
    digest = hashlib.sha256()
    try:
        for count, (name, found) in enumerate(every_file(folder)):
            line = f"{name}\0{found.st_dev}:{found.st_ino}:{found.st_mode}:{found.st_size}"
            # The time of the change cannot be set back, other than that of the file's contents.
            digest.update(
                f"{line}:{found.st_mtime_ns}:{found.st_ctime_ns}\n".encode("utf-8", "replace")
            )
            if count > 4 * FILES:
                return ""
    except OSError:
        return ""  # it changes just now
    return digest.hexdigest()


def tree_hash(folder: Path) -> str:
    """The hash of everything in a folder; empty if it holds what no installed plugin does."""
    lines: list[str] = []
    total = 0
    try:
        for name, found in every_file(folder):
            total += found.st_size
            if not stat.S_ISREG(found.st_mode) or total > 2 * BYTES or len(lines) > 4 * FILES:
                return ""
            digest, _, executable = _hashed(folder / name)
            lines.append(f"{digest} {'x' if executable else '-'} {name}\n")
    except (OSError, ClawError):
        return ""
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
