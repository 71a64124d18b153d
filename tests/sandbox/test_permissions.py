"""What a policy grants can be used, at every level that has it, and nothing beside it."""

import errno
import json
import os
import select
import signal
import socket
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clawai.sandbox.launch import SandboxRefused
from clawai.sandbox.policy import Policy, PolicyError

TOOL = Policy.load("tool")
CAT, SH = "/usr/bin/cat", "/bin/sh"
PYTHON = os.path.realpath(sys.executable)
WAIT_S = 30


@pytest.fixture(autouse=True)
def _clean(no_leaks: None) -> None:
    """No test leaves anything behind."""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that the worker's uid may write."""
    folder = tmp_path / "out"
    folder.mkdir()
    os.chown(folder, os.geteuid() or 65534, -1)
    return folder


def family(stage: int) -> list[int]:
    """Every process of a worker with programs, its stage included: they share a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[2] == str(stage) and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def wait_until(true: Callable[[], Any]) -> None:
    """Or fail."""
    until = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


# Paths.


@pytest.fixture
def grant(run_as: Callable[..., str], bpf_file: str, identity: str) -> Callable[..., Any]:
    """Run a target at a level as ``identity``; its reports and what it said."""

    def run(level: str, target: str, policy: dict[str, Any], **args: Any) -> Any:
        spec = {"target": target, "policy": policy, "args": args}
        return json.loads(run_as("grant_run.py", level, bpf_file, json.dumps(spec)))

    return run


@pytest.fixture
def shared(identity: str) -> Iterator[Path]:
    """A folder that every user may reach, with a file and a folder that the worker may write."""
    with tempfile.TemporaryDirectory(prefix="claw-granted-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "data").write_text("declared")
        (folder / "out").mkdir()
        (folder / "out").chmod(0o777)
        yield folder


@pytest.mark.parametrize("level", ["full", "no-landlock", "no-userns"])
def test_declared_folders_are_read_and_written_at_every_level(
    grant: Callable[..., Any], shared: Path, level: str
) -> None:
    data, out = str(shared / "data"), str(shared / "out")
    policy = {"read_paths": [data], "write_paths": [out]}
    found = grant(level, "inside:read_path", policy, read=data, write=out)["said"]
    assert found["read"] == "declared"
    assert found["write"] in {"OSError", "PermissionError"}
    assert (shared / "out" / "made").exists()


def test_a_folder_that_the_worker_may_not_write_is_said_at_once(start: Any, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    policy = replace(TOOL, write_paths=(str(closed),))
    reports = start("greet", policy).reports()
    assert (reports[0].event, reports[0].layer) == ("failed", "paths")
    assert f"{closed}: the worker may not write it: it runs as uid" in reports[0].error


def test_a_missing_path_is_named_without_namespaces_too(grant: Callable[..., Any]) -> None:
    found = grant("no-userns", "inside:greet", {"read_paths": ["/no/such/model"]})
    failed = found["reports"][0]
    assert (failed["event"], failed["layer"]) == ("failed", "landlock")
    assert "cannot show /no/such/model to the worker" in failed["error"]


def test_what_a_killed_stage_left_is_removed_by_the_next(
    run_as: Callable[..., str], bpf_file: str
) -> None:
    """Without namespaces a worker's own folder lies in the system's /tmp."""
    found = json.loads(run_as("leftover_run.py", "no-userns", bpf_file))
    assert (found["both"], found["after"]) == ([True, True], [False, True])
    assert found["codes"] == [128 + signal.SIGKILL] * 2, "a stage failed at its end"


# Programs.


def test_a_declared_program_runs_in_the_same_sandbox(start: Any, tmp_path: Path, out: Path) -> None:
    (tmp_path / "data").write_text("declared")
    (tmp_path / "secret").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
        policy = replace(
            TOOL,
            read_paths=(str(tmp_path / "data"),),
            write_paths=(str(out),),
            programs=(CAT, SH, PYTHON),
        )
        commands = [
            [CAT, str(tmp_path / "data")],
            [CAT, str(tmp_path / "secret")],
            [CAT, "/etc/shadow"],
            [SH, "-c", f"echo written > {out}/file; echo $$; /usr/bin/sed --version"],
            [PYTHON, "-I", "-c", connect],
            [PYTHON, "-I", "-c", "import os; os.unshare(0x10000000)" if sys.version_info >= (3, 12)
             else "import ctypes; c = ctypes.CDLL(None, use_errno=True);"
             "raise SystemExit(c.unshare(0x10000000) and ctypes.get_errno())"],
            ["/usr/bin/sed", "--version"],
            ["/usr/bin/id"],
        ]  # fmt: skip
        found = start("granted:run_programs", policy, args={"commands": commands}).said()
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    data, secret, shadow, shell, connected, unshared, *others = found
    assert data == [0, "declared", ""]
    assert (secret[0], secret[1]) == (1, "")
    assert (shadow[0], shadow[1]) == (1, "")
    assert shell[0] in (126, 127), "another program, started by the first"
    assert int(shell[1]) > 1
    assert (out / "file").read_text() == "written\n"
    assert connected[0] == 1
    assert "PermissionError" in connected[2]
    assert unshared[0] in (1, errno.EPERM)
    assert set(others) <= {"ENOENT", "EACCES"}


def test_a_program_of_the_libraries_is_refused_by_landlock(
    start: Any, probed: dict[str, Any]
) -> None:
    if probed["level"] != "full":
        pytest.skip("no Landlock here, as the prober says")
    # It is shown, as the folders of the libraries are, and may be executed on the host.
    inner = next(
        str(path)
        for path in Path("/usr/lib").rglob("*")
        if path.is_file() and path.stat().st_mode & 0o111 and path.read_bytes()[:4] == b"\x7fELF"
        and ".so" not in path.name and not path.is_symlink()
    )  # fmt: skip
    policy = replace(TOOL, programs=(CAT,))
    found = start("granted:run_programs", policy, args={"commands": [[inner]]}).said()
    assert found == ["EACCES"]


def test_no_program_runs_without_the_permission(start: Any) -> None:
    found = start("granted:run_programs", TOOL, args={"commands": [[CAT, "/dev/null"]]}).said()
    assert found == ["EPERM"]


def test_a_script_needs_its_interpreter_declared(start: Any, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho it runs\n")
    script.chmod(0o755)
    failed = start("greet", replace(TOOL, programs=(str(script),))).reports()[0]
    assert (failed.event, failed.layer) == ("failed", "programs")
    assert "is a script that /bin/sh runs; declare /bin/sh as well" in failed.error
    policy = replace(TOOL, programs=(str(script), SH))
    found = start("granted:run_programs", policy, args={"commands": [[str(script)]]}).said()
    assert found == [[0, "it runs\n", ""]]


@pytest.mark.parametrize(
    ("program", "why"),
    [("/no/such", "No such file"), ("/etc/passwd", "is neither"), ("/usr/bin", "directory")],
)
def test_what_is_no_program_is_named(start: Any, program: str, why: str) -> None:
    failed = start("greet", replace(TOOL, programs=(program,))).reports()[0]
    assert (failed.event, failed.layer) == ("failed", "programs")
    assert program in failed.error
    assert why in failed.error


@pytest.mark.parametrize("victim", ["worker", "stage"])
def test_nothing_that_a_worker_started_survives_it(start: Any, victim: str) -> None:
    policy = replace(TOOL, programs=(SH, "/usr/bin/sleep"))
    command = [SH, "-c", "(/usr/bin/sleep 1000 &) & /usr/bin/sleep 1000 &"]
    worker = start("granted:start_and_wait", policy, args={"command": command})
    worker.wire.recv(6)
    worker.spawned.read_status()
    wait_until(lambda: len(family(worker.spawned.stage_pid)) == 4)
    os.killpg(worker.spawned.stage_pid, signal.SIGSTOP)
    os.killpg(worker.spawned.stage_pid, signal.SIGCONT)
    spawned = worker.spawned
    pidfd = spawned.worker_pidfd if victim == "worker" else spawned.stage_pidfd
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    worker.ended()
    wait_until(lambda: not family(spawned.stage_pid))


FORKS = """
import os, time
try:
    while True:
        if not os.fork():
            time.sleep(60)
