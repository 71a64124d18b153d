"""The profile of a box for the C ops: how it is kept, overridden, and told to a worker.

A program measures it (``MEASURE``, under a second), whoever asked for that checks what it said and
keeps it, and each worker with a driver for the processor is told it as one line of settings:

    gemv_int=avx2 ahead=2048 tile=3 one_threads=1

``FAMILY=ISA`` picks the implementation of a family of ops, ``isa=ISA`` that of all of them;
``ahead``, ``tile``, ``streams`` and the numbers of threads are those of ``claw_tuning`` in the
accelerator's ``api.h``. What stands later wins; ``off`` forgets all before it. No setting changes a
result but an ``isa`` that the owner names. The owner overrides with the environment variable
``CLAW_OPS_PROFILE``, in the same form, and ``CLAW_ISA``, a short form of ``isa=``.

What was measured holds for one processor, its cores that may be used, and one build of the library;
with any other the file is as if it were not there. It is data: it is read as such, and refused
where a number is out of range.
"""

import contextlib
import hashlib
import importlib.machinery
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from clawai.sdk import paths
from clawai.sdk.errors import ClawError

VARIABLE = "CLAW_OPS_PROFILE"
ISA_VARIABLE = "CLAW_ISA"
MEASURE = (sys.executable, "-I", "-B", "-m", "clawai.plugins.accelerator.profile")
LIST = (sys.executable, "-I", "-B", "-m", "clawai.plugins.accelerator.listing")
"""Programs of the bundled plugin: isolated, so that no folder of a stranger comes before it."""
MEASURE_S = 30.0
"""A measurement that takes longer hangs; it ends itself long before."""
LIMIT = 1 << 20
"""Bytes of the file, and of what a program may say."""
NUMBERS = {
    "ahead": (0, 65536),
    "tile": (1, 4),
    "streams": (1, 4),
    "one_threads": (0, 64),
    "many_threads": (0, 64),
}
"""Settings that are numbers, and their range."""
_WORD = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")
_VERSION = 1

Settings = dict[str, str | int]
"""Families and ``isa`` to instruction sets, and numbers by name."""


class Profile(msgspec.Struct, forbid_unknown_fields=True):
    """What was measured on a box."""

    choices: dict[str, str | int]
    """Where something else than the default won."""
    timed: dict[str, dict[str, float]]
    """By instruction set and op: microseconds of one call, on weights that no cache holds."""
    trials: dict[str, dict[str, float]] = {}
    """By setting and value: microseconds, in the order in which they were tried."""
    seconds: float = 0.0
    """Processor time that it took."""


class _Kept(msgspec.Struct):
    """The file."""

    of: str
    profile: Profile


def parse(text: str) -> Settings:
    """The settings of a line.

    Raises:
        ClawError: bad_config, with the setting that is wrong and what is allowed.
    """
    found: Settings = {}
    for word in text.replace(",", " ").split():
        name, equals, value = word.partition("=")
        if word == "off":
            found = {}
        elif name in NUMBERS and equals:
            found[name] = _number(name, value)
        elif equals and _WORD.match(name) and _WORD.match(value):
            if name == "isa":  # all families, those that were named before too
                found = {key: each for key, each in found.items() if key in NUMBERS}
            found[name] = value
        else:
            raise ClawError(
                "bad_config",
                f"{VARIABLE} has a setting that cannot be read",
                got=word[:80],
                allowed=["off", "isa=ISA", "FAMILY=ISA", *(f"{name}=NUMBER" for name in NUMBERS)],
                hint="claw ops lists families and instruction sets",
            )
    return found


def _number(name: str, value: str) -> int:
    low, high = NUMBERS[name]
    if not (value.isascii() and value.isdigit() and len(value) < 8 and low <= int(value) <= high):
        raise ClawError(
            "bad_config",
            f"{name} of the profile of the ops is out of range",
            got=value[:80],
            allowed=f"{low}..{high}",
            hint=f"see {VARIABLE} in docs/ops.md",
        )
    return int(value)


def line(settings: Mapping[str, str | int]) -> str:
    """Settings as ``parse`` reads them."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


def for_worker(profile: Profile | None, environment: Mapping[str, str] = os.environ) -> str:
    """The line that a worker is told: what was measured, then what the owner wants.

    Raises:
        ClawError: bad_config, if what the owner wants cannot be read.
    """
    measured = line(profile.choices) if profile else ""
    return line(parse(f"{measured} {wanted(environment)}"))


def wanted(environment: Mapping[str, str] = os.environ) -> str:
    """What the owner says in the environment, as it is."""
    isa = environment.get(ISA_VARIABLE)
    return f"{environment.get(VARIABLE, '')} {f'isa={isa}' if isa else ''}".strip()


def check(said: bytes) -> Profile:
    """The profile that a program printed as its last line, if it is one.

    Raises:
        ClawError: worker_failed, with the end of what it said instead.
    """
    last = said.strip().rpartition(b"\n")[2]
    try:
        profile = msgspec.json.decode(last, type=Profile)
        _require(profile)
    except (msgspec.DecodeError, UnicodeDecodeError, ClawError) as error:
        raise ClawError(
            "worker_failed",
            f"the ops could not be measured: {error}",
            got=said[-400:].decode("utf-8", "replace"),
            hint="the defaults are used; try again: claw ops --measure",
        ) from error
    return profile


def _require(profile: Profile) -> None:
    """Choices must be settings, and none that changes results: scalar code rounds otherwise."""
    choices = profile.choices
    if parse(line(choices)) != choices or "isa" in choices or "scalar" in choices.values():
        raise ClawError("bad_config", "not what a measurement can choose", got=str(choices)[:400])


def library() -> Path | None:
    """The C library of the bundled accelerator; None where it was not built."""
    folder = Path(__file__).parents[1] / "plugins" / "accelerator"
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        if (path := folder / f"_ops{suffix}").is_file():
            return path
    return None


def box() -> str:
    """What a measurement holds for: the processor, its cores, the library; "" without one."""
    path = library()
    if path is None:
        return ""
    digest = hashlib.sha256()
    digest.update(f"{_VERSION} {platform.machine()} {sorted(os.sched_getaffinity(0))}".encode())
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    # Of the first core. Its speed, which changes by the minute, is left out.
    for each in lines[: lines.index("") if "" in lines else None]:
        if not each.lower().startswith(("cpu mhz", "bogomips", "processor")):
            digest.update(each.encode())
    digest.update(path.read_bytes())
    return digest.hexdigest()


def cache_file() -> Path:
    """Where the profile of this box is kept."""
    return paths.cache_dir() / "ops.json"


def kept(of: str) -> Profile | None:
    """The profile that was kept for ``of`` (see ``box``), if there is one."""
    try:
        with cache_file().open("rb") as file:
            found = msgspec.json.decode(file.read(LIMIT), type=_Kept)
        _require(found.profile)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, ClawError):
        return None
    return found.profile if of and found.of == of else None


def keep(of: str, profile: Profile) -> None:
    """Keep a profile; a folder that cannot be written only costs another measurement."""
    path = cache_file()
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(_Kept(of, profile)))
        draft.replace(path)
