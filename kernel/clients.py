"""The clients' side of the shell: connections, requests, segments for them.

Principal is who the operating system says that the peer is (SO_PEERCRED), never what it says. The
steward accepts connections and hands over those that have said a proper hello. What has to be asked
of the steward makes its client wait: what that sent afterwards is handled after the answer, in
order.
"""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, get_args

from msgspec.structs import replace

from clawai.kernel import events as ev
from clawai.kernel import limits, mail
from clawai.kernel.boost import Boost
from clawai.kernel.child import Child, Then
from clawai.kernel.core import Core
from clawai.kernel.loop import Loop
from clawai.kernel.offers import Offer, Offers
from clawai.kernel.peers import POST, Peer
from clawai.kernel.queue import NEVER, RANK
from clawai.kernel.records import Records
from clawai.kernel.rows import rows
from clawai.sdk import wire
from clawai.sdk.errors import ClawError


@dataclass(slots=True)
class Client:
    """One connection to the ZeroMQ socket."""

    number: int
    peer: Peer
    uid: int
    leases: bool
    """It came with a lease socket. Whether that still leads there, the steward sees."""
    worker: int = 0
    """The worker whose operations ask for child tasks over it, and for nothing else."""
    front: str = ""
    """The plugin of that worker, if it may ask for others: for tasks of their own, and listings."""
    may: tuple[str, ...] = ()
    """What else, by its manifest."""
    urgent: bool = False
    """What it asked for last was."""
    left: bool = False
    """Its connection has ended; the core hears that when nothing is asked for it any more, as the
    segments that are made for it have to be there first."""


