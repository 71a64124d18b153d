"""A thousand requests of every kind leave everything where it was, in the kernel and its worker."""

import os
from typing import Any

import pytest

from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from clawai.sdk.plugin import Tensor
from support import Kernel, descriptors, memfds, memory_kib, wait_until

SIZE = 256 * 1024


def refused(client: Client, op: str, **params: Any) -> None:
    with pytest.raises(ClawError):
        client.call(op, params)


def mixed(client: Client) -> int:
    """Some of every kind: the number of requests."""
    for number in range(5):
        client.call("echo.say", {"text": f"hello {number}"}, priority="batch", deadline=3600)
    stream = client.submit("echo.count", {"upto": 20})
    assert [e.data for e in stream if e.kind == "chunk"][-1] == 20
    task = client.submit("echo.count", {"upto": 10**6, "pause_ms": 0.2})
    for event in task:
        if event.kind == "chunk" and event.data == 2:
            task.cancel()
    waiting = [client.submit("echo.count", {"upto": 2, "pause_ms": 1}) for _ in range(6)]
    waiting[5].cancel()
    for each in waiting[:5]:
        each.result()
    refused(client, "echo.nope")
    refused(client, "echo.say", text=1)
    with pytest.raises(ClawError):
        client.call("echo.say", {"text": "late"}, deadline=0)
    frame = os.urandom(10_000)
    client.call("echo.tensor", {"x": Tensor("<u1", (10_000,), frame=0)}, frames=[frame])
    loan = client.borrow("echo.tensor", SIZE)
    loan.array("<u1", (SIZE,))[...] = 3
    client.call("echo.tensor", {"x": loan.tensor("<u1", (SIZE,))}, leases=[loan])
    client.give_back(loan)
    client.query("status")
    client.query("tasks")
    return 21


def state(kernel: Kernel, client: Client) -> dict[str, Any]:
    """What has to be the same."""
    status = client.query("status")
    worker = next(w["pid"] for w in client.query("workers")["workers"])
    return {
        "clients": status["clients"],
        "tasks": status["tasks"],
        "segments": status["segments"],
        "used_bytes": status["used_bytes"],
        "processes": sorted(kernel.processes()),
        "worker": worker,
        "kernel descriptors": sum(len(descriptors(pid)) for pid in kernel.exposed()),
        "worker descriptors": len(descriptors(worker)),
        "memfds": sum(len(memfds(pid)) for pid in kernel.exposed()),
        "worker memfds": len(memfds(worker)),
    }


def watched(kernel: Kernel, client: Client) -> bool:
    """The watchdog keeps a worker's file open from its first look on, a second after its start."""
    worker = next(w["pid"] for w in client.query("workers")["workers"])
    held = [name for pid in kernel.exposed() for name in descriptors(pid).values()]
    return f"/proc/{worker}/statm" in held


def resident(kernel: Kernel, worker: int) -> list[int]:
    """KiB of memory of their own: the daemon's, the steward's and the worker's."""
    return [memory_kib(pid, "RssAnon") for pid in (*kernel.exposed(), worker)]


def run(kernel: Kernel, requests: int, rounds: int) -> None:
    with kernel.client() as watcher:
        for _ in range(30):  # warm: what is allocated once is allocated
            with kernel.client() as client:
                mixed(client)
        wait_until(lambda: watcher.query("status")["segments"] == 0, "all segments are gone")
        # A worker that gave many segments back is renewed when idle: start the count anew.
        watcher.admin("unload", "echo")
        with kernel.client() as client:
            for _ in range(10):
                mixed(client)
        settled = {"segments": 0, "clients": 2, "tasks": 0}

        def quiet() -> bool:
            status = watcher.query("status")
            return all(status[key] <= value for key, value in settled.items())

        wait_until(quiet, "all is quiet")
        wait_until(lambda: watched(kernel, watcher), "the watchdog has looked at the worker")
        before = state(kernel, watcher)
        memory = resident(kernel, before["worker"])
        done = 0
        with kernel.client() as client:
            while done < requests:
                done += mixed(client)
        for _ in range(rounds):
            with kernel.client() as client:
                client.call("echo.say", {"text": "come and go"})
        wait_until(quiet, "all is quiet again")
        after = state(kernel, watcher)
        # The one segment of the client above: its descriptor is kept to watch its pages.
        assert after.pop("memfds") <= before.pop("memfds") + 1
        assert after.pop("kernel descriptors") <= before.pop("kernel descriptors") + 1
        assert after == before
        grown = [
            now - then for now, then in zip(resident(kernel, after["worker"]), memory, strict=True)
        ]
        assert max(grown) <= 2048, f"daemon, steward and worker grew by {grown} KiB"


def test_a_thousand_requests_leave_nothing(kernel: Kernel) -> None:
    run(kernel, 1000, 30)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_requests_leave_nothing(kernel: Kernel) -> None:
    run(kernel, 100_000, 1000)


def test_segments_of_many_clients_on_a_busy_worker(kernel: Kernel) -> None:
    """Kept descriptors are bounded even when the worker is never idle long enough to be renewed."""
    with kernel.client() as busy:
        stream = busy.submit("echo.count", {"upto": 10**6, "pause_ms": 1})
        next(iter(stream))
        for _ in range(150):
            with kernel.client() as client:
                client.give_back(client.borrow("echo.tensor", 4096))
        wait_until(lambda: busy.query("status")["segments"] == 0, "all segments are gone")
        held = [d for pid in kernel.exposed() for d in descriptors(pid).values()]
        assert len([d for d in held if "claw-segment" in d]) <= 130
