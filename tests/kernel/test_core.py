"""The core's rules one by one: order, memory, death and return, cancel, deadlines, leases."""

import random
from dataclasses import replace
from typing import Any

import pytest

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.core import Core
from clawai.kernel.state import BrokenInvariantError
from clawai.sdk import wire
from clawai.sdk.errors import ClawError

MIB = limits.MIB
SECOND = limits.SECOND
TOOL = ev.Spec("tool", "", 100 * MIB, 0, 1)
WIDE = ev.Spec("wide", "", 100 * MIB, 0, 4)


class Bench:
    """A core, a clock, and shorthands."""

    def __init__(self, budget: int = 1000 * MIB, idle_ns: int = 0) -> None:
        self.core = Core(budget, idle_ns)
        self.now = 1000 * SECOND
        self.said: list[ev.Instruction] = []

    def do(self, event: ev.Event, after: int = 0) -> list[ev.Instruction]:
        self.now += after
        said = self.core.handle(event, self.now)
        self.core.check()
        self.said += said
        return said

    def submit(
        self, request: int, spec: ev.Spec = TOOL, deadline: int | None = None, **fields: Any
    ) -> list[ev.Instruction]:
        """``deadline`` counts from now."""
        values: dict[str, Any] = {
            "client": 1,
            "op": "tool.op",
            "priority": "interactive",
            "deadline": None if deadline is None else self.now + deadline,
            "idempotent": False,
            "payload": 10,
            "leases": (),
            "params": wire.EMPTY_MAP,
        }
        return self.do(ev.Submitted(request=request, spec=spec, **(values | fields)))

    def ready(self, spec: ev.Spec = TOOL, slots: int = 1) -> int:
        """Make the worker of ``spec`` ready; its number."""
        worker = self.core.state.services[spec.key].worker
        assert worker
        self.do(ev.WorkerReady(worker.id, slots))
        return worker.id

    def pass_time(self, span: int) -> list[ev.Instruction]:
        """Let time pass, each timer at its own moment."""
        until, said = self.now + span, []
        while (due := self.core.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            said += self.do(ev.Timer())
        self.now = until
        return said


def runs(said: list[ev.Instruction]) -> list[wire.Run]:
    return [s.message for s in said if isinstance(s, ev.Tell) and isinstance(s.message, wire.Run)]


def ends(said: list[ev.Instruction]) -> dict[int, str]:
    """Request to the code of its end, ``done`` if it succeeded."""
    found: dict[int, str] = {}
    for told in said:
        if isinstance(told, ev.Reply) and isinstance(told.message, wire.Done | wire.Error):
            assert told.message.id is not None
            assert told.message.id not in found
            found[told.message.id] = getattr(told.message, "code", "done")
    return found


def kinds(said: list[ev.Instruction], kind: type) -> list[Any]:
    return [told for told in said if isinstance(told, kind)]


def served(bench: Bench, worker: int) -> list[int]:
    """Finish each task as it comes; the requests in the order in which they ran."""
    state, order = bench.core.state, []
    while state.workers[worker].running:
        task = state.workers[worker].running[0]
        order.append(task.asked.request)
        bench.do(ev.Output(worker, wire.Done(id=task.id)))
    return order


def test_twenty_requests_run_in_priority_order() -> None:
    bench = Bench()
    classes = [c for c in wire.PRIORITIES for _ in range(5)]
    shuffled = random.Random(1).sample(range(20), 20)
    for index in shuffled:
        bench.submit(index, priority=classes[index])
    order = served(bench, bench.ready())
    expected = [i for c in range(4) for i in shuffled if i // 5 == c]
    assert order == expected


def test_deadlines_come_first_within_a_class() -> None:
    bench = Bench()
    for request, deadline in ((1, None), (2, 20 * SECOND), (3, 5 * SECOND), (4, 3600 * SECOND)):
        bench.submit(request, deadline=deadline)
    bench.submit(5, priority="critical")
    bench.submit(6, priority="batch", deadline=SECOND)
    assert served(bench, bench.ready()) == [5, 3, 2, 1, 4, 6]


def busy_worker(bench: Bench) -> int:
    """A ready worker that runs request 0."""
    bench.submit(0, priority="critical")
    return bench.ready()


def wait_busy(bench: Bench, worker: int, span: int) -> None:
    """Let time pass while the worker answers its pings."""
    for _ in range(span // SECOND):
        bench.pass_time(SECOND)
        bench.do(ev.WorkerAnswered(worker))


def test_waiting_long_counts_as_a_higher_class() -> None:
    bench = Bench()
    worker = busy_worker(bench)
    bench.submit(1, priority="batch")
    wait_busy(bench, worker, 59 * SECOND)
    bench.submit(2, priority="interactive")
    bench.submit(3, priority="normal")
    # 59 s are one patience of 30 s: the batch task counts as normal, and is older than task 3.
    assert served(bench, worker) == [0, 2, 1, 3]


def test_a_start_that_takes_too_long_is_told_at_once_and_leads_to_quarantine() -> None:
    bench = Bench()
    for request in range(1, limits.FAILED_STARTS + 1):
        bench.submit(request)
        state = bench.core.state
        worker = next(iter(state.workers), 0) or state.last["worker"]
        said = bench.pass_time(limits.START + SECOND)
        assert ends(said) == {request: "worker_hung"}
        bench.do(ev.WorkerGone(worker, "killed"))
        bench.pass_time(6 * SECOND)
    assert ends(bench.submit(9)) == {9: "quarantined"}
    assert not bench.core.state.workers


def test_the_owner_hears_of_the_deadline_at_the_deadline() -> None:
    bench = Bench()
    bench.submit(1, deadline=2 * SECOND)
    worker = bench.ready()
    said = bench.pass_time(2 * SECOND)
    assert ends(said) == {1: "deadline_passed"}
    assert kinds(said, ev.Control), "and the worker is told to stop"
    # It does not: it is killed after the grace, and the owner hears nothing more of it.
    assert kinds(bench.pass_time(limits.CANCEL_GRACE), ev.Kill)
    assert ends(bench.do(ev.WorkerGone(worker, "killed"))) == {}
    assert not bench.core.state.tasks


def test_one_deadly_task_counts_once() -> None:
    """It is run twice; both deaths together would lock out everybody after two such tasks."""
    bench = Bench()
    for request in (1, 2, 3):
        bench.submit(request, idempotent=True)
        for _ in range(limits.ATTEMPTS):
            bench.do(ev.WorkerGone(bench.ready(), "exited with code 5"))
            bench.pass_time(6 * SECOND)
    assert set(ends(bench.said).values()) == {"worker_died"}
    assert ends(bench.submit(4)) == {}


def test_a_replaced_model_is_not_served_by_the_old_worker() -> None:
    bench = Bench()
    old = replace(TOOL, identity="old")
    new = replace(TOOL, identity="new")
    bench.submit(1, old)
    worker = bench.ready(old)
    bench.submit(2, new)
    assert served(bench, worker) == [1], "what runs may end; what waits goes to a new worker"
    assert bench.core.state.workers[worker].state == "stopping"
    bench.do(ev.WorkerGone(worker, "exited"))
    assert served(bench, bench.ready(new)) == [2]


@pytest.mark.parametrize(("busy", "bound"), [("interactive", 60), ("critical", 90)])
def test_nothing_starves(busy: str, bound: int) -> None:
    bench = Bench()
    bench.submit(0, priority=busy)
    worker = bench.ready()
    bench.submit(1, priority="batch")
    for request in range(2, 200):  # one task a second, without end
        bench.pass_time(SECOND)
        bench.submit(request, priority=busy)
        bench.do(ev.WorkerAnswered(worker))
        running = bench.core.state.workers[worker].running[0]
        if running.asked.request == 1:
            break
        bench.do(ev.Output(worker, wire.Done(id=running.id)))
    assert bench.now <= (1000 + bound + 2) * SECOND


def test_the_first_of_the_listing_is_the_one_that_runs() -> None:
    rng = random.Random(3)
    for _ in range(50):
        bench = Bench()
        bench.submit(0)
        queue = bench.core.state.services[TOOL.key].queue
        for request in range(1, 40):
            bench.now += rng.choice((0, SECOND, 7 * SECOND))
            deadline = rng.choice((None, None, 20 * SECOND, 200 * SECOND))
            bench.submit(
                request,
                priority=rng.choice(wire.PRIORITIES),
                deadline=deadline,
            )
            left = [
                task
                for task in queue.ordered(bench.now)
                if not task.asked.deadline or task.asked.deadline > bench.now
            ]
            best = queue.best(bench.now)
            if not best.asked.deadline or best.asked.deadline > bench.now:
                assert best is left[0]


@pytest.mark.parametrize(
    ("spec", "size"),
    [(ev.Spec("t", "", 1001 * MIB, 0, 1), 0), (ev.Spec("e", "m", 100 * MIB, 901 * MIB, 1), 0)],
)
def test_what_can_never_fit_is_refused_at_once(spec: ev.Spec, size: int) -> None:
    bench = Bench()
    said = bench.submit(1, spec)
    assert ends(said) == {1: "never_fits"}
    assert not kinds(said, ev.Start)


def test_a_reservation_that_can_never_fit_ends_those_who_wait() -> None:
    bench = Bench()
    spec = ev.Spec("engine", "m", 100 * MIB, 10 * MIB, 1)
    bench.submit(1, spec)
    bench.do(ev.Borrowed(2, 7, spec, 4096))
    said = bench.do(ev.WorkerReserved(1, 901 * MIB))
    assert ends(said) == {1: "never_fits", 7: "never_fits"}
    error = kinds(said, ev.Reply)[0].message
    assert (error.got, error.allowed) == ("1001 MiB", "1000 MiB")
    assert kinds(said, ev.Tell)[-1].message == wire.Stop()


def test_an_eviction_waits_until_the_memory_is_back() -> None:
    bench = Bench()
    first, second = (ev.Spec("engine", name, 100 * MIB, 500 * MIB, 1) for name in "ab")
    bench.submit(1, first)
    bench.do(ev.WorkerReserved(1, 500 * MIB))
    bench.ready(first)
    bench.submit(2, second)
    said = bench.do(ev.WorkerReserved(2, 500 * MIB))
    assert not kinds(said, ev.Tell), "worker 1 is busy: nothing is evicted"
    said = bench.do(ev.Output(1, wire.Done(id=1)))
    assert kinds(said, ev.Tell) == [ev.Tell(1, wire.Stop())]
    assert bench.core.state.workers[2].state == "waiting", "the memory is not back yet"
    said = bench.do(ev.WorkerGone(1, "exited with code 0"))
    assert ev.Tell(2, wire.Granted()) in said
    assert ends(bench.said) == {1: "done"}


def test_what_is_lent_is_not_evicted() -> None:
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 4096))
    worker = bench.ready()
    other = ev.Spec("other", "", 950 * MIB, 0, 1)
    said = bench.submit(2, other)
    assert not kinds(said, ev.Tell)
    said = bench.do(ev.Returned(1, 1, 0))
    assert ev.Tell(worker, wire.Stop()) in said


def test_two_loads_that_block_each_other() -> None:
    bench = Bench()
    for request, name in enumerate("ab", 1):
        bench.submit(request, ev.Spec("engine", name, 100 * MIB, 500 * MIB, 1))
    for worker in (1, 2):
        bench.do(ev.WorkerReserved(worker, 850 * MIB))
    states = {w.service.spec.model: w.state for w in bench.core.state.workers.values()}
    assert states == {"a": "waiting", "b": "stopping"}
    said = bench.do(ev.WorkerGone(2, "exited with code 0"))
    assert ev.Tell(1, wire.Granted()) in said


def test_back_off_then_quarantine_then_another_chance() -> None:
    bench = Bench()
    pauses = []
    for attempt in range(limits.FAILED_STARTS):
        said = bench.submit(attempt, idempotent=True)
        if not kinds(said, ev.Start):
            before = bench.now
            while not (said := bench.pass_time(10 * limits.MS)) or not kinds(said, ev.Start):
                assert bench.now - before < limits.BACKOFF_MAX
            pauses.append((bench.now - before) // limits.MS)
        worker = kinds(said, ev.Start)[0].worker
        said = bench.do(ev.WorkerGone(worker, "killed by SIGSEGV"))
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[-1]
    assert set(ends(said).values()) == {"quarantined"}
    assert ends(bench.submit(90)) == {90: "quarantined"}
    assert "SIGSEGV" in kinds(bench.said, ev.Reply)[-1].message.message
    said = bench.do(ev.Borrowed(1, 91, TOOL, 4096))
    assert kinds(said, ev.Reply)[0].message.code == "quarantined"
    bench.pass_time(limits.QUARANTINE)
    assert kinds(bench.submit(92), ev.Start)


def test_unload_lifts_the_quarantine() -> None:
    bench = Bench()
    bench.submit(1)
    bench.core.state.services[TOOL.key].quarantined_until = 10**15
    bench.do(ev.UnloadAsked(1, 2, "tool"))
    worker = bench.core.state.services[TOOL.key].worker
    assert worker
    bench.do(ev.WorkerGone(worker.id, "exited"))
    assert kinds(bench.submit(3), ev.Start)


def test_a_worker_that_served_comes_back_by_itself() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    bench.do(ev.Output(worker, wire.Done(id=1)))
    bench.do(ev.WorkerGone(worker, "killed by SIGKILL"))
    assert kinds(bench.pass_time(SECOND), ev.Start)


def test_an_idempotent_task_runs_again_once() -> None:
    bench = Bench()
    bench.submit(1, idempotent=True)
    bench.submit(2, idempotent=False)
    for attempt in range(2):
        worker = bench.ready()
        assert runs(bench.said)[-1].id == 1
        said = bench.do(ev.WorkerGone(worker, "killed by SIGKILL"))
        assert ends(said) == ({} if attempt == 0 else {1: "worker_died"})
        bench.pass_time(SECOND)
    assert "killed by SIGKILL" in kinds(said, ev.Reply)[0].message.message
    worker = bench.ready()
    assert runs(bench.said)[-1].id == 2
    assert ends(bench.do(ev.WorkerGone(worker, "x"))) == {2: "worker_died"}


def test_a_task_that_has_streamed_is_never_run_again() -> None:
    bench = Bench()
    bench.submit(1, idempotent=True)
    worker = bench.ready()
    bench.do(ev.Output(worker, wire.Chunk(id=1)))
    assert ends(bench.do(ev.WorkerGone(worker, "x"))) == {1: "worker_died"}


def test_a_task_with_a_lease_dies_with_its_worker() -> None:
    """Its lease ends with the worker: run again it could only fail, with a misleading reason."""
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 4096))
    worker = bench.ready()
    lease = wire.Lease(segment=1, offset=0, length=4096, generation=0)
    bench.submit(2, idempotent=True, leases=(lease,))
    assert ends(bench.do(ev.WorkerGone(worker, "x"))) == {2: "worker_died"}


