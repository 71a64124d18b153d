"""Child tasks and windows in the core: who ends with whom, what is refused, who is held."""

import pytest

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.sdk import wire
from core_bench import MIB, SECOND, TOOL, WIDE, Bench, answers, ends, kinds, output, runs

OTHER = ev.Spec("other", "", 100 * MIB, 0, 1)
ENGINE = ev.Spec("engine", "m", 100 * MIB, 0, 1, cooperative=True)


def child(bench: Bench, request: int, parent: int, spec: ev.Spec, **fields: object) -> list[object]:
    """As the shell submits it, over the connection of a worker."""
    return list(bench.submit(request, spec, client=2, parent=parent, **fields))


def refused(said: list[object]) -> wire.Error:
    (error,) = answers(said, 2)  # type: ignore[arg-type]
    assert isinstance(error, wire.Error)
    return error


def test_a_child_ends_with_its_parent() -> None:
    for end in (
        lambda worker: output(worker, wire.Done(id=1)),
        lambda worker: output(worker, wire.Error(id=1, code="worker_failed", message="")),
        lambda _: ev.CancelAsked(1, 1),
        lambda _: ev.ClientLeft(1),
    ):
        bench = Bench()
        bench.submit(1)
        worker = bench.ready()
        child(bench, 7, 1, OTHER)
        grandchild = bench.ready(OTHER)
        child(bench, 8, 2, ev.Spec("third", "", MIB, 0, 1))
        said = bench.do(end(worker))
        assert ends(said)[8] == "cancelled", "it was queued"
        assert ev.Tell(grandchild, wire.Cancel(id=2)) in said, "it runs"


def test_children_of_a_worker_that_dies_or_gives_back() -> None:
    bench = Bench()
    bench.submit(1, idempotent=True, priority="batch")
    worker = bench.ready()
    child(bench, 7, 1, OTHER)
    assert ends(bench.do(ev.WorkerGone(worker, "killed")))[7] == "cancelled"
    worker = bench.ready()
    child(bench, 8, 1, OTHER)
    bench.submit(2, priority="critical")
    said = bench.do(ev.Output(worker, 1, "yielded"))
    assert ends(said) == {8: "cancelled"}
    assert [run.id for run in runs(said)] == [bench.core.state.requests[1][2].id]


@pytest.mark.parametrize("parent", [1, 2, 99])
def test_the_parent_must_run(parent: int) -> None:
    bench = Bench()
    bench.submit(1)
    bench.submit(2)
    if parent == 2:
        bench.ready()
    assert refused(child(bench, 7, parent, OTHER)).code == "bad_state"


def test_a_child_is_not_durable() -> None:
    bench = Bench()
    bench.submit(1)
    bench.ready()
    assert refused(child(bench, 7, 1, OTHER, job="j")).code == "bad_params"


def test_the_only_slot_is_the_parents() -> None:
    bench = Bench()
    bench.submit(1)
    bench.ready()
    error = refused(child(bench, 7, 1, TOOL, op="tool.again"))
    assert (error.code, error.got) == ("would_deadlock", wire.pack(["tool.op", "tool.again"]))


def test_round_by_another_service() -> None:
    bench = Bench()
    bench.submit(1)
    bench.ready()
    child(bench, 7, 1, OTHER)
    bench.ready(OTHER)
    assert refused(child(bench, 8, 2, TOOL)).code == "would_deadlock"


def test_two_that_would_wait_for_each_other() -> None:
    bench = Bench()
    bench.submit(1, TOOL)
    bench.ready(TOOL)
    bench.submit(2, OTHER)
    bench.ready(OTHER)
    said = child(bench, 7, 1, OTHER)
    assert not [each for each in answers(said, 2) if isinstance(each, wire.Error)]  # type: ignore[arg-type]
    assert refused(child(bench, 8, 2, TOOL)).code == "would_deadlock"


def test_all_slots_of_several_chains() -> None:
    bench = Bench()
    for request in (1, 2, 3, 4):
        bench.submit(request, WIDE)
    bench.ready(WIDE, 4)
    for request in (1, 2, 3):
        child(bench, 10 + request, request, WIDE)
    assert refused(child(bench, 14, 4, WIDE)).code == "would_deadlock", "the last slot"
    worker = bench.core.state.services[WIDE.key].worker
    assert worker
    said = bench.do(output(worker.id, wire.Done(id=4)))
    assert runs(said), "with one slot free the others go on"


