"""Workers: memory, eviction, death and return, quarantine."""

import pytest

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.sdk import wire
from clawai.sdk.plain import unpack
from core_bench import MIB, SECOND, TOOL, WIDE, Bench, answers, ends, kinds, output, runs


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
    error = answers(said)[0]
    assert (unpack(error.got), unpack(error.allowed)) == ("1001 MiB", "1000 MiB")
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
    said = bench.do(output(1, wire.Done(id=1)))
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


def test_quarantine_then_another_chance() -> None:
    bench = Bench()
    for attempt in range(limits.DEATHS):
        bench.submit(attempt, idempotent=True)
        worker = bench.core.state.services[TOOL.key].worker
        assert worker, "the first two come back at once"
        said = bench.do(ev.WorkerGone(worker.id, "killed by SIGSEGV"))
    assert set(ends(said).values()) == {"quarantined"}
    assert ends(bench.submit(90)) == {90: "quarantined"}
    error = answers(bench.said)[-1]
    assert "SIGSEGV" in error.message
    assert error.retry_after_ms == limits.QUARANTINE // limits.MS
    said = bench.do(ev.Borrowed(1, 91, TOOL, 4096))
    assert answers(said)[0].code == "quarantined"
    bench.pass_time(limits.QUARANTINE)
    assert kinds(bench.submit(92), ev.Start)


def test_slow_failures_count_however_long_each_took() -> None:
    bench = Bench()
    for attempt in range(limits.DEATHS):
        bench.submit(attempt)
        bench.pass_time(limits.DEATH_WINDOW)
        worker = bench.core.state.services[TOOL.key].worker
        bench.do(ev.WorkerGone(worker.id, "killed"))
    assert ends(bench.submit(9)) == {9: "quarantined"}


def test_unload_lifts_the_quarantine() -> None:
    bench = Bench()
    bench.submit(1)
    bench.core.state.services[TOOL.key].quarantined_until = 10**15
    bench.do(ev.Commanded(1, 2, "unload", "tool"))
    worker = bench.core.state.services[TOOL.key].worker
    assert worker
    bench.do(ev.WorkerGone(worker.id, "exited"))
    assert kinds(bench.submit(3), ev.Start)


def test_a_worker_that_served_comes_back_by_itself() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    bench.do(output(worker, wire.Done(id=1)))
    assert kinds(bench.do(ev.WorkerGone(worker, "killed by SIGKILL")), ev.Start)


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
    assert "killed by SIGKILL" in answers(said)[0].message
    worker = bench.ready()
    assert runs(bench.said)[-1].id == 2
    assert ends(bench.do(ev.WorkerGone(worker, "x"))) == {2: "worker_died"}


def test_a_task_that_has_streamed_is_never_run_again() -> None:
    bench = Bench()
    bench.submit(1, idempotent=True)
    worker = bench.ready()
    bench.do(output(worker, wire.Chunk(id=1)))
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
    said = bench.do(output(worker, wire.Done(id=1)))
    assert not runs(said)
    bench.do(ev.WorkerGone(worker, "killed"))
    bench.pass_time(SECOND)
    assert [run.id for run in runs(bench.do(ev.WorkerReady(worker + 1, 1)))] == [2]


def test_nothing_that_a_killed_worker_says_counts() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    bench.do(ev.WorkerBroke(worker, "garbage"))
    assert not ends(bench.do(output(worker, wire.Done(id=1))))
    assert not kinds(bench.do(ev.WorkerBroke(worker, "more")), ev.Kill), "once is enough"
    assert ends(bench.do(ev.WorkerGone(worker, "killed"))) == {1: "bad_worker"}


def test_one_that_does_not_stop_is_killed_and_does_not_come_back() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    bench.do(output(worker, wire.Done(id=1)))
    bench.do(ev.Commanded(1, 2, "unload", "tool"))
    assert kinds(bench.pass_time(2 * limits.STOP_GRACE), ev.Kill)
    assert not kinds(bench.do(ev.WorkerGone(worker, "killed")), ev.Start)


def test_one_that_is_killed_is_unloaded_all_the_same() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    bench.do(ev.WorkerBroke(worker, "garbage"))
    bench.do(ev.Commanded(1, 2, "unload", "tool"))
    assert not kinds(bench.do(ev.WorkerGone(worker, "killed")), ev.Start)


@pytest.mark.parametrize("keep", [0, 1, 3, 700])
def test_an_idle_worker_goes_when_its_time_has_come(keep: int) -> None:
    """To the second, whatever else its clock is used for."""
    bench = Bench(idle_ns=600 * SECOND)
    bench.submit(1, keep_ns=keep * SECOND)
    worker = bench.ready()
    bench.pass_time(7 * SECOND)
    bench.do(ev.WorkerAnswered(worker))
    bench.do(output(worker, wire.Done(id=1)))
    if keep:
        assert ev.Tell(worker, wire.Stop()) not in bench.pass_time(keep * SECOND - 1)
    assert ev.Tell(worker, wire.Stop()) in bench.pass_time(1)


def test_a_silent_worker_is_killed_and_a_slow_one_is_not() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    for _ in range(100):
        said = bench.pass_time(limits.HUNG // limits.MISSED)
        assert not kinds(said, ev.Kill)
        assert [t for t in kinds(said, ev.Tell) if isinstance(t.message, wire.Ping)]
        bench.do(ev.WorkerAnswered(worker))
    assert kinds(bench.pass_time(2 * limits.HUNG), ev.Kill)
    assert ends(bench.do(ev.WorkerGone(worker, "x"))) == {1: "worker_hung"}


def test_an_idle_kernel_has_no_timer_but_the_workers_end() -> None:
    bench = Bench(idle_ns=600 * SECOND)
    bench.submit(1)
    worker = bench.ready()
    bench.do(output(worker, wire.Done(id=1)))
    bench.pass_time(30 * SECOND)
    assert bench.core.next_timer() == 1600 * SECOND
    said = bench.pass_time(600 * SECOND)
    assert ev.Tell(worker, wire.Stop()) in said
