"""The allocator: pages of one segment against a model, and pairs that do anything in any order."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.pool import PAGE, Memory, find
from clawai.kernel.state import DEAF
from clawai.sdk import wire
from core_bench import MIB, Bench, output
from core_bench import message as sent

KIB = 1024
SPECS = tuple(ev.Spec("tool", name, 0, 0, 2) for name in "ab")
SIZES = (1, 4 * KIB, 50 * KIB, 512 * KIB, 512 * KIB + 1, 3 * MIB, 16 * MIB, 18 * MIB, 60 * MIB)


@given(st.integers(0, (1 << 80) - 1), st.integers(1, 90))
def test_find_is_the_first_run_that_is_long_enough(free: int, pages: int) -> None:
    bits = [bool(free >> place & 1) for place in range(80)]
    fits = [p for p in range(80) if len(bits[p : p + pages]) == pages and all(bits[p : p + pages])]
    assert find(free, pages) == min(fits, default=-1)


def give_back(segment: Memory, generation: int) -> None:
    segment.returned[generation] = segment.leases.pop(generation)
    segment.take_back(generation)


@given(st.data())
def test_pages_of_a_segment(data: st.DataObject) -> None:
    """No page is lent twice, a run is found when there is one, and all of them come back."""
    segment = Memory(1, 64 * PAGE, 1, client=1)
    lent: dict[int, range] = {}
    for _ in range(data.draw(st.integers(1, 40))):
        taken = {page for pages in lent.values() for page in pages}
        if lent and data.draw(st.booleans()):
            generation = data.draw(st.sampled_from(sorted(lent)))
            give_back(segment, generation)
            del lent[generation]
            continue
        wanted = data.draw(st.integers(1, 20))
        runs = [p for p in range(65 - wanted) if taken.isdisjoint(range(p, p + wanted))]
        lease = segment.lend(wanted)
        assert bool(lease) == bool(runs)
        if lease:
            assert lease.offset == runs[0] * PAGE
            assert lease.length == wanted * PAGE
            assert lease.generation not in lent
            lent[lease.generation] = range(runs[0], runs[0] + wanted)
    for generation in list(segment.leases):
        give_back(segment, generation)
    assert segment.free == (1 << 64) - 1


class Pairs(RuleBasedStateMachine):
    """Three clients and two workers share 100 MiB; holders unmap when they like, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(100 * MIB)
        self.clients = [1, 2, 3]
        self.made: dict[int, ev.MakeMemory] = {}
        self.held: dict[tuple[int, int], wire.Lease] = {}
        """By segment and generation, what a client has and has not returned."""
        self.tasks: dict[int, tuple[int, wire.Lease]] = {}
        """Running: their workers and leases."""
        self.asked: dict[tuple[int, int], ev.Spec] = {}
        self.maps: set[tuple[str, int]] = set()
        """Who maps which segment."""
        self.wanted_back: set[tuple[str, int]] = set()
        self.freeing: list[int] = []
        self.requests = 0
        self.failing = False

    # What the core says.

    def do(self, event: Any) -> None:
        failed: list[int] = []
        for said in self.bench.do(event):
            if isinstance(said, ev.MakeMemory):
                if self.failing:
                    failed.append(said.memory)
                else:
                    self.made[said.memory] = said
                    self.maps |= {("client", said.memory), ("worker", said.memory)}
                self.failing = False
            elif isinstance(said, ev.Reply | ev.Pass):
                self._reply(said, failed)
            elif isinstance(said, ev.Tell) and isinstance(said.message, wire.Drop):
                self._wanted("worker", said.message.segment)
            elif isinstance(said, ev.Dispatch):
                number, asked, _ = said.tasks[0]
                self.tasks[number] = said.worker, asked.leases[0]
            elif isinstance(said, ev.FreeMemory):
                assert not self.maps & {("client", said.memory), ("worker", said.memory)}
                assert said.memory not in self.freeing, "told twice"
                self.freeing.append(said.memory)
        for number in failed:
            self.do(ev.MemoryGone(number))

    def _wanted(self, side: str, segment: int) -> None:
        assert (side, segment) in self.maps, "asked back twice, or what nobody maps"
        assert (side, segment) not in self.wanted_back
        assert not any(number == segment for number, _ in self.held), "a lease is lent"
        used = [lease for _, lease in self.tasks.values() if lease.segment == segment]
        assert not used, "a running task uses it"
        self.wanted_back.add((side, segment))

    def _reply(self, told: ev.Reply | ev.Pass, failed: list[int]) -> None:
        message = sent(told)
        if isinstance(message, wire.Drop):
            self._wanted("client", message.segment)
        elif isinstance(message, wire.Leased):
            assert self.asked.pop((told.client, message.id))
            if message.lease.segment not in failed:
                self._lent(told.client, message.lease)
        elif isinstance(message, wire.Error):
            self.asked.pop((told.client, message.id), None)

    def _lent(self, client: int, lease: wire.Lease) -> None:
        made = self.made[lease.segment]
        assert made.client == client
        assert lease.offset % PAGE == 0
        assert lease.offset + lease.length <= made.size
        others = [each for key, each in self.held.items() if key[0] == lease.segment]
        others += [each for _, each in self.tasks.values() if each.segment == lease.segment]
        mine = set(range(lease.offset // PAGE, (lease.offset + lease.length) // PAGE))
        for other in others:
            theirs = range(other.offset // PAGE, (other.offset + other.length) // PAGE)
            assert mine.isdisjoint(theirs), "a page is lent twice"
        if client in self.clients:
            self.held[lease.segment, lease.generation] = lease

    # What holders do.

    @rule(client=st.integers(0, 2), spec=st.sampled_from(SPECS), size=st.sampled_from(SIZES))
    def borrow(self, client: int, spec: ev.Spec, size: int) -> None:
        self.requests += 1
        self.asked[self.clients[client], self.requests] = spec
        self.do(ev.Borrowed(self.clients[client], self.requests, spec, size))

    @rule(spec=st.sampled_from(SPECS))
    def ready(self, spec: ev.Spec) -> None:
        service = self.bench.core.state.services.get(spec.key)
        if service and service.worker and service.worker.state == "starting":
            self.do(ev.WorkerReady(service.worker.id, 2))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[key]
        self.do(ev.Returned(self.made[key[0]].client, *key))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        lease = self.held[data.draw(st.sampled_from(sorted(self.held)))]
        made = self.made[lease.segment]
        worker = self.bench.core.state.workers.get(made.worker)
        if worker and len(worker.running) < 2:
            self.requests += 1
            self.bench.now += 1
            before = len(self.tasks)
            event = ev.Submitted(
                client=made.client, request=self.requests, spec=worker.spec, op="x",
                priority="normal", deadline=None, idempotent=False, payload=1, leases=(lease,),
            )  # fmt: skip
            self.do(event)
            assert len(self.tasks) == before + 1, "a lease that is lent can be used"

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.tasks)))
        worker = self.tasks[task][0]
        if self.bench.core.state.workers[worker].state not in DEAF:  # nor does its word count
            del self.tasks[task]
        self.do(output(worker, wire.Done(id=task)))

    @precondition(lambda self: self.wanted_back)
    @rule(data=st.data())
    def unmap(self, data: st.DataObject) -> None:
        side, segment = key = data.draw(st.sampled_from(sorted(self.wanted_back)))
        self.wanted_back.discard(key)
        self.maps.discard(key)
        made = self.made[segment]
        if side == "client":
            self.do(ev.Unmapped(made.client, segment))
        else:
            self.do(ev.WorkerDropped(made.worker, segment))

    @precondition(lambda self: self.freeing)
    @rule(data=st.data())
    def gone(self, data: st.DataObject) -> None:
        segment = data.draw(st.sampled_from(self.freeing))
        self.freeing.remove(segment)
        del self.made[segment]
        self.do(ev.MemoryGone(segment))

    @rule()
    def fail(self) -> None:
        self.failing = True

    @rule(client=st.integers(0, 2))
    def leave(self, client: int) -> None:
        number = self.clients[client]
        self.clients[client] = max(self.clients) + 1
        mine = {segment for segment, made in self.made.items() if made.client == number}
        self.maps -= {("client", segment) for segment in mine}
        self.wanted_back -= {("client", segment) for segment in mine}
        self.held = {key: lease for key, lease in self.held.items() if key[0] not in mine}
        self.asked = {key: spec for key, spec in self.asked.items() if key[0] != number}
        self.do(ev.ClientLeft(number))

    @precondition(lambda self: self.bench.core.state.workers)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.bench.core.state.workers)))
        mine = {segment for segment, made in self.made.items() if made.worker == worker}
        self.maps -= {("worker", segment) for segment in mine}
        self.wanted_back -= {("worker", segment) for segment in mine}
        self.tasks = {task: run for task, run in self.tasks.items() if run[0] != worker}
        self.do(ev.WorkerGone(worker, "killed"))

    @rule(ms=st.sampled_from((1, 3000)))
    def wait(self, ms: int) -> None:
        until = self.bench.now + ms * limits.MS
        while (due := self.bench.core.next_timer()) is not None and due <= until:
            self.bench.now = max(self.bench.now, due)
            self.do(ev.Timer())
        self.bench.now = until

    # What always holds.

    @invariant()
    def what_exists_is_charged(self) -> None:
        ledger = self.bench.core.state.ledger
        assert ledger.used == sum(made.size for made in self.made.values())
        assert ledger.used <= ledger.budget

    @invariant()
    def leases_are_conserved(self) -> None:
        """Those of the core are those that clients hold, and returned ones that tasks still use."""
        state = self.bench.core.state
        known = {
            (segment.id, generation): generation in segment.returned
            for segment in state.memory.values()
            for generation in [*segment.leases, *segment.returned]
        }
        assert {key for key, returned in known.items() if not returned} == set(self.held)
        used = {(lease.segment, lease.generation) for _, lease in self.tasks.values()}
        assert {key for key, returned in known.items() if returned} <= used
        for segment in state.memory.values():
            lent = [*segment.leases.values(), *segment.returned.values()]
            used = sum(each.length for each in lent)
            assert segment.free.bit_count() * PAGE == segment.size - used

    def teardown(self) -> None:
        """Everybody leaves: every byte comes back."""
        for client in range(3):
            self.leave(client)
        self.maps.clear()
        for worker in list(self.bench.core.state.workers):
            self.do(ev.WorkerGone(worker, "killed"))
        for segment in self.freeing:
            self.do(ev.MemoryGone(segment))
        assert not self.bench.core.state.memory
        assert self.bench.core.state.ledger.used == 0


def test_pairs_in_any_order() -> None:
    run_state_machine_as_test(
        Pairs,
        settings=settings(
            max_examples=50,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
