"""Batches: who is in one, how long it waits for more, what becomes of its members."""

from clawai.kernel import events as ev
from clawai.kernel import limits, mail
from clawai.kernel.costs import Batching
from clawai.sdk import wire
from core_bench import MIB, Bench, ends, kinds, message, output, runs

SPEC = ev.Spec("vision", "", 100 * MIB, 0, 1)


def batches(said: list[ev.Instruction]) -> list[list[int]]:
    """The tasks of each batch message."""
    told = [b for b in map(message, said) if isinstance(b, wire.Batch)]
    return [[item.id for item in message.items] for message in told]


def ready_with(bench: Bench, count: int, **fields: object) -> int:
    """A worker that is busy with task 1 while the others wait."""
    for request in range(1, count + 1):
        bench.submit(request, SPEC, batch=8, body=ev.Hidden(wire.EMPTY_MAP, (b"x",)), **fields)
    return bench.ready(SPEC)


def test_what_waits_runs_together() -> None:
    bench = Bench()
    ready_with(bench, 5)
    assert batches(bench.said) == [[1, 2, 3, 4, 5]]
    told = kinds(bench.said, ev.Dispatch)[-1]
    assert mail.to_worker(told)[1] == (b"x",) * 5
    assert [item.frames for item in message(told).items] == [1] * 5
    for task in (3, 1, 5, 2, 4):
        bench.do(output(1, wire.Done(id=task)))
    assert ends(bench.said) == dict.fromkeys(range(1, 6), "done")


def test_a_lone_one_is_no_batch() -> None:
    bench = Bench()
    ready_with(bench, 1)
    assert [run.id for run in runs(bench.said)] == [1]


def test_a_batch_is_of_one_operation_and_of_bounded_size() -> None:
    bench = Bench()
    for request in range(1, 11):
        bench.submit(request, SPEC, batch=4)
    bench.submit(11, SPEC, batch=4, op="vision.other")
    bench.ready(SPEC)
    while bench.core.state.tasks:
        task = next(t for t in bench.core.state.tasks.values() if t.state == "running")
        bench.do(output(1, wire.Done(id=task.id)))
        bench.pass_time(2 * limits.LINGER)
    assert batches(bench.said) == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert [run.id for run in runs(bench.said)] == [11]


def test_a_cancelled_member_is_told_at_once_and_the_others_go_on() -> None:
    bench = Bench()
    ready_with(bench, 3)
    bench.do(ev.CancelAsked(1, 2))
    assert ends(bench.said) == {2: "cancelled"}
    assert not [c for c in kinds(bench.said, ev.Control) if c.value & 0xFF == wire.STOP]
    for task in (1, 2, 3):
        bench.do(output(1, wire.Done(id=task)))
    assert ends(bench.said) == {1: "done", 2: "cancelled", 3: "done"}


def test_when_all_are_cancelled_the_worker_must_let_go() -> None:
    bench = Bench()
    worker = ready_with(bench, 2)
    for request in (1, 2):
        bench.do(ev.CancelAsked(1, request))
    assert kinds(bench.said, ev.Control)[-1].value & 0xFF == wire.STOP
    bench.pass_time(limits.CANCEL_GRACE)
    assert kinds(bench.said, ev.Kill)[0].worker == worker


def test_one_failure_is_its_own() -> None:
    bench = Bench()
    ready_with(bench, 3)
    bench.do(output(1, wire.Error(id=2, code="bad_params", message="no")))
    bench.do(output(1, wire.Done(id=1)))
    bench.do(output(1, wire.Done(id=3)))
    assert ends(bench.said) == {1: "done", 2: "bad_params", 3: "done"}


def test_a_death_takes_all_members_and_runs_again_who_may() -> None:
    bench = Bench()
    worker = ready_with(bench, 3, idempotent=True)
    bench.do(ev.WorkerGone(worker, "killed"))
    assert not ends(bench.said)
    assert batches(bench.do(ev.WorkerReady(2, 1))) == [[1, 2, 3]]


def test_a_batch_stays_within_the_tightest_deadline() -> None:
    bench = Bench()
    worker = ready_with(bench, 8)
    for task in range(1, 9):  # 8 together take 8 ms
        bench.do(output(worker, wire.Done(id=task)), after=8 * limits.MS if task == 1 else 0)
    bench.submit(20, SPEC, batch=8)
    for request in range(21, 28):
        bench.submit(request, SPEC, batch=8, deadline=7500_000 if request == 21 else None)
    first = bench.core.state.requests[1][20]
    bench.do(output(worker, wire.Done(id=first.id)), after=limits.MS)
    sizes = [len(batch) for batch in batches(bench.said)]
    assert sizes == [8, 6], "7 would take more than the 6.5 ms that are left"


def test_waiting_for_more_only_where_it_pays() -> None:
    dear, cheap, lone = Batching(), Batching(), Batching()
    for size in (1, 16):
        dear.ended(size, int(5e6 + 1e5 * size), 0, 64, 0)
        cheap.ended(size, int(1e5 * size), 0, 64, 0)
        lone.ended(1, int(5e6), 0, 64, 0)
    assert dear.waits(8, 0), "16 are likely to come back, and 5 ms are saved"
    assert not dear.waits(16, 0), "they are here"
    assert not dear.waits(8, limits.LINGER), "nobody came"
    dear.arrived(limits.LINGER // 2)
    assert dear.waits(9, limits.LINGER), "somebody did"
    assert not dear.waits(9, int(2.6e6)), "not for ever"
    assert not cheap.waits(8, 0)
    assert not lone.waits(0, 0)
