"""Weights objects: filled once, sealed, mapped by others, outliving their workers."""

import pytest
from msgspec.structs import replace

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.state import LEAVING
from clawai.sdk import wire
from core_bench import MIB, SECOND, Bench, ends, kinds, output

MODEL = ev.Spec("engine", "a", 10 * MIB, 0, 1, identity="file 1", code="v1", cooperative=True)
SIZE = 300 * MIB


def reserve(worker: int, layout: str = "rows8", private: int = 20 * MIB) -> ev.WorkerReserved:
    return ev.WorkerReserved(worker, private, layout, SIZE)


def loaded(bench: Bench, spec: ev.Spec = MODEL, request: int = 1) -> int:
    """A worker that has filled its object and serves."""
    bench.submit(request, spec)
    worker = bench.core.state.services[spec.key].worker
    assert worker
    said = bench.do(reserve(worker.id))
    assert [type(t) for t in said] == [ev.MakeMemory, ev.Tell]
    assert said[1].message == wire.Granted(weights="fill")
    said = bench.do(ev.WorkerFilled(worker.id, True))
    assert said == [ev.Tell(worker.id, wire.Sealed())]
    bench.ready(spec)
    return worker.id


def test_a_restarted_worker_maps_what_is_there() -> None:
    bench = Bench()
    first = loaded(bench)
    used = bench.core.state.ledger.used
    assert used == 330 * MIB, "base, private memory, and the object once"
    bench.do(ev.WorkerGone(first, "killed by SIGSEGV"))
    said = bench.do(reserve(2))
    assert [type(t) for t in said] == [ev.GiveMemory, ev.Tell]
    assert said[1].message == wire.Granted(weights="map")
    bench.ready(MODEL)
    assert bench.core.state.ledger.used == used
    assert not kinds(bench.said, ev.FreeMemory)


def test_spoiled_weights_are_given_to_nobody_and_freed() -> None:
    bench = Bench()
    first = loaded(bench)
    used = bench.core.state.ledger.used
    assert bench.do(ev.MemorySpoiled(1)) == [], "it is mapped still"
    said = bench.do(ev.WorkerGone(first, "its packed weights are damaged on the disk"))
    assert kinds(said, ev.FreeMemory)
    bench.do(ev.MemoryGone(1))
    said = bench.do(reserve(2))
    assert said[1].message == wire.Granted(weights="fill")
    bench.do(ev.WorkerFilled(2, True))
    bench.ready(MODEL)
    assert bench.core.state.ledger.used == used
    bench.do(ev.MemorySpoiled(99))


def test_spoiled_weights_that_nobody_maps_are_freed_at_once() -> None:
    bench = Bench()
    bench.do(ev.WorkerGone(loaded(bench), "killed by SIGSEGV"))
    assert kinds(bench.do(ev.MemorySpoiled(1)), ev.FreeMemory)


@pytest.mark.parametrize(
    "changed", [{"identity": "file 2"}, {"code": "v2"}, {"plugin": "other"}, {"model": "b"}]
)
def test_nobody_else_maps_it(changed: dict[str, str]) -> None:
    bench = Bench()
    loaded(bench)
    other = replace(MODEL, **changed)
    bench.submit(2, other)
    if "model" not in changed and "plugin" not in changed:
        bench.do(output(1, wire.Done(id=1)))
        bench.do(ev.WorkerGone(1, "exited"))
    said = bench.do(reserve(2))
    assert kinds(said, ev.MakeMemory)
    assert not kinds(said, ev.GiveMemory)


def test_another_layout_is_another_object() -> None:
    bench = Bench()
    bench.do(ev.WorkerGone(loaded(bench), "killed"))
    assert kinds(bench.do(reserve(2, "rows16")), ev.MakeMemory)


def test_two_lanes_fill_it_once() -> None:
    bench = Bench()
    bulk = replace(MODEL, lane="bulk")
    bench.submit(1, MODEL)
    bench.submit(2, bulk)
    assert kinds(bench.do(reserve(1)), ev.MakeMemory)
    assert not bench.do(reserve(2)), "it waits until the other has filled it"
    said = bench.do(ev.WorkerFilled(1, True))
    assert ev.Tell(2, wire.Granted(weights="map")) in said
    assert bench.core.state.ledger.used == 360 * MIB


