"""What owners hear once a second: the daemon's rows, what the steward says of them, who is told.

The core, the daemon's end and the steward's are the real ones; only the socket between them is not
there. The last tests are of a whole daemon.
"""

import itertools
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from clawai.kernel import events as ev
from clawai.kernel import limits
from clawai.kernel.news import News
from clawai.kernel.steward.news import News as Said
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from core_bench import SECOND, TOOL, WIDE, Bench, output
from support import Kernel, RawPeer, wait_until

DIED = ClawError("overloaded", "the steward process died; ask again")


class Between:
    """In place of the link: questions are packed, and wait until they are carried over."""

    def __init__(self) -> None:
        self.said = Said()
        self.waiting: list[tuple[bytes, Callable[[Any], None]]] = []
        self.largest = 0

    def ask(self, name: str, *arguments: Any, then: Callable[[Any], None]) -> None:
        packed = msgspec.msgpack.encode(arguments)
        self.largest = max(self.largest, len(packed))
        self.waiting.append((packed, then))

    def carry(self) -> None:
        """Everything that was asked is answered."""
        waiting, self.waiting = self.waiting, []
        for packed, then in waiting:
            answer = self.said.tell(*msgspec.msgpack.decode(packed))
            then(msgspec.msgpack.decode(msgspec.msgpack.encode(answer)))

    def dies(self) -> None:
        """The steward dies, and another one is started."""
        self.said = Said()
        waiting, self.waiting = self.waiting, []
        for _, then in waiting:
            then(DIED)


class Told:
    """A bench whose owners hear news."""

    def __init__(self, **options: Any) -> None:
        self.bench = Bench(**options)
        self.between = Between()
        self.heard: list[tuple[int, int, wire.Progress]] = []
        """When, which client, what."""
        self.news = News(self.bench.core, self.between, self._reply)  # type: ignore[arg-type]

    def _reply(self, told: ev.Reply) -> None:
        assert isinstance(told.message, wire.Progress)
        self.heard.append((self.bench.now, told.client, told.message))

    def pass_time(self, span: int) -> dict[int, wire.Progress]:
        """As the daemon's loop does; the last that is heard of each request."""
        until, before = self.bench.now + span, len(self.heard)
        while (due := self.news.next_timer()) is not None and due <= until:
            self.bench.pass_time(max(0, due - self.bench.now))
            self.news.ask(self.bench.now)
            self.between.carry()
        self.bench.pass_time(until - self.bench.now)
        assert all(message.id is not None for _, _, message in self.heard)
        return {message.id: message for _, _, message in self.heard[before:]}


def taught(told: Told, takes: int = SECOND, slots: int = 1) -> int:
    """A ready worker, whose operation is known to take so long."""
    told.bench.submit(900, WIDE)
    worker = told.bench.ready(WIDE, slots)
    task = told.bench.core.state.requests[1][900]
    told.bench.do(output(worker, wire.Done(id=task.id)), after=takes)
    return worker


def queued(count: int) -> Told:
    """So many tasks that wait for a worker, which is not ready; 100 of each client."""
    told = Told(most_tasks=count)
    bench = told.bench
    for request in range(count):
        asked = ev.Submitted(
            client=1 + request // 100,
            request=request,
            spec=TOOL,
            op="tool.op",
            priority="normal",
            deadline=None,
            idempotent=False,
            payload=1,
            leases=(),
        )
        bench.core.handle(asked, bench.now)  # not by ``do``, which looks at all of them
    return told


def test_position_and_estimate_grow_with_the_queue() -> None:
    told = Told()
    taught(told)
    for request in range(1, 6):
        told.bench.submit(request, WIDE)
    shown = told.pass_time(SECOND)
    assert shown[1] == wire.Progress(id=1, state="running")
    waits = [(shown[n].state, shown[n].position, shown[n].estimate_ms) for n in range(2, 6)]
    assert waits == [("queued", place, 1000 * place) for place in range(4)]


