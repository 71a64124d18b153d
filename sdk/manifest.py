"""Manifests: ``plugin.toml`` of a plugin and ``model.json`` of a stored model.

Both are read without running anything of theirs, are limited in size, and are checked before use.
"""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from clawai.sdk import checks, places
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular
from clawai.sdk.netrules import check_keys

LIMIT = 64 * 1024
UNASKED = {"memory": 512, "cpu": 64, "threads": 64}
"""What ``[limits]`` may say without a permission: MiB, processors, threads."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_OPERATION = re.compile(r"[a-z][a-z0-9_]{0,31}(\.[a-z][a-z0-9_]{0,31}){1,3}")
_LONG_KEY = re.compile(rb"""(?:((?<![\w-])[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){16}""")
"""A key of many parts, which cost the reader of TOML their square."""
_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_LIBRARY = re.compile(r"[A-Za-z0-9_][\w.+-]{0,100}\.so")


class Identity(msgspec.Struct, frozen=True):
    """``[plugin]``"""

    name: str
    version: str
    module: str
    description: str = ""
    language: str = "python"
    """python; or c or cpp, and ``module`` is then the shared object beside this file."""
    kind: str = "tool"
    """tool, engine (one worker a model) or driver (loaded into the worker of another)."""
    drivers: tuple[str, ...] = ()
    """Plugins of kind driver that its worker loads beside it."""
    formats: tuple[str, ...] = ()
    """Formats of model files that it takes (``gguf``, ``onnx``); none: it looks for itself."""


class OperationEntry(msgspec.Struct, frozen=True):
    """One ``[[operation]]``: what the kernel must know before the plugin runs."""

    name: str
    stream: bool = False
    needs_model: bool = False
    idempotent: bool = False
    batch: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    """Tasks that the plugin takes in one call; more than 1 needs a batch function."""
    description: str = ""
    example: dict[str, Any] = {}
    """Parameters with which it can be tried: shown as a command, and run by `claw plugin lint`."""


class Limits(msgspec.Struct, frozen=True):
    """``[limits]``: what one worker may hold."""

    memory_mib: Annotated[int, msgspec.Meta(ge=16, le=1 << 20)] = 128
    """Reserved in the ledger while the worker lives (engines add what their model needs)."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=512)] = 16
    slots: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Tasks that one worker runs at the same time."""
    data_mib: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    """What its private data folder may hold (``ctx.data``); 0: it has none."""
    cpu: Annotated[float, msgspec.Meta(ge=0, le=1024)] = 0
    """Processors that one worker may use, over a second; 0: as many as it has threads for."""


class Permissions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[permissions]``: each a reason a person can read. Everything else is denied."""

    profile: str = "tool"
    """The sandbox profile (``profiles/sandbox/``)."""
    read: dict[str, str] = {}
    """Path to reason."""
    write: dict[str, str] = {}
    """Path to reason."""
    network: dict[str, str] = {}
    """``HOST``, ``HOST:PORT``, ``*.example.org``, ``lan`` or ``localhost:PORT`` to reason: where it
    may connect, through the broker (``docs/network.md``)."""
    listen: dict[str, str] = {}
    """``PORT``, or ``lan:PORT`` for all interfaces, to reason: it gets a listening socket."""
    programs: dict[str, str] = {}
    """Path of a program that it may start, in the same sandbox, to reason."""
    devices: dict[str, str] = {}
    """Path of a device to reason."""
    operations: dict[str, str] = {}
    """Operation that it may call as a child task (``llm.*`` for all that begin so) to reason."""
    models: dict[str, str] = {}
    """Model that it may name in a child task (``*``: any) to reason."""
    shared_memory: dict[str, str] = {}
    """Name of shared memory of this box (``*``: any, ``NAME*``) to reason: it has that opened for
    the program whose it is, and which is connected to a port of the plugin's."""
    limits: dict[str, str] = {}
    """``memory``, ``cpu`` or ``threads`` to reason, for more than ``UNASKED``; ``data`` to what its
    own files are for, which needs none."""
    kernel: dict[str, str] = {}
    """What it may ask of the kernel itself, as a front (``checks.RIGHTS``), to reason."""
    on_behalf_of: str = ""
    """Reason why it may act for other principals."""


def covers(granted: Iterable[str], name: str) -> bool:
    """Whether a name is one that permissions say, or begins as one of them does before its ``*``.

    Args:
        granted: such as ``Permissions.operations``.
    """
    return any(
        name.startswith(each[:-1]) if each.endswith("*") else name == each for each in granted
    )


Value = str | int | float | bool


class Setting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[config.NAME]``: a value that the owner can set (``claw plugin config``)."""

    description: str = ""
    type: Literal["text", "integer", "number", "boolean"] = "text"
    default: Value | None = None
    """None: the owner must set it before the plugin can run."""
    min: float | None = None
    max: float | None = None
    """Of a number; of a text, how long it may be."""
    choices: tuple[Value, ...] = ()


class Plugin(msgspec.Struct, frozen=True):
    """A whole ``plugin.toml``."""

    plugin: Identity
    operation: tuple[OperationEntry, ...] = ()
    limits: Limits = Limits()
    permissions: Permissions = Permissions()
    config: dict[str, Setting] = {}
    secrets: dict[str, str] = {}
    """Name of a secret that the owner gives it (``claw plugin secret``) to the reason."""


class Model(msgspec.Struct, frozen=True):
    """``model.json``: one model in the store, written once by ``claw pull``."""

    name: str
    file: str
    """Name of the file beside this one."""
    bytes: int
    sha256: str
    capability: str
    """What it can do: ``llm``, ``embedding``, ..."""
    operation_prefix: str = "llm"
    format: str = "gguf"
    """Of its file, found by what stands in it."""
    serves: str = ""
    """The name of which it is one version, if it is (`claw serve --model_name`)."""
    version: int = 0
    licence: str = ""
    source: str = ""
    pulled_at: str = ""


def _read(path: Path) -> bytes:
    try:
        with open_regular(path, follow=True) as file:
            raw = file.read(LIMIT + 1)
    except OSError as error:
        raise ClawError("bad_config", f"cannot read {path}: {error.strerror}") from error
    if len(raw) > LIMIT:
        raise ClawError("bad_config", f"{path} is too large", got=len(raw), allowed=LIMIT)
    return raw


def read_plugin(folder: Path) -> Plugin:
    """Read and check ``folder/plugin.toml``.

    Raises:
        ClawError: bad_config, naming the file and the key.
    """
    path = folder / "plugin.toml"
    raw = _read(path)
    if _LONG_KEY.search(raw):
        raise ClawError("bad_config", f"{path}: a key of more than 16 parts")
    try:
        manifest = msgspec.toml.decode(raw, type=Plugin)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ClawError("bad_config", f"{path}: {error}") from error
    identity = manifest.plugin
    native = identity.language in ("c", "cpp")
    named = [("plugin.name", identity.name, _NAME)]
    named.append(("plugin.module", identity.module, _LIBRARY if native else _MODULE))
    named += [("operation.name", entry.name, _OPERATION) for entry in manifest.operation]
    # A path here could name a profile that the plugin brings along.
    named += [("config", key, _KEY) for key in manifest.config]
    named += [("secrets", key, _KEY) for key in manifest.secrets]
    named.append(("permissions.profile", manifest.permissions.profile, _NAME))
    for key, got, pattern in named:
        if not pattern.fullmatch(got):
            raise ClawError("bad_config", f"{path}: {key}", got=got, allowed=pattern.pattern)
    try:
        check_keys(manifest.permissions.network, manifest.permissions.listen)
    except ClawError as error:
        raise ClawError(
            "bad_config", f"{path}: {error.message}", error.got, error.allowed
        ) from None
    for key, got, allowed in (
        ("plugin.kind", identity.kind, ("tool",) if native else ("tool", "engine", "driver")),
        ("plugin.language", identity.language, ("python", "c", "cpp")),
    ):
        if got not in allowed:
            raise ClawError("bad_config", f"{path}: {key}", got=got, allowed=list(allowed))
    if manifest.permissions.profile == "engine" and identity.kind != "engine":
        raise checks.refusal(path)(
            "permissions.profile", "engine", "strict or tool, but for a plugin of kind engine"
        )
    _check_shown(manifest, checks.refusal(path))
    _check_places(manifest.permissions, path)
    for key, setting in manifest.config.items():
        if setting.default is not None:
            checked(setting, setting.default, f"{path}: the default of config.{key}")
    return manifest


def _check_shown(manifest: Plugin, refuse: checks.Refuse) -> None:
    """The texts that the owner will read, and the permissions that are asked for by them."""
    identity, wanted = manifest.plugin, manifest.permissions
    if len(identity.version) > 64 or not checks.VERSION.fullmatch(identity.version):
        raise refuse("plugin.version", identity.version[:80], "numbers and dots, as in 1.2.0")
    checks.texts(
        [
            ("plugin.description", identity.description, checks.DESCRIPTION),
            *(
                ("operation.description", e.description, checks.DESCRIPTION)
                for e in manifest.operation
            ),
            *(("plugin.drivers", driver, 64) for driver in identity.drivers),
            *(("plugin.formats", form, 64) for form in identity.formats),
            *(each for e in manifest.operation for each in checks.within("example", e.example)),
            *_shown_settings(manifest.config),
        ],
        refuse,
    )
    for name, why in manifest.secrets.items():
        checks.reason(f"secrets.{name}", why, refuse)
    tables = {table: getattr(wanted, table) for table in checks.ALLOWED}
    checks.permissions(tables, wanted.on_behalf_of, refuse)
    for kind, had in UNASKED.items():
        key = "memory_mib" if kind == "memory" else kind
        if (got := getattr(manifest.limits, key)) > had and kind not in wanted.limits:
            allowed = f'{had}, or more with a reason: [permissions.limits] {kind} = "why"'
            raise refuse(f"limits.{key}: more than a plugin gets unasked", got, allowed)


def _shown_settings(config: dict[str, Setting]) -> Iterator[tuple[str, str, int]]:
    """What the owner reads of the settings; a default may have lines, as it is shown quoted."""
    for name, setting in config.items():
        yield f"config.{name}.description", setting.description, checks.DESCRIPTION
        yield from checks.within(f"config.{name}.choices", setting.choices)
        if isinstance(setting.default, str):
            text = setting.default.replace("\n", "").replace("\t", "")
            yield f"config.{name}.default", text, LIMIT


def _check_places(asked: Permissions, path: Path) -> None:
    """Refuse what no plugin may have, before anybody is asked to grant it."""
    try:
        places.check(
            read=asked.read, write=asked.write, programs=asked.programs, devices=asked.devices
        )
    except ClawError as error:
        text = f"{path}: permissions: {error.message}"
        raise ClawError("bad_config", text, error.got, error.allowed, error.hint) from error


_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def checked(setting: Setting, value: object, what: str) -> Value:
    """A value that a setting may have; a number that has to be one is made a float.

    Raises:
        ClawError: bad_config, with what is allowed.
    """
    kinds = _TYPES[setting.type]
    if not isinstance(value, kinds) or isinstance(value, bool) != (setting.type == "boolean"):
        raise ClawError("bad_config", what, got=value, allowed=setting.type)
    if setting.choices and value not in setting.choices:
        raise ClawError("bad_config", what, got=value, allowed=list(setting.choices))
    found: Any = value
    size = len(found) if isinstance(found, str) else found
    least = 0 if setting.type == "text" else -math.inf
    low = least if setting.min is None else setting.min
    high = math.inf if setting.max is None else setting.max
    if setting.type != "boolean" and not low <= size <= high:  # nan is not either
        unit = " characters" if setting.type == "text" else ""
        raise ClawError("bad_config", what, got=value, allowed=f"{low:g} to {high:g}{unit}")
    done: Value = float(found) if setting.type == "number" else found
    return done


def read_model(folder: Path) -> Model:
    """Read and check ``folder/model.json``.

    Raises:
        ClawError: bad_config, naming the file and the key.
    """
    path = folder / "model.json"
    try:
        model = msgspec.json.decode(_read(path), type=Model)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ClawError("bad_config", f"{path}: {error}") from error
    if model.name != folder.name or Path(model.file).name != model.file:
        raise ClawError(
            "bad_config",
            f"{path}: name and file must be those of its own folder",
            got=[model.name, model.file],
            hint=f"pull it again: claw rm {folder.name}; claw pull {folder.name}",
        )
    return model
