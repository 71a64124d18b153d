"""Folders that somebody works at: known to the kernel for as long as `claw plugin dev` runs.

A session is a file in the kernel's runtime folder, which is the owner's alone, that names the
plugin's folder and is locked by who works there. The lock ends with the process, however it ends,
so that an entry left behind by a kill is never in force: nobody holds it, and it is removed.
"""

import fcntl
import importlib.util
import os
import stat
import tempfile
from pathlib import Path

from clawai.sdk import paths
from clawai.sdk.errors import ClawError

_LIMIT = 8192
_GRANTED = b"\0granted"


def _place(runtime: Path | None) -> Path:
    return (runtime or paths.runtime_dir()) / "develop"


class Session:
    """Makes ``folder`` known to the kernel of a runtime folder, until it is closed.

    Args:
        granted: have the plugin granted what it asks for meanwhile, whatever its files become.
            Only for a command with which its author names the folder to run it.

    Raises:
        ClawError: not_permitted, if another user could have prepared the runtime folder, or if the
            plugin's worker will not be able to read the plugin.
    """

    def __init__(self, folder: Path, runtime: Path | None = None, granted: bool = False) -> None:
        self.folder = folder.resolve()
        require_readable(self.folder)
        paths.make_private(runtime or paths.runtime_dir())
        place = paths.make_private(_place(runtime))
        # Locked under a name that is not looked at, so that it is whole and held when it is.
        self._fd, draft = tempfile.mkstemp(prefix=".", dir=place)
        os.set_inheritable(self._fd, False)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.write(self._fd, os.fsencode(self.folder) + (_GRANTED if granted else b""))
        self.path = place / f"session-{Path(draft).name[1:]}"
        Path(draft).rename(self.path)

    def close(self) -> None:
        """The kernel forgets the folder the next time that it looks."""
        if self._fd >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def folders(runtime: Path | None = None) -> list[Path]:
    """The folders in force; entries that nobody holds are removed."""
    return [Path(os.fsdecode(each.removesuffix(_GRANTED))) for each in _all(runtime)]


def granted(runtime: Path | None = None) -> list[Path]:
    """Those of ``folders`` whose plugins are granted what they ask for."""
    found = _all(runtime)
    return [Path(os.fsdecode(e.removesuffix(_GRANTED))) for e in found if e.endswith(_GRANTED)]


def _all(runtime: Path | None) -> list[bytes]:
    """What the entries in force say."""
    try:
        entries = sorted(_place(runtime).glob("session-*"))
    except OSError:
        return []
    return [said for entry in entries if (said := _held(entry))]


def _held(entry: Path) -> bytes | None:
    """What an entry that somebody holds says."""
    try:
        fd = os.open(entry, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.read(fd, _LIMIT)
        return said if said.startswith(b"/") else None
    except OSError:
        return None
    else:
        entry.unlink(missing_ok=True)
        return None
    finally:
        os.close(fd)


def require_plugin(folder: Path) -> None:
    """Refuse a folder that holds no plugin.

    Raises:
        ClawError: bad_config.
    """
    if not (folder / "plugin.toml").is_file():
        raise ClawError(
            "bad_config",
            f"{folder} holds no plugin.toml" if folder.is_dir() else f"there is no folder {folder}",
            hint="`claw plugin new NAME` makes a plugin's folder",
        )


def require_readable(folder: Path) -> None:
    """Refuse a folder that its own worker could not read: under root that is another user.

    Raises:
        ClawError: not_permitted, naming the file.
    """
    if os.geteuid() != 0:
        return
    for path in (folder, folder / "plugin.toml", *folder.glob("*.py"), *folder.glob("*.so")):
        needed = 0o005 if path == folder else 0o004
        if path.exists() and path.stat().st_mode & needed != needed:
            raise ClawError(
                "not_permitted",
                f"{path} can be read by root only; a plugin's worker is another user",
                got=stat.filemode(path.stat().st_mode),
                hint=f"chmod -R a+rX {folder}",
            )


def is_bundled(folder: Path) -> bool:
    """Whether a plugin's folder is a part of ClawAI."""
    spec = importlib.util.find_spec("clawai.plugins")
    places = (spec.submodule_search_locations if spec else None) or ()
    return folder.resolve().parent in [Path(each).resolve() for each in places]
