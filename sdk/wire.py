"""The wire: every message between clients, kernel and workers, typed (``WIRE.md`` is normative).

A message is a ZeroMQ multipart: frame 0 is one of the structs below as a msgpack map whose
``type`` names it, the frames after it are raw payload. Fields that a reader does not know are
ignored; a type that it does not know, or a field of a wrong type, is a ``ClawError`` with the code
``bad_message``. Parameters, results and the details of errors travel as msgpack that the kernel
never decodes; those who do find what they need in ``plain``.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from clawai.sdk.errors import ClawError

VERSION = (1, 4)
"""Major (peers must agree) and minor (adds fields and types only)."""

MAX_FRAMES = 64
MAX_MESSAGE = 8 << 20
"""Bytes of all frames of one message; larger values travel as leases or as several chunks."""
MAX_HEADER = 4 << 20
MAX_OPEN = 256
DETAIL = 8192
"""Bytes of what was got, or is allowed, in an error."""

GO, STOP, HOLD, YIELD = range(4)
"""The low byte of a control word: run; end the task; wait until it is another; give the task back
to the queue at the next checkpoint. The second byte is how many threads the slot may use now, 0:
as many as the worker was started with. The rest is 0."""

Priority = Literal["critical", "interactive", "normal", "batch"]
Rights = Literal["r", "rw"]
PRIORITIES: tuple[Priority, ...] = ("critical", "interactive", "normal", "batch")
Id = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Size = Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]
Name = Annotated[str, msgspec.Meta(max_length=256)]
Text = Annotated[str, msgspec.Meta(max_length=8192)]
Code = Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{1,64}\Z")]
Raw = msgspec.Raw
EMPTY_MAP = Raw(b"\x80")
NIL = Raw(b"\xc0")


class Message(msgspec.Struct, tag_field="type", tag=str.lower, frozen=True, omit_defaults=True):
    """What all messages share: the tag ``type``, which is the name of the struct in lower case."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a segment that the kernel gave to one client and one worker incarnation."""

    segment: Id
    offset: Size
    length: Size
    generation: Id
    rights: Rights = "rw"
    """What the worker may do with it."""


# Client to kernel.


class Hello(Message, frozen=True, kw_only=True):
    """First message of a client."""

    version: tuple[int, int]
    token: bytes = b""
    """One-time token from the lease socket; without it the connection works without leases."""
    name: Name = ""
    """For people who read listings; never trusted."""


class Submit(Message, frozen=True, kw_only=True):
    """Ask for an operation; answered by accepted, then progress and chunks, then done or error."""

    id: Id
    op: Name
    model: Name = ""
    priority: Priority = "interactive"
    deadline_ms: int | None = None
    """From the arrival at the kernel; 0 or less is already past."""
    params: Raw = EMPTY_MAP
    leases: tuple[Lease, ...] = ()
    durable: bool = False
    """Journalled before it is accepted: it survives the client and the kernel (``claw jobs``)."""
    keep_alive_s: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] | None = None
    """How long its worker stays loaded after it; None: as configured."""
    parent: Id | None = None
    """Of a worker: which of its tasks asks. Priority, deadline and principal are at most those of
    that one, and it ends with it."""
    window: Size = 0
    """Bytes of chunks that may be on their way to a client that has not said ``more``; 0: any."""
    behalf: Name = ""
    """Of a front's worker: for whom of those that it serves it asks."""


class More(Message, frozen=True, kw_only=True):
    """So many bytes of a task's chunks, data and payload, were taken: as many more may come."""

    id: Id
    bytes: Size


class Cancel(Message, frozen=True, kw_only=True):
    """End a task. From a client ``id`` is its request, from the kernel to a worker the task."""

    id: Id


class Query(Message, frozen=True, kw_only=True):
    """Ask what is there: status, plugins, operations, models, tasks, workers."""

    id: Id
    what: Name


class Admin(Message, frozen=True, kw_only=True):
    """Change what runs or is stored: shutdown; unload, pin, unpin, suspend, resume, pull or remove
    what ``name`` says."""

    id: Id
    command: Name
    name: Name = ""


class Borrow(Message, frozen=True, kw_only=True):
    """Ask for a segment shared with the worker of an operation; the answer is ``leased``."""

    id: Id
    op: Name
    model: Name = ""
    bytes: Size
    priority: Priority = "interactive"
    """Class of the tasks that will use it: batch tasks of a tool run in a worker of their own."""
    rights: Rights = "rw"
    """r: the worker gets a descriptor that it can only read from; its writes fail."""


