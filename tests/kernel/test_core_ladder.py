"""The core's part of the preemption ladder: making way, thread grants, holding, suspension."""

from msgspec.structs import replace

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.state import LEAVING
from clawai.sdk import wire
from core_bench import MIB, SECOND, Bench, ends, kinds, output, runs

PLAIN = ev.Spec("tool", "", 100 * MIB, 0, 1)
ENGINE = ev.Spec("engine", "a", 100 * MIB, 0, 4, cooperative=True)
OTHER = replace(ENGINE, model="b")
THIRD = replace(ENGINE, model="c")


def words(bench: Bench) -> dict[int, tuple[int, int]]:
    """Worker to (command, threads) of slot 0, as its control page shows it."""
    last = {told.worker: told.value for told in kinds(bench.said, ev.Control) if told.slot == 0}
    return {worker: (value & 0xFF, value >> 8) for worker, value in last.items()}


def finish(bench: Bench, request: int) -> None:
    task = bench.core.state.requests[1][request]
    bench.do(output(task.worker, wire.Done(id=task.id)))


def test_a_lower_task_that_can_run_again_makes_way() -> None:
    bench = Bench()
    bench.submit(1, priority="batch", idempotent=True)
    worker = bench.ready()
    bench.submit(2, priority="critical")
    assert words(bench)[worker][0] == wire.YIELD
    said = bench.do(ev.Output(worker, 1, "yielded"))
    assert [run.id for run in runs(said)] == [2]
    finish(bench, 2)
    assert bench.core.state.requests[1][1].state == "running", "it runs again afterwards"
    finish(bench, 1)
    assert ends(bench.said) == {2: "done", 1: "done"}


def test_nobody_else_makes_way() -> None:
    bench = Bench()
    bench.submit(1, priority="batch")  # may run only once
    worker = bench.ready()
    bench.submit(2, priority="critical")
    assert words(bench).get(worker, (wire.GO, 0))[0] == wire.GO
    bench.do(ev.Output(worker, 1, "yielded"))
    assert kinds(bench.said, ev.Kill), "a task that was not asked must not be given back"


def test_one_that_has_streamed_is_not_run_again() -> None:
    bench = Bench()
    bench.submit(1, priority="batch", idempotent=True)
    worker = bench.ready()
    bench.do(output(worker, wire.Chunk(id=1)))
    bench.submit(2, priority="critical")
    assert words(bench).get(worker, (wire.GO, 0))[0] == wire.GO


def test_without_the_rung_nobody_is_asked() -> None:
    bench = Bench(rungs=frozenset((0, 4)))
    bench.submit(1, priority="batch", idempotent=True)
    worker = bench.ready()
    bench.submit(2, priority="critical")
    assert words(bench).get(worker, (wire.GO, 0))[0] == wire.GO


def test_without_rung_0_the_queue_is_first_come_first_served() -> None:
    bench = Bench(rungs=frozenset((4,)))
    for request, priority in ((1, "batch"), (2, "batch"), (3, "critical")):
        bench.submit(request, priority=priority)
    bench.ready()
    finish(bench, 1)
    assert bench.core.state.requests[1][2].state == "running"


def test_threads_add_up_to_the_processors() -> None:
    bench = Bench(cores=4)
    bench.submit(1, ENGINE)
    first = bench.ready(ENGINE, 4)
    assert words(bench) == {first: (wire.GO, 4)}
    bench.submit(2, OTHER)
    second = bench.ready(OTHER, 4)
    assert words(bench) == {first: (wire.GO, 2), second: (wire.GO, 2)}
    bench.submit(3, PLAIN)
    bench.ready(PLAIN)
    assert sum(threads for _, threads in words(bench).values()) == 3, "the tool counts as one"
    finish(bench, 2)
    finish(bench, 3)
    assert words(bench)[first] == (wire.GO, 4)


def test_who_serves_others_leaves_them_the_processors() -> None:
    bench = Bench()
    front = replace(PLAIN, plugin="gateway", front=True)
    bench.submit(1, front)
    bench.ready(front)
    bench.submit(2, ENGINE)
    engine = bench.ready(ENGINE, 4)
    assert words(bench)[engine] == (wire.GO, 2)


def test_a_lower_class_is_held_between_ops_and_goes_on() -> None:
    bench = Bench()
    bench.submit(1, ENGINE, priority="batch")
    bulk = bench.ready(ENGINE, 4)
    bench.submit(2, OTHER, priority="interactive")
    urgent = bench.ready(OTHER, 4)
    assert words(bench) == {bulk: (wire.HOLD, 0), urgent: (wire.GO, 2)}
    finish(bench, 2)
    assert words(bench)[bulk] == (wire.GO, 2)
    finish(bench, 1)
    assert ends(bench.said) == {1: "done", 2: "done"}


