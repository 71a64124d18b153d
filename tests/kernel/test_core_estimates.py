"""Estimates and refusals against what then comes true, where every run takes its time."""

from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.sdk import wire
from core_bench import SECOND, WIDE, Bench, answers, ends, output, runs

TAKES = 40 * limits.MS


class Exact:
    """One service whose tasks all take ``TAKES``, which the core has learned."""

    def __init__(self, slots: int) -> None:
        self.bench = Bench()
        self.bench.submit(0, WIDE)
        self.worker = self.bench.ready(WIDE, slots)
        self.due: list[tuple[int, int]] = [(self.bench.now + TAKES, 1)]
        self.began: dict[int, int] = {}
        self.ended: dict[int, int] = {}
        self.finish_all()

    def finish_all(self) -> None:
        """Everything that runs or waits comes to its end."""
        while self.due:
            self.next()

    def next(self) -> None:
        """The next task ends."""
        self.due.sort()
        when, task = self.due.pop(0)
        self.bench.now = max(self.bench.now, when)
        self.ended[task] = self.bench.now
        self.note(self.bench.do(output(self.worker, wire.Done(id=task))))

    def pass_time(self, span: int) -> None:
        """Tasks end when their time has come."""
        until = self.bench.now + span
        while self.due and min(self.due)[0] <= until:
            self.next()
        self.bench.now = until

    def note(self, said: list[ev.Instruction]) -> None:
        """What begins to run will have run after ``TAKES``."""
        for run in runs(said):
            self.began[run.id] = self.bench.now
            self.due.append((self.bench.now + TAKES, run.id))

    def ask(self, request: int, deadline: int | None = None) -> tuple[str, wire.Accepted | None]:
        """Submit; the code of the refusal, or what was accepted."""
        said = self.bench.submit(request, WIDE, deadline=deadline)
        self.note(said)
        replies = answers(said)
        accepted = [each for each in replies if isinstance(each, wire.Accepted)]
        return ends(said).get(request, ""), accepted[0] if accepted else None


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 60))
def test_estimates_grow_with_the_queue_and_come_true(slots: int, count: int) -> None:
    exact = Exact(slots)
    asked_at, promised = {}, {}
    for request in range(1, count + 1):
        _, accepted = exact.ask(request)
        assert accepted
        assert accepted.estimate_ms is not None
        asked_at[accepted.task] = exact.bench.now
        promised[accepted.task] = accepted.estimate_ms * limits.MS
    assert list(promised.values()) == sorted(promised.values())
    exact.finish_all()
    for task, estimate in promised.items():
        waited = exact.began[task] - asked_at[task]
        assert abs(waited - estimate) <= TAKES, "off by more than one run"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.integers(0, 60), min_size=1, max_size=60),
    st.integers(1, 8),
)
def test_what_is_refused_would_have_been_late_and_what_is_accepted_is_not(
    slots: int, gaps: list[int], patience: int
) -> None:
    """All have the same patience, so the queue is served in the order of arrival."""
    exact = Exact(slots)
    span = patience * TAKES // 2
    accepted_at: dict[int, int] = {}
    for request, gap in enumerate(gaps, 1):
        exact.pass_time(gap * limits.MS)
        ahead = len(exact.bench.core.state.tasks)
        code, accepted = exact.ask(request, deadline=span)
        if accepted:
            accepted_at[accepted.task] = exact.bench.now
            continue
        assert code == "deadline_unreachable"
        # Behind so many others it could not have ended before this, give or take a run.
        soonest = (ahead // slots) * TAKES + TAKES
        assert soonest + TAKES > span, "it could have been done"
    exact.finish_all()
    for task, when in accepted_at.items():
        assert exact.ended[task] - when <= span + TAKES, (
            "it was let in, and is late by a run or more"
        )


def test_a_refusal_says_when_to_come_back() -> None:
    exact = Exact(1)
    for request in range(1, 50):
        exact.ask(request)
    said = exact.bench.submit(100, WIDE, deadline=SECOND)
    refusal = answers(said)[0]
    assert refusal.code == "deadline_unreachable"
    assert refusal.retry_after_ms
    exact.pass_time(refusal.retry_after_ms * limits.MS)
    code, accepted = exact.ask(101, deadline=SECOND)
    assert accepted, code