def test_a_slot_that_comes_back_is_waited_for() -> None:
    """The holder of the only slot waits for something else, which will end."""
    bench = Bench()
    bench.submit(1, OTHER)
    bench.ready(OTHER)
    third = ev.Spec("third", "", MIB, 0, 1)
    child(bench, 7, 1, third)
    running = bench.ready(third)
    bench.submit(2, TOOL)
    bench.ready(TOOL)
    said = child(bench, 8, 3, OTHER)
    assert not [each for each in answers(said, 2) if isinstance(each, wire.Error)]  # type: ignore[arg-type]
    bench.do(output(running, wire.Done(id=2)))
    worker = bench.core.state.services[OTHER.key].worker
    assert worker
    assert runs(bench.do(output(worker.id, wire.Done(id=1))))


def test_how_deep() -> None:
    bench = Bench(budget=10_000 * MIB)
    deep = ev.Spec("deep", "", MIB, 0, 16)
    bench.submit(1, deep)
    bench.ready(deep, 16)
    for level in range(1, limits.FAMILY):
        child(bench, 10 + level, level, deep)
    error = refused(child(bench, 99, limits.FAMILY, deep))
    assert (error.code, error.allowed) == ("would_deadlock", wire.pack(limits.FAMILY))


def test_no_room_beside_those_who_wait() -> None:
    bench = Bench(budget=250 * MIB)
    bench.submit(1)
    bench.ready()
    assert refused(child(bench, 7, 1, ev.Spec("big", "", 200 * MIB, 0, 1))).code == "never_fits"
    assert not [e for e in answers(child(bench, 8, 1, OTHER), 2) if isinstance(e, wire.Error)]  # type: ignore[arg-type]


def test_a_worker_that_is_waited_on_is_not_replaced() -> None:
    """With new settings it would be, when idle: but its parent would wait for the one after it."""
    bench = Bench()
    bench.submit(1, WIDE)
    worker = bench.ready(WIDE, 4)
    child(bench, 7, 1, WIDE)
    new = ev.Spec(**{f: getattr(WIDE, f) for f in WIDE.__struct_fields__} | {"settings": "new"})
    said = child(bench, 8, 1, new)
    assert runs(said), "it goes on as it is"  # type: ignore[arg-type]
    bench.do(output(worker, wire.Done(id=2)))
    bench.do(output(worker, wire.Done(id=3)))
    said = list(bench.do(output(worker, wire.Done(id=1))))
    bench.submit(2, new)
    assert kinds(bench.said, ev.Tell)[-1].message == wire.Stop()


def test_who_waits_leaves_the_processor() -> None:
    bench = Bench(cores=2)
    bench.submit(1)
    bench.ready()
    bench.submit(2, ENGINE)
    engine = bench.ready(ENGINE)
    assert bench.core.state.workers[engine].threads == 1, "one is the tool's"
    child(bench, 7, 1, ENGINE)
    assert bench.core.state.workers[engine].threads == 2
    bench.do(ev.CancelAsked(2, 7))
    assert bench.core.state.workers[engine].threads == 1


def test_a_window() -> None:
    bench = Bench()
    bench.submit(1, window=10)
    worker = bench.ready()

    def chunk(size: int) -> list[ev.Control]:
        message = wire.Chunk(id=1, data=wire.pack(b"x" * (size - 2)))
        return kinds(bench.do(output(worker, message)), ev.Control)

    assert not chunk(9)
    assert chunk(4) == [ev.Control(worker, 0, wire.HOLD)]
    assert not chunk(4), "what was on its way"
    assert not bench.do(ev.Taken(1, 1, 7)), "17 - 7 is no less than 10"
    assert bench.do(ev.Taken(1, 1, 1)) == [ev.Control(worker, 0, wire.GO)]
    assert chunk(4)
    assert bench.do(ev.Taken(1, 1, 1 << 40)) == [ev.Control(worker, 0, wire.GO)]
    assert chunk(12)
    said = bench.do(ev.CancelAsked(1, 1))
    assert kinds(said, ev.Control) == [ev.Control(worker, 0, wire.STOP)]
    assert not bench.do(ev.Taken(1, 1, 100))
    assert not bench.do(ev.Taken(1, 99, 100))


def test_no_window() -> None:
    bench = Bench()
    bench.submit(1)
    worker = bench.ready()
    for _ in range(10):
        message = wire.Chunk(id=1, data=wire.pack(bytes(1 << 20)))
        assert not kinds(bench.do(output(worker, message)), ev.Control)
    assert bench.now < 1001 * SECOND