def test_a_worker_that_is_being_killed_gets_nothing_more() -> None:
    """Between the kill and the death the next task would be lost with it."""
    bench = Bench()
    bench.submit(1, WIDE)
    worker = bench.ready(WIDE, 4)
    said = bench.do(ev.WorkerBroke(worker, "garbage"))
    assert kinds(said, ev.Kill)
    assert not runs(bench.submit(2, WIDE))
    assert ends(bench.do(ev.WorkerGone(worker, "killed"))) == {1: "bad_worker"}
    bench.pass_time(SECOND)
    said = bench.do(ev.WorkerReady(worker + 1, 4))
    assert [run.id for run in runs(said)] == [2]


def test_a_hung_worker_gets_nothing_more() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    said = bench.pass_time(60 * SECOND)
    assert kinds(said, ev.Kill)
    bench.submit(2)
    said = bench.do(ev.Output(worker, wire.Done(id=1)))
    assert not runs(said)
    bench.do(ev.WorkerGone(worker, "killed"))
    bench.pass_time(SECOND)
    assert [run.id for run in runs(bench.do(ev.WorkerReady(worker + 1, 1)))] == [2]


def test_a_silent_worker_is_killed_and_a_slow_one_is_not() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    for _ in range(100):
        said = bench.pass_time(limits.PING)
        assert not kinds(said, ev.Kill)
        assert [t for t in kinds(said, ev.Tell) if isinstance(t.message, wire.Ping)]
        bench.do(ev.WorkerAnswered(worker))
    assert kinds(bench.pass_time(limits.HUNG + 2 * limits.PING), ev.Kill)
    assert ends(bench.do(ev.WorkerGone(worker, "x"))) == {1: "worker_hung"}