@dataclass
class Clients:
    """All of them."""

    loop: Loop
    steward: Child
    records: Records
    core: Core
    """It is looked at."""
    boost: Boost
    stop: Callable[[], None]
    """Begins the end of the kernel."""
    by_number: dict[int, Client] = field(default_factory=dict)
    full: dict[int, Client] = field(default_factory=dict)
    """Those for whom too much waits, unless they begin to read."""
    news: dict[tuple[int, int], tuple[int, wire.Accepted]] = field(default_factory=dict)
    """By client and request, what it has not been told yet and when it is to be."""
    making: dict[int, list[wire.Leased]] = field(default_factory=dict)
    """Segments that are being made, and what is to be said about them then."""
    last: int = 0
    """The number that was given last."""

    def __post_init__(self) -> None:
        self.offers = Offers(self.steward)

    # Connections.

    def connected(
        self, number: int, uid: int, leases: bool, welcome: bytes, early: bytes, fd: int = -1
    ) -> None:
        """The steward hands over a client that has said hello.

        Args:
            welcome: what it is to be told.
            early: what it has sent behind its hello.
            fd: its connection; -1 if the system had no descriptor for us, and has closed it.
        """
        self.last = number
        if fd < 0:
            self.steward.ask("left", number, then=_nothing)
            return
        client = Client(number, Peer(socket.socket(fileno=fd), early), uid, leases)
        self.by_number[number] = client
        client.peer.write(welcome)
        client.peer.attach(self.loop, partial(self._message, client), partial(self._ended, client))

    def family(
        self, worker: int, front: str, may: Any, number: int, uid: int, welcome: bytes, fd: int = -1
    ) -> None:
        """The steward hands over the connection of a worker for child tasks."""
        self.connected(number, uid, False, welcome, b"", fd)
        if client := self.by_number.get(number):
            client.worker, client.front, client.may = worker, front, tuple(may)

    def _ended(self, client: Client, error: ClawError | None) -> None:
        if error:
            self._answer(client.number, None, error)
        self.leave(client, error.message if error else "closed")

    def leave(self, client: Client, why: str) -> None:
        """Forget a client; its tasks are cancelled and its leases end."""
        if client.left:
            return
        client.left = True
        self.full.pop(client.number, None)
        client.peer.close()
        if why != "closed":
            self.steward.log("warning", f"client {client.number} is disconnected: {why}")
        self._ask(client, "left", client.number, then=_nothing)

    # Segments.

    def make_segment(self, told: ev.MakeMemory) -> None:
        """Have a segment made and passed to both sides, and only then tell its client of leases.

        The core takes it that the segment is there, so nothing is heard of that client before.
        """
        self.making[told.memory] = []

        def made(said: Any) -> None:
            if isinstance(said, ClawError):
                self.loop.happen(ev.MemoryGone(told.memory))
            for leased in self.making.pop(told.memory):
                self._answer(told.client, leased.id, said, leased)

        asked = told.memory, told.size, told.worker, told.client, told.rights
        self._ask(self.by_number[told.client], "make_segment", *asked, then=made)

    # Time.

    def next_timer(self) -> int | None:
        """When somebody is to be told that a task was accepted, or who does not read is to go."""
        go = [client.peer.moved + limits.STUCK for client in self.full.values()]
        return min([*go, *[due for due, _ in islice(self.news.values(), 1)]], default=None)

    def expire(self, now: int) -> None:
        """Tell the news once the first are due, and close connections that have stopped reading."""
        if any(due <= now for due, _ in islice(self.news.values(), 1)):
            news, self.news = self.news, {}
            for (number, _), (_, message) in news.items():
                self._send(number, message)
        for client in list(self.full.values()):
            if client.peer.waiting <= limits.OUTBOX:
                del self.full[client.number]
            elif now >= client.peer.moved + limits.STUCK:
                self.leave(client, f"it does not read, {client.peer.waiting} bytes wait for it")

    # Messages.

    def reply(self, told: ev.Reply) -> None:
        """Send what the kernel says to a client."""
        message = told.message
        if isinstance(message, wire.Leased) and message.lease.segment in self.making:
            self.making[message.lease.segment].append(message)
        elif isinstance(message, wire.Accepted) and not message.job:
            self.news[told.client, message.id] = time.monotonic_ns() + limits.NEWS, message
        else:
            self._send(told.client, message)

    def passed(self, told: ev.Pass) -> None:
        """Send a client what a worker says, or why not."""
        self._send(told.client, *mail.to_client(told))

    def _send(self, number: int, message: wire.Message, frames: tuple[bytes, ...] = ()) -> None:
        """Send to a client that is still there; one that does not read is let go."""
        client = self.by_number.get(number)
        if client is None:
            if not number:
                self.records.refused(message)
            return
        ended = isinstance(message, wire.Done | wire.Error)
        news = self.news.pop((number, getattr(message, "id", 0)), None) if self.news else None
        if news and not ended:
            client.peer.send(news[1])
        if client.urgent and ended:
            self._be_eager()
        client.peer.send(message, frames)
        if client.peer.waiting > limits.OUTBOX:
            self.full[client.number] = client
        if client.peer.waiting > POST:
            total = sum(other.peer.waiting for other in self.by_number.values())
            if total > limits.OUTBOX_TOTAL:
                worst = max(self.by_number.values(), key=lambda other: other.peer.waiting)
                self.leave(worst, f"it does not read, {worst.peer.waiting} bytes wait for it")

    def _be_eager(self) -> None:
        """Not among many: they keep the loop awake, and their workers need the processors."""
        if len(self.core.state.tasks) <= limits.FEW:
            self.loop.eager = time.monotonic_ns() + limits.EAGER

    def _answer(self, number: int, request: Any, said: Any, good: Any = None) -> None:
        """Tell a client what came of a request: an error, or ``good``, or else a listing."""
        if isinstance(said, ClawError):
            good = wire.error_message(said, request)
        self._send(number, good or wire.Answer(id=request, data=wire.Raw(said)))

    def _ask(self, client: Client, name: str, *question: Any, then: Then) -> None:
        """Ask the steward; nothing is heard of the client for which it is until the answer, not
        even that it has left."""
        client.peer.paused += 1

        def answered(said: Any) -> None:
            then(said)
            client.peer.resume()
            if client.left and not client.peer.paused:
                del self.by_number[client.number]
                self.loop.happen(ev.ClientLeft(client.number))

        self.steward.ask(name, *question, then=answered)

    def _offered(
        self, client: Client, asked: Any, then: Callable[[Offer], None], caller: str = ""
    ) -> None:
        """Go on with the offer of what a submit or a borrow names; ``caller``: for a plugin."""
        key = asked.op, asked.model, asked.priority == "batch", caller
        if offer := self.offers.known(key):
            then(offer)
            return

        def resolved(said: Any) -> None:
            self.offers.learn(key, said)
            if isinstance(said, ClawError):
                self._answer(client.number, asked.id, said)
            elif not client.left:
                then(self.offers.by_key[key])

        self._ask(client, "resolve", *key, then=resolved)

    def _message(self, client: Client, frames: list[bytes]) -> None:
        request = None
        try:
            message = wire.decode(frames, wire.FromClient)
            request = getattr(message, "id", None)
            if type(message) is not wire.Submit:
                self.loop.end_round()  # of which it may ask
                fine = _FRONT if client.front else _FAMILY
                if client.worker and type(message) not in fine:
                    raise mail.error(ev.Fault("children_only"))
            _REQUESTS[type(message)](self, client, message, frames)
        except ClawError as error:
            self._answer(client.number, request, error)

    def _hello(self, client: Client, hello: wire.Hello, frames: list[bytes]) -> None:
        raise ClawError("bad_state", "hello was said before")

    def _submit(self, client: Client, asked: wire.Submit, frames: list[bytes]) -> None:
        deadline, principal, caller = NEVER, f"uid:{client.uid}", ""
        if asked.deadline_ms is not None:
            most = max(-1, min(asked.deadline_ms, 1 << 40))
            deadline = time.monotonic_ns() + most * limits.MS
        if client.front and asked.parent is None:
            principal, caller = f"{client.front}:{asked.behalf}", client.front
        elif asked.behalf:
            raise mail.error(ev.Fault("no_front"))
        elif client.worker or asked.parent is not None:
            self.loop.end_round()  # its parent may have begun, or ended, in it
            parent = self.core.state.tasks.get(asked.parent or 0)
            if parent is None or parent.worker != client.worker:
                raise mail.error(ev.Fault("no_parent", got=asked.parent))
            of_both = asked.priority, parent.asked.priority
            asked = replace(asked, priority=max(of_both, key=RANK.__getitem__))
            deadline, principal = min(deadline, parent.deadline), parent.asked.principal
            caller = parent.service.spec.plugin

        def submit(offer: Offer) -> None:
            event = ev.Submitted(
                client=client.number,
                request=asked.id,
                spec=offer.spec,
                op=asked.op,
                priority=asked.priority,
                deadline=None if deadline == NEVER else deadline,
                idempotent=offer.idempotent,
                payload=sum(map(len, frames)),
                leases=asked.leases,
                body=ev.Hidden(wire.Raw(bytes(asked.params)), tuple(frames[1:])),
                principal=principal,
                batch=offer.batch,
                job=os.urandom(8).hex() if asked.durable else "",
                keep_ns=None if asked.keep_alive_s is None else asked.keep_alive_s * limits.SECOND,
                parent=asked.parent or 0,
                window=0 if asked.durable else asked.window,  # it streams on without its client
            )
            self.loop.gather(event)
            client.urgent = asked.priority in ("critical", "interactive")
            if client.urgent:
                self._be_eager()

        self._offered(client, asked, submit, caller)

    def _more(self, client: Client, told: wire.More, frames: list[bytes]) -> None:
        self.loop.happen(ev.Taken(client.number, told.id, told.bytes))

    def _cancel(self, client: Client, asked: wire.Cancel, frames: list[bytes]) -> None:
        self.loop.happen(ev.CancelAsked(client.number, asked.id))

    def _borrow(self, client: Client, asked: wire.Borrow, frames: list[bytes]) -> None:
        if not client.leases:
            raise mail.error(ev.Fault("leaseless"))

        def borrow(offer: Offer) -> None:
            event = ev.Borrowed(client.number, asked.id, offer.spec, asked.bytes, asked.rights)
            self.loop.happen(event)

        self._offered(client, asked, borrow)

    def _return(self, client: Client, told: wire.Return, frames: list[bytes]) -> None:
        self.loop.happen(ev.Returned(client.number, told.segment, told.generation))

    def _dropped(self, client: Client, told: wire.Dropped, frames: list[bytes]) -> None:
        self.loop.happen(ev.Unmapped(client.number, told.segment))

    def _query(self, client: Client, asked: wire.Query, frames: list[bytes]) -> None:
        answer = partial(self._answer, client.number, asked.id)
        verb, _, job = asked.what.partition(":")
        if client.front and verb in RIGHTS.values() and verb not in client.may:
            raise mail.error(ev.Fault("not_asked", got=verb))
        if verb == "timeline" or (verb in ("jobs", "job") and not client.front):
            self.records.ask(f"uid:{client.uid}", verb, job, answer)
            return
        listed = rows(self.core, asked.what, time.monotonic_ns())
        listed["boost_ns"] = self.boost.ns
        self._ask(client, "view", asked.what, self.steward.lost, listed, then=answer)

    def _admin(self, client: Client, asked: wire.Admin, frames: list[bytes]) -> None:
        if client.front and RIGHTS.get(asked.command) not in client.may:
            raise mail.error(ev.Fault("not_asked", got=asked.command))
        if asked.command == "shutdown":
            self._answer(client.number, asked.id, wire.pack({"pid": os.getpid()}))
            self.stop()
        elif asked.command.startswith("job-"):
            answer = partial(self._answer, client.number, asked.id)
            self.records.ask(f"uid:{client.uid}", asked.command, asked.name, answer)
        elif asked.command in ERRANDS:
            answer = partial(self._answer, client.number, asked.id)
            listed = rows(self.core, asked.command, time.monotonic_ns())
            told = asked.command, asked.name, client.front, listed
            self._ask(client, "errand", *told, then=answer)
        elif asked.command in COMMANDS:
            self.loop.happen(ev.Commanded(client.number, asked.id, asked.command, asked.name))
        else:
            allowed = ["shutdown", *COMMANDS, *ERRANDS]
            raise ClawError("bad_params", "no such command", asked.command, allowed)

    def close(self) -> None:
        """Close every connection, once what waits for it is sent or half a second has passed."""
        until = time.monotonic() + 0.5
        for client in [each for each in self.by_number.values() if not each.left]:
            client.peer.sock.settimeout(max(0.0, until - time.monotonic()))
            client.peer.flush()
            client.peer.close()


def _nothing(_: object) -> None:
    """Only the order matters in which the steward answers."""


COMMANDS = ("pin", "resume", "suspend", "unload", "unpin")
ERRANDS = ("pull", "remove")
"""What the steward does."""
RIGHTS = {name: name for name in ("logs", "timeline", "pin", "unload", *ERRANDS)} | {"unpin": "pin"}
"""Of a front: what its manifest has to ask for, by what it says."""
RIGHTS["boxes"] = "boxes"
_FAMILY = (wire.Cancel, wire.More)
_FRONT = (*_FAMILY, wire.Query, wire.Admin)
_REQUESTS: dict[type, Any] = {
    kind: getattr(Clients, f"_{kind.__name__.lower()}") for kind in get_args(wire.FromClient)
}
"""What a client may say is handled by the method of that name."""
