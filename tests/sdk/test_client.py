"""The synchronous client against a real daemon, and against what is no daemon at all."""

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from clawai.sdk import wire
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from support import PATIENCE, Kernel, descriptors, wait_until


@pytest.fixture
def folder(shared_kernel: Kernel) -> Path:
    return shared_kernel.folder


def test_several_tasks_of_one_client_do_not_mix(folder: Path) -> None:
    with Client(folder=folder) as client:
        tasks = [client.submit("echo.count", {"upto": n}) for n in (30, 5, 20, 1)]
        for task, upto in zip(reversed(tasks), (1, 20, 5, 30), strict=True):
            assert [e.data for e in task if e.kind == "chunk"] == list(range(1, upto + 1))
            assert task.result().value == upto


def test_results_in_any_order(folder: Path) -> None:
    with Client(folder=folder) as client:
        tasks = [client.submit("echo.say", {"text": str(n)}) for n in range(50)]
        assert [t.result().value for t in tasks[::-1]] == [str(n) for n in range(50)][::-1]


def test_events_tell_where_a_task_stands(folder: Path) -> None:
    with Client(folder=folder) as client:
        running = [client.submit("echo.count", {"upto": 10**6, "pause_ms": 5}) for _ in range(4)]
        queued = client.submit("echo.say", {"text": "last"}, priority="normal")
        events = iter(queued)
        assert next(events).kind == "accepted"
        told = next(events)
        assert (told.kind, told.position) == ("progress", 0)
        assert told.state in ("queued", "loading")
        for task in running:
            task.cancel()
        assert queued.result().value == "last"


def test_cancel_before_and_after_the_end(folder: Path) -> None:
    with Client(folder=folder) as client:
        task = client.submit("echo.say", {"text": "x"})
        assert task.result().value == "x"
        task.cancel()
        assert task.done
        assert task.result().value == "x"


def test_a_lease_of_every_size(folder: Path) -> None:
    with Client(folder=folder) as client:
        for size in (1, 4095, 4096, 4097, 1 << 20, 16 << 20):
            loan = client.borrow("echo.tensor", size)
            data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
            loan.array("|u1", (size,))[...] = data
            result = client.call("echo.tensor", {"x": loan.tensor("|u1", (size,))}, leases=[loan])
            assert (client.array(result, result.value, [loan]) == data).all()
            client.give_back(loan)


def test_a_plugin_that_names_an_array_elsewhere(folder: Path) -> None:
    from clawai.sdk.session import Result

    with Client(folder=folder) as client:
        for tensor in (
            {"dtype": "<f4", "shape": [9], "frame": 0},
            {"dtype": "O", "shape": [1], "frame": 0},
        ):
            with pytest.raises(ClawError) as caught:
                client.array(Result(None, (b"abcd",)), tensor)
            assert caught.value.code == "bad_params"


def test_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(ClawError) as caught:
        Client(folder=tmp_path)
    assert caught.value.code == "no_kernel"
    assert "claw up" in caught.value.hint


def _fake(tmp_path: Path, lease: bytes) -> tuple[socket.socket, socket.socket]:
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    door.bind(str(tmp_path / "lease.sock"))
    door.listen()
    mute = socket.socket(socket.AF_UNIX)
    mute.bind(str(tmp_path / "kernel.sock"))
    mute.listen()

    def answer() -> None:
        peer, _ = door.accept()
        if lease:
            peer.send(lease)
            peer.recv(1)
        peer.close()

    threading.Thread(target=answer, daemon=True).start()
    return door, mute


@pytest.mark.parametrize("lease", [b"", b"\x81\xa5token\xc4\x01x"], ids=["closes", "mute"])
def test_a_kernel_that_does_not_answer(lease: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="claw-", dir="/tmp") as name:
        sockets = _fake(Path(name), lease)
        try:
            with pytest.raises(ClawError) as caught:
                Client(folder=Path(name), timeout=0.3)
            assert caught.value.code == "no_kernel"
        finally:
            for sock in sockets:
                sock.close()


def test_a_client_that_failed_leaves_nothing_open(tmp_path: Path) -> None:
    gc.collect()  # what an earlier test has left to the collector must not go in between
    before = len(descriptors())
    for _ in range(5):
        with pytest.raises(ClawError):
            Client(folder=tmp_path)
    assert len(descriptors()) == before


def test_a_kernel_that_dies(kernel: Kernel) -> None:
    client = kernel.client()
    tasks = [client.submit("echo.count", {"upto": 10**6, "pause_ms": 5}) for _ in range(2)]
    next(event for event in tasks[0] if event.kind == "chunk")
    assert kernel.process
    kernel.process.kill()
    kernel.process.wait()
    for task in tasks:
        with pytest.raises(ClawError) as caught:
            task.result()
        assert caught.value.code == "no_kernel"
        assert task.done
    with pytest.raises(ClawError, match="it has closed the connection"):
        client.query("status")


def test_what_the_kernel_said_last_is_heard(folder: Path) -> None:
    """Told and disconnected in one go: the reason counts, not the disconnection."""
    with Client(folder=folder) as client:
        client._channel.send([b"x"] * (wire.MAX_FRAMES + 1))
        with pytest.raises(ClawError) as caught:
            client.call("echo.say", {"text": "x"})
        assert caught.value.code == "too_large"


def test_many_clients_connect_at_once(shared_kernel: Kernel) -> None:
    """More than a short backlog holds, none is told that there is no kernel."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom clawai.sdk.client import Client\n"
        "sys.stdin.read()\n"
        "for _ in range(20):\n"
        "    with Client(folder=Path(sys.argv[1]), timeout=60) as client:\n"
        "        client.query('status')\n"
    )
    command = [sys.executable, "-c", program, str(shared_kernel.folder)]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(6)]
    for racer in racers:
        assert racer.stdin
        racer.stdin.close()
    assert [racer.wait(PATIENCE) for racer in racers] == [0] * 6


def test_a_full_backlog_is_waited_for(shared_kernel: Kernel) -> None:
    """A kernel that is stopped for a moment accepts nothing; its clients wait, as they would."""
    os.kill(shared_kernel.pid, signal.SIGSTOP)
    try:
        waiting = threading.Thread(target=lambda: done.append(_called(shared_kernel.folder)))
        done: list[object] = []
        waiting.start()
        waiting.join(0.2)
        assert not done
    finally:
        os.kill(shared_kernel.pid, signal.SIGCONT)
    waiting.join(PATIENCE)
    assert done == ["late"]


def _called(folder: Path) -> object:
    with Client(folder=folder, timeout=PATIENCE) as client:
        return client.call("echo.say", {"text": "late"}).value


def test_closing_cancels_what_runs(shared_kernel: Kernel) -> None:
    watcher = shared_kernel.client()
    with shared_kernel.client() as client:
        client.submit("echo.count", {"upto": 10**6, "pause_ms": 5})
        wait_until(lambda: watcher.query("tasks")["tasks"], "it is there")
    wait_until(lambda: not watcher.query("tasks")["tasks"], "it is cancelled")
    shared_kernel.close_clients()