def test_an_idle_kernel_has_no_timer_but_the_workers_end() -> None:
    bench = Bench(idle_ns=600 * SECOND)
    bench.submit(1)
    worker = bench.ready()
    bench.do(ev.Output(worker, wire.Done(id=1)))
    bench.pass_time(30 * SECOND)
    assert bench.core.next_timer() == 1600 * SECOND
    said = bench.pass_time(600 * SECOND)
    assert ev.Tell(worker, wire.Stop()) in said


# Cancel and deadline, in every state.


def test_cancel_while_queued() -> None:
    bench = Bench()
    bench.submit(1)
    assert ends(bench.do(ev.CancelAsked(1, 1))) == {1: "cancelled"}
    assert not bench.do(ev.CancelAsked(1, 1))


def test_cancel_while_running() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    said = bench.do(ev.CancelAsked(1, 1))
    assert said[:2] == [ev.Control(worker, 0, 1), ev.Tell(worker, wire.Cancel(id=1))]
    assert not ends(said)
    assert not bench.do(ev.CancelAsked(1, 1)), "asked twice is told once"
    assert not kinds(bench.do(ev.Output(worker, wire.Chunk(id=1))), ev.Reply)
    said = bench.do(ev.Output(worker, wire.Error(id=1, code="cancelled", message="")))
    assert ends(said) == {1: "cancelled"}