def test_equals_beyond_the_processors_take_turns() -> None:
    bench = Bench(cores=1)
    for request, spec in enumerate((ENGINE, OTHER, THIRD), 1):
        bench.submit(request, spec)
        bench.ready(spec, 4)
    turns = []
    for _ in range(9):
        going = [worker for worker, word in words(bench).items() if word[0] == wire.GO]
        assert len(going) == 1
        turns += going
        bench.pass_time(limits.TURN)
    assert sorted(turns) == [1, 1, 1, 2, 2, 2, 3, 3, 3], "each its part"


def test_the_last_slot_of_a_model_is_kept_for_what_is_more_urgent() -> None:
    bench = Bench()
    for request in range(1, 7):
        bench.submit(request, ENGINE, priority="batch")
    bench.ready(ENGINE, 4)
    states = [bench.core.state.requests[1][request].state for request in range(1, 7)]
    assert states == ["running"] * 3 + ["queued"] * 3
    bench.submit(7, ENGINE, priority="interactive")
    assert bench.core.state.requests[1][7].state == "running"


def test_the_clocks_of_a_suspended_worker_stop() -> None:
    bench = Bench()
    bench.submit(1, deadline=10 * SECOND)
    worker = bench.ready()
    bench.do(ev.Commanded(1, 9, "suspend", "tool"))
    assert kinds(bench.said, ev.Suspend) == [ev.Suspend(worker, True)]
    bench.pass_time(1000 * SECOND)  # neither the deadline nor the heartbeat passes meanwhile
    assert not kinds(bench.said, ev.Kill)
    assert 1 not in ends(bench.said)
    bench.submit(2)
    assert bench.core.state.requests[1][2].state == "queued", "it gets nothing new either"
    bench.do(ev.Commanded(1, 10, "resume", "tool"))
    assert kinds(bench.said, ev.Suspend)[-1] == ev.Suspend(worker, False)
    bench.pass_time(9 * SECOND)
    bench.do(ev.WorkerAnswered(worker))
    assert 1 not in ends(bench.said), "9 of its 10 seconds have passed"
    bench.pass_time(2 * SECOND)
    assert ends(bench.said)[1] == "deadline_passed"


def test_who_cancels_what_is_suspended_is_told_at_once() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    bench.do(ev.Commanded(1, 9, "suspend", "tool"))
    bench.do(ev.CancelAsked(1, 1))
    assert ends(bench.said) == {1: "cancelled"}
    bench.pass_time(100 * SECOND)
    assert not kinds(bench.said, ev.Kill), "its time to let go has not begun"
    bench.do(ev.Commanded(1, 10, "resume", "tool"))
    bench.pass_time(limits.CANCEL_GRACE + SECOND)
    assert kinds(bench.said, ev.Kill)[0].worker == worker


def test_a_suspended_service_does_not_serve_when_its_worker_comes() -> None:
    bench = Bench()
    bench.submit(1)
    bench.do(ev.Commanded(1, 9, "suspend", "tool"))
    bench.ready()
    assert not runs(bench.said)
    bench.do(ev.Commanded(1, 10, "resume", "tool"))
    assert [run.id for run in runs(bench.said)] == [1]


def test_others_on_the_box_take_processors_and_give_them_back() -> None:
    bench = Bench(cores=4)
    bench.submit(1, ENGINE)
    first = bench.ready(ENGINE, 4)
    bench.do(ev.Pressure(2.0, 1000 * MIB))
    assert words(bench)[first] == (wire.GO, 2)
    bench.do(ev.Pressure(4.0, 1000 * MIB))
    assert words(bench)[first] == (wire.GO, 4)


def test_a_squeezed_box_suspends_bulk_workers_only() -> None:
    bench = Bench()
    bulk = replace(PLAIN, lane="bulk")
    bench.submit(1, bulk, priority="batch")
    worker = bench.ready(bulk)
    bench.submit(2)
    bench.ready()
    bench.do(ev.Pressure(0.2, 1000 * MIB))
    assert kinds(bench.said, ev.Suspend) == [ev.Suspend(worker, True)]
    bench.do(ev.Pressure(2.0, 1000 * MIB))
    assert kinds(bench.said, ev.Suspend)[-1] == ev.Suspend(worker, False)


