"""Child tasks through a real daemon: what the kernel takes from the parent, and what it refuses."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from caller_plugin import with_callers
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from support import Kernel, wait_until


@pytest.fixture(scope="module")
def callers() -> Iterator[Kernel]:
    kernel = Kernel()
    with_callers(kernel)
    try:
        yield kernel.start()
        assert kernel.stop() == 0
        kernel.check_gone()
        assert "Traceback" not in kernel.stderr()
    finally:
        kernel.remove()


@pytest.fixture
def client(callers: Kernel) -> Iterator[Client]:
    with Client(folder=callers.folder, timeout=60) as made:
        yield made
        wait_until(lambda: not made.query("tasks")["tasks"], "nothing is left")


def rows(client: Client, op: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.query("tasks")["tasks"]
    return [row for row in found if row["op"] == op]


def child_of(client: Client, op: str = "echo.count") -> dict[str, Any]:
    """The child, once it runs."""
    wait_until(lambda: [r for r in rows(client, op) if r["state"] == "running"], "a child runs")
    (row,) = rows(client, op)
    return row


def failed(client: Client, op: str, params: dict[str, Any], **options: Any) -> ClawError:
    with pytest.raises(ClawError) as caught:
        client.call(op, params, **options)
    return caught.value


def test_calls_and_streams(client: Client) -> None:
    assert client.call("caller.say", {"text": "hi"}).value == "hi"
    numbers = [str(n) for n in range(12)]
    assert client.call("caller.many", {"count": 12}).value == numbers[::-1]
    task = client.submit("caller.stream", {"upto": 5})
    assert [e.data for e in task if e.kind == "chunk"] == [10, 20, 30, 40, 50]
    assert task.result().value == {"sum": 15, "count": 5}
    error = failed(client, "caller.say", {"text": "x" * (5 << 20)})
    assert error.code == "too_large"


def test_several_tasks_of_a_worker_call_at_once(client: Client) -> None:
    tasks = [client.submit("caller.many", {"count": n}) for n in (9, 7, 5, 3, 1)]
    for task, count in zip(tasks, (9, 7, 5, 3, 1), strict=True):
        assert task.result().value == [str(n) for n in range(count)][::-1]


def test_priority_is_the_parents_or_lower(client: Client) -> None:
    for mine, asked, has in (
        ("critical", None, "critical"),
        ("normal", None, "normal"),
        ("normal", "critical", "normal"),
        ("interactive", "normal", "normal"),
    ):
        params = {"op": "echo.count", "params": {"upto": 10**6, "pause_ms": 5}, "priority": asked}
        task = client.submit("caller.any", params, priority=mine)
        row = child_of(client)
        assert (row["priority"], row["parent"] != 0) == (has, True)
        task.cancel()
        with pytest.raises(ClawError):
            task.result()
        wait_until(lambda: not rows(client, "echo.count"), "its child has ended")


def test_the_deadline_is_the_parents_or_earlier(client: Client) -> None:
    client.call("caller.say", {"text": "loaded"})
    assert failed(client, "caller.wait", {"deadline": 0.1}).code == "deadline_passed"
    assert failed(client, "caller.wait", {"deadline": 3600}, deadline=0.3).code == "deadline_passed"
    wait_until(lambda: not rows(client, "echo.count"), "its child has ended")


def test_children_end_with_their_parent(client: Client) -> None:
    assert client.call("caller.leaves").value == "gone"
    wait_until(lambda: not rows(client, "echo.count"), "its child has ended")
    task = client.submit("caller.wait")
    child_of(client)
    task.cancel()
    with pytest.raises(ClawError, match="cancelled"):
        task.result()
    wait_until(lambda: not rows(client, "echo.count"), "its child has ended")


def test_a_parent_that_is_deaf(client: Client) -> None:
    """It does not look at its control word: its child ends all the same, and at once."""
    task = client.submit("caller.deaf")
    child_of(client)
    task.cancel()
    wait_until(lambda: not rows(client, "echo.count"), "its child has ended")
    assert [row["state"] for row in rows(client, "caller.deaf")] == ["cancelling"]
    with pytest.raises(ClawError, match="cancelled"):
        task.result()


def test_a_worker_that_dies(callers: Kernel, client: Client) -> None:
    task = client.submit("caller.wait")
    child_of(client)
    os.kill(callers.worker_pid("caller"), signal.SIGKILL)
    with pytest.raises(ClawError) as caught:
        task.result()
    assert caught.value.code == "worker_died"
    wait_until(lambda: not rows(client, "echo.count"), "its child has ended")
    assert client.call("caller.say", {"text": "again"}).value == "again"


def test_a_parent_gives_way_and_begins_anew(client: Client) -> None:
    task = client.submit("narrow.idle", priority="normal")
    first = child_of(client)
    assert client.call("narrow.plain", priority="critical").value == "plain"
    wait_until(
        lambda: {row["task"] for row in rows(client, "echo.count")} - {first["task"]},
        "it asks again",
    )
    task.cancel()
    with pytest.raises(ClawError, match="cancelled"):
        task.result()


def test_who_would_wait_for_ever_is_told(client: Client) -> None:
    plain = {"op": "narrow.plain", "params": {}}
    error = failed(client, "narrow.any", plain)
    assert (error.code, error.got) == ("would_deadlock", ["narrow.any", "narrow.plain"])
    error = failed(client, "narrow.any", {"op": "caller.any", "params": plain})
    chain = ["narrow.any", "caller.any", "narrow.plain"]
    assert (error.code, error.got) == ("would_deadlock", chain)
    assert client.call("cycle.down", {"levels": 7}).value == 7
    error = failed(client, "cycle.down", {"levels": 8})
    assert (error.code, error.allowed) == ("would_deadlock", 8)


def test_a_slot_that_comes_back_is_waited_for(client: Client) -> None:
    say = {"op": "echo.say", "params": {"text": "x"}}
    other = client.submit("narrow.any", say | {"first": 0.2})
    wait_until(lambda: rows(client, "narrow.any"), "the slot is taken")
    assert client.call("caller.any", {"op": "narrow.plain", "params": {}}).value == "plain"
    assert other.result().value == "x"


def test_what_the_manifest_does_not_name(client: Client) -> None:
    error = failed(client, "caller.any", {"op": "greet.hello", "params": {}})
    assert (error.code, error.got) == ("not_permitted", "greet.hello")
    assert "[permissions.operations]" in error.hint
    asked = {"op": "echo.say", "params": {}, "model": "secret-model"}
    error = failed(client, "caller.any", asked)
    assert (error.code, error.got) == ("not_permitted", "secret-model")
    error = failed(client, "lonely.call", {})
    assert error.code == "not_permitted", "it names no operation at all"


def test_the_error_of_a_child(client: Client) -> None:
    told = client.call("caller.catches", {"op": "echo.say", "params": {"text": 5}}).value
    assert told["code"] == "bad_params"
    assert failed(client, "caller.any", {"op": "echo.say", "params": {}}).code == "bad_params"


def test_a_worker_may_say_nothing_else(client: Client) -> None:
    """By its word it is whatever it says; the kernel goes by what it knows."""
    say = {"type": "submit", "op": "echo.say", "params": {"text": "x"}}
    lease = {"segment": 1, "offset": 0, "length": 1, "generation": 1}
    messages = {
        "not_permitted": [
            {"type": "query", "what": "status"},
            {"type": "admin", "command": "shutdown"},
            {"type": "borrow", "op": "echo.tensor", "bytes": 4096},
        ],
        "bad_state": [say, say | {"parent": 1}, say | {"parent": 1 << 60}],
        "bad_params": [say | {"parent": "me", "durable": True}],
        "no_lease": [say | {"parent": "me", "leases": [lease]}],
    }
    asked = [each for group in messages.values() for each in group]
    codes = [code for code, group in messages.items() for _ in group]
    assert client.call("caller.raw", {"messages": asked}).value == codes
    assert client.call("caller.raw", {"messages": [say | {"parent": "me"}]}).value == ["x"]


def test_a_client_is_nobodys_worker(client: Client) -> None:
    task = client.submit("caller.wait")
    row = child_of(client)
    out = client._session.submit("echo.say", {"text": "x"}, parent=row["parent"])
    client._send(out[1])
    while out[0].end is None:
        client._pump()
    assert isinstance(out[0].end, ClawError)
    assert out[0].end.code == "bad_state"
    task.cancel()
    with pytest.raises(ClawError):
        task.result()


def test_workers_are_no_clients_in_listings(callers: Kernel, client: Client) -> None:
    client.call("caller.say", {"text": "x"})
    assert client.query("status")["clients"] == 1


def test_a_slow_parent_holds_its_childs_stream(client: Client) -> None:
    """It would be 64 MiB on their way; what is, is a window, and nothing is lost."""
    told = client.call("caller.slow", {"chunks": 64, "size": 1 << 20, "pause": 0.01}).value
    assert told == {"bytes": 64 << 20, "sum": sum(range(64))}
