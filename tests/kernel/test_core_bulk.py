"""Bulk workers stand back by design: what waits for the processor does not hang."""

from clawai.kernel import events as ev
from clawai.kernel import limits
from core_bench import MIB, Bench, ends, kinds

BULK = ev.Spec("tool", "", 128 * MIB, 0, 1, lane="bulk")
MODEL = ev.Spec("tool", "model", 128 * MIB, MIB, 1, lane="bulk")


def test_a_bulk_worker_may_be_silent_for_longer() -> None:
    bench = Bench()
    bench.submit(1, BULK, priority="batch")
    worker = bench.ready(BULK)
    assert not kinds(bench.pass_time((limits.BULK_PATIENCE - 1) * limits.HUNG), ev.Kill)
    assert kinds(bench.pass_time(3 * limits.HUNG), ev.Kill)
    assert ends(bench.do(ev.WorkerGone(worker, "killed"))) == {1: "worker_hung"}


def test_a_bulk_worker_may_take_longer_to_start() -> None:
    bench = Bench()
    bench.submit(1, BULK, priority="batch")
    assert not kinds(bench.pass_time((limits.BULK_PATIENCE - 1) * limits.START), ev.Kill)
    said = bench.pass_time(2 * limits.START)
    assert kinds(said, ev.Kill)
    assert ends(said) == {1: "worker_hung"}


def starved(bench: Bench, worker: int, span: int) -> list[ev.Instruction]:
    """Let time pass in which the worker waits for a processor, as the steward tells it."""
    said = []
    for _ in range(span // limits.PING):
        said += bench.pass_time(limits.PING)
        said += bench.do(ev.WorkerWaited(worker, limits.PING))
    return said


def test_what_waits_for_a_processor_starts_as_late_as_it_likes() -> None:
    bench = Bench()
    bench.submit(1, BULK, priority="batch")
    started = bench.core.state.services[BULK.key].worker
    assert started
    assert not kinds(starved(bench, started.id, 1000 * limits.START), ev.Kill)
    patience = limits.START * limits.BULK_PATIENCE
    assert not kinds(bench.pass_time(patience - limits.SECOND), ev.Kill), "none of it was used"
    assert kinds(bench.pass_time(2 * limits.SECOND), ev.Kill)


def test_what_waits_for_a_processor_loads_as_late_as_it_likes() -> None:
    bench = Bench()
    bench.submit(1, MODEL, priority="batch")
    loading = bench.core.state.services[MODEL.key].worker
    assert loading
    bench.do(ev.WorkerReserved(loading.id, MIB))
    assert loading.state == "loading"
    assert not kinds(starved(bench, loading.id, 20 * limits.LOAD), ev.Kill)
    said = bench.pass_time(limits.LOAD * limits.BULK_PATIENCE + limits.SECOND)
    assert kinds(said, ev.Kill)


def test_what_waits_for_a_processor_may_be_silent() -> None:
    bench = Bench()
    bench.submit(1, BULK, priority="batch")
    worker = bench.ready(BULK)
    assert not kinds(starved(bench, worker, 1000 * limits.HUNG), ev.Kill)
    assert kinds(bench.pass_time((limits.BULK_PATIENCE + 1) * limits.HUNG), ev.Kill)


def test_half_a_wait_is_half_an_excuse() -> None:
    """Who waits for half of the time is as late as that makes it, and no later."""
    bench = Bench()
    bench.submit(1, BULK, priority="batch")
    worker, spans = bench.ready(BULK), 0
    while not kinds(bench.pass_time(2 * limits.PING), ev.Kill):
        bench.do(ev.WorkerWaited(worker, limits.PING))
        spans += 2 * limits.PING
    patience = limits.HUNG * limits.BULK_PATIENCE
    assert 1.9 * patience <= spans <= 2.1 * patience


def test_a_wait_of_who_is_gone_or_ending_changes_nothing() -> None:
    bench = Bench()
    bench.submit(1, BULK, priority="batch")
    worker = bench.ready(BULK)
    bench.do(ev.Commanded(2, 1, "unload", "tool"))
    due = bench.core.next_timer()
    assert bench.do(ev.WorkerWaited(worker, 60 * limits.PING)) == []
    assert bench.core.next_timer() == due
    bench.do(ev.WorkerGone(worker, "ended"))
    assert bench.do(ev.WorkerWaited(worker, limits.PING)) == []
