"""What the core is told (events) and what it says to do (instructions). All frozen.

``body`` fields are the shell's own objects; the core passes them on and never looks inside.
"""

from dataclasses import dataclass
from typing import Any

from clawai.sdk import wire
from clawai.sdk.errors import ClawError


@dataclass(frozen=True, slots=True)
class Spec:
    """What runs where: read from the manifests by the shell, trusted by the core."""

    plugin: str
    model: str
    base_bytes: int
    """Reserved while the worker lives."""
    model_bytes: int
    """Least that the model will need on top; 0 for tools."""
    slots: int
    identity: str = ""
    """Of the model's file; another one makes the worker that holds the old one stale."""
    lane: str = "main"
    """main or bulk: the weight group of its worker, fixed at birth."""
    code: str = ""
    """Identity of the plugin's files: weights are shared between workers of the same code only."""
    cooperative: bool = False
    """Its code reads the control word between ops: it can be held, and takes thread grants."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Names the service."""
        return self.plugin, self.model, self.lane


# Events.


@dataclass(frozen=True, slots=True)
class Submitted:
    """A client asks for an operation."""

    client: int
    request: int
    spec: Spec
    op: str
    priority: wire.Priority
    deadline: int | None
    """Absolute, on the clock of ``now``."""
    idempotent: bool
    payload: int
    """Bytes held for it."""
    leases: tuple[wire.Lease, ...]
    params: wire.Raw
    body: Any = None
    """A tuple of payload frames."""
    frames: int = 0
    """How many these are."""
    principal: str = ""
    batch: int = 1
    """Tasks of this operation that may run together."""
    job: str = ""
    """Of a durable task."""
    keep_ns: int | None = None
    """How long its worker stays afterwards."""


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """A client takes its request back."""

    client: int
    request: int


@dataclass(frozen=True, slots=True)
class ClientLeft:
    """A connection of a client has ended."""

    client: int


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A client asks for a segment shared with the worker of ``spec``."""

    client: int
    request: int
    spec: Spec
    size: int


@dataclass(frozen=True, slots=True)
class Returned:
    """A client gives a lease back."""

    client: int
    segment: int
    generation: int


@dataclass(frozen=True, slots=True)
class Commanded:
    """The owner says unload, pin, unpin, suspend or resume to what runs under a name."""

    client: int
    request: int
    command: str
    name: str


@dataclass(frozen=True, slots=True)
class ShutdownAsked:
    """The kernel is to stop."""


@dataclass(frozen=True, slots=True)
class WorkerReserved:
    """A worker knows what it will hold."""

    worker: int
    size: int
    weights: str = ""
    """Layout id of the weights object that it wants on top."""
    weights_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WorkerFilled:
    """A worker has written the weights object that it was given, and has unmapped it."""

    worker: int


@dataclass(frozen=True, slots=True)
class WeightsSealed:
    """What came of ``SealWeights``; without success somebody still could write to it."""

    weights: int
    worker: int
    success: bool


@dataclass(frozen=True, slots=True)
class WeightsGone:
    """The pages of a dropped weights object are back."""

    weights: int


@dataclass(frozen=True, slots=True)
class WorkerYielded:
    """A worker gave a task back as asked; it can run again from its beginning."""

    worker: int
    task: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """What others on the box leave us has changed."""

    cores: float
    """Processors that we can count on."""
    memory: int
    """Bytes of the budget that the box really has now; at most the configured budget."""


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker takes tasks."""

    worker: int
    slots: int


@dataclass(frozen=True, slots=True)
class WorkerUnready:
    """A worker cannot serve, and says why."""

    worker: int
    error: ClawError


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """A worker's process has ended and its memory is back."""

    worker: int
    why: str


@dataclass(frozen=True, slots=True)
class WorkerBroke:
    """A worker broke the protocol; the shell has stopped reading from it."""

    worker: int
    why: str


@dataclass(frozen=True, slots=True)
class WorkerAnswered:
    """A worker has answered a ping."""

    worker: int


@dataclass(frozen=True, slots=True)
class Output:
    """A worker says something of a task: progress, chunk, done or error."""

    worker: int
    message: wire.Progress | wire.Chunk | wire.Done | wire.Error
    frames: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class SegmentDropped:
    """A worker says that it has unmapped a segment."""

    worker: int
    segment: int


@dataclass(frozen=True, slots=True)
class SegmentGone:
    """The pages of a segment are back."""

    segment: int


@dataclass(frozen=True, slots=True)
class SegmentFailed:
    """The system has no memory for a segment. Comes before any news of its worker."""

    segment: int
    why: str


@dataclass(frozen=True, slots=True)
class Timer:
    """The time that ``Core.next_timer`` named has come."""


Event = (
    Submitted
    | CancelAsked
    | ClientLeft
    | Borrowed
    | Returned
    | Commanded
    | ShutdownAsked
    | WorkerReserved
    | WorkerFilled
    | WeightsSealed
    | WeightsGone
    | WorkerYielded
    | Pressure
    | WorkerReady
    | WorkerUnready
    | WorkerGone
    | WorkerBroke
    | WorkerAnswered
    | Output
    | SegmentDropped
    | SegmentGone
    | SegmentFailed
    | Timer
)

# Instructions.


@dataclass(frozen=True, slots=True)
class Reply:
    """Send a message to a client."""

    client: int
    message: wire.Message
    frames: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker process."""

    worker: int
    spec: Spec


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a message to a worker."""

    worker: int
    message: wire.Message
    body: Any = None
    """Of the task, for its payload frames."""


@dataclass(frozen=True, slots=True)
class Control:
    """Set the control word of a slot (``wire.GO`` and the others, and the threads granted)."""

    worker: int
    slot: int
    value: int


@dataclass(frozen=True, slots=True)
class Suspend:
    """Stop every process of a worker where it stands (SIGSTOP), or let it go on (SIGCONT)."""

    worker: int
    stopped: bool


@dataclass(frozen=True, slots=True)
class MakeWeights:
    """Create a weights object and pass it to the worker that will fill it."""

    weights: int
    worker: int
    size: int


@dataclass(frozen=True, slots=True)
class SealWeights:
    """Forbid every write to it for ever, then say ``WeightsSealed``."""

    weights: int
    worker: int


@dataclass(frozen=True, slots=True)
class GiveWeights:
    """Pass a sealed object to another worker, which maps it for reading."""

    weights: int
    worker: int


@dataclass(frozen=True, slots=True)
class DropWeights:
    """Let go of an object that no worker maps, then say ``WeightsGone``."""

    weights: int


@dataclass(frozen=True, slots=True)
class Record:
    """Write to the job journal; carry out ``then`` when that is safe on the disk."""

    kind: str
    """accept, start, end"""
    job: str
    task: int
    asked: Submitted
    then: tuple["Instruction", ...]
    outcome: wire.Message | None = None
    frames: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker's process now; ``WorkerGone`` follows."""

    worker: int
    why: str


@dataclass(frozen=True, slots=True)
class MakeSegment:
    """Create a memfd and give it to both sides of the pair, then send ``leased``."""

    segment: int
    client: int
    worker: int
    size: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class FreeSegment:
    """Give the pages back and, when they are, say ``SegmentGone``.

    Told again when the worker that kept writing to them has died.
    """

    segment: int


@dataclass(frozen=True, slots=True)
class Log:
    """Write a line."""

    level: str
    text: str


Instruction = (
    Reply
    | Start
    | Tell
    | Control
    | Suspend
    | MakeWeights
    | SealWeights
    | GiveWeights
    | DropWeights
    | Record
    | Kill
    | MakeSegment
    | FreeSegment
    | Log
)
