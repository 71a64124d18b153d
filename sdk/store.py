"""The models on this box: one folder each, that appears and disappears as a whole.

    models/NAME/FILE           the model's file
    models/NAME/model.json     what it is (``clawai.sdk.manifest.Model``)
    models/.staging/NAME/      what a pull has fetched so far; never read by anything else
    models/.locks/NAME         held while one process changes NAME

A folder is renamed into place only when its file is complete, verified and on the disk, and renamed
away before it is deleted, so a reader never sees half a model. Names that begin with a dot are
never models.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from clawai.sdk import catalogue, manifest, paths
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular
from clawai.sdk.manifest import Model

CHUNK = 1 << 20
Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes of the whole (0 if unknown)."""


class Stored(msgspec.Struct, frozen=True):
    """A model of the store."""

    model: Model
    path: Path
    """Its file."""


class Store:
    """The models under one folder, normally ``paths.models_dir()``."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or paths.models_dir()

    def list(self) -> tuple[list[Stored], list[ClawError]]:
        """All usable models by name, and an error for each folder that is not one."""
        models, broken = [], []
        try:
            folders = sorted(self.root.iterdir())
        except FileNotFoundError:
            return [], []
        for folder in folders:
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            try:
                models.append(self._read(folder))
            except ClawError as error:
                broken.append(error)
        return models, broken

    def get(self, name: str) -> Stored:
        """One model by its name or by an alias of the catalogue.

        Raises:
            ClawError: unknown_model, saying whether it can be pulled, or the nearest name;
                bad_config, if its folder is damaged.
        """
        if catalogue.MODEL_NAME.fullmatch(name) and self._folder(name).is_dir():
            return self._read(self._folder(name))
        entries = catalogue.load()
        stored = {found.model.name for found in self.list()[0]}
        try:
            entry = catalogue.find(name, entries)
        except ClawError:
            raise catalogue.unknown(name, stored | set(entries)) from None
        if entry.name in stored:
            return self._read(self.root / entry.name)
        raise ClawError(
            "unknown_model",
            f"the model {entry.name} is not stored here yet",
            got=name,
            allowed=sorted(stored),
            hint=f"fetch it ({entry.bytes / 1e6:.0f} MB): claw pull {entry.name}",
        )

    def remove(self, name: str) -> int:
        """Delete one model, a damaged one or a half-pulled one too.

        A worker that has the file mapped keeps its bytes until it ends.

        Returns:
            The bytes that were freed.

        Raises:
            ClawError: unknown_model.
        """
        name = self.known(name)
        with self.lock(name):
            freed = _tree_bytes(self._folder(name)) + _tree_bytes(self._staging(name))
            self._discard(name)
            self.clear_staging(name)
        return freed

    def known(self, name: str) -> str:
        """The name under which a model is stored, be it whole, damaged or half pulled.

        Raises:
            ClawError: unknown_model, as ``get``.
        """
        if self._folder(name).is_dir() or self._staging(name).is_dir():
            return name
        return self.get(name).model.name

    def verify(self, name: str, progress: Progress | None = None) -> Stored:
        """Hash the stored file again.

        Raises:
            ClawError: bad_download, if it is not what was pulled.
        """
        found = self.get(name)
        with open_regular(found.path) as file:
            check_file(file.fileno(), found.model.bytes, found.model.sha256, name, progress)
        return found

    def staging(self, name: str) -> Path:
        """The folder that a pull of ``name`` works in, created; the caller holds the lock."""
        folder = self._staging(name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def clear_staging(self, name: str) -> None:
        """Forget what a pull of ``name`` has fetched; the caller holds the lock."""
        shutil.rmtree(self._staging(name), ignore_errors=True)

    def publish(self, staged: Path, model: Model) -> Stored:
        """Turn the verified file ``staged`` into the model ``model``, replacing an older one.

        The caller holds the lock of the name. The new folder is whole and synced before it
        becomes visible; a crash between the two renames loses the older model only.
        """
        fresh = self.staging(model.name) / "new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o755)
        text = msgspec.json.format(msgspec.json.encode(model), indent=2)
        with (fresh / "model.json").open("wb") as file:
            file.write(text + b"\n")
            file.flush()
            os.fsync(file.fileno())
        staged.replace(fresh / model.file)
        _sync(fresh)
        self._discard(model.name)
        fresh.rename(self._folder(model.name))
        _sync(self.root)
        self.clear_staging(model.name)
        return self._read(self._folder(model.name))

    def revise(self, model: Model) -> None:
        """Say something else of a stored model whose file stays."""
        with self.lock(model.name):
            place = self._folder(model.name) / "model.json"
            fresh = place.with_name(".model.json")
            fresh.write_bytes(msgspec.json.format(msgspec.json.encode(model), indent=2) + b"\n")
            fresh.replace(place)

    @contextmanager
    def lock(self, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the right to change ``name``; waits for another process, after saying so.

        The lock file stays, because deleting it would let two processes hold it at once.
        """
        folder = self.root / ".locks"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(
            folder / self._folder(name).name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _read(self, folder: Path) -> Stored:
        model = manifest.read_model(folder)
        path = folder / model.file
        try:
            found = path.lstat()
            size = found.st_size
            problem = "has another size" if stat.S_ISREG(found.st_mode) else "is no regular file"
        except OSError as error:
            size, problem = 0, f"cannot be used ({error.strerror})"
        if size != model.bytes or problem != "has another size":
            raise ClawError(
                "bad_config",
                f"the stored model {model.name} is damaged: its file {path} {problem}",
                got=size,
                allowed=model.bytes,
                hint=f"claw rm {model.name}; claw pull {model.name}",
            )
        return Stored(model, path)

    def _folder(self, name: str) -> Path:
        """Where a model lives; a name that could lead elsewhere is refused."""
        if not catalogue.MODEL_NAME.fullmatch(name):
            raise ClawError(
                "bad_params",
                "this cannot be the name of a model",
                got=name,
                allowed=catalogue.MODEL_NAME.pattern,
            )
        return self.root / name

    def _staging(self, name: str) -> Path:
        return self.root / ".staging" / self._folder(name).name

    def _discard(self, name: str) -> None:
        """Make a model disappear at once, then delete it."""
        folder, away = self._folder(name), self.staging(name) / "gone"
        _delete(away)
        if folder.is_dir():
            folder.rename(away)
            _delete(away)


def check_file(
    handle: int, size: int, sha256: str, name: str, progress: Progress | None = None
) -> str:
    """Compare an open file with its expected size and hash; an empty ``sha256`` is computed only.

    Returns:
        The hash of the file, in hexadecimal.

    Raises:
        ClawError: bad_download, with what was expected and what was got.
    """
    found = os.fstat(handle).st_size
    if size and found != size:
        raise ClawError(
            "bad_download",
            f"{name}: the file has the wrong size",
            f"{found} bytes",
            f"{size} bytes",
        )
    digest, done = hashlib.sha256(), 0
    while chunk := os.pread(handle, CHUNK, done):
        digest.update(chunk)
        done += len(chunk)
        if progress:
            progress(done, found)
    if sha256 and digest.hexdigest() != sha256:
        raise ClawError(
            "bad_download",
            f"{name}: the file is not the one that was asked for (sha256 differs)",
            got=digest.hexdigest(),
            allowed=sha256,
            hint="the source may have changed, or something on the way changed the bytes",
        )
    return digest.hexdigest()


def is_full(error: BaseException) -> bool:
    """Whether ``error``, or what caused it, says that the disk is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _delete(folder: Path) -> None:
    """Delete a folder; of a link to one only the link."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _tree_bytes(folder: Path) -> int:
    if folder.is_symlink():
        return 0
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
