"""Idle, queued and large: what the daemon does with much, and with nothing."""

import time
from collections.abc import Callable

from support import (
    Kernel,
    cpu_ms,
    cpu_ticks,
    memory_kib,
    wait_until,
)


def _rests(kernel: Kernel) -> bool:
    """Whether half a second passes in which nobody spends a tick."""
    before = {pid: cpu_ticks(pid) for pid in kernel.processes()}
    time.sleep(0.5)
    return before == {pid: cpu_ticks(pid) for pid in before}


def test_no_processor_time_while_idle(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel(config='[log]\nlevel = "debug"\n')
    client = kernel.client()
    client.call("echo.say", {"text": "x"})
    time.sleep(2.5)  # the last tick of the task comes a second after it, the journal one later
    wait_until(lambda: _rests(kernel), "what belongs to the start is done")  # on a box that is busy
    kernel.mark()
    before = {pid: cpu_ms(pid) for pid in kernel.processes()}
    woke = memory_kib(kernel.pid, "voluntary_ctxt_switches")
    time.sleep(2)
    after = {pid: cpu_ms(pid) for pid in before}
    # While there is a worker the steward looks at the box once a second, for 0.2 % of a processor
    # at most, and wakes the daemon when others have changed it: which it logs.
    watching = kernel.steward()
    assert after.pop(watching) <= before.pop(watching) + 10
    told = kernel.log().count("others leave us")
    assert sum(after.values()) <= sum(before.values()) + 5 + 10 * bool(told), (before, after)
    assert memory_kib(kernel.pid, "voluntary_ctxt_switches") <= woke + 1 + told
    assert client.call("echo.say", {"text": "x"}).value == "x"


def test_requests_that_fit_the_queue_never_cost_the_worker(evil: Kernel) -> None:
    """Four large ones at once wait in the worker's outbox, which is no reason to end it."""
    client = evil.client()
    client.call("echo.say", {"text": "x"})
    pid = evil.worker_pid()
    pad = b"x" * 5_000_000
    sent = {"x": {"dtype": "<u1", "shape": [10], "frame": 0}}
    tasks = [client.submit("echo.tensor", sent, frames=[pad]) for _ in range(4)]
    for task in tasks:
        assert task.result().value["shape"] == [10]
    assert evil.worker_pid() == pid


def test_large_answers_all_reach_who_reads(evil: Kernel) -> None:
    """More than one client may leave unread, but on its way: nobody is disconnected for it."""
    client = evil.client()
    size = 4_190_000
    sent = {"x": {"dtype": "|u1", "shape": [size], "frame": 0}}
    for _ in range(3):
        tasks = [client.submit("echo.tensor", sent, frames=[bytes(size)]) for _ in range(4)]
        for task in tasks:
            assert len(task.result().frames[0]) == size


def test_twenty_queued_requests_run_in_order(evil: Kernel) -> None:
    evil.plugin(
        "one",
        "import time\nfrom clawai.sdk.plugin import operation\nran = []\n"
        "@operation('one.mark')\ndef mark(name: str, nap: float = 0.0) -> None:\n"
        "    time.sleep(nap)\n    ran.append(name)\n"
        "@operation('one.ran')\ndef order() -> list[str]:\n    return ran\n",
        {"one.mark": "", "one.ran": ""},
    )
    client = evil.client()
    first = client.submit("one.mark", {"name": "first", "nap": 1.0})
    wait_until(lambda: client.query("tasks")["tasks"][0]["state"] == "running", "it runs")
    classes = ["normal", "critical", "interactive", "batch"] * 5
    tasks = [
        client.submit("one.mark", {"name": f"{c}{n}"}, priority=c) for n, c in enumerate(classes)
    ]
    for task in [first, *tasks]:
        task.result()
    by_class = {c: [f"{c}{n}" for n, each in enumerate(classes) if each == c] for c in classes}
    expected = [*by_class["critical"], *by_class["interactive"], *by_class["normal"]]
    assert client.call("one.ran").value == ["first", *expected]
    # Batch tasks of a tool never wait behind the others: they have a worker of their own.
    assert client.call("one.ran", priority="batch").value == by_class["batch"]
