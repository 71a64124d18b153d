"""The client protocol without I/O: what it sends, makes of what comes, and refuses."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_message, unpack
from clawai.sdk.session import WINDOW, Event, Frames, Request, Result, Session


def told(session: Session, message: wire.Message, *frames: bytes) -> None:
    session.receive([bytes(part) for part in wire.encode(message, frames)])


def sent(frames: Frames) -> Any:
    return wire.decode([bytes(frame) for frame in frames], wire.FromClient)


def open_request() -> tuple[Session, Request]:
    session = Session()
    request, _ = session.submit("echo.say", {"text": "x"})
    return session, request


def test_what_is_sent() -> None:
    session = Session()
    hello = sent(session.hello(b"token", "me"))
    assert (hello.version, hello.token, hello.name) == (wire.VERSION, b"token", "me")
    lease = wire.Lease(segment=1, offset=0, length=2, generation=3)
    request, frames = session.submit(
        "llm.generate",
        {"prompt": "x"},
        model="m",
        priority="batch",
        deadline=1.5,
        frames=[b"payload"],
        leases=[lease],
    )
    assert frames[1:] == [b"payload"]
    submit = sent(frames[:1])
    assert (submit.id, submit.op, submit.model) == (request.id, "llm.generate", "m")
    assert (submit.priority, submit.deadline_ms, submit.leases) == ("batch", 1500, (lease,))
    assert unpack(submit.params) == {"prompt": "x"}
    assert sent(Session.cancel(request)).id == request.id
    back = sent(Session.give_back(lease))
    assert (back.segment, back.generation) == (1, 3)
    ids = {session.query("status")[0].id, session.admin("unload", "m")[0].id, request.id}
    assert len(ids) == 3
    borrow = sent(session.borrow("echo.tensor", "", 4096)[1])
    assert (borrow.op, borrow.bytes) == ("echo.tensor", 4096)


def test_the_life_of_a_request() -> None:
    session, request = open_request()
    told(session, wire.Accepted(id=1, task=7, position=2))
    told(session, wire.Progress(id=1, state="running", fraction=0.5, note="half"))
    told(session, wire.Chunk(id=1, data=wire.pack({"n": 1})), b"frame")
    assert list(request.events) == [
        Event("accepted", task=7, position=2, state="queued"),
        Event("progress", state="running", fraction=0.5, note="half"),
        Event("chunk", data={"n": 1}, frames=(b"frame",)),
    ]
    assert request.end is None
    told(session, wire.Done(id=1, result=wire.pack([5]), timings={"queue_us": 3}), b"r")
    assert request.end == Result([5], (b"r",), {"queue_us": 3})
    assert not session.requests


def test_durable_tasks_estimates_and_keep_alive() -> None:
    session = Session()
    request, frames = session.submit("echo.say", {}, durable=True, keep_alive=0.5)
    submit = sent(frames)
    assert (submit.durable, submit.keep_alive_s) == (True, 1)
    plain = sent(session.submit("echo.say", {})[1])
    assert (plain.durable, plain.keep_alive_s) == (False, None)
    assert sent(session.submit("echo.say", {}, keep_alive=0)[1]).keep_alive_s == 0
    told(session, wire.Accepted(id=1, task=7, position=2, estimate_ms=900, job="j-7"))
    told(session, wire.Progress(id=1, state="queued", position=1, estimate_ms=400))
    told(session, wire.Progress(id=1, state="suspended"))
    assert list(request.events) == [
        Event("accepted", task=7, position=2, estimate_ms=900, job="j-7", state="queued"),
        Event("progress", state="queued", position=1, estimate_ms=400),
        Event("progress", state="suspended"),
    ]
    told(session, wire.Error(id=1, code="overloaded", message="later", retry_after_ms=250))
    assert isinstance(request.end, ClawError)
    assert request.end.retry_after_ms == 250


def test_what_the_kernel_asks_back_is_noted() -> None:
    session = Session()
    told(session, wire.Drop(segment=5))
    assert session.drops == {5}
    assert sent(Session.dropped(5)).segment == 5
    borrow = sent(session.borrow("echo.tensor", "", 4096, priority="batch", rights="r")[1])
    assert (borrow.priority, borrow.rights) == ("batch", "r")
    for wrong in ({"priority": "soon"}, {"rights": "w"}):
        with pytest.raises(ClawError) as caught:
            session.borrow("echo.tensor", "", 4096, **wrong)  # type: ignore[arg-type]
        assert caught.value.code == "bad_params"


def test_what_comes_after_the_end_is_ignored() -> None:
    session, request = open_request()
    told(session, wire.Done(id=1))
    end = request.end
    for late in (wire.Done(id=1), wire.Chunk(id=1), wire.Error(id=1, code="cancelled", message="")):
        told(session, late)
    told(session, wire.Chunk(id=999))
    assert request.end is end
    assert not request.events


def test_errors_keep_everything() -> None:
    session, request = open_request()
    error = ClawError("bad_params", "no", got=[1], allowed={"a": 2}, hint="do")
    told(session, error_message(error, 1))
    assert isinstance(request.end, ClawError)
    assert str(request.end) == str(error)
    assert request.end.callers_fault


def test_a_code_that_a_worker_made_up_is_the_plugins_fault() -> None:
    session, request = open_request()
    got = wire.Raw(b"\xa2\xff\xff")  # no text: nobody has looked at it before
    told(session, wire.Error(id=1, code="all_is_lost", message="boo", got=got))
    assert isinstance(request.end, ClawError)
    assert (request.end.code, request.end.callers_fault) == ("worker_failed", False)
    assert (request.end.message, request.end.got) == ("boo", None)


def test_a_complaint_about_the_connection_is_raised() -> None:
    session, request = open_request()
    with pytest.raises(ClawError) as caught:
        told(session, wire.Error(code="too_large", message="frames"))
    assert caught.value.code == "too_large"
    assert request.end is None


def test_a_lost_connection_ends_every_request() -> None:
    session, first = open_request()
    second, _ = session.query("status")
    session.lost(ClawError("no_kernel", "gone"))
    assert isinstance(first.end, ClawError)
    assert isinstance(second.end, ClawError)
    assert not session.requests


@pytest.mark.parametrize(
    "message",
    [wire.Chunk(id=1, data=wire.Raw(b"\xa2\xff\xfe")), wire.Done(id=1, result=wire.Raw(b"\xc1"))],
)
def test_an_answer_that_is_not_msgpack_ends_its_request(message: wire.Message) -> None:
    """Its worker wrote it, and the kernel carries it unread."""
    session, request = open_request()
    other, _ = session.submit("echo.say", {})
    try:
        told(session, message)
    except ClawError as error:
        assert error.code == "bad_message"  # not even the header can be cut into fields
    else:
        assert isinstance(request.end, ClawError)
        assert request.end.code == "bad_worker"
    assert other.end is None


@pytest.mark.parametrize(
    ("params", "options", "code"),
    [
        ({"x": object()}, {}, "bad_params"),
        ({"x": 1 << 70}, {}, "bad_params"),
        ({"x": "\ud800"}, {}, "bad_params"),
        ({"x": "y" * (5 << 20)}, {}, "too_large"),
        ({}, {"frames": [bytes(5 << 20)] * 2}, "too_large"),
        ({}, {"frames": [b""] * 64}, "too_large"),
        ({}, {"priority": "urgent"}, "bad_params"),
        ({}, {"deadline": float("inf")}, "bad_params"),
        ({}, {"deadline": float("nan")}, "bad_params"),
        ({}, {"keep_alive": -1.0}, "bad_params"),
        ({}, {"keep_alive": float("nan")}, "bad_params"),
        ({}, {"keep_alive": 3e9}, "bad_params"),
        (
            {},
            {"durable": True, "leases": [wire.Lease(segment=1, offset=0, length=1, generation=1)]},
            "bad_params",
        ),
    ],
)
def test_what_cannot_be_sent(params: dict[str, Any], options: dict[str, Any], code: str) -> None:
    session = Session()
    with pytest.raises(ClawError) as caught:
        session.submit("echo.say", params, **options)
    assert caught.value.code == code
    assert not session.requests, "nothing is left open for it"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=80), min_size=1, max_size=3))
def test_garbage_is_a_typed_error(frames: list[bytes]) -> None:
    session, _ = open_request()
    with pytest.raises(ClawError):
        session.receive(frames)


# What is sent again, by a clock that the test moves.


def keeping(keep: bool = False) -> Session:
    """A session that has been welcomed, without chance."""
    session = Session(keep=keep, jitter=lambda: 1.0)
    welcome(session)
    return session


def welcome(session: Session) -> None:
    hello = wire.Welcome(version=(1, 2), kernel="1", pid=1, principal="uid:1", leases=False)
    told(session, hello)


def plugins(session: Session, *idempotent: str) -> None:
    """The answer to the query that a session has sent by itself."""
    query = sent(session.outbox.pop(0))
    assert (type(query), query.what) == (wire.Query, "plugins")
    listing = {"plugins": [{"name": "p", "idempotent": list(idempotent)}]}
    told(session, wire.Answer(id=query.id, data=wire.pack(listing)))


BUSY = wire.Error(id=1, code="overloaded", message="later", retry_after_ms=400)


def test_a_retry_waits_as_long_as_it_is_told_to() -> None:
    session = keeping()
    request, _ = session.submit("echo.say", {"text": "x"}, retries=1, frames=[b"f"], now=100.0)
    told_at(session, BUSY, 100.0)
    assert request.end is None
    plugins(session, "echo.say")
    assert 100.4 <= session.due <= 100.5
    session.resend(session.due - 0.001)
    assert not session.outbox
    session.resend(session.due)
    (again,) = session.outbox
    assert (sent(again[:1]).id, sent(again[:1]).op, again[1:]) == (1, "echo.say", [b"f"])
    told_at(session, BUSY, 101.0)
    assert isinstance(request.end, ClawError)
    assert request.end.code == "overloaded", "it had one retry"


def told_at(session: Session, message: wire.Message, now: float) -> None:
    session.receive([bytes(part) for part in wire.encode(message)], now)


def test_no_retry_of_what_may_be_done_once_only() -> None:
    session = keeping()
    request, _ = session.submit("mail.send", {}, retries=5)
    told(session, BUSY)
    plugins(session, "echo.say")
    assert isinstance(request.end, ClawError)
    assert not session.outbox


@pytest.mark.parametrize(
    "listing", [None, [], {"plugins": [{}]}, {"plugins": [{"idempotent": []}]}]
)
def test_a_listing_that_tells_nothing(listing: Any) -> None:
    session = keeping()
    request, _ = session.submit("echo.say", {}, retries=5)
    told(session, BUSY)
    query = sent(session.outbox.pop(0))
    told(session, wire.Answer(id=query.id, data=wire.pack(listing)))
    assert isinstance(request.end, ClawError)


def test_a_retry_is_bounded_by_the_deadline() -> None:
    session = keeping()
    first, _ = session.submit("echo.say", {}, retries=5, deadline=0.3, now=100.0)
    told_at(session, BUSY, 100.0)
    assert isinstance(first.end, ClawError), "it could not be sent again before its deadline"
    second, _ = session.submit("echo.say", {}, retries=5, deadline=2.0, now=100.0)
    told_at(session, wire.Error(id=2, code="overloaded", message="", retry_after_ms=400), 100.0)
    plugins(session, "echo.say")
    session.resend(101.0)
    assert sent(session.outbox.pop()).deadline_ms == 1000, "what is left of it"
    told_at(session, wire.Error(id=2, code="overloaded", message="", retry_after_ms=1), 101.9)
    session.resend(102.5)
    assert isinstance(second.end, ClawError)


def test_who_waits_for_room_is_told_nothing_of_a_full_queue() -> None:
    session = keeping()
    request, _ = session.submit("mail.send", {}, wait=True)
    for attempt in range(20):
        told_at(session, wire.Error(id=1, code="queue_full", message="", retry_after_ms=10), 0.0)
        assert request.end is None, attempt
        session.resend(100.0)
        assert sent(session.outbox.pop()).op == "mail.send", "refused is not begun"
    told(session, BUSY)
    assert isinstance(request.end, ClawError), "another error is no want of room"


def test_pauses_grow_and_are_never_shorter_than_asked() -> None:
    session = Session(jitter=lambda: 0.0)
    pauses = [session.pause(attempt) for attempt in range(40)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.025, 2.5)
    assert session.pause(0, 7.0) == 7.0
    late = Session(jitter=lambda: 1.0)
    assert (late.pause(0), late.pause(99), late.pause(0, 8.0)) == (0.05, 5.0, 10.0)


def test_a_cut_connection_leaves_what_can_be_asked_again() -> None:
    session = keeping(keep=True)
    lease = wire.Lease(segment=1, offset=0, length=1, generation=1)
    opened = {
        "safe": session.submit("echo.say", {}, now=0.0, deadline=9.0)[0],
        "once": session.submit("mail.send", {})[0],
        "seen": session.submit("echo.say", {})[0],
        "lent": session.submit("echo.say", {}, leases=[lease])[0],
        "job": session.submit("echo.say", {}, durable=True)[0],
        "query": session.query("status")[0],
        "admin": session.admin("pin", "m")[0],
        "borrow": session.borrow("echo.say", "", 1)[0],
    }
    told(session, wire.Chunk(id=opened["seen"].id, data=wire.pack(1)))
    session.cut(ClawError("no_kernel", "gone"), 0.0)
    kept = {name for name, request in opened.items() if request.end is None}
    assert kept == {"safe", "once", "query"}
    welcome(session)
    session.resume(0.0)
    asked = sent(session.outbox.pop())
    assert (type(asked), asked.what) == (wire.Query, "status")
    plugins(session, "echo.say")
    again = sent(session.outbox.pop())
    assert (again.id, again.deadline_ms) == (opened["safe"].id, 9000), "told at 0 s"
    end = opened["once"].end
    assert isinstance(end, ClawError)
    assert end.code == "connection_lost"
    assert not session.outbox


def test_cut_again_before_it_is_known() -> None:
    session = keeping(keep=True)
    request, _ = session.submit("echo.say", {})
    for _ in range(3):
        session.cut(ClawError("no_kernel", "gone"), 0.0)
        welcome(session)
        session.resume(0.0)
    plugins(session, "echo.say")
    assert sent(session.outbox.pop()).id == request.id
    assert not session.outbox


def test_what_is_to_be_sent_again_can_be_taken_back() -> None:
    session = keeping()
    request, _ = session.submit("echo.say", {}, retries=5)
    assert not session.withdraw(request), "the kernel has it"
    told(session, BUSY)
    assert session.withdraw(request)
    assert isinstance(request.end, ClawError)
    assert request.end.code == "cancelled"
    plugins(session, "echo.say")
    assert not session.outbox


def test_what_was_taken_is_told_by_the_half_window() -> None:
    session, request = open_request()
    assert sent(session.submit("echo.say", {})[1]).window == WINDOW
    assert sent(session.submit("echo.say", {}, durable=True)[1]).window == 0
    data = wire.pack(bytes(WINDOW // 8))
    for _ in range(8):
        told(session, wire.Chunk(id=1, data=data), b"frame")
    for taken in range(1, 9):
        event = session.take(request)
        assert event and event.frames == (b"frame",)
        assert bool(session.outbox) == (taken == 4 or taken == 8), taken
        if session.outbox:
            more = sent(session.outbox.pop())
            assert (more.id, more.bytes) == (1, 4 * (len(data) + 5))
    assert session.take(request) is None
