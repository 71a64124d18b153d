"""The steward and its launchers in a running kernel: lanes, deaths, listings, weights objects."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk.errors import ClawError
from steward_parts import WEIGHTS
from support import Kernel, descriptors, parent_of, wait_until

LANES = """
import time
from clawai.sdk.plugin import operation

@operation("lane.nap")
def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"
"""


def kept(kernel: Kernel) -> int:
    """The descriptors of the daemon, but for the memory that it watches."""
    return len([d for d in descriptors(kernel.pid).values() if "claw-segment" not in d])


def stage_parent(worker: int) -> int:
    """Who started a worker: the parent of its stage."""
    return parent_of(parent_of(worker))


def test_a_bulk_task_of_a_tool_runs_in_a_worker_of_its_own(kernel: Kernel) -> None:
    kernel.plugin("lane", LANES, {"lane.nap": ""})
    client = kernel.client()
    bulk = client.submit("lane.nap", {"seconds": 1000.0}, priority="batch")
    assert client.call("lane.nap", {"seconds": 0.0}, priority="critical").value == "slept"

    def by_lane() -> dict[str, Any]:
        return {w["lane"]: w for w in client.query("workers")["workers"] if w["pid"]}

    wait_until(lambda: len(by_lane()) == 2, "the bulk one, which stands back, has begun")
    workers, launchers = by_lane(), kernel.launchers()
    for lane in ("main", "bulk"):
        assert stage_parent(workers[lane]["pid"]) == launchers[lane]
    (task,) = client.query("tasks")["tasks"]
    assert task["lane"] == "bulk"
    wait_until(lambda: client.query("tasks")["tasks"][0]["state"] == "running", "it runs")
    bulk.cancel()
    with pytest.raises(ClawError):
        bulk.result()


def test_the_launchers_enter_their_weight_groups(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel(config='[preemption]\nmeans = "autogroup"\n')
    client = kernel.client()
    client.call("echo.say", {"text": "x"})
    found = client.query("status")["preemption"]
    launchers = kernel.launchers()
    for pid in launchers.values():
        assert os.getsid(pid) == pid, "a launcher leads a session of its own"
    if found["means"]["kind"] == "none":  # this box has none, or it had no effect: then it says so
        assert found["refused"]["autogroup"]
        return
    groups = {lane: Path(f"/proc/{pid}/autogroup").read_text() for lane, pid in launchers.items()}
    assert groups["main"].endswith("nice 0\n")
    assert groups["bulk"].endswith("nice 19\n")
    worker = client.query("workers")["workers"][0]["pid"]
    assert Path(f"/proc/{worker}/autogroup").read_text() == groups["main"]


def test_a_launcher_dies_with_its_workers_and_no_others(kernel: Kernel) -> None:
    kernel.plugin("lane", LANES, {"lane.nap": ""})
    client = kernel.client()
    client.call("echo.say", {"text": "x"})
    bystander = kernel.worker_pid("echo")
    bulk = client.submit("lane.nap", {"seconds": 1000.0}, priority="batch")
    wait_until(lambda: client.query("tasks")["tasks"][0]["state"] == "running", "it runs")
    first = kernel.launchers()["bulk"]
    worker = next(w["pid"] for w in client.query("workers")["workers"] if w["lane"] == "bulk")
    os.kill(first, signal.SIGKILL)
    with pytest.raises(ClawError) as caught:
        bulk.result()
    assert caught.value.code == "worker_died"
    assert "its launcher died" in caught.value.message
    assert worker not in kernel.processes()
    assert client.call("lane.nap", {"seconds": 0.0}, priority="batch").value == "slept"
    assert kernel.launchers()["bulk"] != first
    assert kernel.worker_pid("echo") == bystander


def test_the_steward_dies_and_the_kernel_goes_on(kernel: Kernel) -> None:
    client = kernel.client()
    task = client.submit("echo.count", {"upto": 10**6, "pause_ms": 5})
    for event in task:
        if event.kind == "chunk":
            break
    first, before = kernel.steward(), kernel.launchers()
    held = kept(kernel)
    wait_until(lambda: client.query("status")["uptime_s"] >= 1, "it did not die at once")
    os.kill(first, signal.SIGKILL)
    with pytest.raises(ClawError) as caught:
        task.result()
    assert caught.value.code == "worker_died"
    assert client.call("echo.say", {"text": "again"}).value == "again"
    with kernel.client() as other:  # through a door that the new one keeps
        assert other.borrow("echo.tensor", 4096)
    assert kernel.steward() != first
    assert not set(before.values()) & set(kernel.launchers().values())
    assert "started again" in kernel.log()
    wait_until(lambda: kept(kernel) == held, "the daemon keeps nothing of the old one")


def test_the_steward_dies_twice_at_once_and_the_kernel_says_so(
    start_kernel: Callable[..., Kernel],
) -> None:
    """One that cannot live would be started for ever: the kernel ends, and tells why."""
    kernel = start_kernel(start=False)
    kernel.start()
    assert kernel.process
    while kernel.process.poll() is None:
        if steward := kernel.steward():
            os.kill(steward, signal.SIGKILL)
    assert kernel.process.returncode == 1
    assert "dies as soon as it is started" in kernel.stderr()
    kernel.remove()
    kernel.process = None


def test_no_child_inherits_what_the_daemon_holds(kernel: Kernel) -> None:
    """The lock of the folder in the hands of a child would outlive the daemon."""
    kernel.client().call("echo.say", {"text": "x"})
    for pid in (kernel.pid, kernel.steward(), *kernel.launchers().values()):
        for name in descriptors(pid):
            try:
                said = Path(f"/proc/{pid}/fdinfo/{name}").read_text()
            except FileNotFoundError:
                continue  # closed meanwhile
            flags = next(line.split()[1] for line in said.splitlines() if "flags:" in line)
            link = descriptors(pid).get(name, "")
            assert name <= 2 or int(flags, 8) & os.O_CLOEXEC, f"{name} of {pid}: {link}"
    holders = [pid for pid in kernel.processes() if "kernel.pid" in str(descriptors(pid).values())]
    assert holders == [kernel.pid]


def test_a_new_plugin_a_changed_one_and_a_removed_one(kernel: Kernel) -> None:
    client = kernel.client()
    with pytest.raises(ClawError) as caught:
        client.call("lane.nap", {"seconds": 0.0})
    assert caught.value.code == "unknown_operation"
    folder = kernel.plugin("lane", LANES, {"lane.nap": ""})
    assert client.call("lane.nap", {"seconds": 0.0}).value == "slept"
    for file in folder.iterdir():
        if file.is_file():
            file.unlink()
    assert "lane" not in {p["name"] for p in client.query("plugins")["plugins"]}
    with pytest.raises(ClawError) as caught:
        client.call("lane.nap", {"seconds": 0.0})
    assert caught.value.code == "unknown_operation"


def test_what_a_client_sends_while_it_waits_is_handled_in_order(kernel: Kernel) -> None:
    """A first submit asks the steward; a cancel right behind it must find the task."""
    peer = kernel.raw().hello()
    peer.send_map(type="submit", id=1, op="echo.count", params={"upto": 10**6, "pause_ms": 1})
    peer.send_map(type="cancel", id=1)
    peer.send_map(type="query", id=2, what="tasks")
    answers = [peer.answer(1), peer.answer(2)]
    assert answers[0].code == "cancelled"
    peer.close()


def test_weights_outlive_their_worker(kernel: Kernel) -> None:
    kernel.plugin("w", WEIGHTS, {"w.look": "idempotent = true"})
    client = kernel.client()
    assert client.call("w.look").value == [1, True, b"once"]
    used = client.query("status")["used_bytes"]
    os.kill(kernel.worker_pid("w"), signal.SIGKILL)
    wait_until(lambda: "died" in kernel.log(), "the death is seen")
    assert client.call("w.look").value == [0, True, b"once"], "it maps what the first has filled"
    assert client.query("status")["used_bytes"] == used
    client.admin("unload", "w")
    wait_until(lambda: not client.query("status")["used_bytes"], "the memory is back")
    for pid in kernel.exposed():
        assert not [link for link in descriptors(pid).values() if "claw-weights" in link]


def test_a_worker_is_suspended_and_goes_on(kernel: Kernel) -> None:
    client = kernel.client()
    client.call("echo.say", {"text": "x"})
    pid = kernel.worker_pid()

    def state() -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    client.admin("suspend", "echo")
    wait_until(lambda: state() == "T", "it stands still")
    assert client.query("workers")["workers"][0]["state"] == "suspended"
    client.admin("resume", "echo")
    assert client.call("echo.say", {"text": "on"}).value == "on"
    assert kernel.worker_pid() == pid