def test_the_owner_and_a_squeezed_box_suspend_apart() -> None:
    """Who is suspended for two reasons goes on when both are over, and is not pinged till then."""
    bench = Bench()
    bulk = replace(PLAIN, lane="bulk")
    bench.submit(1, bulk, priority="batch")
    worker = bench.ready(bulk)
    bench.do(ev.Pressure(0.2, 1000 * MIB))
    bench.do(ev.Commanded(1, 8, "suspend", "tool"))
    bench.do(ev.Commanded(1, 9, "resume", "tool"))
    assert kinds(bench.said, ev.Suspend) == [ev.Suspend(worker, True)]
    assert not kinds(bench.pass_time(100 * SECOND), ev.Tell)
    bench.do(ev.Commanded(1, 10, "suspend", "tool"))
    bench.do(ev.Pressure(2.0, 1000 * MIB))
    assert kinds(bench.said, ev.Suspend) == [ev.Suspend(worker, True)]
    bench.do(ev.Commanded(1, 11, "resume", "tool"))
    assert kinds(bench.said, ev.Suspend)[-1] == ev.Suspend(worker, False)
    assert len(kinds(bench.said, ev.Suspend)) == 2


def test_memory_that_others_use_is_not_handed_out() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    finish(bench, 1)
    bench.do(ev.Pressure(2.0, 50 * MIB))
    assert bench.core.state.workers[worker].state in LEAVING, "what is idle goes"
    bench.do(ev.WorkerGone(worker, "exited"))
    bench.submit(2)
    assert not bench.core.state.workers, "it waits"
    bench.do(ev.Pressure(2.0, 1000 * MIB))
    assert bench.core.state.workers, "until the memory is there again"


def test_what_is_held_ages_and_computes_again() -> None:
    bench = Bench()
    bench.submit(1, ENGINE, priority="batch")
    bulk = bench.ready(ENGINE, 4)
    bench.submit(2, OTHER, priority="interactive")
    urgent = bench.ready(OTHER, 4)
    aged = limits.PROMOTE["batch"] + limits.PROMOTE["normal"]
    for _ in range(aged // SECOND - 1):
        bench.pass_time(SECOND)
        bench.do(ev.WorkerAnswered(bulk))
        bench.do(ev.WorkerAnswered(urgent))
    assert words(bench)[bulk][0] == wire.HOLD
    bench.pass_time(2 * SECOND)
    assert sorted(word[0] for word in words(bench).values()) == [wire.GO, wire.GO], (
        "one thread each"
    )


def test_one_that_came_later_to_what_is_held_ages_later() -> None:
    bench = Bench()
    bench.submit(1, ENGINE, priority="batch")
    bulk = bench.ready(ENGINE, 4)
    bench.submit(2, OTHER, priority="interactive")
    urgent = bench.ready(OTHER, 4)

    def pass_seconds(count: int) -> None:
        for _ in range(count):
            bench.pass_time(SECOND)
            bench.do(ev.WorkerAnswered(bulk))
            bench.do(ev.WorkerAnswered(urgent))

    patience = limits.PROMOTE["batch"] // SECOND
    pass_seconds(patience // 2)
    bench.submit(3, ENGINE, priority="batch")
    mine = bench.core.state.requests[1]
    assert [mine[number].worker for number in (1, 3)] == [bulk, bulk], "both are held there"
    pass_seconds(patience // 2 + 6)
    assert [mine[number].rank for number in (1, 3)] == [2, 3]
    pass_seconds(patience // 2)
    assert [mine[number].rank for number in (1, 3)] == [2, 2]


def test_where_there_are_many_processors_lower_classes_get_some() -> None:
    bench = Bench(cores=8)
    bench.submit(1, ENGINE, priority="batch")
    bulk = bench.ready(ENGINE, 4)
    bench.submit(2, OTHER, priority="critical")
    urgent = bench.ready(OTHER, 4)
    assert words(bench) == {urgent: (wire.GO, 6), bulk: (wire.GO, 2)}


def test_who_is_silent_does_not_keep_the_processors() -> None:
    bench = Bench()
    bench.submit(1, ENGINE, priority="critical")
    silent = bench.ready(ENGINE, 4)
    bench.submit(2, OTHER, priority="batch")
    other = bench.ready(OTHER, 4)
    assert words(bench)[other][0] == wire.HOLD
    for _ in range(2):
        bench.pass_time(limits.HUNG // limits.MISSED)
        bench.do(ev.WorkerAnswered(other))
    assert words(bench)[other] == (wire.GO, 2)
    assert words(bench)[silent][0] == wire.HOLD
