"""The order of the queue: classes, deadlines, ageing."""

import random

import pytest
from msgspec.structs import replace

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.state import LEAVING
from clawai.sdk import wire
from core_bench import SECOND, TOOL, Bench, ends, kinds, output, served


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
    for request in range(1, limits.DEATHS + 1):
        bench.submit(request)
        state = bench.core.state
        worker = next(iter(state.workers), 0) or state.last["worker"]
        said = bench.pass_time(limits.START + SECOND)
        assert ends(said) == {request: "worker_hung"}
        bench.do(ev.WorkerGone(worker, "killed"))
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
    """It is run twice; both deaths together would lock out everybody after the second such task."""
    bench = Bench()
    for request in (1, 2):
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
    assert bench.core.state.workers[worker].state in LEAVING
    bench.do(ev.WorkerGone(worker, "exited"))
    assert served(bench, bench.ready(new)) == [2]


@pytest.mark.parametrize(("busy", "bound"), [("interactive", 60), ("critical", 120)])
def test_nothing_starves(busy: str, bound: int) -> None:
    bench = Bench()
    bench.submit(0, priority=busy)
    worker = bench.ready()
    bench.submit(1, priority="batch")
    for request in range(2, 200):  # one task a second, without end
        bench.pass_time(SECOND)
        bench.submit(request, priority=busy)
        bench.do(ev.WorkerAnswered(worker))
        running = bench.core.state.workers[worker].tasks()[0]
        if running.asked.request == 1:
            break
        bench.do(output(worker, wire.Done(id=running.id)))
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
        while queue:
            listed = queue.ordered()
            assert queue.take(0) is listed[0]
