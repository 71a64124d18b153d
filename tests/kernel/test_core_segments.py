"""Segments and leases."""

import pytest

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.sdk import wire
from core_bench import MIB, TOOL, WIDE, Bench, ends, kinds


def test_a_segment_is_recycled_inside_its_pair_only() -> None:
    bench = Bench()
    bench.submit(0)
    worker = bench.ready()
    made = kinds(bench.do(ev.Borrowed(1, 1, TOOL, 5000)), ev.MakeSegment)[0]
    assert (made.client, made.worker, made.size) == (1, worker, 8192)
    bench.do(ev.Returned(1, made.segment, 0))
    said = bench.do(ev.Borrowed(2, 2, TOOL, 5000))
    assert kinds(said, ev.MakeSegment)[0].segment != made.segment
    said = bench.do(ev.Borrowed(1, 3, TOOL, 5000))
    assert not kinds(said, ev.MakeSegment)
    lease = kinds(said, ev.Reply)[0].message.lease
    assert (lease.segment, lease.generation) == (made.segment, 1)


def test_memory_counts_until_every_holder_is_gone() -> None:
    bench = Bench()
    bench.submit(0)
    worker = bench.ready()
    used = bench.core.state.ledger.used
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    bench.do(ev.WorkerGone(worker, "killed"))
    assert bench.core.state.ledger.used == used - 100 * MIB + 8192, "the client still maps it"
    said = bench.do(ev.Returned(1, 1, 0))
    assert ev.FreeSegment(1) in said
    assert bench.core.state.ledger.holders[("segment", 1)] == 8192, "its pages are not back yet"
    bench.do(ev.SegmentGone(1))
    assert ("segment", 1) not in bench.core.state.ledger.holders


def test_pages_that_a_worker_fills_again_come_back_when_it_dies() -> None:
    """The shell finds them full after the drop; nobody would have asked for them again."""
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    worker = bench.ready()
    bench.do(ev.ClientLeft(1))
    assert ev.FreeSegment(1) in bench.do(ev.SegmentDropped(worker, 1))
    bench.do(ev.WorkerBroke(worker, "it wrote to memory that was taken back"))
    assert ev.FreeSegment(1) in bench.do(ev.WorkerGone(worker, "killed"))


def test_a_segment_that_could_not_be_made_costs_nothing() -> None:
    bench = Bench()
    bench.do(ev.Borrowed(1, 1, TOOL, 8192))
    bench.ready()
    bench.do(ev.SegmentFailed(1, "no memory"))
    assert bench.core.state.ledger.used == 100 * MIB
    assert not bench.core.state.segments


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
    assert ends(bench.do(ev.Output(worker, wire.Done(id=1)))) == {2: "done", 3: "no_lease"}


def test_one_client_borrows_within_its_limit() -> None:
    bench = Bench()
    bench.submit(0)
    bench.ready()
    for request in range(1, limits.SEGMENTS_PER_CLIENT + 1):
        assert kinds(bench.do(ev.Borrowed(1, request, TOOL, 4096)), ev.MakeSegment)
    said = bench.do(ev.Borrowed(1, 999, TOOL, 4096))
    assert kinds(said, ev.Reply)[0].message.code == "queue_full"


def test_a_full_budget_lends_nothing() -> None:
    bench = Bench()
    bench.submit(0)
    bench.ready()
    bench.do(ev.Borrowed(1, 1, TOOL, 800 * MIB))
    said = bench.do(ev.Borrowed(1, 2, TOOL, 200 * MIB))
    assert kinds(said, ev.Reply)[0].message.code == "no_memory"