def test_a_cancelled_task_that_finishes_is_cancelled() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    bench.do(ev.CancelAsked(1, 1))
    assert ends(bench.do(ev.Output(worker, wire.Done(id=1)))) == {1: "cancelled"}


def test_cancel_ignored_kills() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    bench.do(ev.CancelAsked(1, 1))
    assert not kinds(bench.pass_time(limits.CANCEL_GRACE - 1), ev.Kill)
    assert kinds(bench.pass_time(1), ev.Kill) == [ev.Kill(worker, "it did not let go of a task")]
    assert ends(bench.do(ev.WorkerGone(worker, "killed"))) == {1: "cancelled"}


def test_deadline_while_queued_running_and_cancelling() -> None:
    bench = Bench()
    for request in (1, 2, 3):
        bench.submit(request, deadline=SECOND)
    worker = bench.ready()
    said = bench.pass_time(2 * SECOND)
    assert ends(said) == dict.fromkeys((1, 2, 3), "deadline_passed")
    assert ev.Control(worker, 0, 1) in said
    assert ends(bench.do(ev.Output(worker, wire.Done(id=1)))) == {}, "told once"


def test_cancel_while_expiring() -> None:
    bench = Bench()
    bench.submit(1, deadline=SECOND)
    worker = bench.ready()
    bench.pass_time(SECOND)
    assert bench.core.state.tasks[1].state == "expiring"
    bench.do(ev.CancelAsked(1, 1))
    assert ends(bench.do(ev.Output(worker, wire.Done(id=1)))) == {}, "the deadline was told"
    assert not bench.core.state.tasks


