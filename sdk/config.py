"""The configuration: one ``config.toml`` under XDG, every key with a default and a meaning.

Unknown keys and wrong types are refused, because a silent typo in a limit is worse than an error.
"""

import math
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec

from clawai.sdk import paths
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular

Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]


_ADDRESS = r"([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9a-f:.]{2,45}\]):"
_PORT = rf"^[a-z][a-z0-9_-]{{0,63}}:[0-9]{{1,5}}=({_ADDRESS})?[0-9]{{1,5}}$"


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[memory]``"""

    budget_mib: Bytes = 0
    """What workers, weights and leases together may hold; 0: what the device profile says."""


class Workers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[workers]``"""

    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    """Compute threads of one engine worker; 0 means one a core."""
    context: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 2048
    """Longest sequence of a language model, in tokens; 0 means the model's own limit."""
    sequences: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    """Answers that one engine worker writes at the same time; memory for a whole context is
    reserved for each. 0 means what its plugin says (4)."""
    weights: str = "auto"
    """How an engine holds a model's weights: shared (in memory of the kernel's, which outlives it),
    private, or auto: shared where that costs no speed."""
    packed: bool = True
    """Keep shared weights in a file on the disk, as they lie in memory, so that the next start of a
    model need not pack them again."""
    kv: str = "f16"
    """What an engine keeps of each token of a conversation (its KV cache): f16, or q8: int8 with
    scales, in 53 % of the memory; answers may differ in a word, quality does not measurably."""
    idle_minutes: Annotated[float, msgspec.Meta(ge=0, le=525_600)] = 10
    """An idle worker is stopped after this long; 0 keeps it."""


class Sandbox(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[sandbox]``"""

    minimum: str = "no-landlock"
    """The weakest level that workers may run at: full, no-landlock, no-userns, weaker."""
    explain: bool = False
    """Log the paths and arguments of what workers are denied, not only the names of the calls."""


class Preemption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[preemption]``"""

    rungs: tuple[Annotated[int, msgspec.Meta(ge=0, le=4)], ...] = (0, 1, 2, 3, 4)
    """Which rungs of the ladder are on: 0 order, 1 control word, 2 weight, 3 stop, 4 kill."""
    means: str = "auto"
    """Of rung 2: auto measures and takes the best; cgroup2, cgroup1, autogroup, nice, realtime,
    none."""
    boost_ms: Annotated[int, msgspec.Meta(ge=0, le=100)] = 10
    """With rung 2: so long a critical task may run before all ordinary programs, where the kernel
    holds CAP_SYS_NICE, as root's does."""


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[log]``"""

    level: str = "info"
    """debug, info, warning or error."""
    max_mib: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    """The log is started anew at this size; one older file is kept."""


class Jobs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[jobs]``: the journal of durable tasks"""

    max_mib: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] = 256
    """Params, payload and results of all; the oldest that have ended are forgotten first."""
    keep_days: Annotated[int, msgspec.Meta(ge=0, le=36_500)] = 30
    """A job that has ended is forgotten after so many days."""


class Journal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[journal]``: of events, for `claw replay`"""

    enabled: bool = True
    """Keep what the core was told, without params and results."""
    mib: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    """Size of one segment."""
    segments: Annotated[int, msgspec.Meta(ge=2, le=64)] = 4
    """Segments that are kept."""


class Plugins(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[plugins]``"""

    require_signature: bool = False
    """Start and install only plugins that a key you trust has signed, and the bundled ones."""
    ports: tuple[Annotated[str, msgspec.Meta(pattern=_PORT)], ...] = ()
    """Other ports than those of the manifests, for plugins that listen: ["gateway:8080=9090"], or
    with an address of this box before the number, which other boxes may then reach."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    device: str = "auto"
    """Device profile: a name from ``profiles/device``, or auto, which goes by the box's memory."""
    memory: Memory = Memory()
    workers: Workers = Workers()
    sandbox: Sandbox = Sandbox()
    preemption: Preemption = Preemption()
    log: Log = Log()
    jobs: Jobs = Jobs()
    journal: Journal = Journal()
    plugins: Plugins = Plugins()
    plugin_dirs: tuple[str, ...] = ()
    """More folders that hold plugins, one folder each."""


LIMIT = 1 << 20
"""Bytes of the file at most."""
LEVELS = ("full", "no-landlock", "no-userns", "weaker")
MEANS = ("auto", "cgroup2", "cgroup1", "autogroup", "nice", "realtime", "none")
WEIGHTS = ("auto", "shared", "private")
KV = ("f16", "q8")
LOG_LEVELS = ("debug", "info", "warning", "error")


def load(path: Path | None = None) -> Config:
    """Read the configuration; a missing file means all defaults.

    Raises:
        ClawError: bad_config, naming the key, or the line of a syntax error.
    """
    path = path or paths.config_file()
    try:
        with open_regular(path, follow=True) as file:
            text = file.read(LIMIT + 1)
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise ClawError("bad_config", f"cannot read {path}: {error.strerror}") from error
    return parse(text, str(path))


def parse(text: bytes, where: str) -> Config:
    """Decode and check the bytes of a configuration file."""
    if len(text) > LIMIT:
        raise ClawError("bad_config", f"{where} is too large", got=len(text), allowed=LIMIT)
    try:
        # msgspec reads TOML through the standard library's tomllib.
        config = msgspec.toml.decode(text, type=Config)
    except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
        raise ClawError(
            "bad_config", f"{where}: {error}", hint="`claw config` shows every key and its value"
        ) from error
    for key, got, allowed in (
        ("sandbox.minimum", config.sandbox.minimum, LEVELS),
        ("log.level", config.log.level, LOG_LEVELS),
        ("workers.weights", config.workers.weights, WEIGHTS),
        ("workers.kv", config.workers.kv, KV),
        ("preemption.means", config.preemption.means, MEANS),
    ):
        if got not in allowed:
            raise ClawError("bad_config", f"{where}: {key}", got=got, allowed=list(allowed))
    for each in config.plugins.ports:
        import ipaddress  # here: few configurations have any

        host, _, port = each.partition("=")[2].rpartition(":")
        try:
            ipaddress.ip_address(host.strip("[]") or "127.0.0.1")
        except ValueError:
            wanted = "a port, or an IP address and a port"
            raise ClawError("bad_config", f"{where}: plugins.ports", each, wanted) from None
        if not 0 < int(port) <= 65535:
            raise ClawError("bad_config", f"{where}: plugins.ports", each, "a port of 1 to 65535")
    # A range of msgspec lets nan pass, which compares to nothing.
    if math.isnan(config.workers.idle_minutes):
        raise ClawError("bad_config", f"{where}: workers.idle_minutes", "nan", "0 to 525600")
    if config.memory.budget_mib << 20 > (most := box_bytes()):
        raise ClawError(
            "bad_config",
            f"{where}: memory.budget_mib is more than this box has",
            got=config.memory.budget_mib,
            allowed=f"0 to {most >> 20}",
        )
    return config


def box_bytes() -> int:
    """The memory of this box in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def budget_bytes(config: Config) -> int:
    """The memory budget in bytes, from the configuration or from the device profile."""
    if config.memory.budget_mib:
        return config.memory.budget_mib << 20
    from clawai.sdk.device import choose

    return choose(config.device).budget(box_bytes())


def as_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain values, for listings."""
    out: dict[str, Any] = msgspec.to_builtins(config)
    return out
