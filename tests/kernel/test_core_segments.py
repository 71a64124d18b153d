"""Segments and leases."""

import pytest

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.sdk import wire
from core_bench import MIB, TOOL, WIDE, Bench, answers, ends, kinds, output, runs

BIG = 5 * MIB
"""Has a segment of its own."""


def lease(said: list[ev.Instruction]) -> wire.Lease:
    """The one that was lent."""
    leased = [m for m in answers(said) if isinstance(m, wire.Leased)]
    assert len(leased) == 1
    return leased[0].lease


def drops(said: list[ev.Instruction]) -> tuple[list[int], list[int]]:
    """The segments that workers, and those that clients are asked back."""
    told = kinds(said, ev.Tell), kinds(said, ev.Reply)
    return tuple([t.message.segment for t in ts if isinstance(t.message, wire.Drop)] for ts in told)  # type: ignore[return-value]


def charged(bench: Bench) -> int:
    """Bytes that are charged, but for those that workers hold alone."""
    state = bench.core.state
    return state.ledger.used - sum(worker.holds for worker in state.workers.values())


def code(said: list[ev.Instruction]) -> str:
    """Of the one refusal."""
    return next(m.code for m in answers(said) if isinstance(m, wire.Error))


def test_a_segment_is_recycled_inside_its_pair_only() -> None:
    bench = Bench()
    bench.submit(0)
    worker = bench.ready()
    made = kinds(bench.do(ev.Borrowed(1, 1, TOOL, BIG - 1)), ev.MakeMemory)[0]
    assert (made.client, made.worker, made.size) == (1, worker, BIG)
    bench.do(ev.Returned(1, made.memory, 0))
    said = bench.do(ev.Borrowed(2, 2, TOOL, BIG))
    assert kinds(said, ev.MakeMemory)[0].memory != made.memory
    said = bench.do(ev.Borrowed(1, 3, TOOL, BIG))
    assert not kinds(said, ev.MakeMemory)
    assert (lease(said).segment, lease(said).generation) == (made.memory, 1)


def test_small_leases_share_a_segment_and_never_a_page() -> None:
    bench = Bench()
    bench.submit(0)
    bench.ready()
    given = [lease(bench.do(ev.Borrowed(1, n, TOOL, 5000))) for n in range(1, 9)]
    assert {each.segment for each in given} == {1}
    assert [each.offset for each in given] == [8192 * n for n in range(8)]
    assert [each.generation for each in given] == list(range(8))
    bench.do(ev.Returned(1, 1, 2))
    bench.do(ev.Returned(1, 1, 3))
    again = lease(bench.do(ev.Borrowed(1, 9, TOOL, 16384)))
    assert (again.offset, again.length, again.generation) == (given[2].offset, 16384, 8)
    assert ends(bench.submit(20, leases=(given[2],))) == {20: "no_lease"}
    assert not ends(bench.submit(21, leases=(again,)))


def test_a_large_segment_is_lent_again_when_little_of_it_is_left_over() -> None:
    bench = Bench()
    bench.submit(0)
    bench.ready()
    first = lease(bench.do(ev.Borrowed(1, 1, TOOL, 16 * MIB)))
    bench.do(ev.Returned(1, first.segment, 0))
    small = lease(bench.do(ev.Borrowed(1, 2, TOOL, 4096)))
    half = lease(bench.do(ev.Borrowed(1, 3, TOOL, 8 * MIB)))
    most = lease(bench.do(ev.Borrowed(1, 4, TOOL, 14 * MIB)))
    assert first.segment not in (small.segment, half.segment)
    assert (most.segment, most.length) == (first.segment, 14 * MIB)


def test_memory_counts_until_every_holder_has_unmapped_it() -> None:
    bench = Bench()
    bench.submit(0)
    worker = bench.ready()
    bench.do(ev.Borrowed(1, 1, TOOL, BIG))
    assert drops(bench.do(ev.WorkerGone(worker, "killed"))) == ([], [])
    assert charged(bench) == BIG, "the client uses it"
    said = bench.do(ev.Returned(1, 1, 0))
    assert drops(said) == ([], [1])
    assert not kinds(said, ev.FreeMemory), "the client still maps it"
    bench.do(ev.Unmapped(2, 1))
    bench.do(ev.Unmapped(1, 99))
    assert ev.FreeMemory(1) in bench.do(ev.Unmapped(1, 1))
    assert charged(bench) == BIG, "its pages are not back yet"
    assert not bench.do(ev.Unmapped(1, 1)), "said twice"
    bench.do(ev.MemoryGone(1))
    assert charged(bench) == 0


def test_a_client_that_does_not_answer_keeps_the_charge_until_it_leaves() -> None:
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, BIG))
    worker = bench.ready()
    bench.do(ev.Returned(1, 1, 0))
    bench.do(ev.WorkerGone(worker, "killed"))
    bench.pass_time(3600 * limits.SECOND)
    assert charged(bench) == BIG
    assert ev.FreeMemory(1) in bench.do(ev.ClientLeft(1))