@pytest.mark.parametrize("deadline", [0, -1, -(10**18)])
def test_a_deadline_already_past(deadline: int) -> None:
    bench = Bench()
    assert ends(bench.submit(1, deadline=deadline)) == {1: "deadline_passed"}


def test_deadlines_of_ended_tasks_are_forgotten() -> None:
    bench = Bench()
    bench.submit(0)
    worker = bench.ready()
    bench.do(ev.Output(worker, wire.Done(id=1)))
    for request in range(1, 5000):
        bench.submit(request, deadline=3600 * SECOND)
        bench.do(ev.Output(worker, wire.Done(id=request + 1)))
    assert len(bench.core.state.timers) < 200


def test_a_client_that_leaves_takes_its_tasks_along() -> None:
    bench = Bench()
    for request, client in ((1, 1), (2, 1), (3, 2)):
        bench.submit(request, client=client)
    worker = bench.ready()
    said = bench.do(ev.ClientLeft(1))
    assert ev.Control(worker, 0, 1) in said
    bench.do(ev.Output(worker, wire.Error(id=1, code="cancelled", message="")))
    assert runs(bench.said)[-1].id == 3


# Segments.


def test_a_segment_is_recycled_inside_its_pair_only() -> None:
    bench = Bench()
    bench.submit(0)
    worker = bench.ready()
    made = kinds(bench.do(ev.Borrowed(1, 1, TOOL, 5000)), ev.MakeSegment)[0]
    assert (made.client, made.worker, made.size) == (1, worker, 8192)
    bench.do(ev.Returned(1, made.segment, 0))
    said = bench.do(ev.Borrowed(2, 2, TOOL, 5000))
    assert kinds(said, ev.MakeSegment)[0].segment != made.segment
    said = bench.do(ev.Borrowed(1, 3, TOOL, 5000))
    assert not kinds(said, ev.MakeSegment)
    lease = kinds(said, ev.Reply)[0].message.lease
    assert (lease.segment, lease.generation) == (made.segment, 1)


