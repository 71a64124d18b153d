"""Plugin folders that tests of packages and grants are made with."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from clawai.sdk import package, paths
from clawai.sdk.errors import ClawError

ASKS = 'read = { "/srv/maps" = "to draw them" }\nnetwork = { "api.example.org:443" = "the news" }\n'
SOURCE = """
from clawai.sdk import operation

@operation("{name}.say")
def say(text: str = "hello", times: int = 1) -> str:
    \"\"\"Say it.\"\"\"
    return text * times
"""


def homes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty XDG folders below ``folder``."""
    for name in ("DATA", "CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(folder / name.lower()))
    monkeypatch.setenv("CLAW_RUNTIME_DIR", str(folder / "run"))
    return folder


def plugin(
    folder: Path,
    name: str = "demo",
    version: str = "1.0.0",
    permissions: str = "",
    files: Mapping[str, str | bytes] | None = None,
    extra: str = "",
) -> Path:
    """Write a plugin into ``folder``, which is made; one that is there is changed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plugin.toml").write_text(
        f'[plugin]\nname = "{name}"\nversion = "{version}"\nmodule = "claw_{name}"\n'
        f'description = "Says things."\n'
        f'[[operation]]\nname = "{name}.say"\nidempotent = true\n{extra}'
        f"[permissions]\n{permissions}"
    )
    (folder / f"claw_{name}.py").write_text(SOURCE.format(name=name))
    for inner, data in (files or {}).items():
        path = folder / inner
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def installed(name: str = "demo") -> Path:
    """Where an installed plugin lies."""
    return paths.plugins_dir() / name


def forged(names: Mapping[str, bytes], change: Callable[[dict], object] | None = None) -> bytes:
    """A package in the right form whose index says anything: the names of files may be any.

    Args:
        change: of the index, as plain values, before it is written.
    """
    files = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "executable": False}
        for name, data in names.items()
    }
    index = {"format": 1, "name": "demo", "version": "1.0.0", "files": files}
    if change:
        change(index)
    raw = f"{json.dumps(index, sort_keys=True, indent=1)}\n".encode()
    parts, entries = [], []
    for name, data in [("clawplugin.json", raw), *sorted(names.items())]:
        entry = package._Entry(name, len(data), zlib.crc32(data), False)
        parts += [entry.local(), data]
        entries.append(entry)
    return b"".join(parts) + package._directory(entries)


def zipped(entries: list[tuple[zipfile.ZipInfo | str, bytes]], method: int = 0) -> bytes:
    """Any ZIP file, as a common tool writes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for info, data in entries:
            archive.writestr(info, data)
    return out.getvalue()


def refused_by(raw: bytes, folder: Path | None = None) -> str:
    """What ``unpack`` says against a package."""
    with pytest.raises(ClawError) as caught:
        package.unpack(io.BytesIO(raw), "it", folder)
    assert caught.value.code == "bad_package"
    return str(caught.value)
