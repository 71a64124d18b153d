"""The recorder beside a running daemon: its death, a full disk, a crash of the core, the end."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk.client import Task
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import unpack
from evil_plugin import failing, with_evil
from support import Kernel, parent_of, wait_until

BREAKS = """
import socket, sys
from clawai.kernel import events as ev
from clawai.kernel import server

def cancel(self, client, asked, frames):
    self.loop.happen(ev.MemoryGone(12345))  # of a segment that never was

server.Clients._cancel = cancel
from clawai.kernel import clients
from clawai.sdk import wire
clients._REQUESTS[wire.Cancel] = cancel
server.serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
"""
BOOT = """
import os, sys
import clawai.kernel.__main__ as kernel
execute, daemon = os.execv, os.environ["DAEMON"]
os.execv = lambda program, words: execute(program, [program, "-c", daemon, *words[3:]])
sys.exit(kernel.main(sys.argv[sys.argv.index("clawai.kernel") + 1:]))
"""
Start = Callable[..., Kernel]


def state(kernel: Kernel) -> Path:
    return kernel.base / "state" / "clawai"


def recorder(kernel: Kernel) -> int:
    """The process of the recorder."""
    found = [pid for pid, line in kernel.processes().items() if "kernel.recorder" in line]
    return next((pid for pid in found if parent_of(pid) == kernel.pid), 0)


def die(kernel: Kernel) -> None:
    """Kill the daemon, and wait until everything that it started has ended."""
    assert kernel.process
    os.kill(kernel.pid, signal.SIGKILL)
    kernel.process.wait()
    kernel.check_gone()


def begun(task: Task) -> str:
    """The job of a task that has yielded something."""
    job = ""
    for event in task:
        job = job or event.job
        if event.kind == "chunk":
            return job
    raise AssertionError("it ended before it began")


def replay(*words: str | Path, seed: str = "9") -> Any:
    command = [sys.executable, "-m", "clawai.kernel.replay", "--json", *map(str, words)]
    env = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_what_a_daemon_did_replays(start_kernel: Start) -> None:
    kernel = with_evil(start_kernel())
    with kernel.client() as client:
        assert client.call("echo.say", {"text": "s3cret"}, frames=[b"pl4yload"]).value == "s3cret"
        assert client.call("echo.say", {"text": "s3cret"}, durable=True).value == "s3cret"
        failing(client, "evil.raise", text="wh4t")
        failing(client, "evil.segfault")
        loan = client.borrow("echo.tensor", 4096)
        client.give_back(loan)
        task = client.submit("echo.count", {"upto": 10**6, "pause_ms": 1})
        next(iter(task))
        task.cancel()
        assert client.admin("unload", "evil")
    assert kernel.stop() == 0
    folder = state(kernel) / "journal"
    found = replay(folder)
    assert found["same"], found
    assert found["events"] > 20
    assert found["state"]["tasks"] == 0
    assert found["state"]["stopping"]
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        for secret in (b"s3cret", b"pl4yload", b"wh4t"):
            assert secret not in path.read_bytes(), (path, secret)


def test_a_daemon_that_is_killed_leaves_a_journal(start_kernel: Start) -> None:
    kernel = start_kernel()
    client = kernel.client()
    client.call("echo.say", {"text": "x"})
    events = state(kernel) / "journal" / "00000001.events"
    wait_until(lambda: events.exists() and events.stat().st_size, "a second has passed")
    die(kernel)
    assert replay(events.parent)["same"]
    kernel.close_clients()
    kernel.start().client().call("echo.say", {"text": "x"})
    kernel.stop()
    found = replay(events.parent)
    assert found["same"]
    assert found["runs"] == 2


def test_the_recorder_is_killed_under_durable_tasks(start_kernel: Start) -> None:
    kernel = start_kernel()
    client = kernel.client()
    client.call("echo.say", {"text": "warm"}, durable=True)
    for round_ in range(3):
        victim = recorder(kernel)
        os.kill(victim, signal.SIGSTOP)
        tasks = [client.submit("echo.say", {"text": str(n)}, durable=True) for n in range(5)]
        client.query("status")  # what was submitted has arrived
        os.kill(victim, signal.SIGKILL)
        assert [task.result().value for task in tasks] == [str(n) for n in range(5)]
        assert recorder(kernel) not in (0, victim), round_
    jobs = client.query("jobs")["jobs"]
    assert [job["state"] for job in jobs] == ["done"] * 16
    assert all(job["attempts"] == 1 for job in jobs)
    assert "the recorder process died" in kernel.log()


def test_who_asks_a_recorder_that_dies_is_told_to_ask_again(start_kernel: Start) -> None:
    kernel = start_kernel()
    kernel.client().call("echo.say", {"text": "x"}, durable=True)
    victim = recorder(kernel)
    os.kill(victim, signal.SIGSTOP)
    with kernel.raw().hello() as peer:
        peer.send_map(type="query", id=1, what="jobs")
        peer.send_map(type="query", id=2, what="status")
        peer.answer(2)  # what was asked before has arrived
        os.kill(victim, signal.SIGKILL)
        error = peer.answer(1)
        assert (error.code, error.retry_after_ms) == ("overloaded", 500)
        peer.send_map(type="query", id=3, what="jobs")
        assert len(unpack(peer.answer(3).data)["jobs"]) == 1


def test_a_full_disk_refuses_durable_tasks_and_nothing_else(start_kernel: Start) -> None:
    kernel = start_kernel()
    client = kernel.client()
    client.call("echo.say", {"text": "x"}, durable=True)
    pid = recorder(kernel)
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    for _ in range(2):
        with pytest.raises(ClawError) as caught:
            client.call("echo.say", {"text": "x"}, durable=True)
        assert caught.value.code == "disk_full"
        assert "make room" in caught.value.hint
        assert client.call("echo.say", {"text": "y"}).value == "y"
    wait_until(lambda: "event journal cannot be written" in kernel.log(), "the journal is lost")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    assert client.call("echo.say", {"text": "z"}, durable=True).value == "z"
    assert {job["state"] for job in client.query("jobs")["jobs"]} == {"done"}
    assert not client.query("tasks")["tasks"]


def test_a_durable_task_outlives_its_client(start_kernel: Start) -> None:
    kernel = start_kernel()
    first, other = kernel.client(), kernel.client()
    task = first.submit("echo.count", {"upto": 30, "pause_ms": 10}, durable=True)
    job = next(event.job for event in task if event.kind == "accepted")
    first.close()
    found = other.admin("job-wait", job)
    assert found["state"] == "done"
    assert other.query(f"job:{job}")["result"] == 30


def test_a_durable_task_is_cancelled_by_its_name(start_kernel: Start) -> None:
    kernel = start_kernel()
    client, other = kernel.client(), kernel.client()
    task = client.submit("echo.count", {"upto": 10**6, "pause_ms": 5}, durable=True)
    job = begun(task)
    assert other.admin("job-cancel", job)["job"] == job
    assert other.admin("job-wait", job)["state"] == "cancelled"
    with pytest.raises(ClawError) as caught:
        task.result()
    assert caught.value.code == "cancelled"
    assert other.admin("job-rm", job)["state"] == "cancelled"
    with pytest.raises(ClawError) as caught:
        other.query(f"job:{job}")
    assert caught.value.code == "unknown_task"


SLOW = """
import time
from clawai.sdk.plugin import Context, operation

