"""What an owner sets for a plugin: values that its manifest describes, and secrets.

A value is kept in ``plugins/NAME.toml`` beside ``config.toml`` and is checked against the manifest
both when it is set and when a worker is started. A secret is a file of its own that only its owner
may read (mode 0600, in a folder of mode 0700). It is not encrypted: who can read the owner's files
can read it. It reaches the plugin's workers through a descriptor, never as an argument, through the
environment, the log or a journal.
"""

import contextlib
import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Any

from clawai.sdk import config, paths
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular
from clawai.sdk.manifest import Plugin, Setting, Value, checked, read_plugin

SECRET = 64 * 1024
"""Bytes of one secret at most."""
_LIMIT = 256 * 1024


def find(name: str) -> tuple[Plugin, Path]:
    """The manifest of a plugin by its name, and its folder; nothing of it is run.

    Raises:
        ClawError: unknown_plugin.
    """
    bundled = Path(__file__).parent.parent / "plugins"
    names = []
    for parent in (bundled, paths.plugins_dir(), *map(Path, config.load().plugin_dirs)):
        for manifest in sorted(parent.glob("*/plugin.toml")):
            with contextlib.suppress(ClawError):
                plugin = read_plugin(manifest.parent)
                names.append(plugin.plugin.name)
                if names[-1] == name:
                    return plugin, manifest.parent
    raise ClawError(
        "unknown_plugin",
        f"there is no plugin {name[:80]!r}",
        got=name[:80],
        allowed=sorted(set(names)),
        hint="`claw plugins` lists them",
    )


# Configuration.


def values(plugin: Plugin) -> dict[str, Value]:
    """Every value of a plugin's configuration, set or by default.

    Raises:
        ClawError: bad_config, if one is wrong, or must be set and is not.
    """
    name, own = plugin.plugin.name, stored(plugin)
    found: dict[str, Value] = {}
    for key, setting in plugin.config.items():
        value = own.get(key, setting.default)
        if value is None:
            raise ClawError(
                "bad_config",
                f"the plugin {name} needs a value for {key}: {setting.description}",
                allowed=list(setting.choices) or setting.type,
                hint=f"claw plugin config {name} {key}=VALUE",
            )
        found[key] = checked(setting, value, f"{name}: {key}")
    return found


def stored(plugin: Plugin) -> dict[str, Any]:
    """What the owner has set; keys that the manifest does not have (any more) are left out.

    Raises:
        ClawError: bad_config, if the file cannot be read.
    """
    path = paths.plugin_config(plugin.plugin.name)
    try:
        with open_regular(path, follow=True) as file:
            raw = file.read(_LIMIT)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ClawError("bad_config", f"cannot read {path}: {error.strerror}") from error
    try:
        own = tomllib.loads(raw.decode())
    except ValueError as error:
        raise ClawError("bad_config", f"{path}: {error}", hint="mend or delete it") from error
    return {key: value for key, value in own.items() if key in plugin.config}


def parse(plugin: Plugin, key: str, text: str) -> Value:
    """A value as an owner writes it.

    Raises:
        ClawError: bad_config, with the keys or values that are allowed.
    """
    setting = _setting(plugin, key)
    value: Any = text
    if setting.type == "boolean":
        words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
        value = words.get(text.lower(), text)
    elif setting.type != "text":
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                value = kind(text)
                break
    return checked(setting, value, f"{plugin.plugin.name}: {key}")


def _setting(plugin: Plugin, key: str) -> Setting:
    if key not in plugin.config:
        name = plugin.plugin.name
        hint = f"`claw plugin config {name}` shows them"
        raise ClawError("bad_config", f"{name} has no such key", key, sorted(plugin.config), hint)
    return plugin.config[key]


def store(plugin: Plugin, changes: dict[str, Value | None]) -> dict[str, Any]:
    """Set values that were parsed; None gives a key its default again. What is set now.

    Raises:
        ClawError: bad_config.
    """
    for key in changes:
        _setting(plugin, key)
    own = {key: each for key, each in (stored(plugin) | changes).items() if each is not None}
    path = paths.plugin_config(plugin.plugin.name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = [f"{key} = {toml(value)}\n" for key, value in sorted(own.items())]
    _replace(path, "".join(lines).encode())
    return own


def toml(value: Value) -> str:
    """A value as TOML writes it."""
    # A JSON string is a TOML basic string, but for DEL, which JSON leaves bare.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _replace(path: Path, data: bytes) -> None:
    """Write a file of the owner's alone, whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, flags, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


# Secrets.


def secrets(plugin: Plugin) -> dict[str, str]:
    """The secrets that the owner has given a plugin, of those that its manifest asks for.

    Raises:
        ClawError: not_permitted, if others could read one.
    """
    found = {}
    for key in plugin.secrets:
        path = paths.plugin_secrets(plugin.plugin.name) / key
        try:
            with open_regular(path) as file:
                about = os.fstat(file.fileno())
                raw = file.read(SECRET + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ClawError("bad_config", f"cannot read {path}: {error.strerror}") from error
        if about.st_mode & 0o077 or about.st_uid != os.geteuid():
            text = f"others can read or replace the secret {path}"
            raise ClawError("not_permitted", text, hint=f"chmod 600 {path}, or give it anew")
        found[key] = raw[:SECRET].decode("utf-8", "replace")
    return found


def keep_secret(plugin: Plugin, key: str, value: str | None) -> None:
    """Give a plugin a secret, or (None) take it back.

    Raises:
        ClawError: bad_config, not_permitted.
    """
    name = plugin.plugin.name
    if key not in plugin.secrets:
        hint = "a plugin names its secrets in plugin.toml, under [secrets]"
        text = f"the plugin {name} asks for no such secret"
        raise ClawError("bad_config", text, key, sorted(plugin.secrets), hint)
    folder = paths.plugin_secrets(name)
    if value is None:
        (folder / key).unlink(missing_ok=True)
        return
    if not value or len(value.encode()) > SECRET:
        raise ClawError("bad_config", "characters of a secret", len(value), f"1 to {SECRET}")
    paths.data_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    paths.make_private(folder.parent)
    _replace(paths.make_private(folder) / key, value.encode())


def identity(plugin: Plugin) -> str:
    """Changes when the owner sets something for a plugin; empty for one that nothing can be set."""
    if not plugin.config and not plugin.secrets:
        return ""
    name = plugin.plugin.name
    files = [paths.plugin_config(name), *(paths.plugin_secrets(name) / k for k in plugin.secrets)]
    digest = hashlib.sha256()
    for path in files:
        with contextlib.suppress(OSError):
            found = path.lstat()
            digest.update(f"{path}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def allowed(setting: Setting) -> str:
    """What a setting may be, in words."""
    if setting.choices:
        return ", ".join(map(str, setting.choices))
    ends = ("" if end is None else f"{end:g}" for end in (setting.min, setting.max))
    low, high = ends
    span = f" {low}..{high}" if low or high else ""
    unit = " characters" if span and setting.type == "text" else ""
    return f"{setting.type}{span}{unit}"