def test_idle_segments_of_all_pairs_are_asked_back_before_a_refusal() -> None:
    bench = Bench()
    bench.submit(0)
    worker = bench.ready()
    for client in (1, 2):
        bench.do(ev.Borrowed(client, 1, TOOL, 390 * MIB))
        bench.do(ev.Returned(client, client, 0), after=1)
    said = bench.do(ev.Borrowed(3, 1, TOOL, 500 * MIB))
    assert drops(said) == ([1], [1]), "the longest idle first, and no more than are needed"
    assert not kinds(bench.do(ev.Borrowed(3, 2, TOOL, 4096)), ev.MakeMemory), "it waits its turn"
    bench.do(ev.WorkerDropped(worker, 1))
    assert ev.FreeMemory(1) in bench.do(ev.Unmapped(1, 1))
    said = bench.do(ev.MemoryGone(1))
    assert [m.size for m in kinds(said, ev.MakeMemory)] == [500 * MIB, limits.SLAB // 16]


def test_memory_of_a_suspended_worker_is_asked_back_last() -> None:
    bench = Bench()
    for spec in (TOOL, WIDE):
        bench.do(ev.Borrowed(1, 1, spec, 300 * MIB), after=1)
        bench.ready(spec)
    for segment in (1, 2):
        bench.do(ev.Returned(1, segment, 0), after=1)
    bench.do(ev.Commanded(2, 1, "suspend", "tool"))
    bench.submit(5, WIDE)  # its worker is not idle, nor is it stopped for the lease
    assert drops(bench.do(ev.Borrowed(1, 6, WIDE, 400 * MIB))) == ([2], [2])


def test_an_idle_worker_makes_room_for_a_lease() -> None:
    bench = Bench()
    bench.submit(0, WIDE)
    other = bench.ready(WIDE)
    bench.submit(1)
    worker = bench.ready()
    bench.do(output(worker, wire.Done(id=2)))
    assert code(bench.do(ev.Borrowed(1, 2, TOOL, 850 * MIB))) == "no_memory", "the other one works"
    bench.do(output(other, wire.Done(id=1)))
    told = kinds(bench.do(ev.Borrowed(1, 3, TOOL, 850 * MIB)), ev.Tell)
    assert [(t.worker, type(t.message)) for t in told] == [(other, wire.Stop)]
    assert lease(bench.do(ev.WorkerGone(other, "exited"))).length == 850 * MIB


def test_who_waits_for_memory_that_never_comes_is_told() -> None:
    bench = Bench()
    bench.submit(0)
    bench.ready()
    bench.do(ev.Borrowed(1, 1, TOOL, 800 * MIB))
    bench.do(ev.Returned(1, 1, 0))
    assert not ends(bench.do(ev.Borrowed(2, 1, TOOL, 800 * MIB)))
    assert code(bench.pass_time(limits.UNMAP)) == "no_memory"


def test_what_is_lent_is_never_reclaimed() -> None:
    bench = Bench()
    bench.submit(0)
    bench.ready()
    bench.do(ev.Borrowed(1, 1, TOOL, 600 * MIB))
    said = bench.do(ev.Borrowed(2, 1, TOOL, 600 * MIB))
    assert drops(said) == ([], [])
    assert code(said) == "no_memory"


def test_what_a_running_task_uses_is_neither_lent_again_nor_reclaimed() -> None:
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 500 * MIB))
    worker = bench.ready()
    mine = wire.Lease(segment=1, offset=0, length=500 * MIB, generation=0)
    assert runs(bench.submit(2, leases=(mine,)))
    bench.do(ev.Returned(1, 1, 0))
    said = bench.do(ev.Borrowed(2, 3, TOOL, 500 * MIB))
    assert drops(said) == ([], [])
    assert code(said) == "no_memory"
    assert code(bench.do(ev.Borrowed(1, 4, TOOL, 500 * MIB))) == "no_memory"
    bench.do(output(worker, wire.Done(id=1)))
    assert lease(bench.do(ev.Borrowed(1, 5, TOOL, 500 * MIB))).segment == 1


def test_a_worker_that_dies_lets_go_of_what_its_tasks_used() -> None:
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, BIG))
    worker = bench.ready()
    mine = wire.Lease(segment=1, offset=0, length=BIG, generation=0)
    bench.submit(2, leases=(mine,))
    bench.do(ev.Returned(1, 1, 0))
    assert drops(bench.do(ev.WorkerGone(worker, "killed"))) == ([], [1])
    assert ev.FreeMemory(1) in bench.do(ev.Unmapped(1, 1))


def test_a_client_at_its_limit_of_segments_has_an_idle_one_exchanged() -> None:
    bench = Bench(10_000 * MIB)
    bench.submit(0)
    worker = bench.ready()
    for request in range(1, limits.SEGMENTS_PER_CLIENT + 1):
        bench.do(ev.Borrowed(1, request, TOOL, BIG))
    bench.do(ev.Returned(1, 7, 0))
    said = bench.do(ev.Borrowed(1, 100, TOOL, 4096))
    assert drops(said) == ([7], [7])
    bench.do(ev.WorkerDropped(worker, 7))
    bench.do(ev.Unmapped(1, 7))
    assert lease(bench.do(ev.MemoryGone(7))).segment == limits.SEGMENTS_PER_CLIENT + 1


