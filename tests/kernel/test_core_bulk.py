"""Bulk workers stand back by design: what waits for the processor does not hang."""

from clawai.kernel import events as ev
from clawai.kernel import limits
from core_bench import MIB, Bench, ends, kinds

BULK = ev.Spec("tool", "", 128 * MIB, 0, 1, lane="bulk")


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