except OSError:
    time.sleep(60)
"""


def test_processes_and_threads_share_one_bound(start: Any) -> None:
    policy = replace(TOOL, programs=(PYTHON,), max_threads=20)
    commands = [[PYTHON, "-I", "-c", FORKS]]
    worker = start("granted:run_programs", policy, args={"commands": commands})
    wait_until(lambda: len(family(worker.spawned.stage_pid)) == 21)
    worker.spawned.close()
    worker.ended()
    wait_until(lambda: not family(worker.spawned.stage_pid))


def test_programs_need_namespaces_and_executable_memory(start: Any) -> None:
    with pytest.raises(SandboxRefused, match="asks for 'no-landlock' or better"):
        start("greet", replace(TOOL, programs=(CAT,)), level="no-userns")
    with pytest.raises(PolicyError, match="executable_memory"):
        replace(Policy.load("strict"), programs=(CAT,))


# Devices and sockets.


def test_a_declared_device_is_shown_and_reaches_its_driver(start: Any) -> None:
    paths = ["/dev/tty", "/dev/ptmx"]
    without = start("granted:use_device", TOOL, args={"paths": paths}).said()
    assert without == {"/dev/tty": "ENOENT", "/dev/ptmx": "ENOENT"}
    policy = replace(TOOL, devices=("/dev/tty",))
    found = start("granted:use_device", policy, args={"paths": paths}).said()
    assert found["/dev/tty"] in ("ok", "ENXIO")  # without a terminal the driver says ENXIO
    assert found["/dev/ptmx"] == "ENOENT"


def test_what_is_no_character_device_is_refused(start: Any) -> None:
    failed = start("greet", replace(TOOL, devices=("/dev/shm",))).reports()[0]
    assert (failed.event, failed.layer) == ("failed", "namespaces")
    assert "not a character device" in failed.error
    with pytest.raises(PolicyError, match="a device below /dev"):
        replace(TOOL, devices=("/etc/passwd",))


def test_a_given_listener_can_be_accepted_from_and_is_no_way_out(start: Any) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_server(("127.0.0.1", 0)) as target,
    ):
        worker = start(
            "granted:serve_once",
            Policy.load("network"),
            fds={"listener": listener.fileno()},
            args={"port": target.getsockname()[1]},
        )
        with socket.create_connection(listener.getsockname(), timeout=WAIT_S) as client:
            client.sendall(b"hi")
            assert client.recv(64) == b"hello"
            found = worker.said()
        assert found == {
            "listen": "ok",
            "heard": "hi",
            "socket": "EPERM",
            "disconnect by sending": "EPERM",
            "connect by sending": "EPERM",
            "bind": "EPERM",
        }
        target.setblocking(False)
        with pytest.raises(BlockingIOError):
            target.accept()


def test_without_the_network_profile_nothing_is_accepted(start: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = start("granted:accept_one", fds={"listener": listener.fileno()})
        assert worker.said() == "EPERM"


# Denied calls.


def denied(worker: Any) -> tuple[dict[str, Any], Any]:
    """The denied calls by name and detail, and what the worker said."""
    reports = worker.reports()
    assert {report.event for report in reports} == {"started", "running", "denied", "closed"}
    told: dict[str, Any] = {}
    for report in reports:
        if report.event == "denied":
            name = f"{report.call}({report.detail})" if report.detail else report.call
            told[name] = (report.error, report.count)
    with worker.wire.makefile() as lines:
        return told, lines.readline()


ARGUMENTS = {"path": "/etc/passwd", "library": f"{sysconfig.get_path('stdlib')}/os.py", "times": 7}


def test_denied_calls_are_named_and_counted(start: Any) -> None:
    told, said = denied(start("granted:be_denied", TOOL, args=ARGUMENTS))
    assert told == {"socket": ("EPERM", 1), "chmod": ("EPERM", 1), "setpriority": ("EPERM", 7)}
    assert '"socket": "EPERM", "chmod": "EPERM", "open": "ENOENT"' in said


@pytest.mark.parametrize(("level", "absent"), [("full", "ENOENT"), ("no-userns", "EACCES")])
def test_explained_ones_name_the_path(
    grant: Callable[..., Any], level: str, absent: str, identity: str
) -> None:
    found = grant(level, "granted:be_denied", {"explain": True}, **ARGUMENTS)
    told = {
        (each["call"], each["detail"]): (each["error"], each["count"])
        for each in found["reports"]
        if each["event"] == "denied"
    }
    assert told["openat", '"/etc/passwd"'] == (absent, 1)
    assert told["chmod", '"/etc/passwd"'] == ("EPERM", 1)
    assert told["openat", f'"{ARGUMENTS["library"]}", for writing'] == ("EACCES", 1)
    assert told["socket", "AF_INET"] == ("EPERM", 1)
    assert told["setpriority", ""][0] == "EPERM"
    # What the filter allows, the layers have decided.
    assert found["said"]["open"] == absent
    assert found["said"]["write"] in ("EACCES", "EROFS")


def test_floods_of_denied_calls_are_answered_and_told_in_bounds(start: Any) -> None:
    args = ARGUMENTS | {"times": 1200, "kinds": 200}
    worker = start("granted:be_denied", TOOL, args=args)
    reports = worker.reports()
    told = [report for report in reports if report.event == "denied"]
    assert len(told) <= 2 * 64 + 1
    counts = {report.call: report.count for report in told}
    assert counts["setpriority"] == 1200
    assert counts[""] > 100, "too many kinds to be told apart"
    assert worker.ended() == 0


def test_a_worker_whose_calls_wait_can_be_killed(start: Any) -> None:
    worker = start("granted:be_denied", TOOL, args=ARGUMENTS | {"times": 10_000_000})
    wait_until(lambda: select.select([worker.spawned.status_fd], [], [], 0)[0])
    worker.spawned.read_status()
    signal.pidfd_send_signal(worker.spawned.worker_pidfd, signal.SIGKILL)
    assert worker.ended() == 128 + signal.SIGKILL


# The rest of the layers.


def test_the_box_that_a_worker_sees(start: Any) -> None:
    found = start("granted:surroundings").said()
    processors = Path("/proc/cpuinfo").read_text().count("processor\t")
    assert found.pop("processes") in ("EACCES", "ENOENT")
    assert found == {"host": "claw", "processors": processors, "memory": True}


def test_the_files_of_a_worker_in_proc_belong_to_root(start: Any) -> None:
    worker = start("wait")
    worker.wire.recv(6)
    worker.spawned.read_status()
    # Not dumpable: nobody of the same user can trace it or open its memory.
    for pid in (worker.spawned.worker_pid, worker.spawned.stage_pid):
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0


LIBRARY = next(Path(sysconfig.get_path("stdlib"), "lib-dynload").glob("*.so"))


def test_no_way_leads_to_new_code_where_it_is_forbidden(start: Any) -> None:
    strict = Policy.load("strict")
    memory = os.memfd_create("given")
    os.ftruncate(memory, 4096)
    args = {"library": str(LIBRARY)}
    forbidden = start(
        "granted:new_code_by_any_way", strict, fds={"memory": memory}, args=args
    ).said()
    assert set(forbidden.values()) <= {"EPERM", "EACCES"}
    assert forbidden["given memfd"] == "EPERM"
    allowed = start(
        "granted:new_code_by_any_way",
        replace(strict, executable_memory=True),
        fds={"memory": memory},
        args=args,
    ).said()
    os.close(memory)
    refused = {"pkey_mprotect", "own memfd", "personality", "file in tmp"}
    assert {name for name, how in allowed.items() if how != "ok"} == refused