def test_leases_are_told_after_their_segment_which_may_fail() -> None:
    """The shell keeps them until it is there; if it is not to be had, they have never been."""
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 4096))
    bench.do(ev.Borrowed(1, 2, TOOL, 4096))
    worker = bench.core.state.services[TOOL.key].worker
    assert worker
    said = bench.do(ev.WorkerReady(worker.id, 1))
    told = said[[type(each) for each in said].index(ev.MakeMemory) :]
    leased = [each.message for each in told if isinstance(each, ev.Reply)]
    assert leased == [m for m in answers(said) if isinstance(m, wire.Leased)]
    assert [each.lease.offset for each in leased] == [0, 4096]
    bench.do(ev.MemoryGone(1))
    assert bench.core.state.ledger.used == TOOL.base_bytes
    assert ends(bench.submit(3, leases=(leased[1].lease,))) == {3: "no_lease"}
    assert lease(bench.do(ev.Borrowed(1, 4, TOOL, 4096))).segment == 2


def test_a_worker_may_not_write_where_it_was_given_reading_only() -> None:
    bench = Bench()
    bench.submit(0)
    bench.ready()
    said = bench.do(ev.Borrowed(1, 1, TOOL, 4096, "r"))
    assert kinds(said, ev.MakeMemory)[0].rights == "r"
    mine = lease(said)
    assert mine.rights == "r"
    other = lease(bench.do(ev.Borrowed(1, 2, TOOL, 4096)))
    assert other.segment != mine.segment, "one descriptor gives the same rights to a whole segment"
    forged = wire.Lease(segment=mine.segment, offset=0, length=4096, generation=0)
    assert ends(bench.submit(3, leases=(forged,))) == {3: "no_lease"}
    assert not ends(bench.submit(4, leases=(mine, other)))


def test_pages_that_a_worker_fills_again_are_charged_until_they_are_back() -> None:
    """They come back when it has died, which the steward sees to."""
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    worker = bench.ready()
    bench.do(ev.ClientLeft(1))
    assert ev.FreeMemory(1) in bench.do(ev.WorkerDropped(worker, 1))
    bench.do(ev.WorkerBroke(worker, "it wrote to memory that was taken back"))
    bench.do(ev.WorkerGone(worker, "killed"))
    assert charged(bench) == limits.SLAB // 16
    bench.do(ev.MemoryGone(1))
    assert charged(bench) == 0


def test_a_segment_that_could_not_be_made_costs_nothing() -> None:
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    bench.ready()
    bench.do(ev.MemoryGone(1))
    assert bench.core.state.ledger.used == 100 * MIB
    assert not bench.core.state.memory


@pytest.mark.parametrize(
    ("client", "fields"),
    [
        (2, {}),
        (1, {"generation": 1}),
        (1, {"segment": 2}),
        (1, {"length": 8193}),
        (1, {"offset": 1}),
        (1, {"offset": (1 << 48) - 1, "length": (1 << 48) - 1}),
    ],
)
def test_forged_leases(client: int, fields: dict[str, int]) -> None:
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    bench.ready()
    proper = {"segment": 1, "offset": 0, "length": 8192, "generation": 0}
    lease = wire.Lease(**(proper | fields))
    assert ends(bench.submit(2, client=client, leases=(lease,))) == {2: "no_lease"}
    assert ends(bench.submit(3, leases=(wire.Lease(**proper),))) == {}


def test_a_lease_of_another_worker() -> None:
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    bench.ready()
    lease = wire.Lease(segment=1, offset=0, length=8192, generation=0)
    assert ends(bench.submit(2, WIDE, leases=(lease,))) == {2: "no_lease"}


def test_a_lease_returned_while_its_task_waits() -> None:
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    worker = bench.ready()
    bench.submit(2)
    lease = wire.Lease(segment=1, offset=0, length=8192, generation=0)
    bench.submit(3, leases=(lease,))
    bench.do(ev.Returned(1, 1, 0))
    assert ends(bench.do(output(worker, wire.Done(id=1)))) == {2: "done", 3: "no_lease"}


def test_one_client_borrows_within_its_limits() -> None:
    bench = Bench(10_000 * MIB)
    bench.submit(0)
    bench.ready()
    for request in range(1, limits.SEGMENTS_PER_CLIENT + 1):
        assert kinds(bench.do(ev.Borrowed(1, request, TOOL, BIG)), ev.MakeMemory)
    assert code(bench.do(ev.Borrowed(1, 999, TOOL, BIG))) == "queue_full"
    for request in range(limits.LEASES_PER_CLIENT):
        bench.do(ev.Borrowed(2, request, TOOL, 4096))
    assert code(bench.do(ev.Borrowed(2, 9999, TOOL, 4096))) == "queue_full"


def test_a_full_budget_lends_nothing() -> None:
    bench = Bench()
    bench.submit(0)
    bench.ready()
    bench.do(ev.Borrowed(1, 1, TOOL, 800 * MIB))
    assert code(bench.do(ev.Borrowed(1, 2, TOOL, 200 * MIB))) == "no_memory"