def test_a_place_is_the_one_of_the_listing() -> None:
    told = Told()
    taught(told)
    told.bench.submit(0, WIDE)
    for request in range(1, 41):
        due = (request * 7 % 11) * SECOND if request % 3 else None
        told.bench.submit(
            request,
            WIDE,
            deadline=due and due + 100 * SECOND,
            priority=wire.PRIORITIES[request % 4],
        )
    queue = told.bench.core.state.services[WIDE.key].queue
    shown = told.pass_time(SECOND)
    listed = [task.asked.request for task in queue.ordered()]
    assert sorted(listed, key=lambda request: shown[request].position or 0) == listed
    assert {shown[request].position for request in listed} == set(range(len(listed)))


def test_what_is_not_known_is_not_guessed() -> None:
    told = Told()
    told.bench.submit(1)
    told.bench.submit(2)
    shown = told.pass_time(SECOND)
    assert shown[2] == wire.Progress(id=2, state="loading", position=1)
    told.bench.ready()
    shown = told.pass_time(SECOND)
    assert shown[1] == wire.Progress(id=1, state="running")
    assert shown[2] == wire.Progress(id=2, state="queued", position=0)


def test_what_a_worker_is_kept_from_is_told() -> None:
    told = Told()
    told.bench.submit(1)
    told.bench.ready()
    told.bench.do(ev.Commanded(9, 1, "suspend", "tool"))
    assert told.pass_time(SECOND)[1].state == "suspended"
    told.bench.do(ev.Commanded(9, 2, "resume", "tool"))
    assert told.pass_time(SECOND)[1].state == "running"
    cooperative = ev.Spec("coop", "", limits.MIB, 0, 1, cooperative=True)
    other = msgspec.structs.replace(cooperative, plugin="urgent")
    told.bench.submit(2, cooperative, priority="normal")
    told.bench.ready(cooperative)
    told.bench.core.state.cores = 1
    told.bench.submit(3, other, priority="critical")
    told.bench.ready(other)
    assert told.pass_time(SECOND)[2].state == "held"


def test_each_service_has_a_queue_of_its_own() -> None:
    told = Told()
    for request in (1, 2, 3):
        told.bench.submit(request, TOOL)
        told.bench.submit(request + 10, WIDE)
    shown = told.pass_time(SECOND)
    assert [shown[n].position for n in (1, 2, 3, 11, 12, 13)] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("count", [1, limits.PART, 1000, 4000])
def test_however_many_there_are_each_hears_every_second(count: int) -> None:
    """And no more than a part of them at a time."""
    told = queued(count)
    for _ in range(3):
        told.pass_time(SECOND)
    heard: dict[int, list[int]] = {}
    moments: dict[int, int] = {}
    for when, client, message in told.heard:
        assert client == 1 + message.id // 100
        heard.setdefault(message.id, []).append(when)
        moments[when] = moments.get(when, 0) + 1
    assert set(heard) == set(range(count))
    for times in heard.values():
        assert times[0] <= 1002 * SECOND, "the first round begins a second after they came"
        assert len(times) >= 2
        assert all(b - a <= SECOND + limits.MS for a, b in itertools.pairwise(times))
    assert max(moments.values()) <= 1 + limits.PART
    assert told.between.largest < 64 * 1024, "it travels as one message"
    shown = {message.id: message.position for _, _, message in told.heard}
    assert [shown[request] for request in range(count)] == list(range(count))


