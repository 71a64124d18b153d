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

    @property
    def key(self) -> tuple[str, str]:
        """Names the service."""
        return self.plugin, self.model


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
class UnloadAsked:
    """The owner stops a model or a plugin by name."""

    client: int
    request: int
    name: str


@dataclass(frozen=True, slots=True)
class ShutdownAsked:
    """The kernel is to stop."""


@dataclass(frozen=True, slots=True)
class WorkerReserved:
    """A worker knows what it will hold."""

    worker: int
    size: int


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
    | UnloadAsked
    | ShutdownAsked
    | WorkerReserved
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
    """Set the control word of a slot: 0 go on, 1 stop the task."""

    worker: int
    slot: int
    value: int


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


Instruction = Reply | Start | Tell | Control | Kill | MakeSegment | FreeSegment | Log