def test_memory_counts_until_every_holder_is_gone() -> None:
    bench = Bench()
    bench.submit(0)
    worker = bench.ready()
    used = bench.core.state.ledger.used
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    bench.do(ev.WorkerGone(worker, "killed"))
    assert bench.core.state.ledger.used == used - 100 * MIB + 8192, "the client still maps it"
    said = bench.do(ev.Returned(1, 1, 0))
    assert ev.FreeSegment(1) in said
    assert bench.core.state.ledger.holders[("segment", 1)] == 8192, "its pages are not back yet"
    bench.do(ev.SegmentGone(1))
    assert ("segment", 1) not in bench.core.state.ledger.holders


def test_pages_that_a_worker_fills_again_come_back_when_it_dies() -> None:
    """The shell finds them full after the drop; nobody would have asked for them again."""
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    worker = bench.ready()
    bench.do(ev.ClientLeft(1))
    assert ev.FreeSegment(1) in bench.do(ev.SegmentDropped(worker, 1))
    bench.do(ev.WorkerBroke(worker, "it wrote to memory that was taken back"))
    assert ev.FreeSegment(1) in bench.do(ev.WorkerGone(worker, "killed"))


def test_a_segment_that_could_not_be_made_costs_nothing() -> None:
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    bench.ready()
    bench.do(ev.SegmentFailed(1, "no memory"))
    assert bench.core.state.ledger.used == 100 * MIB
    assert not bench.core.state.segments


@pytest.mark.parametrize(
    ("client", "fields"),
    [
        (2, {}),
        (1, {"generation": 1}),
        (1, {"segment": 2}),
        (1, {"length": 8193}),
        (1, {"offset": 1}),
        (1, {"offset": (1 << 48) - 1, "length": (1 << 48) - 1}),
    ],
)
def test_forged_leases(client: int, fields: dict[str, int]) -> None:
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    bench.ready()
    proper = {"segment": 1, "offset": 0, "length": 8192, "generation": 0}
    lease = wire.Lease(**(proper | fields))
    assert ends(bench.submit(2, client=client, leases=(lease,))) == {2: "no_lease"}
    assert ends(bench.submit(3, leases=(wire.Lease(**proper),))) == {}


def test_a_lease_of_another_worker() -> None:
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    bench.ready()
    lease = wire.Lease(segment=1, offset=0, length=8192, generation=0)
    assert ends(bench.submit(2, WIDE, leases=(lease,))) == {2: "no_lease"}


def test_a_lease_returned_while_its_task_waits() -> None:
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    worker = bench.ready()
    bench.submit(2)
    lease = wire.Lease(segment=1, offset=0, length=8192, generation=0)
    bench.submit(3, leases=(lease,))
    bench.do(ev.Returned(1, 1, 0))
    assert ends(bench.do(ev.Output(worker, wire.Done(id=1)))) == {2: "done", 3: "no_lease"}