def test_if_the_first_dies_while_it_fills_the_second_fills() -> None:
    bench = Bench()
    bench.submit(1, MODEL)
    bench.submit(2, replace(MODEL, lane="bulk"))
    bench.do(reserve(1))
    bench.do(reserve(2))
    said = bench.do(ev.WorkerGone(1, "killed"))
    assert kinds(said, ev.FreeMemory) == [ev.FreeMemory(1)]
    assert ev.Tell(2, wire.Granted(weights="fill")) in said
    bench.do(ev.MemoryGone(1))
    assert list(bench.core.state.memory) == [2]


def test_one_that_could_still_be_written_is_never_mapped() -> None:
    bench = Bench()
    bench.submit(1, MODEL)
    bench.do(reserve(1))
    said = bench.do(ev.WorkerFilled(1, False))
    assert kinds(said, ev.Kill)
    assert not kinds(said, ev.Tell)
    said = bench.do(ev.WorkerGone(1, "killed"))
    assert kinds(said, ev.FreeMemory)
    assert kinds(said, ev.Start), "the next one tries, until there were too many"


@pytest.mark.parametrize("step", ["before", "twice", "ready"])
def test_what_a_worker_may_not_say(step: str) -> None:
    bench = Bench()
    bench.submit(1, MODEL)
    if step == "before":
        said = bench.do(ev.WorkerFilled(1, False))
    else:
        bench.do(reserve(1))
        if step == "twice":
            bench.do(ev.WorkerFilled(1, True))
            said = bench.do(ev.WorkerFilled(1, False))
        else:
            said = bench.do(ev.WorkerReady(1, 1))
    assert kinds(said, ev.Kill)


def test_it_goes_with_a_worker_that_was_stopped_on_purpose() -> None:
    bench = Bench(idle_ns=60 * SECOND)
    worker = loaded(bench)
    bench.do(output(worker, wire.Done(id=1)))
    bench.pass_time(61 * SECOND)
    said = bench.do(ev.WorkerGone(worker, "exited"))
    assert kinds(said, ev.FreeMemory)
    assert bench.core.state.ledger.used == SIZE, "charged until its pages are back"
    bench.do(ev.MemoryGone(1))
    assert bench.core.state.ledger.used == 0


def test_it_makes_room_when_nobody_maps_it_and_only_then() -> None:
    bench = Bench(budget=700 * MIB)
    worker = loaded(bench)
    large = ev.Spec("large", "", 500 * MIB, 0, 1)
    said = bench.submit(2, large)
    assert not kinds(said, ev.FreeMemory), "it is in use"
    bench.do(output(worker, wire.Done(id=1)))
    assert bench.core.state.workers[worker].state in LEAVING, "now its worker is idle"
    said = bench.do(ev.WorkerGone(worker, "exited"))
    assert kinds(said, ev.FreeMemory)
    assert not kinds(said, ev.Start), "the memory is not back yet"
    assert kinds(bench.do(ev.MemoryGone(1)), ev.Start)


def test_what_a_crash_left_behind_makes_room_first() -> None:
    bench = Bench(budget=700 * MIB)
    bench.submit(2, MODEL)
    worker = loaded(bench)
    for _ in range(limits.DEATHS):
        if (alive := bench.core.state.services[MODEL.key].worker) is None:
            break
        bench.do(ev.WorkerGone(alive.id, "killed"))
    assert worker not in bench.core.state.workers
    assert not kinds(bench.said, ev.FreeMemory), "kept for the next one"
    said = bench.submit(3, ev.Spec("large", "", 500 * MIB, 0, 1))
    assert kinds(said, ev.FreeMemory)


def test_never_fits_counts_the_object() -> None:
    bench = Bench(budget=300 * MIB)
    bench.submit(1, MODEL)
    bench.do(reserve(1))
    assert ends(bench.said) == {1: "never_fits"}
