"""Numbered folders of a model, as TensorFlow Serving keeps them, brought into the store.

    DIR/1/model.onnx, DIR/2/model.onnx, ...

Each becomes the stored model ``NAME.NUMBER``, which says that it serves as NAME. A file is taken
once it has not changed between two looks, and serves once the kernel could load it; one that goes
away is deleted and unloaded, after what comes instead serves. Nothing of it outlives who looks.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from clawai.sdk import catalogue
from clawai.sdk.errors import ClawError
from clawai.sdk.pull import describe, pull
from clawai.sdk.store import Store

MOST = 1 << 31
"""Numbers of versions are below."""
Say = Callable[[str], None]
Identity = tuple[int, int, int, int]


@dataclass
class Versions:
    """The versions of one model.

    Raises:
        ClawError: bad_params: a name that no stored model can have.
    """

    name: str
    base: Path
    load: Callable[[str], None]
    """Has the kernel load a stored model; raises ``ClawError`` if it cannot."""
    unload: Callable[[str], object]
    say: Say
    store: Store = field(default_factory=Store)
    serving: dict[int, Identity] = field(default_factory=dict)
    """The files that serve, by version."""
    _seen: dict[int, Identity] = field(default_factory=dict)
    """At the last look."""
    _bad: dict[int, Identity] = field(default_factory=dict)
    """Files that cannot serve, until they change."""

    def __post_init__(self) -> None:
        if not catalogue.MODEL_NAME.fullmatch(f"{self.name}.{MOST}"):
            allowed = f"{catalogue.MODEL_NAME.pattern}, 53 characters at most"
            raise ClawError("bad_params", "this cannot be the name of a model", self.name, allowed)
        for found in self.store.list()[0]:
            if found.model.serves == self.name:  # left by one that was killed
                self.store.remove(found.model.name)

    def look(self) -> None:
        """Take what is new and settled, then let go of what is not there any more."""
        found = dict(sorted(self._files().items()))
        for number, (path, identity) in found.items():
            known = (self.serving.get(number), self._bad.get(number))
            if identity not in known and self._seen.get(number) == identity:
                self._take(number, path, identity)
        for number in [each for each in self.serving if each not in found]:
            self._drop(number)
            self.say(f"{self.name} version {number} is gone")
        self._seen = {number: identity for number, (_, identity) in found.items()}

    def close(self) -> None:
        """Let go of all."""
        for number in list(self.serving):
            self._drop(number)

    def _files(self) -> dict[int, tuple[Path, Identity]]:
        """The one ONNX file of each folder whose name is a number."""
        found = {}
        try:
            folders = [each for each in os.scandir(self.base) if each.name.isdecimal()]
        except OSError as error:
            text = f"cannot read the folder {self.base}: {error.strerror}"
            raise ClawError("bad_params", text, str(self.base), "a folder of versions") from None
        for each in folders:
            number = int(each.name[:10]) if each.name.isascii() else MOST
            if not 0 < number < MOST or not each.is_dir():
                continue
            try:
                files = sorted(Path(each.path).glob("*.onnx"))
                chosen = [path for path in files if path.name == "model.onnx"] or files
                told = chosen[0].stat() if len(chosen) == 1 else None
            except OSError:
                continue  # it goes away at this moment
            if told and stat.S_ISREG(told.st_mode) and told.st_size:
                identity = told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns
                found[number] = chosen[0], identity
        return found

    def _stored(self, number: int) -> str:
        return f"{self.name}.{number}"

    def _take(self, number: int, path: Path, identity: Identity) -> None:
        stored = self._stored(number)
        try:
            made = pull(describe(str(path), stored), self.store, say=lambda _: None)
            self.load(stored)
        except ClawError as error:
            self._bad[number] = identity
            if self.serving.pop(number, None) or stored in self._names():
                self._discard(stored)
            self.say(f"{self.name} version {number} cannot serve: {error}")
            return
        self.store.revise(msgspec.structs.replace(made.model, serves=self.name, version=number))
        self.serving[number] = identity
        self.say(f"{self.name} version {number} serves")

    def _names(self) -> set[str]:
        return {found.model.name for found in self.store.list()[0]}

    def _drop(self, number: int) -> None:
        del self.serving[number]
        self._discard(self._stored(number))

    def _discard(self, stored: str) -> None:
        self.store.remove(stored)
        self.unload(stored)