def test_one_client_borrows_within_its_limit() -> None:
    bench = Bench()
    bench.submit(0)
    bench.ready()
    for request in range(1, limits.SEGMENTS_PER_CLIENT + 1):
        assert kinds(bench.do(ev.Borrowed(1, request, TOOL, 4096)), ev.MakeSegment)
    said = bench.do(ev.Borrowed(1, 999, TOOL, 4096))
    assert kinds(said, ev.Reply)[0].message.code == "queue_full"


def test_a_full_budget_lends_nothing() -> None:
    bench = Bench()
    bench.submit(0)
    bench.ready()
    bench.do(ev.Borrowed(1, 1, TOOL, 800 * MIB))
    said = bench.do(ev.Borrowed(1, 2, TOOL, 200 * MIB))
    assert kinds(said, ev.Reply)[0].message.code == "no_memory"


# Limits and the end.


def test_the_queue_has_limits() -> None:
    bench = Bench()
    for request in range(limits.TASKS_PER_CLIENT):
        assert not ends(bench.submit(request))
    assert ends(bench.submit(9999)) == {9999: "queue_full"}
    assert not ends(bench.submit(1, client=2)), "another client has room of its own"
    assert ends(bench.submit(2, client=2, payload=limits.PAYLOAD_TOTAL)) == {2: "queue_full"}


def test_a_request_id_in_use() -> None:
    bench = Bench()
    bench.submit(1)
    assert ends(bench.submit(1)) == {1: "bad_state"}
    assert len(bench.core.state.tasks) == 1


def test_unload_ends_what_runs_and_what_waits() -> None:
    bench = Bench()
    bench.submit(1)
    bench.submit(2)
    worker = bench.ready()
    said = bench.do(ev.UnloadAsked(9, 5, "tool"))
    assert ends(said) == {2: "cancelled"}
    answer = kinds(said, ev.Reply)[-1]
    assert answer.client == 9
    assert wire.unpack(answer.message.data)["stopped"][0]["plugin"] == "tool"
    assert kinds(bench.pass_time(limits.STOP_GRACE), ev.Kill)
    assert ends(bench.do(ev.WorkerGone(worker, "killed"))) == {1: "cancelled"}


def test_shutdown_tells_everybody() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    bench.submit(2)
    said = bench.do(ev.ShutdownAsked())
    assert ends(said) == {2: "kernel_stopped"}
    assert kinds(said, ev.Kill)
    assert ends(bench.do(ev.WorkerGone(worker, "killed"))) == {1: "kernel_stopped"}
    assert ends(bench.submit(3)) == {3: "kernel_stopped"}
    said = bench.do(ev.Borrowed(1, 4, TOOL, 4096))
    assert kinds(said, ev.Reply)[0].message.code == "kernel_stopped"


def test_a_code_that_a_worker_made_up_is_not_passed_on() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    said = bench.do(ev.Output(worker, wire.Error(id=1, code="all_is_lost", message="boo")))
    assert ends(said) == {1: "worker_failed"}


def test_figures_of_a_worker_are_cut_to_what_is_possible() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    lie = {"compute_us": 10**15, "plugin_us": -7, "queue_us": 10**9}
    said = bench.do(ev.Output(worker, wire.Done(id=1, timings=lie)), after=5 * limits.MS)
    times = kinds(said, ev.Reply)[0].message.timings
    assert times == {
        "queue_us": 0,
        "load_us": 0,
        "compute_us": 5000,
        "plugin_us": 0,
        "wire_us": 0,
    }


def test_a_bug_of_the_shell_stops_the_kernel() -> None:
    bench = Bench()
    with pytest.raises((BrokenInvariantError, KeyError)):
        bench.do(ev.SegmentGone(7))


def test_why_a_worker_cannot_serve_reaches_those_who_wait() -> None:
    bench = Bench()
    bench.submit(1)
    bench.submit(2)
    said = bench.do(ev.WorkerUnready(1, ClawError("bad_model", "not a GGUF file")))
    assert ends(said) == {1: "bad_model", 2: "bad_model"}
    bench.do(ev.WorkerGone(1, "exited with code 0"))
    assert not bench.core.state.workers
    assert not bench.core.state.services[TOOL.key].deaths, "that was no surprise"
