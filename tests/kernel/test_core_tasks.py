"""Tasks: cancel and deadline in every state, limits, and the end."""

import pytest

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.state import BrokenInvariantError
from clawai.sdk import wire
from clawai.sdk.plain import unpack
from core_bench import SECOND, TOOL, Bench, answers, ends, kinds, output, runs

BROKEN = wire.Error(code="bad_model", message="not a GGUF file")


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
    assert not answers(bench.do(output(worker, wire.Chunk(id=1))))
    said = bench.do(output(worker, wire.Error(id=1, code="cancelled", message="")))
    assert ends(said) == {1: "cancelled"}


def test_a_cancelled_task_that_finishes_is_cancelled() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    bench.do(ev.CancelAsked(1, 1))
    assert ends(bench.do(output(worker, wire.Done(id=1)))) == {1: "cancelled"}


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
    assert ends(bench.do(output(worker, wire.Done(id=1)))) == {}, "told once"


def test_cancel_while_expiring() -> None:
    bench = Bench()
    bench.submit(1, deadline=SECOND)
    worker = bench.ready()
    bench.pass_time(SECOND)
    assert bench.core.state.tasks[1].state == "expiring"
    bench.do(ev.CancelAsked(1, 1))
    assert ends(bench.do(output(worker, wire.Done(id=1)))) == {}, "the deadline was told"
    assert not bench.core.state.tasks


@pytest.mark.parametrize("deadline", [0, -1, -(10**18)])
def test_a_deadline_already_past(deadline: int) -> None:
    bench = Bench()
    assert ends(bench.submit(1, deadline=deadline)) == {1: "deadline_passed"}


def test_deadlines_of_ended_tasks_are_forgotten() -> None:
    bench = Bench()
    bench.submit(0)
    worker = bench.ready()
    bench.do(output(worker, wire.Done(id=1)))
    for request in range(1, 5000):
        bench.submit(request, deadline=3600 * SECOND)
        bench.do(output(worker, wire.Done(id=request + 1)))
    assert len(bench.core.state.timers) < 200


def test_a_client_that_leaves_takes_its_tasks_along() -> None:
    bench = Bench()
    for request, client in ((1, 1), (2, 1), (3, 2)):
        bench.submit(request, client=client)
    worker = bench.ready()
    said = bench.do(ev.ClientLeft(1))
    assert ev.Control(worker, 0, 1) in said
    bench.do(output(worker, wire.Error(id=1, code="cancelled", message="")))
    assert runs(bench.said)[-1].id == 3


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
    said = bench.do(ev.Commanded(9, 5, "unload", "tool"))
    assert ends(said) == {2: "cancelled"}
    answer = kinds(said, ev.Reply)[-1]
    assert answer.client == 9
    assert unpack(answer.message.data)["stopped"][0]["plugin"] == "tool"
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
    assert answers(said)[0].code == "kernel_stopped"


def test_a_task_that_is_given_back_while_the_kernel_stops_is_told() -> None:
    bench = Bench()
    bench.submit(1, priority="batch", idempotent=True)
    worker = bench.ready()
    bench.submit(2)
    bench.do(ev.ShutdownAsked())
    bench.do(ev.Output(worker, 1, "yielded"))
    assert ends(bench.do(ev.WorkerGone(worker, "killed"))) == {1: "kernel_stopped"}


def test_an_error_of_a_worker_is_passed_on_unread() -> None:
    """Also a code that it made up: what that means is for the client to say."""
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    got = wire.pack(["what", {"it": "got"}])
    error = wire.Error(id=1, code="all_is_lost", message="boo", got=got, hint="wait")
    said = bench.do(output(worker, error))
    assert ends(said) == {1: "all_is_lost"}
    told = answers(said)[0]
    assert (told.message, told.got, told.hint) == ("boo", got, "wait")


def test_a_detail_that_is_too_large_is_left_out() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    large, small = wire.pack(bytes(wire.DETAIL)), wire.pack("small")
    error = wire.Error(id=1, code="bad_params", message="boo", got=large, allowed=small)
    told = answers(bench.do(output(worker, error)))[0]
    assert (told.got, told.allowed) == (wire.NIL, small)


def test_figures_of_a_worker_are_cut_to_what_is_possible() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    lie = {"compute_us": 10**15, "plugin_us": -7, "queue_us": 10**9}
    said = bench.do(output(worker, wire.Done(id=1, timings=lie)), after=5 * limits.MS)
    times = answers(said)[0].timings
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
        bench.do(ev.MemoryGone(7))


def test_why_a_worker_cannot_serve_reaches_those_who_wait() -> None:
    bench = Bench()
    bench.submit(1)
    bench.submit(2)
    said = bench.do(ev.WorkerUnready(1, ev.Hidden(BROKEN)))
    assert ends(said) == {1: "bad_model", 2: "bad_model"}
    bench.do(ev.WorkerGone(1, "exited with code 0"))
    assert not bench.core.state.workers
    assert not bench.core.state.services[TOOL.key].deaths, "that was no surprise"
