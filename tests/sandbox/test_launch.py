"""spawn(): what it reports, what the worker gets, and that nothing outlives what it should not."""

import array
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clawai.sandbox.forking import Zygote
from clawai.sandbox.launch import ENVIRONMENT, execute, require_level, spawn
from clawai.sandbox.policy import Policy, SandboxRefused

HERE = str(Path(__file__).resolve().parent)
WAIT_S = 30


@pytest.fixture(autouse=True)
def _clean(no_leaks: None) -> None:
    """No test leaves anything behind."""


@pytest.fixture(params=["executed", "forked"])
def start(start: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Start a target of inside.py at the level that this box has, in both ways."""
    with contextlib.ExitStack() as stack:
        how: Any = execute
        if request.param == "forked":
            zygote = Zygote()
            stack.callback(zygote.close)
            how = zygote.start
        yield lambda target, policy=None, **more: start(target, policy, start=how, **more)


def test_the_worker_gets_its_arguments_and_nothing_else(start: Any) -> None:
    worker = start("greet", args={"plugin": "echo"})
    told = worker.said()
    assert told["args"] == {"plugin": "echo"}
    assert told["environment"].keys() == ENVIRONMENT.keys()
    # 0, 1, 2, the wire; and the fds of the names are those that are open.
    assert told["open"] == [0, 1, 2, *told["fds"].values()]
    assert told["fds"].keys() == {"wire"}
    assert told["umask"] == 0o077
    assert worker.ended() == 0


def test_the_worker_holds_no_right_that_the_kernel_can_name(start: Any) -> None:
    worker = start("wait")
    worker.wire.recv(6)
    select.select([worker.spawned.status_fd], [], [], WAIT_S)
    worker.spawned.read_status()
    lines = Path(f"/proc/{worker.spawned.worker_pid}/status").read_text().splitlines()
    status = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    expected = os.geteuid() or 65534
    assert status["Uid"] == [str(expected)] * 4
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind][0], 16) == 0, kind
    assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
    assert status["Threads"] == ["1"]


def test_a_target_that_cannot_be_imported_is_a_report(start: Any) -> None:
    worker = start("inside:no_such_function")
    started, failed, _ = worker.reports()
    assert (started.event, failed.event, failed.layer) == ("started", "failed", "import")
    assert "no_such_function" in failed.error
    assert worker.ended() == 1


def test_a_layer_that_fails_is_named(start: Any) -> None:
    worker = start("greet", replace(Policy.load("tool"), read_paths=("/no/such/model",)))
    failed, _ = worker.reports()
    assert (failed.event, failed.layer) == ("failed", "namespaces")
    assert "cannot show /no/such/model to the worker" in failed.error
    assert worker.ended() == 78


def test_a_level_below_the_minimum_is_refused() -> None:
    policy = replace(Policy.load("strict"), minimum_level="full")
    with pytest.raises(
        SandboxRefused, match=r"reaches level 'no-userns'.*asks for 'full'.*do this"
    ):
        require_level("no-userns", policy, ["do this"])
    with pytest.raises(SandboxRefused, match="next step: run"):
        spawn("inside:greet", policy, {}, bpf=b"", level="weaker", args={})


def test_exit_codes_come_through_the_stage(start: Any) -> None:
    for target, args, code in (("end", {"code": 7}, 7), ("abort", {}, 128 + signal.SIGABRT)):
        worker = start(target, args=args)
        worker.reports()
        # Process 1 of a namespace ignores its own SIGABRT; the C library then traps.
        assert worker.ended() in {code, 128 + signal.SIGSEGV, 128 + signal.SIGTRAP}


def test_the_pid_stays_until_the_daemon_has_opened_it(start: Any) -> None:
    worker = start("end", args={"code": 0})
    assert worker.wire.recv(1) == b""  # the worker is gone, and the stage holds no copy of the wire
    assert select.select([worker.spawned.status_fd], [], [], WAIT_S)[0]
    assert worker.spawned.exit_code() is None  # ... but the stage waits for us
    worker.reports()
    assert select.select([worker.spawned.worker_pidfd], [], [], WAIT_S)[0]
    assert worker.ended() == 0


def test_ctrl_c_does_not_reach_a_worker_and_kill_does(start: Any) -> None:
    worker = start("wait")
    worker.wire.recv(6)
    worker.spawned.read_status()
    for pidfd in (worker.spawned.stage_pidfd, worker.spawned.worker_pidfd):
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.pidfd_send_signal(pidfd, number)
    signal.pidfd_send_signal(worker.spawned.worker_pidfd, signal.SIGSTOP)
    signal.pidfd_send_signal(worker.spawned.worker_pidfd, signal.SIGCONT)
    assert worker.spawned.exit_code() is None
    signal.pidfd_send_signal(worker.spawned.worker_pidfd, signal.SIGKILL)
    assert worker.ended() == 128 + signal.SIGKILL


def test_closing_the_lifeline_ends_the_worker(start: Any) -> None:
    worker = start("wait")
    worker.wire.recv(6)
    worker.spawned.read_status()
    pidfd = os.dup(worker.spawned.worker_pidfd)
    worker.spawned.close()
    assert select.select([pidfd], [], [], WAIT_S)[0]
    os.close(pidfd)
    assert worker.ended() == 128 + signal.SIGKILL


@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_stage_takes_its_worker_along(start: Any, stopped: bool) -> None:
    worker = start("wait")
    worker.wire.recv(6)
    worker.spawned.read_status()
    if stopped:
        signal.pidfd_send_signal(worker.spawned.worker_pidfd, signal.SIGSTOP)
    signal.pidfd_send_signal(worker.spawned.stage_pidfd, signal.SIGKILL)
    assert select.select([worker.spawned.worker_pidfd], [], [], WAIT_S)[0]
    assert worker.ended() == -signal.SIGKILL


@pytest.mark.parametrize("stop_the_stage", [False, True])
def test_a_killed_daemon_leaves_no_process(probed: dict[str, Any], stop_the_stage: bool) -> None:
    with tempfile.NamedTemporaryFile() as bpf:
        bpf.write(probed["bpf"])
        bpf.flush()
        daemon = subprocess.Popen(
            [sys.executable, f"{HERE}/small_daemon.py", probed["level"], bpf.name],
            stdout=subprocess.PIPE,
        )
        with daemon:
            assert daemon.stdout
            pids = json.loads(daemon.stdout.readline())
            pidfds = [os.pidfd_open(pid) for pid in pids]
            if stop_the_stage:
                signal.pidfd_send_signal(pidfds[0], signal.SIGSTOP)
            daemon.kill()
            for pidfd in pidfds:
                assert select.select([pidfd], [], [], WAIT_S)[0], pids
                os.close(pidfd)


def test_the_libraries_of_the_bundled_plugins_work_inside(start: Any) -> None:
    assert start("libraries").said() == {
        "numpy": 300.0**3,
        "cffi": 4,
        "msgspec": {"a": 1},
        "jinja2": "1",
        "tokenizers": "tokenizers",
        "zmq": "over",
    }


def test_the_system_calls_of_the_contract_work_inside(start: Any) -> None:
    found = start("system").said()
    assert found == {
        "threads": 4,
        "mapped": ord("x"),
        "cpus": len(os.sched_getaffinity(0)),
        "random": 8,
        "event": 1,
        "clock": True,
        "poll": 1,
        "asyncio": "looped",
        "tmp": "kept",
    }


def test_segments_and_the_model_file_are_mapped(start: Any, tmp_path: Path) -> None:
    import fcntl

    shared, sealed = (os.memfd_create("s", os.MFD_ALLOW_SEALING) for _ in range(2))
    for fd in (shared, sealed):
        os.ftruncate(fd, 4096)
        os.pwrite(fd, b"daemon", 0)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(shared, fcntl.F_ADD_SEALS, seals)
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_WRITE)
    (tmp_path / "model").write_bytes(b"model" * 1000)
    model = os.open(tmp_path / "model", os.O_RDONLY)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        worker = start("segments", fds={"leases": theirs.fileno(), "model": model})
        rights = array.array("i", [shared, sealed])
        ours.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        assert worker.said() == {
            "sealed": "daemon",
            "model": "model",
            "write sealed": "PermissionError",
            "write model": "PermissionError",
        }
    assert os.pread(shared, 6, 0) == b"worken"
    for fd in (shared, sealed, model):
        os.close(fd)


def test_new_code_is_forbidden_unless_the_policy_allows_it(start: Any) -> None:
    strict = Policy.load("strict")
    assert start("new_code", strict).said() == {"mmap": False, "mprotect": False, "numpy": False}
    preloaded = start("new_code", strict, preload=["numpy"]).said()
    assert preloaded == {"mmap": False, "mprotect": False, "numpy": True}
    allowed = start("new_code", replace(strict, executable_memory=True)).said()
    assert allowed == {"mmap": True, "mprotect": True, "numpy": True}


def test_declared_paths_can_be_read_and_written_as_declared(start: Any, tmp_path: Path) -> None:
    folder = tmp_path / "linked"
    (tmp_path / "real").mkdir()
    folder.symlink_to(tmp_path / "real")
    (folder / "data").write_text("declared")
    out = tmp_path / "out"
    out.mkdir()
    os.chown(out, os.geteuid() or 65534, -1)
    policy = replace(Policy.load("tool"), read_paths=(str(folder),), write_paths=(str(out),))
    args = {"read": str(folder / "data"), "write": str(out)}
    found = start("read_path", policy, args=args).said()
    assert found["read"] == "declared"
    assert found["write"] in {"OSError", "PermissionError"}
    assert (out / "made").exists()
