"""What is let in: learned costs, estimates, deadlines, overload, fair shares."""

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.state import LEAVING
from clawai.sdk import wire
from clawai.sdk.plain import unpack
from core_bench import SECOND, TOOL, Bench, answers, ends, kinds, message, output, runs, served

MS = limits.MS


def teach(bench: Bench, worker: int, took: int, times: int = 3) -> None:
    """Have the operation take so long, a few times."""
    for request in range(900, 900 + times):
        bench.submit(request)
        task = bench.core.state.requests[1][request]
        bench.do(output(worker, wire.Done(id=task.id)), after=took)


def started(bench: Bench) -> int:
    bench.submit(899)
    worker = bench.ready()
    task = bench.core.state.requests[1][899]
    bench.do(output(worker, wire.Done(id=task.id)), after=SECOND)
    return worker


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    bench = Bench()
    teach(bench, started(bench), SECOND)
    bench.submit(1)
    bench.submit(2)
    said = bench.submit(3, deadline=2 * SECOND)  # one runs and one waits, a second each
    error = answers(said)[0]
    assert error.code == "deadline_unreachable"
    assert (unpack(error.got), unpack(error.allowed)) == ("2000 ms", "3000 ms")
    assert error.retry_after_ms == 2000
    assert not ends(bench.submit(4, deadline=4 * SECOND)), "this one can be"


def test_nothing_is_refused_by_guessing() -> None:
    bench = Bench()
    bench.submit(1)
    bench.ready()
    assert not ends(bench.submit(2, deadline=MS)), "nothing is known of it yet"


def test_an_urgent_task_does_not_count_those_that_it_passes() -> None:
    bench = Bench()
    teach(bench, started(bench), SECOND)
    for request in range(1, 10):
        bench.submit(request, priority="batch")
    said = bench.submit(20, priority="critical", deadline=2 * SECOND + MS)
    assert not ends(said), "only the one that runs is before it"


def test_the_estimate_is_told_and_grows_with_the_queue() -> None:
    bench = Bench()
    teach(bench, started(bench), SECOND)
    told = [answers(bench.submit(request))[0] for request in range(1, 6)]
    assert [message.estimate_ms for message in told] == [0, 1000, 2000, 3000, 4000]


def test_a_full_queue_gives_up_the_lowest_class_first() -> None:
    bench = Bench(most_tasks=4)
    for request, priority in ((1, "normal"), (2, "batch"), (3, "batch"), (4, "normal")):
        bench.submit(request, priority=priority)
    said = bench.submit(5, priority="critical")
    assert ends(said) == {3: "overloaded"}, "the youngest of the lowest class"
    error = answers(said)[0]
    assert error.retry_after_ms
    assert ends(bench.submit(6, priority="batch")) == {6: "queue_full"}
    assert ends(bench.submit(7, priority="normal")) == {2: "overloaded"}
    assert ends(bench.submit(8, priority="normal")) == {8: "queue_full"}


def test_principals_take_turns_whatever_they_ask_for() -> None:
    bench = Bench()
    for request in range(1, 31):
        bench.submit(request, principal="greedy")
    for request in range(31, 36):
        bench.submit(request, principal="modest")
    order = served(bench, bench.ready())
    assert set(order[:11]) >= {31, 32, 33, 34, 35}, "it waits for its turn, not for all of theirs"


def test_shares_are_of_time_not_of_tasks() -> None:
    bench = Bench()
    worker = started(bench)
    teach(bench, worker, 10 * limits.QUANTUM)
    bench.submit(900)
    for request in range(1, 11):  # long ones of one principal, short ones of another
        bench.submit(request, principal="long")
        bench.submit(request + 100, principal="short", op="tool.short")
    order = [request for request in served(bench, worker) if request < 900]
    assert sum(request > 100 for request in order[:12]) >= 9, "ten short ones are worth a long one"


