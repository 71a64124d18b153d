"""The ops that run in this process: the best instruction set, or what the box's profile picked.

The profile comes as a line in ``CLAW_OPS_PROFILE`` (``clawai.sdk.tuning``), from the kernel in a
worker and from the owner elsewhere. It picks among sets that give the same bits (``SAME_BITS``);
only an ``isa`` that is named may be any. Refuses families and sets that the library does not have.
"""

import os
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from clawai.plugins.accelerator.native import ISAS, available_isas, choose_isa, ffi, lib
from clawai.sdk import tuning
from clawai.sdk.errors import ClawError

SAME_BITS = (
    ("avx2", "avxvnni", "avx512vnni"),
    ("neon", "dotprod", "i8mm"),
    ("rvv",),
)
"""Sets with the same vectors that differ in how bytes are summed, which is exact: no result of any
op tells which of them ran."""


@dataclass(frozen=True, slots=True)
class Row:
    """One op of the library."""

    family: str
    op: str
    dtype: str
    dots: bool
    """Built on sums of products of bytes."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was chosen."""

    isa: str
    """Of all families that are not in ``families``."""
    families: dict[str, str]
    table: Any
    """``const claw_ops *`` of this choice; keep it as long as a plan uses it."""

    def isa_of(self, family: str) -> str:
        """The instruction set that runs a family."""
        return self.families.get(family, self.isa)

    def __str__(self) -> str:
        others = ", ".join(f"{family} on {isa}" for family, isa in sorted(self.families.items()))
        return f"{self.isa} ({others})" if others else self.isa


@cache
def rows() -> tuple[Row, ...]:
    """Every op, in the order of ``ops.def``."""
    count = ffi.new("uint32_t *")
    table = lib.claw_op_rows(count)

    def text(pointer: Any) -> str:
        return bytes(ffi.string(pointer)).decode()

    found = (table[i] for i in range(count[0]))
    return tuple(Row(text(r.family), text(r.name), text(r.dtype), bool(r.dots)) for r in found)


def alike(isa: str) -> list[str]:
    """The sets of this processor that give the bits of ``isa``, itself included; best last."""
    group = next((names for names in SAME_BITS if isa in names), (isa,))
    return [name for name in available_isas() if name in group]


def tune(line: str | None = None) -> Tuned:
    """Set the library up by a line, by default what the environment says.

    Raises:
        ClawError: bad_config: no such setting, family or instruction set here.
        RuntimeError: ``CLAW_ISA`` in the environment names such a set.
    """
    environment = tuple(os.environ.get(name) for name in (tuning.ISA_VARIABLE, tuning.VARIABLE))
    tuned, settings = _tuned(line, environment)
    _hints(settings)
    return tuned


@lru_cache(maxsize=8)
def _tuned(line: str | None, _: object) -> tuple[Tuned, tuning.Settings]:
    """What a line means in an environment, for a worker is told it before it has its model."""
    if line is None:
        choose_isa()
        line = tuning.for_worker(None)
    settings = tuning.parse(line)
    best = str(settings.pop("isa", "")) or choose_isa()
    _require(best, "isa", available_isas())
    table = ffi.new("claw_ops *", lib.claw_ops_named(best.encode())[0])
    families: dict[str, str] = {}
    known = {row.family for row in rows()}
    for name, value in settings.items():
        if name in tuning.NUMBERS:
            continue
        _require(name, "family", sorted(known))
        _require(str(value), name, available_isas())
        lib.claw_ops_take(table, name.encode(), lib.claw_ops_named(str(value).encode()))
        if value != best:
            families[name] = str(value)
    return Tuned(best, families, table), settings


def _hints(settings: tuning.Settings) -> None:
    """The numbers; what is not set goes back to its default."""
    for name, default in DEFAULTS.items():
        setattr(lib.claw_tune, name, settings.get(name, default))
    lib.claw_tune.one = settings.get("one_threads", 0)
    lib.claw_tune.many = settings.get("many_threads", 0)


def _require(name: str, what: str, allowed: list[str]) -> None:
    if name in allowed:
        return
    if what == "family":
        wrong = f"there is no family of ops {name}"
    elif name in ISAS:
        wrong = f"{what}={name}: this processor cannot run it"
    else:
        wrong = f"{what}={name}: there is no such instruction set"
    raise ClawError(
        "bad_config",
        f"{tuning.VARIABLE}: {wrong}",
        got=name,
        allowed=allowed,
        hint="claw ops lists families and instruction sets; unset it to have the box measured",
    )


DEFAULTS = {name: int(getattr(lib.claw_tune, name)) for name in ("ahead", "tile", "streams")}
"""As the library was loaded."""