def test_places_are_right_while_tasks_come_and_go() -> None:
    told = queued(600)
    told.pass_time(SECOND)
    for request in range(0, 300, 2):
        told.bench.do(ev.CancelAsked(1 + request // 100, request))
    told.pass_time(SECOND)
    shown = told.pass_time(SECOND)
    queue = told.bench.core.state.services[TOOL.key].queue
    listed = {task.asked.request: place for place, task in enumerate(queue.ordered())}
    assert {request: message.position for request, message in shown.items()} == listed


def test_a_busy_steward_delays_the_news_and_nothing_piles_up() -> None:
    told = Told()
    told.bench.submit(1)
    told.bench.pass_time(SECOND)
    told.news.ask(told.bench.now)
    told.bench.pass_time(5 * SECOND)
    assert told.news.next_timer() is None, "one question at a time"
    assert len(told.between.waiting) == 1
    told.between.carry()
    assert [message.id for _, _, message in told.heard] == [1]
    due = told.news.next_timer()
    assert due is not None
    assert due <= told.bench.now, "the next is overdue"


def test_what_has_changed_meanwhile_is_not_told() -> None:
    told = Told()
    told.bench.submit(1)
    told.bench.submit(2)
    told.bench.submit(3)
    told.bench.pass_time(SECOND)
    told.news.ask(told.bench.now)
    told.bench.ready()
    told.bench.do(ev.CancelAsked(1, 3))
    told.between.carry()
    assert [message.id for _, _, message in told.heard] == [2], "1 runs, 3 has ended"


def test_a_steward_that_dies_costs_the_places_for_one_round_at_most() -> None:
    told = queued(600)
    told.pass_time(SECOND + SECOND // 2)
    assert told.news.next_timer() is not None
    told.news.ask(told.bench.now)
    told.between.dies()
    shown = told.pass_time(SECOND)
    assert len(shown) > 500, "they hear all the same"
    places = {request: message.position for request, message in shown.items()}
    assert all(place in (None, request) for request, place in places.items()), "none is wrong"
    shown = told.pass_time(SECOND)
    assert {r: message.position for r, message in shown.items()} == {r: r for r in range(600)}


def test_nothing_is_planned_without_tasks() -> None:
    told = Told()
    assert told.news.next_timer() is None
    told.bench.submit(1)
    assert told.news.next_timer() == told.bench.now + SECOND
    told.bench.do(ev.CancelAsked(1, 1))
    assert told.news.next_timer() is None


# A whole daemon.


def progress(peer: RawPeer, until: float) -> list[tuple[float, wire.Progress]]:
    """The news of the kernel that come to a client by then."""
    found = []
    while time.monotonic() < until:
        message = peer.message()
        if isinstance(message, wire.Progress):
            found.append((time.monotonic(), message))
    return found


def submit(peer: RawPeer, request: int, op: str, **params: Any) -> None:
    fields: dict[str, Any] = {"params": wire.pack(params), "priority": "normal"}
    peer.send(wire.Submit(id=request, op=op, **fields))


def test_owners_of_a_daemon_hear_once_a_second(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel()
    kernel.client().call("echo.say", {"text": "warm"})
    with kernel.raw().hello() as peer:
        for request in range(1, 5):
            submit(peer, request, "echo.count", upto=10**6, pause_ms=50)
        for request in range(5, 9):
            submit(peer, request, "echo.say", text="x")
        found = progress(peer, time.monotonic() + 3.5)
    for request in range(1, 9):
        times = [when for when, message in found if message.id == request]
        assert len(times) >= 2
    shown = {message.id: message for _, message in found}
    assert [shown[n].state for n in range(1, 5)] == ["running"] * 4
    assert [(shown[n].state, shown[n].position) for n in range(5, 9)] == [
        ("queued", place) for place in range(4)
    ]


def test_a_stopped_steward_holds_nobody_up(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel()
    client = kernel.client()
    client.call("echo.say", {"text": "warm"})
    with kernel.raw().hello() as peer:
        submit(peer, 1, "echo.count", upto=10**6, pause_ms=50)
        wait_until(lambda: client.query("status")["tasks"] == 1, "it runs")
        os.kill(kernel.steward(), signal.SIGSTOP)
        try:
            time.sleep(1.5)  # the news are due meanwhile
            assert client.call("echo.say", {"text": "served"}).value == "served"
        finally:
            os.kill(kernel.steward(), signal.SIGCONT)
        assert progress(peer, time.monotonic() + 2), "then they come"