def test_a_durable_task_is_told_when_it_is_safe_and_outlives_its_client() -> None:
    bench = Bench()
    said = bench.submit(1, job="j1")
    record = kinds(said, ev.Record)[0]
    assert (record.kind, record.asked.job) == ("accept", "j1")
    assert isinstance(record.then.message, wire.Accepted)
    assert not answers(said)
    said = bench.do(ev.WorkerReady(1, 1))
    record = kinds(said, ev.Record)[0]
    assert record.kind == "start"
    assert isinstance(record.then, ev.Dispatch), "it does not begin before that is known"
    bench.do(ev.ClientLeft(1))
    assert bench.core.state.tasks
    record = kinds(bench.do(output(1, wire.Done(id=1))), ev.Record)[0]
    assert (record.kind, type(message(record.then))) == ("end", wire.Done)


def test_a_durable_task_is_cut_short_by_the_kernels_end_and_not_ended() -> None:
    bench = Bench()
    bench.submit(1, job="j1")
    bench.submit(2, job="j2")
    bench.ready()
    said = bench.do(ev.ShutdownAsked())
    said += bench.do(ev.WorkerGone(1, "killed"))
    assert not [record for record in kinds(said, ev.Record) if record.kind == "end"]


def test_a_job_that_comes_back_is_not_recorded_again() -> None:
    bench = Bench()
    said = bench.submit(1, client=0, job="j1")
    assert not kinds(said, ev.Record)
    assert kinds(said, ev.Start)


def test_keep_alive_ends_a_worker_sooner_or_later() -> None:
    bench = Bench(idle_ns=60 * SECOND)
    bench.submit(1, keep_ns=5 * SECOND)
    worker = bench.ready()
    bench.do(output(worker, wire.Done(id=1)))
    bench.pass_time(7 * SECOND)
    assert bench.core.state.workers[worker].state in LEAVING
    bench.do(ev.WorkerGone(worker, "exited"))
    bench.submit(2, keep_ns=500 * SECOND)
    worker = bench.ready()
    bench.do(output(worker, wire.Done(id=2)))
    bench.pass_time(400 * SECOND)
    assert bench.core.state.workers[worker].state == "ready"
    bench.submit(3)
    bench.do(output(worker, wire.Done(id=3)))
    bench.pass_time(62 * SECOND)
    assert bench.core.state.workers[worker].state in LEAVING, "as configured, if it says nothing"


def test_what_is_pinned_stays() -> None:
    bench = Bench(idle_ns=SECOND)
    bench.submit(1)
    worker = bench.ready()
    bench.do(ev.Commanded(1, 2, "pin", "tool"))
    bench.do(output(worker, wire.Done(id=1)))
    bench.pass_time(1000 * SECOND)
    other = ev.Spec("other", "", 950 * limits.MIB, 0, 1)
    bench.submit(3, other)
    assert bench.core.state.workers[worker].state == "ready", "neither idleness nor need ends it"
    bench.do(ev.Commanded(1, 4, "unpin", "tool"))
    bench.pass_time(2 * SECOND)
    assert bench.core.state.workers[worker].state in LEAVING


def test_the_third_death_without_an_answer_is_quarantine() -> None:
    bench = Bench()
    bench.submit(1)
    for death in range(3):
        worker = bench.ready()
        said = bench.do(ev.WorkerGone(worker, "killed by SIGSEGV"))
        assert bool(kinds(said, ev.Start)) == (death < 2), "the first two come back at once"
        if death < 2:
            assert bench.core.state.services[TOOL.key].worker
            bench.submit(10 + death)
    assert ends(bench.submit(20)) == {20: "quarantined"}
    bench.pass_time(limits.QUARANTINE)
    assert not ends(bench.submit(21))
    worker = bench.ready()
    bench.do(ev.WorkerGone(worker, "killed by SIGSEGV"))
    bench.pass_time(limits.QUARANTINE)
    assert ends(bench.submit(22)) == {22: "quarantined"}, "each time for longer"
    bench.pass_time(limits.QUARANTINE)
    assert not ends(bench.submit(23))
    assert runs(bench.do(ev.WorkerReady(bench.core.state.services[TOOL.key].worker.id, 1)))
