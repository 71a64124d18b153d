"""What one worker may do: a frozen record of paths and limits, loaded from a named profile.

The record holds data only; the modules that turn it into mounts, rlimits and rules are loaded by
the stage, never by the daemon. Refuses unknown keys, relative paths, paths whose mere presence
would undo a layer (``/``, ``/proc``, ``/sys``, ``/dev``) or show passwords (``/etc/shadow`` and
what contains it), and combinations that cannot work. What the owner's home holds that no plugin
may have, ``clawai.sdk.places`` knows.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

# Strongest first. A level is defined by what it stops (tests/escape/table.json), not by the
# age of a kernel interface.
LEVELS = ("full", "no-landlock", "no-userns", "weaker")
_FORBIDDEN_TREES = ("/proc", "/sys", "/dev")
_SECRETS = ("/etc/shadow", "/etc/gshadow", "/etc/sudoers")


class PolicyError(ValueError):
    """A profile or a policy that cannot be used."""


class SandboxRefused(Exception):
    """The level that this box reaches is below what the policy asks for.

    Attributes:
        level: what the box reaches. minimum: what the policy asks for. advice: what would help.
    """

    def __init__(self, level: str, minimum: str, advice: tuple[str, ...] = ()) -> None:
        self.level, self.minimum, self.advice = level, minimum, advice
        steps = (
            "; ".join(advice) or "run `python -I -m clawai.sandbox.probe` to see what is missing"
        )
        super().__init__(
            f"the sandbox reaches level {level!r}, the policy asks for {minimum!r} or better "
            f"(levels, strongest first: {', '.join(LEVELS)}); next step: {steps}"
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """The rights and limits of one worker; sizes in bytes.

    ``memory_bytes`` bounds private writable memory (RLIMIT_DATA: heap, arenas, thread stacks).
    ``address_bytes`` bounds all mappings, model files and received memfds included (RLIMIT_AS);
    0 means no bound: the worker cannot create shared memory of its own, but the page tables of what
    it maps and never writes count nowhere, about 1/512 of the mapping at worst.
    ``executable_memory`` False forbids new executable mappings once the target and the preloaded
    modules are imported.

    ``resident_bytes`` bounds the private memory that the worker and its programs really hold, all
    together, and ``cpu`` the processors that they use, over a second; 0 means no bound. Both are
    for whoever starts the worker to enforce (``cgroups``, or a watchdog): the stage cannot.

    ``slice_us``, in microseconds, is how long the scheduler lets it run at a time: less than others
    have (some milliseconds) lets it begin sooner when it is woken, and gives it no more of the
    processors; 0 means the system's.

    ``programs`` may be started, with everything here in force for them too; ``devices`` are shown;
    ``accept`` lets it accept connections on a listening socket that it was given; ``connections``
    are accepted for it and passed: it has the options of those, such as TCP_NODELAY. ``explain``
    has the stage tell the arguments of denied calls and the paths that were not shown; for authors.
    """

    name: str = "strict"
    minimum_level: str = "no-userns"
    read_paths: tuple[str, ...] = ()
    write_paths: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    accept: bool = False
    connections: bool = False
    tmp_bytes: int = 16 << 20
    memory_bytes: int = 512 << 20
    address_bytes: int = 64 << 30
    file_bytes: int = 16 << 20
    max_fds: int = 128
    max_threads: int = 16
    executable_memory: bool = False
    resident_bytes: int = 0
    cpu: float = 0.0
    slice_us: int = 0
    explain: bool = False

    def __post_init__(self) -> None:
        if self.minimum_level not in LEVELS:
            raise PolicyError(f"minimum_level: got {self.minimum_level!r}, allowed: {LEVELS}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kind = type(field.default)
            if type(value) is not kind:
                raise PolicyError(f"{field.name}: got {value!r}, allowed: {kind.__name__}")
            if isinstance(value, int | float) and not 0 <= value < 1 << 62:
                raise PolicyError(f"{field.name}: got {value}, allowed: 0 to 2**62 - 1")
        for path in self.read_paths + self.write_paths + self.programs:
            _check_path(path)
        for path in self.devices:
            _check_path(path, ("/dev",))
            if path == "/dev/zero":
                raise PolicyError(
                    "devices: got '/dev/zero', allowed: any other device; a shared map of it is "
                    "memory that no limit counts"
                )
        if self.programs and not self.executable_memory:
            raise PolicyError(
                "programs: a program maps its own code, which executable_memory = false forbids; "
                "allowed: a profile with executable_memory, such as tool"
            )

    @property
    def needs_namespaces(self) -> bool:
        """Whether it can only be kept where processes have a namespace of their own.

        There, what a worker started dies with it and can be counted.
        """
        return bool(self.programs)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Policy":
        """The policy in ``values`` (lists become tuples); unknown keys raise PolicyError."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise PolicyError(f"unknown keys {unknown}; allowed: {sorted(known)}")
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        if type(fields.get("cpu")) is int:
            fields["cpu"] = float(fields["cpu"])
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON can carry them."""
        return dataclasses.asdict(self)

    @classmethod
    def load(cls, name: str, folder: Path | None = None) -> "Policy":
        """The profile ``profiles/sandbox/NAME.toml``, laid over the profile it ``extends``."""
        return cls.from_dict(_read_profile(name, folder or _profile_folder(), ()))


def _check_path(path: str, only_in: tuple[str, ...] = ()) -> None:
    if not isinstance(path, str):
        raise PolicyError(f"path: got {path!r}, allowed: a string")
    pure = PurePosixPath(path)
    bad = (
        not pure.is_absolute() or ".." in pure.parts or str(pure) != path or path[1:2] in ("", "/")
    )
    if only_in:
        if bad or not any(path.startswith(f"{tree}/") for tree in only_in):
            raise PolicyError(f"path: got {path!r}, allowed: a device below {', '.join(only_in)}")
        return
    if bad or any(pure.is_relative_to(tree) for tree in _FORBIDDEN_TREES):
        raise PolicyError(
            f"path: got {path!r}, allowed: a normalised absolute path, neither / nor inside "
            f"{', '.join(_FORBIDDEN_TREES)}"
        )
    for secret in _SECRETS:
        if pure.is_relative_to(secret) or PurePosixPath(secret).is_relative_to(pure):
            raise PolicyError(
                f"path: got {path!r}, which holds {secret}; allowed: a path without passwords"
            )


def _profile_folder() -> Path:
    spec = importlib.util.find_spec("clawai.profiles")
    if spec is None or not spec.submodule_search_locations:
        raise PolicyError("the package clawai.profiles is not installed; reinstall clawai")
    return Path(spec.submodule_search_locations[0]) / "sandbox"


@lru_cache(maxsize=16)
def _parsed(text: str) -> Mapping[str, Any]:
    """A profile: each start reads it, and it hardly ever changes."""
    import tomllib  # here: the stage loads this module too and reads no profile

    return tomllib.loads(text)


def _read_profile(name: str, folder: Path, seen: tuple[str, ...]) -> dict[str, Any]:
    path = folder / f"{name}.toml"
    if name in seen or not path.is_file():
        why = "extends itself" if name in seen else "does not exist"
        have = sorted(p.stem for p in folder.glob("*.toml"))
        raise PolicyError(f"sandbox profile {name!r} {why}; profiles in {folder}: {have}")
    values = dict(_parsed(path.read_text(encoding="utf-8")))
    base = values.pop("extends", None)
    inherited = {} if base is None else _read_profile(base, folder, (*seen, name))
    return inherited | values | {"name": name}
