"""The private data folders of plugins: made for their worker's uid, and kept to their size.

Nothing of the system bounds a folder without privileges, so it is looked at once a second while a
worker that may write there lives: one whose folder has grown too large is killed, and not started
again before its owner has made room. Between two looks it can write as much as the disk takes.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clawai.kernel.limits import MIB, SECOND
from clawai.sdk import paths
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Plugin

FILES = 16_384
"""Files and folders in one data folder, at most: each look visits all of them."""


def make(plugin: Plugin, owner: int) -> str:
    """The data folder of a plugin, for the uid of its workers; empty if it asks for none.

    Raises:
        ClawError: disk_full, if it holds too much.
        OSError: it cannot be made.
    """
    if not plugin.limits.data_mib:
        return ""
    name = plugin.plugin.name
    folder = Path(os.path.realpath(paths.plugin_data_dir(name)))
    folder.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0 and folder.stat().st_uid != owner:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner, owner, follow_symlinks=False)
    if why := too_large(folder, plugin.limits.data_mib * MIB):
        hint = f"make room in {folder}, or raise data_mib in plugin.toml"
        raise ClawError("disk_full", f"the plugin {name} is not started: {why}", hint=hint)
    return str(folder)


def too_large(folder: Path, most: int) -> str:
    """What is too much in a folder, in words; empty if nothing is."""
    size = files = 0
    for parent, folders, names in os.walk(folder):
        files += len(folders) + len(names)
        if files > FILES:
            return f"its data folder holds more than {FILES} files"
        for name in names:
            try:
                size += os.lstat(f"{parent}/{name}").st_blocks * 512
            except OSError:
                continue
    if size > most:
        return f"its data folder holds {size / MIB:.1f} MiB, {most / MIB:g} MiB are allowed"
    return ""


@dataclass
class Folders:
    """Those that a living worker may write to."""

    end: Callable[[int, str], None]
    """Kills a worker, for a reason."""
    watched: dict[int, tuple[Path, int]] = field(default_factory=dict)
    """By worker: its folder, and the bytes that this may hold."""
    due: int = 0

    def watch(self, worker: int, folder: str, most: int, now: int) -> None:
        """A worker is about to be started."""
        if folder:
            self.due = self.due if self.watched else now + SECOND
            self.watched[worker] = (Path(folder), most)

    def next_timer(self) -> int | None:
        """When to look."""
        return self.due if self.watched else None

    def expire(self, now: int) -> None:
        """Look, if it is time."""
        if not self.watched or now < self.due:
            return
        self.due = now + SECOND
        for worker, (folder, most) in list(self.watched.items()):
            if why := too_large(folder, most):
                del self.watched[worker]
                self.end(worker, why)
