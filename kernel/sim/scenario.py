"""A scenario: the box, what runs on it, who asks for what, and what goes wrong. Read from TOML.

Rates are per simulated second, times carry their unit in the name, shares are 0 to 1. An unknown
key is refused: a misspelt fault that never happens would prove nothing.
"""

import random
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from clawai.kernel import limits
from clawai.kernel.events import Spec
from clawai.kernel.limits import MIB, MS
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

FOLDER = Path(__file__).parent / "scenarios"
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all tables of a scenario share."""


class Time(Strict, frozen=True):
    """How long something takes, by chance."""

    kind: Literal["fixed", "exponential", "lognormal"] = "lognormal"
    median_ms: Positive = 20.0
    """The mean of an exponential, the value of a fixed one."""
    sigma: NotNegative = 0.7
    """Of the lognormal's logarithm: 0.7 puts the 99th percentile at five times the median."""

    def draw(self, rng: random.Random) -> int:
        """Nanoseconds."""
        if self.kind == "lognormal":
            return int(self.median_ms * MS * rng.lognormvariate(0.0, self.sigma))
        if self.kind == "exponential":
            return int(rng.expovariate(1.0) * self.median_ms * MS)
        return int(self.median_ms * MS)


class Service(Strict, frozen=True):
    """A plugin, or a model in one; ``copies`` makes as many alike."""

    name: str
    copies: Count = 1
    model: bool = False
    base_mib: Positive = 64.0
    model_mib: NotNegative = 0.0
    weights_mib: NotNegative = 0.0
    """Of a weights object that it asks for when it loads."""
    slots: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    start: Time = Time(median_ms=60.0)
    load: Time = Time(median_ms=400.0)
    cooperative: bool = True
    idempotent: bool = True
    batch: Count = 1
    item_ms: NotNegative = 0.0
    """What each further task of a batch adds."""

    def specs(self, lane: str) -> list[Spec]:
        """What the core is told of each copy."""
        tail = [f" {number}" for number in range(self.copies)] if self.copies > 1 else [""]
        return [
            Spec(
                plugin="engine" if self.model else self.name + each,
                model=self.name + each if self.model else "",
                base_bytes=int(self.base_mib * MIB),
                model_bytes=int(self.model_mib * MIB),
                slots=self.slots,
                lane=lane,
                cooperative=self.cooperative,
            )
            for each in tail
        ]


class Stream(Strict, frozen=True):
    """Requests of one kind."""

    service: str
    priority: wire.Priority
    rate: Positive
    bursts_s: tuple[Positive, Positive] | None = None
    """Mean seconds of a burst and of the rest between two."""
    burst_rate: Positive = 1.0
    """The rate within a burst."""
    work: Time = Time()
    deadline_ms: Positive | None = None
    clients: Count = 4
    principals: Count = 2
    chunks: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Pieces that a streamed answer comes in."""
    lane: Literal["main", "bulk"] = "main"
    cancelled: Share = 0.0
    patience_s: Positive = 600.0
    """Then the client takes its request back: an answer that was lost ends so."""
    tensor_mib: NotNegative = 0.0
    """Of a segment that each client borrows first and sends along."""
    payload: Annotated[int, msgspec.Meta(ge=0)] = 200
    durable: Share = 0.0


class Faults(Strict, frozen=True):
    """What goes wrong, as shares of the occasions there are, and by the hour."""

    task: Share = 0.0
    """Of the tasks; ``kinds`` says how."""
    kinds: dict[str, float] = {}
    """Weights of crash, hang, endless, stubborn, drop, duplicate, delay, garbage and error; those
    that are not named have 1 if none is, else 0."""
    start: Share = 0.0
    """Of the starts: the process dies, says nothing, cannot serve, or is very slow."""
    load: Share = 0.0
    """Of the loads: the same, and reservations that are lies."""
    stop: Share = 0.0
    """Of the workers that were told to stop: goes on until it is killed, or dies slowly."""
    segment: Share = 0.0
    """Of the segments: the system has no memory for it."""
    client: Share = 0.0
    """Of the requests: the client leaves with it still open."""
    yields: Share = 0.0
    """Of the dispatched tasks that give way: ignores it."""
    seal: Share = 0.0
    """Of the weights objects: somebody still could write to it."""
    jumps_per_hour: NotNegative = 0.0
    """Of the clock, forward, 1 to 90 s."""
    pressure_per_hour: NotNegative = 0.0
    commands_per_hour: NotNegative = 0.0
    """By the owner: ``commands`` on any service."""
    commands: tuple[str, ...] = ("unload",)


KINDS = ("crash", "hang", "endless", "stubborn", "drop", "duplicate", "delay", "garbage", "error")


class Box(Strict, frozen=True):
    """What there is to share out."""

    memory_mib: Positive = 8192.0
    cores: Count = 4
    idle_s: NotNegative = 300.0
    rungs: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of the preemption ladder."""
    tasks: Count = limits.TASKS
    """That may wait or run at a time."""
    together: Share = 0.0
    """Of the requests and answers: the core hears it with all others of the next moment."""


class Scenario(Strict, frozen=True, kw_only=True):
    """Everything."""

    about: str
    seconds: Positive
    box: Box = Box()
    service: tuple[Service, ...]
    stream: tuple[Stream, ...]
    faults: Faults = Faults()
    check_every: Count = 5000
    """Events between two complete checks; the cheap ones are made at every event."""
    name: str = ""


def bundled() -> list[str]:
    """The scenarios that come along."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> Scenario:
    """A bundled scenario by its name, or any by the path of its file.

    Raises:
        ClawError: bad_config, with what is wrong and what is allowed.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        if path.stat().st_size > MIB:
            raise ClawError("bad_config", f"{path} is no scenario", "over 1 MiB", "a short file")
        found = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Scenario)
    except FileNotFoundError:
        raise ClawError(
            "bad_config", "there is no such scenario", got=name, allowed=[*bundled(), "FILE.toml"]
        ) from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ClawError(
            "bad_config", f"{path} is no scenario: {error}", hint="docs/simulator.md lists the keys"
        ) from None
    _check(found, path)
    return msgspec.structs.replace(found, name=path.stem)


def _check(found: Scenario, path: Path) -> None:
    names = [service.name for service in found.service]
    for stream in found.stream:
        if stream.service not in names:
            raise ClawError(
                "bad_config", f"{path}: a stream of no service", stream.service, allowed=names
            )
    if unknown := set(found.faults.kinds) - set(KINDS):
        raise ClawError("bad_config", f"{path}: unknown faults", sorted(unknown), list(KINDS))
