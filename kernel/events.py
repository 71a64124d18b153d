"""What the core is told (events) and what it says to do (instructions). All frozen.

Structs, not dataclasses: made five times as fast, and the journal packs them as they are. They hold
headers only: what a person or a plugin wrote is a ``Hidden``, which the core passes on unseen, and
what the core has to say against something is a ``Fault``, whose text is in ``texts.json``.
"""

from typing import Any, Literal

from msgspec import Struct
from msgspec.msgpack import Ext

from clawai.sdk import wire


class Hidden:
    """What a person or a plugin wrote. Written down it is empty, by ``hide`` and in a pickle.

    Args:
        message: the shell's own: params, or a message of a worker.
        frames: the payload.
    """

    __slots__ = ("frames", "message")

    def __init__(self, message: Any, frames: tuple[bytes, ...] = ()) -> None:
        self.message = message
        self.frames = frames

    def __str__(self) -> str:
        return str(getattr(self.message, "message", ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return Hidden, (None,)


def hide(thing: Any) -> Ext:
    """What an encoder writes in place of a ``Hidden``.

    Raises:
        TypeError: it is something else that has no business in there.
    """
    if type(thing) is Hidden:
        return Ext(1, b"")
    raise TypeError(f"{type(thing).__name__} in an event or instruction")


class Fault(Struct, frozen=True, array_like=True):
    """Why not: the shell makes a typed error of it, with the text that ``texts.json`` has."""

    key: str
    """Of the text, which mostly is the error's code."""
    what: str = ""
    """Whom or what it is about."""
    got: Any = None
    allowed: Any = None
    retry_ms: int | None = None
    because: Any = None
    """A further reason: text of ours, or a ``Hidden``."""


class Event(Struct, frozen=True, array_like=True, tag=True):
    """Something that the core is told."""


class Instruction(Struct, frozen=True, array_like=True, tag=True):
    """Something that is to be done."""


class Spec(Struct, frozen=True, array_like=True):
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
    settings: str = ""
    """Identity of what its owner has set for the plugin; another one makes its worker stale."""
    front: bool = False
    """Its tasks wait for those whom it serves, and leave their processors to others."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Names the service."""
        return self.plugin, self.model, self.lane


# Events.


class Submitted(Event, frozen=True):
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
    body: Any = None
    """Its params and payload frames (``Hidden``)."""
    principal: str = ""
    batch: int = 1
    """Tasks of this operation that may run together."""
    job: str = ""
    """Of a durable task."""
    keep_ns: int | None = None
    """How long its worker stays afterwards."""
    parent: int = 0
    """The task that it is for and ends with, if a worker asks."""
    window: int = 0
    """Bytes of chunks that its client may have left untaken before it is held; 0: any."""


class Taken(Event, frozen=True):
    """A client has taken so many bytes of a task's chunks."""

    client: int
    request: int
    size: int


class CancelAsked(Event, frozen=True):
    """A client takes its request back."""

    client: int
    request: int


class ClientLeft(Event, frozen=True):
    """A connection of a client has ended."""

    client: int


class Borrowed(Event, frozen=True):
    """A client asks for a segment shared with the worker of ``spec``."""

    client: int
    request: int
    spec: Spec
    size: int
    rights: wire.Rights = "rw"
    """Of the worker; with r the system refuses its writes."""


class Returned(Event, frozen=True):
    """A client gives a lease back."""

    client: int
    segment: int
    generation: int


class Unmapped(Event, frozen=True):
    """A client says that it has unmapped a segment."""

    client: int
    memory: int


class Commanded(Event, frozen=True):
    """The owner says unload, pin, unpin, suspend or resume to what runs under a name."""

    client: int
    request: int
    command: str
    name: str


class ShutdownAsked(Event, frozen=True):
    """The kernel is to stop."""


class WorkerReserved(Event, frozen=True):
    """A worker knows what it will hold."""

    worker: int
    size: int
    weights: str = ""
    """Layout id of the weights object that it wants on top."""
    weights_bytes: int = 0


class WorkerFilled(Event, frozen=True):
    """A worker says that it has written its weights and unmapped them."""

    worker: int
    sealed: bool = False
    """Nobody can write to them any more, for ever; the shell has seen to it."""


class Pressure(Event, frozen=True):
    """What others on the box leave us has changed."""

    cores: float
    """Processors that we can count on."""
    memory: int
    """Bytes of the budget that the box really has now; at most the configured budget."""


class WorkerReady(Event, frozen=True):
    """A worker takes tasks."""

    worker: int
    slots: int


class WorkerUnready(Event, frozen=True):
    """A worker cannot serve, and says why."""

    worker: int
    why: Any
    """A ``Fault``, or what the plugin said (``Hidden``)."""


class WorkerGone(Event, frozen=True):
    """A worker's process has ended and its memory is back."""

    worker: int
    why: str


class WorkerBroke(Event, frozen=True):
    """A worker broke the protocol; the shell has stopped reading from it."""

    worker: int
    why: str


class WorkerAnswered(Event, frozen=True):
    """A worker has answered a ping."""

    worker: int


class WorkerWaited(Event, frozen=True):
    """A worker wanted a processor for so many more nanoseconds, and others had them all."""

    worker: int
    span: int


class Output(Event, frozen=True):
    """A worker says something of a task: yielded is that it gives it back, as it was asked to."""

    worker: int
    task: int
    kind: Literal["progress", "chunk", "done", "error", "yielded"]
    body: Any = None
    """The message itself (``Hidden``), or a ``Fault`` of the shell."""
    size: int = 0
    """Bytes of a chunk."""


class Together(Event, frozen=True):
    """What came in one round, in order: it is scheduled once, when all of it is known."""

    events: tuple[Submitted | Output, ...]


class WorkerDropped(Event, frozen=True):
    """A worker says that it has unmapped a segment."""

    worker: int
    memory: int


class MemoryGone(Event, frozen=True):
    """The pages of a memory object are back, or could not be had when it was to be made."""

    memory: int


class MemorySpoiled(Event, frozen=True):
    """What a weights object holds is damaged; whoever maps it is being ended."""

    memory: int


class Timer(Event, frozen=True):
    """The time that ``Core.next_timer`` named has come."""


# Instructions.


class Reply(Instruction, frozen=True):
    """Send a message of the kernel to a client."""

    client: int
    message: wire.Message


class Pass(Instruction, frozen=True):
    """Send a client what a worker said of its task (``Hidden``), or a ``Fault``."""

    client: int
    request: int
    word: Any
    times: tuple[int, int, int] | None = None
    """At the end of a task: nanoseconds that it was queued, waited for a load, and ran."""


class Start(Instruction, frozen=True):
    """Start a worker process."""

    worker: int
    spec: Spec


class Tell(Instruction, frozen=True):
    """Send a message to a worker."""

    worker: int
    message: wire.Message


class Dispatch(Instruction, frozen=True):
    """Have a worker run tasks in a slot; more than one are a batch."""

    worker: int
    slot: int
    tasks: tuple[tuple[int, Submitted, int | None], ...]
    """Number, what was asked for, and milliseconds until its deadline."""


class Control(Instruction, frozen=True):
    """Set the control word of a slot (``wire.GO`` and the others, and the threads granted)."""

    worker: int
    slot: int
    value: int


class Suspend(Instruction, frozen=True):
    """Stop every process of a worker where it stands (SIGSTOP), or let it go on (SIGCONT)."""

    worker: int
    stopped: bool


class Record(Instruction, frozen=True):
    """Write to the job journal; carry out ``then`` when that is safe on the disk."""

    kind: str
    """accept, start, end"""
    asked: Submitted
    """Whose ``job`` it is."""
    then: Any
    """Another instruction."""


class Kill(Instruction, frozen=True):
    """End a worker's process now; ``WorkerGone`` follows."""

    worker: int
    why: str


class MakeMemory(Instruction, frozen=True):
    """Create a memfd and pass it on: a segment to both of its pair, weights to who fills them.

    A client is told of leases of a segment only when both sides have it.
    """

    memory: int
    size: int
    worker: int
    client: int = 0
    """0: these are weights."""
    rights: wire.Rights = "rw"
    """Of the worker's descriptor."""


class GiveMemory(Instruction, frozen=True):
    """Pass sealed weights to another worker, which maps them for reading."""

    memory: int
    worker: int


class FreeMemory(Instruction, frozen=True):
    """Give the pages of what nobody maps back and, when they are, say ``MemoryGone``."""

    memory: int


class Log(Instruction, frozen=True):
    """Write a line."""

    level: str
    text: str
