"""What the core is told (events) and what it says to do (instructions). All frozen.

Structs, not dataclasses: made five times as fast, and the journal can pack them as they are.

``body`` fields are the shell's own objects; the core passes them on and never looks inside.
"""

from typing import Any

from msgspec import Raw, Struct

from clawai.sdk import wire
from clawai.sdk.errors import ClawError


class Spec(Struct, frozen=True):
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


class Submitted(Struct, frozen=True):
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
    params: Raw
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


class CancelAsked(Struct, frozen=True):
    """A client takes its request back."""

    client: int
    request: int


class ClientLeft(Struct, frozen=True):
    """A connection of a client has ended."""

    client: int


class Borrowed(Struct, frozen=True):
    """A client asks for a segment shared with the worker of ``spec``."""

    client: int
    request: int
    spec: Spec
    size: int
    rights: wire.Rights = "rw"
    """Of the worker; with r the system refuses its writes."""


class Returned(Struct, frozen=True):
    """A client gives a lease back."""

    client: int
    segment: int
    generation: int


class Unmapped(Struct, frozen=True):
    """A client says that it has unmapped a segment."""

    client: int
    segment: int


class Commanded(Struct, frozen=True):
    """The owner says unload, pin, unpin, suspend or resume to what runs under a name."""

    client: int
    request: int
    command: str
    name: str


class ShutdownAsked(Struct, frozen=True):
    """The kernel is to stop."""


class WorkerReserved(Struct, frozen=True):
    """A worker knows what it will hold."""

    worker: int
    size: int
    weights: str = ""
    """Layout id of the weights object that it wants on top."""
    weights_bytes: int = 0


class WorkerFilled(Struct, frozen=True):
    """A worker has written the weights object that it was given, and has unmapped it."""

    worker: int


class WeightsSealed(Struct, frozen=True):
    """What came of ``SealWeights``; without success somebody still could write to it."""

    weights: int
    worker: int
    success: bool


class WeightsGone(Struct, frozen=True):
    """The pages of a dropped weights object are back."""

    weights: int


class WorkerYielded(Struct, frozen=True):
    """A worker gave a task back as asked; it can run again from its beginning."""

    worker: int
    task: int


class Pressure(Struct, frozen=True):
    """What others on the box leave us has changed."""

    cores: float
    """Processors that we can count on."""
    memory: int
    """Bytes of the budget that the box really has now; at most the configured budget."""


class WorkerReady(Struct, frozen=True):
    """A worker takes tasks."""

    worker: int
    slots: int


class WorkerUnready(Struct, frozen=True):
    """A worker cannot serve, and says why."""

    worker: int
    error: ClawError


class WorkerGone(Struct, frozen=True):
    """A worker's process has ended and its memory is back."""

    worker: int
    why: str


class WorkerBroke(Struct, frozen=True):
    """A worker broke the protocol; the shell has stopped reading from it."""

    worker: int
    why: str


class WorkerAnswered(Struct, frozen=True):
    """A worker has answered a ping."""

    worker: int


class Output(Struct, frozen=True):
    """A worker says something of a task: progress, chunk, done or error."""

    worker: int
    message: wire.Progress | wire.Chunk | wire.Done | wire.Error
    frames: tuple[bytes, ...] = ()


class SegmentDropped(Struct, frozen=True):
    """A worker says that it has unmapped a segment."""

    worker: int
    segment: int


class SegmentGone(Struct, frozen=True):
    """The pages of a segment are back."""

    segment: int


class SegmentFailed(Struct, frozen=True):
    """The system has no memory for a segment. Comes before any other event."""

    segment: int
    why: str


class Timer(Struct, frozen=True):
    """The time that ``Core.next_timer`` named has come."""


Event = Any
"""One of the above: ``core`` has a table of them."""

# Instructions.


class Reply(Struct, frozen=True):
    """Send a message to a client."""

    client: int
    message: wire.Message
    frames: tuple[bytes, ...] = ()


class Start(Struct, frozen=True):
    """Start a worker process."""

    worker: int
    spec: Spec


class Tell(Struct, frozen=True):
    """Send a message to a worker."""

    worker: int
    message: wire.Message
    body: Any = None
    """Of the task, for its payload frames."""


class Control(Struct, frozen=True):
    """Set the control word of a slot (``wire.GO`` and the others, and the threads granted)."""

    worker: int
    slot: int
    value: int


class Suspend(Struct, frozen=True):
    """Stop every process of a worker where it stands (SIGSTOP), or let it go on (SIGCONT)."""

    worker: int
    stopped: bool


class MakeWeights(Struct, frozen=True):
    """Create a weights object and pass it to the worker that will fill it."""

    weights: int
    worker: int
    size: int


class SealWeights(Struct, frozen=True):
    """Forbid every write to it for ever, then say ``WeightsSealed``."""

    weights: int
    worker: int


class GiveWeights(Struct, frozen=True):
    """Pass a sealed object to another worker, which maps it for reading."""

    weights: int
    worker: int


class DropWeights(Struct, frozen=True):
    """Let go of an object that no worker maps, then say ``WeightsGone``."""

    weights: int


class Record(Struct, frozen=True):
    """Write to the job journal; carry out ``then`` when that is safe on the disk."""

    kind: str
    """accept, start, end"""
    job: str
    task: int
    asked: Submitted
    then: tuple["Instruction", ...]
    outcome: wire.Message | None = None
    frames: tuple[bytes, ...] = ()


class Kill(Struct, frozen=True):
    """End a worker's process now; ``WorkerGone`` follows."""

    worker: int
    why: str


class MakeSegment(Struct, frozen=True):
    """Create a memfd and give it to both sides of the pair, then send ``leased``."""

    segment: int
    client: int
    worker: int
    size: int
    reply: Reply
    rights: wire.Rights = "rw"
    """Of the worker's descriptor."""


class FreeSegment(Struct, frozen=True):
    """Give the pages back and, when they are, say ``SegmentGone``.

    Told again when the worker that kept writing to them has died.
    """

    segment: int


class Log(Struct, frozen=True):
    """Write a line."""

    level: str
    text: str


Instruction = Any
"""One of those since ``Reply``: ``server`` has a table of them."""
