"""Device profiles: JSON files that describe a box, and what ClawAI takes of one.

A profile is chosen by name in the configuration (``device``), or by the box's memory. What the
configuration sets itself goes before the profile. The files are in ``profiles/device``; an own one
may lie in the folder of ``config.toml``, under ``devices/``.
"""

import contextlib
import importlib.util
import os
import platform
from pathlib import Path
from typing import Annotated

import msgspec

from clawai.sdk import paths
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular

GIB = 1 << 30
LIMIT = 64 * 1024


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One profile."""

    name: str
    description: str
    up_to_gib: Annotated[float, msgspec.Meta(gt=0)]
    """Chosen by itself for a box with at most so much memory, if none is smaller."""
    budget_percent: Annotated[int, msgspec.Meta(ge=5, le=95)] = 70
    """Of the box's memory: what all workers, weights and leases together may hold."""
    reserve_mib: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 1024
    """Left to the system and the desktop in any case."""
    spare_cores: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    """Processors that workers are never granted."""
    lock_weights: bool = False
    """Models' weights are kept from being swapped out (mlock), where the system permits it."""

    def budget(self, memory: int) -> int:
        """Bytes that may be handed out on a box with ``memory`` bytes."""
        return max(min(memory * self.budget_percent // 100, memory - (self.reserve_mib << 20)), 0)

    def cores(self, there: int) -> int:
        """Processors that running workers share on a box with ``there`` of them."""
        return max(1, there - self.spare_cores)


ISA = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp")
"""Instruction sets that have ops of their own."""


def processor() -> tuple[str, list[str]]:
    """The name of the processor, and which of ``ISA`` it has."""
    model, flags = platform.machine(), set[str]()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                model = value
            elif key in ("flags", "Features"):
                flags = set(value.split())
    return model, [name for name in ISA if name in flags]


def folders() -> list[Path]:
    """Where profiles lie: the owner's own first."""
    spec = importlib.util.find_spec("clawai.profiles")
    found = [paths.config_file().parent / "devices"]
    if spec and spec.submodule_search_locations:
        found.append(Path(next(iter(spec.submodule_search_locations))) / "device")
    return found


def read(path: Path) -> Device:
    """One file.

    Raises:
        ClawError: bad_config, naming the file and the key.
    """
    try:
        with open_regular(path, follow=True) as file:
            device = msgspec.json.decode(file.read(LIMIT), type=Device)
    except OSError as error:
        raise ClawError("bad_config", f"cannot read {path}: {error.strerror}") from error
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClawError("bad_config", f"{path}: {error}") from error
    if device.name != path.stem:
        raise ClawError("bad_config", f"{path}: name", got=device.name, allowed=path.stem)
    return device


def every() -> dict[str, Device]:
    """All profiles by name; the owner's own replace those of the same name."""
    found: dict[str, Device] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.json")):
            found.setdefault(path.stem, read(path))
    return found


def choose(name: str, memory: int | None = None) -> Device:
    """The profile of a name; ``auto``: the smallest that describes a box with ``memory`` bytes.

    Raises:
        ClawError: bad_config, with the names that there are.
    """
    known = every()
    if name == "auto":
        there = memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        by_size = sorted(known.values(), key=lambda device: (device.up_to_gib, device.name))
        fitting = [device for device in by_size if device.up_to_gib * GIB >= there]
        return (fitting or by_size)[0 if fitting else -1]
    if name not in known:
        raise ClawError(
            "bad_config", "device: no such profile", got=name, allowed=["auto", *sorted(known)]
        )
    return known[name]
