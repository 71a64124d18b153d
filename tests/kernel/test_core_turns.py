"""The order in which a queue is emptied, against ``core_rules.Turns``: small cases whole, others by
chance.
"""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.sdk import wire
from core_bench import SECOND, TOOL, Bench, output, runs, served
from core_rules import Job, Turns

DUE = (None, 5 * SECOND, 40 * SECOND)
OPS = {"quick": 5 * limits.MS, "even": 20 * limits.MS, "slow": 150 * limits.MS}


def learned(bench: Bench, worker: int) -> None:
    """The core has seen how long each operation takes."""
    for request, (op, takes) in enumerate(OPS.items(), 10_000):
        said = bench.submit(request, op=op)
        task = runs(said)[0].id
        bench.do(output(worker, wire.Done(id=task)), after=takes)


def emptied(asked: list[dict[str, object]], with_costs: bool) -> tuple[list[int], list[int]]:
    """What ran in which order, and what should have; all wait before the first runs."""
    bench = Bench()
    bench.submit(9_999, priority="critical", idempotent=False)
    worker = bench.ready()
    if with_costs:
        bench.do(output(worker, wire.Done(id=1)))
        learned(bench, worker)
        bench.submit(9_998, priority="critical", idempotent=False)
    jobs = []
    for number, each in enumerate(asked):
        due = each["deadline"]
        bench.submit(number, **each)  # type: ignore[arg-type]
        rank = wire.PRIORITIES.index(each["priority"])  # type: ignore[arg-type]
        patient = limits.PATIENCE if due is None else min(int(str(due)), limits.PATIENCE)
        cost = OPS[str(each["op"])] if with_costs else 0
        jobs.append(Job(number, rank, str(each["principal"]), patient, cost))
    return served(bench, worker)[1:], Turns(jobs).order()


def case(op: str, priority: str, principal: str, deadline: int | None) -> dict[str, object]:
    return {"op": op, "priority": priority, "principal": principal, "deadline": deadline}


def test_every_order_of_four_tasks_of_one_principal() -> None:
    kinds = [case("even", c, "a", d) for c in ("critical", "batch") for d in DUE[:2]]
    for asked in itertools.product(kinds, repeat=4):
        came, should = emptied(list(asked), with_costs=False)
        assert came == should


def test_every_order_of_five_tasks_of_two_principals() -> None:
    kinds = [case(op, "normal", p, None) for op in ("quick", "slow") for p in "ab"]
    for asked in itertools.product(kinds, repeat=5):
        came, should = emptied(list(asked), with_costs=True)
        assert came == should, asked


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.builds(
            case,
            st.sampled_from(sorted(OPS)),
            st.sampled_from(wire.PRIORITIES),
            st.sampled_from("abcd"),
            st.sampled_from(DUE),
        ),
        min_size=1,
        max_size=40,
    ),
    st.booleans(),
)
def test_any_queue(asked: list[dict[str, object]], with_costs: bool) -> None:
    came, should = emptied(asked, with_costs)
    assert came == should


@pytest.mark.parametrize("principals", [2, 7, 64])
def test_principals_that_always_ask_get_equal_time(principals: int) -> None:
    """The share of any two differs by no more than the longest task and two quanta at any time."""
    rng = random.Random(principals)
    bench = Bench(budget=1 << 40)
    spec = ev.Spec("busy", "", TOOL.base_bytes, 0, 1)
    bench.submit(0, spec)
    worker = bench.ready(spec)
    bench.do(output(worker, wire.Done(id=1)))
    names = [f"user {number}" for number in range(principals)]
    speed = {name: rng.choice(sorted(OPS)) for name in names}
    request, got = 0, dict.fromkeys(names, 0)

    def ask(name: str) -> None:
        nonlocal request
        request += 1
        bench.submit(
            request, spec, op=speed[name], principal=name, client=request, priority="normal"
        )

    for op in OPS:  # each is learned before it counts
        request += 1
        said = bench.submit(request, spec, op=op, client=request)
        number = runs(said)[0].id
        bench.do(output(worker, wire.Done(id=number)), after=OPS[op])
    for name in names:
        ask(name), ask(name)
    for _ in range(40 * principals):
        task = next(iter(bench.core.state.workers[worker].running[0].tasks.values()))
        name = task.asked.principal
        ask(name)  # it always has more to ask
        bench.do(output(worker, wire.Done(id=task.id)), after=OPS[speed[name]])
        got[name] += max(OPS[speed[name]], limits.QUANTUM)
        allowed = max(OPS.values()) + 2 * limits.QUANTUM
        assert max(got.values()) - min(got.values()) <= allowed
        bench.do(ev.WorkerAnswered(worker))


def test_a_task_that_came_back_at_the_top_stays_there() -> None:
    """It aged while it was held on its worker, and then its worker died."""
    bench = Bench()
    bench.submit(1, priority="normal")
    queue = bench.core.state.services[TOOL.key].queue
    now = bench.now
    task = queue.take(now)
    assert task
    task.rank = 0
    queue.push(task, now + SECOND)
    bench.submit(2, priority="normal")
    assert queue.take(now + 3600 * SECOND) is task
    assert task.rank == 0


def test_timers_of_the_same_time_can_be_ordered() -> None:
    """One is of a service, one of nothing: it was found by seed 216 of memory-squeeze."""
    bench = Bench()
    bench.submit(1, TOOL)
    state = bench.core.state
    for kind in ((), ("services", TOOL.key), (), ("services", TOOL.key)):
        state.timer(bench.now, *kind)
    bench.do(ev.Timer())
    assert bench.core.next_timer() is None or bench.core.next_timer() > bench.now