def count(ctx):
    for number in range(100):
        yield number
        time.sleep(0.005)
        ctx.checkpoint()

@operation("slow.again")
def again(ctx: Context):
    yield from count(ctx)

@operation("slow.once")
def once(ctx: Context):
    yield from count(ctx)
"""


def test_a_proper_stop_keeps_what_may_run_again(start_kernel: Start) -> None:
    kernel = start_kernel()
    lines = {"slow.again": "stream = true\nidempotent = true", "slow.once": "stream = true"}
    kernel.plugin("slow", SLOW, lines, slots=2)
    client = kernel.client()
    jobs = [begun(client.submit(name, durable=True)) for name in lines]
    assert kernel.stop() == 0
    kernel.check_gone()
    client = kernel.start().client()
    again, once = (client.query(f"job:{job}") for job in jobs)
    assert once["error"]["code"] == "interrupted"
    while again["ended"] is None:
        again = client.admin("job-wait", jobs[0])
    assert (again["state"], again["attempts"]) == ("done", 2)


def test_more_recovered_jobs_than_one_client_may_have(start_kernel: Start) -> None:
    kernel = start_kernel()
    client = kernel.client()
    client.submit("echo.count", {"upto": 10**6, "pause_ms": 5})
    tasks = [client.submit("echo.say", {"text": str(n)}, durable=True) for n in range(200)]
    jobs = [next(e.job for e in task if e.kind == "accepted") for task in tasks]
    die(kernel)
    kernel.close_clients()
    client = kernel.start().client()
    for job in jobs:
        found = client.admin("job-wait", job)
        while found["ended"] is None:
            found = client.admin("job-wait", job)
        assert found["state"] == "done"


def test_a_core_that_breaks_leaves_its_journal(start_kernel: Start) -> None:
    kernel = start_kernel(env={"DAEMON": BREAKS}, start=False)
    kernel.start(wrapper=(sys.executable, "-c", BOOT))
    assert kernel.process
    client = kernel.client()
    task = client.submit("echo.count", {"upto": 10**6, "pause_ms": 5})
    next(iter(task))
    task.cancel()
    with contextlib.suppress(ClawError):
        task.result()
    assert kernel.process.wait() == 1
    kernel.check_gone()
    (crash,) = (state(kernel) / "journal").glob("crash-*.journal")
    assert f"see journal/{crash.name}" in kernel.log()
    found = replay(crash)
    assert found["same"]
    assert found["broke"] == "KeyError: 12345"
    assert "KeyError: 12345" in kernel.stderr()
    (kernel.base / "stderr").write_text("")  # the traceback that this test asked for
