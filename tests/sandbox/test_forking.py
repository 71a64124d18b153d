"""The zygote: what it holds, what it refuses, and that its workers do not depend on its life.

That a forked worker is the same as an executed one is what test_launch.py runs both ways for.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clawai.sandbox.forking import Forked, ForkFailed, Zygote
from clawai.sandbox.launch import Spawned, spawn
from clawai.sandbox.policy import Policy
from support import descriptors, wait_until

HERE = str(Path(__file__).resolve().parent)
WAIT_S = 30
NEEDS = {
    "full": {"namespaces", "landlock"},
    "no-landlock": {"namespaces"},
    "no-userns": {"landlock"},
}


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    zygote = Zygote(patience=WAIT_S)
    zygote.load(["json"])
    assert zygote.receive()
    yield zygote
    zygote.close()


@pytest.fixture
def start(probed: dict[str, Any], zygote: Zygote) -> Iterator[Callable[[str], Spawned]]:
    """Fork a worker that runs a target of inside.py, and wait until it says that it is there."""
    begun: list[Spawned] = []
    ends = contextlib.ExitStack()

    def run(target: str = "wait", **args: Any) -> Spawned:
        ours, theirs = socket.socketpair()
        ends.enter_context(ours)
        with theirs:
            spawned = spawn(
                f"inside:{target}",
                Policy.load("tool"),
                {"wire": theirs.fileno()},
                bpf=probed["bpf"],
                level=probed["level"],
                args=args,
                import_paths=[HERE],
                start=zygote.start,
            )
        begun.append(spawned)
        if target == "wait":
            ours.settimeout(WAIT_S)
            assert ours.recv(6) == b"ready\n"
        spawned.read_status()
        return spawned

    yield run
    ends.close()
    for spawned in begun:
        spawned.close()
        spawned.stage.wait(WAIT_S)


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_it_holds_nothing_of_its_workers(zygote: Zygote, start: Callable[..., Spawned]) -> None:
    before = descriptors(zygote.pid)
    assert set(before) == {0, 1, 2, *(n for n, link in before.items() if "socket" in link)}
    assert len(before) <= 4
    for _ in range(3):
        start()
    assert descriptors(zygote.pid) == before
    assert len(os.listdir(f"/proc/{zygote.pid}/task")) == 1  # noqa: PTH208
    children = Path(f"/proc/{zygote.pid}/task/{zygote.pid}/children").read_text()
    assert children == ""


def test_a_forked_stage_is_our_child_in_our_session(
    zygote: Zygote, start: Callable[..., Spawned]
) -> None:
    spawned = start()
    assert isinstance(spawned.stage, Forked)
    assert parent(spawned.stage_pid) == os.getpid()
    assert parent(spawned.worker_pid) == spawned.stage_pid
    assert os.getsid(spawned.stage_pid) == os.getsid(zygote.pid) == os.getsid(0)
    assert (comm(zygote.pid), comm(spawned.stage_pid)) == ("claw-zygote", "claw-stage")
    assert comm(spawned.worker_pid) == "claw-tool"
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in (zygote.pid, spawned.worker_pid)]
    heaps = [[line for line in each.splitlines() if "[heap]" in line] for each in maps]
    assert heaps[0][0].split("-")[0] == heaps[1][0].split("-")[0], "one layout, as is said"


def test_workers_outlive_their_zygote_and_their_codes_come(
    zygote: Zygote, start: Callable[..., Spawned]
) -> None:
    waits = start()
    os.kill(zygote.pid, signal.SIGKILL)
    assert not zygote.receive()
    assert not select.select([waits.worker_pidfd], [], [], 0)[0]
    with pytest.raises(ForkFailed):
        start("end", code=7)
    signal.pidfd_send_signal(waits.worker_pidfd, signal.SIGKILL)
    assert waits.stage.wait(WAIT_S) == 128 + signal.SIGKILL
    assert waits.exit_code() == 128 + signal.SIGKILL


def test_the_code_of_a_worker_that_ends(start: Callable[..., Spawned]) -> None:
    spawned = start("end", code=7)
    assert wait_until(lambda: spawned.read_status()[-1:], "a report")
    assert spawned.stage.wait(WAIT_S) == 7
    assert spawned.stage.poll() == 7


def test_one_whose_asker_is_gone_ends_without_a_word() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "clawai.sandbox.zygote", str(theirs.fileno())]
    started = subprocess.Popen(
        [*command, str(os.getpid())], pass_fds=[theirs.fileno()], stderr=subprocess.PIPE
    )
    theirs.close()
    ours.send(json.dumps({"import": ["json"]}).encode())
    ours.close()
    _, said = started.communicate(timeout=WAIT_S)
    assert (started.returncode, said) == (0, b"")


def test_one_that_does_not_answer_is_killed(probed: dict[str, Any]) -> None:
    zygote = Zygote(patience=0.2)
    os.kill(zygote.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ForkFailed, match="does not answer"):
            spawn(
                "inside:wait",
                Policy.load("tool"),
                {},
                bpf=probed["bpf"],
                level=probed["level"],
                args={},
                start=zygote.start,
            )
    finally:
        zygote.close()


def test_a_second_thread_forbids_to_fork() -> None:
    program = (
        "import threading\n"
        "from clawai.sandbox import zygote\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "try:\n"
        "    zygote.fork()\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "2 threads in the zygote, which forks with one only\n", done.stderr


def test_a_library_that_is_missing_is_left_to_the_worker(
    zygote: Zygote, start: Callable[..., Spawned]
) -> None:
    zygote.load(["no_such_library", "json"])
    assert zygote.receive()
    assert start().worker_pid


@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_launcher_leaves_no_process(probed: dict[str, Any], stopped: bool) -> None:
    with tempfile.NamedTemporaryFile() as bpf:
        bpf.write(probed["bpf"])
        bpf.flush()
        command = [sys.executable, f"{HERE}/forked_daemon.py", probed["level"], bpf.name]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
            assert daemon.stdout
            pidfds = [os.pidfd_open(pid) for pid in json.loads(daemon.stdout.readline())]
            if stopped:
                signal.pidfd_send_signal(pidfds[1], signal.SIGSTOP)
            daemon.kill()
            for pidfd in pidfds:
                assert select.select([pidfd], [], [], WAIT_S)[0]
                os.close(pidfd)


def test_a_forked_worker_stops_what_an_executed_one_stops(
    probed: dict[str, Any], run_as: Callable[..., str]
) -> None:
    layers = {name for name, state in probed["layers"].items() if state.startswith("ok")}
    levels = [level for level, needs in NEEDS.items() if needs <= layers]
    with tempfile.NamedTemporaryFile(prefix="claw-bpf-") as file:
        file.write(probed["bpf"])
        file.flush()
        Path(file.name).chmod(0o644)
        found = json.loads(run_as("forked_run.py", file.name, *levels))
    assert set(found) == set(levels)
    for level, ways in found.items():
        assert ways["forked"] == ways["executed"], level
        assert ways["forked"]["silent"] == []