class Return(Message, frozen=True, kw_only=True):
    """Give a lease back; the kernel may give the segment to the same pair again."""

    segment: Id
    generation: Id


# Kernel to client.


class Welcome(Message, frozen=True, kw_only=True):
    """Answer to ``hello``."""

    version: tuple[int, int]
    kernel: Name
    pid: Id
    principal: Name
    leases: bool
    max_message: Size = MAX_MESSAGE
    max_frames: int = MAX_FRAMES
    max_open: int = MAX_OPEN
    """Requests of one client that may be open at a time."""


class Accepted(Message, frozen=True, kw_only=True):
    """The task is queued; ``position`` 0 is the next of its worker."""

    id: Id
    task: Id
    position: int = 0
    estimate_ms: int | None = None
    """Until it begins to run, by what was learned of those before it; None: nothing learned yet."""
    job: Name = ""
    """Of a durable task: names it for ever."""


class Answer(Message, frozen=True, kw_only=True):
    """Reply to query and admin."""

    id: Id
    data: Raw = EMPTY_MAP


class Leased(Message, frozen=True, kw_only=True):
    """Reply to ``borrow``; the descriptor comes over the lease socket with the same segment id."""

    id: Id
    lease: Lease


# Both ways: a worker says these of a task, and the kernel passes them on under the request's id.


class Progress(Message, frozen=True, kw_only=True):
    """The task lives. Sent on news, and at least once a second while a task is not at its end."""

    id: Id
    state: Name = ""
    """queued, loading, running, held, suspended"""
    position: int | None = None
    estimate_ms: int | None = None
    fraction: float | None = None
    note: Text = ""
    incarnation: Id = 0


class Chunk(Message, frozen=True, kw_only=True):
    """A piece of a streamed result; payload frames belong to it."""

    id: Id
    data: Raw = NIL
    incarnation: Id = 0


class Done(Message, frozen=True, kw_only=True):
    """The end of a task that succeeded."""

    id: Id
    result: Raw = NIL
    timings: dict[str, int] = {}
    """Microseconds: queue_us, load_us, compute_us, plugin_us, wire_us."""
    incarnation: Id = 0


class Error(Message, frozen=True, kw_only=True):
    """The end of a task that did not, or (without id) a complaint about the connection."""

    id: Id | None = None
    code: Code
    message: Text
    got: Raw = NIL
    allowed: Raw = NIL
    hint: Text = ""
    retry_after_ms: int | None = None
    """When the same request may fare better, where that is known."""
    timings: dict[str, int] = {}
    incarnation: Id = 0


# Kernel to worker.


class Run(Message, frozen=True, kw_only=True):
    """Run a task. ``slot`` is its control word in the control page."""

    id: Id
    op: Name
    params: Raw
    slot: int
    remaining_ms: int | None = None
    priority: Priority = "interactive"
    leases: tuple[Lease, ...] = ()
    principal: Name = ""
    """Who asked: what a worker keeps of a task may serve the same one's next tasks only."""


class BatchItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One task of a batch; ``frames`` of the payload, in the order of the items, are its own."""

    id: Id
    params: Raw
    frames: int = 0
    remaining_ms: int | None = None
    priority: Priority = "interactive"
    leases: tuple[Lease, ...] = ()


class Batch(Message, frozen=True, kw_only=True):
    """Run several tasks of one operation together; each ends with a done or an error of its own."""

    op: Name
    slot: int
    items: tuple[BatchItem, ...]


class Granted(Message, frozen=True, kw_only=True):
    """The reservation is charged; load now."""

    weights: Literal["", "fill", "map"] = ""
    """Of the weights object that was reserved: its descriptor comes over the lease socket. fill: it
    is empty; write it, unmap it, say ``filled`` and wait for ``sealed``. map: it is whole."""


class Sealed(Message, frozen=True, kw_only=True):
    """The weights object that was filled can be mapped for reading; nobody can change it now."""


class Drop(Message, frozen=True, kw_only=True):
    """Unmap and close a segment, then say ``dropped``.

    To a worker: its pair has ended, or the memory is needed. To a client: nothing in it is lent and
    its worker has ended, or the memory is needed; it counts until the answer. A lease that is lent
    later comes with another segment.
    """

    segment: Id


class Ping(Message, frozen=True, kw_only=True):
    """Are you there?"""

    seq: Id


class Stop(Message, frozen=True, kw_only=True):
    """Finish nothing, exit."""


# Worker to kernel.


class Reserve(Message, frozen=True, kw_only=True):
    """What the worker will hold once loaded, in bytes; it waits for ``granted``."""

    bytes: Size
    """Of its own, the weights object not counted."""
    weights: Name = ""
    """Layout id of a weights object, if it wants one: with the model's file and the plugin's code
    it says what the object holds."""
    weights_bytes: Size = 0
    incarnation: Id


class Ready(Message, frozen=True, kw_only=True):
    """The worker takes tasks."""

    version: tuple[int, int]
    incarnation: Id
    slots: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    operations: Raw = Raw(b"\x90")
    """As ``plugin.OperationInfo``; the kernel goes by the manifest."""
    info: Raw = EMPTY_MAP


class Unready(Message, frozen=True, kw_only=True):
    """The worker cannot serve (a bad model, no memory) and ends."""

    incarnation: Id
    code: Code
    message: Text
    got: Raw = NIL
    allowed: Raw = NIL
    hint: Text = ""


class Dropped(Message, frozen=True, kw_only=True):
    """Answer to ``drop``. A client leaves ``incarnation`` out."""

    segment: Id
    incarnation: Id = 0


class Filled(Message, frozen=True, kw_only=True):
    """The weights object is written and unmapped; answered by ``sealed``."""

    incarnation: Id


class Yielded(Message, frozen=True, kw_only=True):
    """The task stopped as its control word asked and can run again from its beginning."""

    id: Id
    incarnation: Id


class Pong(Message, frozen=True, kw_only=True):
    """Answer to ``ping``."""

    seq: Id
    incarnation: Id


FromClient = Hello | Submit | More | Cancel | Query | Admin | Borrow | Return | Dropped
ToClient = Welcome | Accepted | Answer | Leased | Drop | Progress | Chunk | Done | Error
ToWorker = Run | Batch | Cancel | Granted | Sealed | Drop | Ping | Stop
FromWorker = (
    Reserve | Ready | Unready | Progress | Chunk | Done | Error | Dropped | Filled | Yielded | Pong
)

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[Any, Any] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in (FromClient, ToClient, ToWorker, FromWorker)
}


def encode(message: Message, frames: Sequence[bytes | memoryview] = ()) -> list[bytes | memoryview]:
    """The frames of one message."""
    return [_encoder.encode(message), *frames]


def decode(frames: Sequence[bytes], kind: Any) -> Any:
    """Read frame 0 as one of ``kind`` (``FromClient``, ``ToClient``, ``ToWorker``, ``FromWorker``).

    Raises:
        ClawError: bad_message, with the path of the offending field.
    """
    size = len(frames[0]) if frames else 0
    if not 0 < size <= MAX_HEADER:
        raise ClawError("bad_message", "bytes of the first frame, the header", size, MAX_HEADER)
    try:
        return _decoders[kind].decode(frames[0])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        text = f"the header is not a message of this protocol: {error}"[:1000]
        hint = "see WIRE.md, section Messages"
        raise ClawError("bad_message", text, bytes(frames[0][:48]), hint=hint) from None


def pack(value: Any) -> Raw:
    """Plain values, dataclasses or structs as msgpack, for a field of type Raw."""
    return Raw(_encoder.encode(value))


def error_message(error: ClawError | Error | Unready, id: int | None = None) -> Error:  # noqa: A002
    """An error as the message that passes it on; a detail that is too large is left out."""
    return Error(
        id=id,
        code=error.code,
        message=error.message[:8000],
        got=_detail(error.got),
        allowed=_detail(error.allowed),
        hint=error.hint[:8000],
        retry_after_ms=getattr(error, "retry_after_ms", None),
        timings=getattr(error, "timings", {}),
    )


def _detail(value: Any) -> Raw:
    """Plain values of our own, or what a stranger wrote (``Raw``), which stays as it is."""
    try:
        packed = pack(value)
    except OverflowError:  # the sum of what a peer announced
        return NIL
    return packed if packed != NIL and len(packed) <= DETAIL else NIL
