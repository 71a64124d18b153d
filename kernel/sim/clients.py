"""The clients of the simulated world, and its owner: they ask, cancel, lose patience and leave."""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clawai.kernel import events as ev
from clawai.kernel.limits import MIB, MS, SECOND
from clawai.kernel.sim.books import CLASSES, RANK, Ask, BrokenError
from clawai.kernel.sim.load import arrivals
from clawai.kernel.sim.scenario import KINDS
from clawai.sdk import wire

if TYPE_CHECKING:
    from clawai.kernel.sim.world import World

FOREVER = 1 << 61
SWEEP = 5 * SECOND
KEPT = 30 * SECOND
"""A client gives a lease back that it has not used for so long."""
OWNER = 1 << 40
HOUR = 3600 * SECOND


@dataclass(slots=True)
class Client:
    """One connection; when it leaves, another takes its place."""

    number: int
    principal: str
    lease: wire.Lease | None = None
    key: tuple[str, str, str] | None = None
    """Of the service that its lease is for."""
    borrows: bool = False
    """Has asked for a segment."""
    uses: int = 0
    used_at: int = 0


class Clients:
    """All streams of requests."""

    def __init__(self, world: "World", tasks: int) -> None:
        self.world = world
        self.left = tasks or FOREVER
        self.asked = 0
        self._limit = bool(tasks)
        self._requests = 0
        self._numbers = 0
        self._running = 0
        self._specs: list[list[ev.Spec]] = []
        self._clients: list[list[Client]] = []
        self._waiting: list[deque[tuple[int, Ask]]] = []
        self._taken_back: list[tuple[int, Ask]] = []
        self._by_number: dict[int, Client] = {}
        faults = world.faults
        weights = faults.kinds or dict.fromkeys(KINDS, 1.0)
        self._kinds, self._weights = tuple(weights), tuple(weights.values())

    @property
    def finished(self) -> bool:
        """Nobody will ask for anything more."""
        return self._running == 0

    def begin(self) -> None:
        """Everybody starts."""
        world, scenario = self.world, self.world.scenario
        services = {service.name: service for service in scenario.service}
        end = world.clock + (FOREVER if self._limit else int(scenario.seconds * SECOND))
        for number, stream in enumerate(scenario.stream):
            service = services[stream.service]
            specs = service.specs(stream.lane)
            world.services.update({spec.key: service for spec in specs})
            self._specs.append(specs)
            self._waiting.append(deque())
            self._clients.append(
                [self._connect(f"{n % stream.principals}") for n in range(stream.clients)]
            )
            times = arrivals(stream, world.rng, world.clock, end)
            self._running += 1
            self._next(number, times)
        world.later(SWEEP, self._sweep)
        faults = world.faults
        for rate, act in (
            (faults.jumps_per_hour, self._jump),
            (faults.pressure_per_hour, self._press),
            (faults.commands_per_hour, self._command),
        ):
            if rate:
                world.later(int(world.rng.expovariate(rate) * HOUR), self._again, rate, act)

    def _connect(self, principal: str) -> Client:
        self._numbers += 1
        client = self._by_number[self._numbers] = Client(self._numbers, f"uid {principal}")
        return client

    # Requests.

    def _next(self, number: int, times: Any) -> None:
        world = self.world
        when = next(times, None) if self.left > 0 else None
        if when is None:
            self._running -= 1
        else:
            world.later(max(0, when - world.clock), self._arrive, number, times)

    def _arrive(self, number: int, times: Any) -> None:
        if self.left > 0:
            self.left -= 1
            self._submit(number)
        self._next(number, times)

    def _submit(self, number: int) -> None:
        world = self.world
        stream, rng = world.scenario.stream[number], world.rng
        client, spec = rng.choice(self._clients[number]), rng.choice(self._specs[number])
        leases = self._leases(client, spec, stream.tensor_mib) if stream.tensor_mib else ()
        self._requests += 1
        self.asked += 1
        service = world.services[spec.key]
        work = stream.work.draw(rng)
        bad = rng.random() < world.faults.task
        fault = rng.choices(self._kinds, self._weights)[0] if bad else ""
        ask = Ask(
            client.number,
            self._requests,
            RANK[stream.priority],
            spec.key,
            world.clock,
            stream=number,
            work=work,
            fault=fault,
            skew=world.skew,
            job=bool(stream.durable) and not leases and rng.random() < stream.durable,
        )
        world.books.ask(ask)
        self._waiting[number].append((world.clock + int(stream.patience_s * SECOND), ask))
        limit = stream.deadline_ms
        deadline = None if limit is None else world.clock + world.skew + int(limit * MS)
        world.do(
            ev.Submitted(
                client=client.number,
                request=ask.request,
                spec=spec,
                op=f"{spec.plugin}.op",
                priority=CLASSES[ask.rank],
                deadline=deadline,
                idempotent=service.idempotent,
                payload=stream.payload,
                leases=leases,
                principal=client.principal,
                batch=service.batch,
                job=f"job {ask.request}" if ask.job else "",
            )
        )
        if stream.cancelled and rng.random() < stream.cancelled:
            world.later(int(rng.random() * 2 * work), self._cancel, ask)
        if world.faults.client and rng.random() < world.faults.client:
            world.later(int(rng.random() * 2 * work), self._leaves, number, client)

    def _leases(self, client: Client, spec: ev.Spec, size: float) -> tuple[wire.Lease, ...]:
        """The client's lease if it is for this service; else one is asked for, for later."""
        world = self.world
        client.used_at = world.clock
        if client.lease and client.key == spec.key:
            client.uses += 1
            if client.uses % 20:
                return (client.lease,)
            self._return(client)
        if client.lease:
            self._return(client)
        if not client.borrows:
            client.borrows, client.key = True, spec.key
            self._requests += 1
            ask = Ask(client.number, self._requests, 0, spec.key, world.clock, kind="borrow")
            world.books.ask(ask)
            world.do(ev.Borrowed(client.number, ask.request, spec, int(size * MIB)))
        return ()

    def _return(self, client: Client) -> None:
        lease, client.lease = client.lease, None
        assert lease
        if segment := self.world.memory.segments.get(lease.segment):
            segment.leases.discard(lease.generation)
        self.world.do(ev.Returned(client.number, lease.segment, lease.generation))

    def answered(self, ask: Ask, message: Any) -> None:
        """A request has come to its end."""
        client = self._by_number.get(ask.client)
        if ask.kind == "borrow":
            if isinstance(message, wire.Leased):
                lease = message.lease
                segment = self.world.memory.segments[lease.segment]
                if segment.client != ask.client or lease.generation in segment.leases:
                    raise BrokenError(f"leased what is another's: {message}")
                segment.leases.add(lease.generation)
            if client:
                client.borrows = False
                client.lease = message.lease if isinstance(message, wire.Leased) else None
        elif client and isinstance(message, ev.Fault) and message.key == "no_lease":
            client.lease = None

    def _cancel(self, ask: Ask) -> None:
        if ask.request in self.world.books.open:
            self.world.do(ev.CancelAsked(ask.client, ask.request))

    def _leaves(self, number: int, client: Client) -> None:
        clients = self._clients[number]
        if client not in clients:
            return
        self.world.injected("client left")
        clients[clients.index(client)] = self._connect(client.principal.removeprefix("uid "))
        self._gone(client)

    def _gone(self, client: Client) -> None:
        world = self.world
        del self._by_number[client.number]
        world.memory.client_left(client.number)
        if client.borrows:  # nobody is there to hear the answer
            for ask in [a for a in world.books.open.values() if a.client == client.number]:
                if ask.kind == "borrow":
                    del world.books.open[ask.request]
        world.do(ev.ClientLeft(client.number))

    def leave(self) -> None:
        """Every client goes."""
        for clients in self._clients:
            for client in clients:
                self._gone(client)

    def _sweep(self) -> None:
        """Clients whose answer does not come lose their patience."""
        world = self.world
        for waiting in self._waiting:
            while waiting and waiting[0][0] <= world.clock:
                ask = waiting.popleft()[1]
                self._cancel(ask)
                if ask.request in world.books.open:
                    self._taken_back.append((world.clock, ask))
        self._taken_back = [e for e in self._taken_back if e[1].request in world.books.open]
        for since, ask in self._taken_back:
            if world.clock - since > HOUR:
                raise BrokenError(f"a request that was taken back never ended: {ask}")
        for client in list(self._by_number.values()):
            if client.lease and world.clock - client.used_at > KEPT:
                self._return(client)
        for ask in world.books.open.values():  # the oldest is first
            if ask.kind != "submit" and world.clock - ask.at > HOUR:
                raise BrokenError(f"never answered: {ask}")
            if ask.kind != "submit":
                break
        if world.books.open or not self.finished:
            world.later(SWEEP, self._sweep)

    # The box and its owner.

    def _again(self, rate: float, act: Any) -> None:
        if not self.finished:
            act()
            self.world.later(int(self.world.rng.expovariate(rate) * HOUR), self._again, rate, act)

    def _jump(self) -> None:
        self.world.injected("clock jump")
        self.world.skew += int(self.world.rng.uniform(1, 90) * SECOND)

    def _press(self) -> None:
        world, box = self.world, self.world.scenario.box
        world.injected("pressure")
        share = world.rng.uniform(0.4, 1.0)
        cores = max(0.5, box.cores * world.rng.random())
        world.do(ev.Pressure(cores, int(world.budget * share)))
        relief = ev.Pressure(box.cores, world.budget)
        world.later(int(world.rng.uniform(5, 60) * SECOND), world.do, relief)

    def _command(self) -> None:
        world = self.world
        spec = world.rng.choice(world.rng.choice(self._specs))
        self.order(world.rng.choice(world.faults.commands), spec)

    def order(self, command: str, spec: ev.Spec) -> None:
        """The owner says something of a service; what he suspends he resumes."""
        world, name = self.world, spec.model or spec.plugin
        world.injected(f"owner: {command}")
        if command == "unload":
            for process in world.processes.values():
                process.excused |= name in (process.spec.plugin, process.spec.model)
        self._requests += 1
        world.books.ask(Ask(OWNER, self._requests, 0, spec.key, world.clock, kind="command"))
        world.do(ev.Commanded(OWNER, self._requests, command, name))
        back = {"suspend": "resume", "pin": "unpin"}.get(command)
        if back:
            world.later(int(world.rng.uniform(1, 60) * SECOND), self.order, back, spec)
