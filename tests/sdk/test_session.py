"""The client protocol without I/O: what it sends, makes of what comes, and refuses."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_message, unpack
from clawai.sdk.session import Event, Frames, Request, Result, Session


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
