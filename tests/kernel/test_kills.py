"""Kills of a worker, a client and the daemon: told, cleaned up, and served on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from clawai.sdk.errors import ClawError
from evil_plugin import with_evil
from support import (
    PATIENCE,
    Kernel,
    wait_until,
)


def test_the_worker_is_killed_in_mid_answer(evil: Kernel) -> None:
    client = evil.client()
    task = client.submit("echo.count", {"upto": 100_000, "pause_ms": 5})
    for event in task:
        if event.kind == "chunk" and event.data == 3:
            os.kill(evil.worker_pid(), signal.SIGKILL)
    with pytest.raises(ClawError) as caught:
        task.result()
    assert caught.value.code == "worker_died"
    assert "killed by SIGKILL" in caught.value.message
    assert not caught.value.callers_fault
    assert client.call("echo.say", {"text": "again"}).value == "again"


def test_an_idempotent_request_survives_a_kill(evil: Kernel) -> None:
    evil.plugin(
        "steady",
        "import time\nfrom clawai.sdk.plugin import operation\n"
        "@operation('steady.slow')\ndef slow() -> str:\n    time.sleep(0.5)\n    return 'done'\n",
        {"steady.slow": "idempotent = true"},
    )
    client = evil.client()
    task = client.submit("steady.slow")
    wait_until(lambda: client.query("tasks")["tasks"][0]["state"] == "running", "it runs")
    os.kill(evil.worker_pid("steady"), signal.SIGKILL)
    assert task.result().value == "done"


def test_a_client_is_killed_in_mid_stream(evil: Kernel) -> None:
    other = evil.client()
    other.call("echo.say", {"text": "warm"})
    before = other.query("status")["used_bytes"]
    program = (
        "import sys\nfrom pathlib import Path\nfrom clawai.sdk.client import Client\n"
        "client = Client(folder=Path(sys.argv[1]), timeout=60)\n"
        "loan = client.borrow('echo.tensor', 4 << 20)\n"
        "loan.array('<u1', (4 << 20,))[...] = 1\n"
        "for event in client.submit('echo.count', {'upto': 10**6, 'pause_ms': 5}):\n"
        "    if event.kind == 'chunk':\n"
        "        print(event.data, flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(evil.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as victim:
        assert victim.stdout
        assert victim.stdout.readline() == b"1\n"
        status = other.query("status")
        assert (status["tasks"], status["segments"]) == (1, 1)
        assert status["used_bytes"] == before + (4 << 20)
        victim.kill()
    wait_until(lambda: other.query("status")["tasks"] == 0, "its task is cancelled")
    wait_until(lambda: other.query("status")["used_bytes"] == before, "its memory is back")
    assert other.query("status")["segments"] == 0


def test_the_daemon_is_killed(start_kernel: Callable[..., Kernel]) -> None:
    kernel = with_evil(start_kernel())
    client = kernel.client()
    client.call("echo.say", {"text": "x"})
    client.submit("evil.hang")
    wait_until(lambda: client.query("tasks")["tasks"][0]["state"] == "running", "it runs")
    assert len(kernel.processes()) >= 5
    os.kill(kernel.pid, signal.SIGKILL)
    wait_until(lambda: not kernel.processes(), "no process of it is left", 5)
    with pytest.raises(ClawError) as caught:
        client.call("echo.say", {"text": "x"})
    assert caught.value.code == "no_kernel"


def test_a_stopped_daemon_says_so(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel()
    client = kernel.client()
    task = client.submit("echo.count", {"upto": 10**6, "pause_ms": 5})
    next(iter(task))
    os.kill(kernel.pid, signal.SIGTERM)
    with pytest.raises(ClawError) as caught:
        task.result()
    assert caught.value.code == "kernel_stopped"
    assert kernel.process
    assert kernel.process.wait(PATIENCE) == 0


def test_an_answer_to_shutdown(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel()
    assert kernel.client().admin("shutdown") == {"pid": kernel.pid}
    assert kernel.process
    assert kernel.process.wait(PATIENCE) == 0
    assert not list(kernel.folder.glob("*.sock"))


def test_a_dead_workers_segments_are_refused(evil: Kernel) -> None:
    client = evil.client()
    loan = client.borrow("echo.tensor", 4096)
    os.kill(evil.worker_pid(), signal.SIGKILL)
    wait_until(lambda: "died" in evil.log(), "the death is seen")
    with pytest.raises(ClawError) as caught:
        client.call("echo.tensor", {"x": loan.tensor("<u1", (1,))}, leases=[loan])
    assert caught.value.code == "no_lease"
    client.give_back(loan)
    wait_until(lambda: client.query("status")["segments"] == 0, "the segment is gone")
