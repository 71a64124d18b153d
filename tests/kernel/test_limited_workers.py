"""Through the daemon: what is granted, limits in words to the client, denied calls in the log."""

import signal
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk.errors import ClawError
from support import Kernel, wait_until

CODE = """
    import os, socket, subprocess, time
    from clawai.sdk import Context, operation

    held = []

    @operation("lim.hold")
    def hold(mib: int) -> str:
        held.append(bytearray(mib << 20))
        while True:
            time.sleep(60)

    @operation("lim.run")
    def run(command: list) -> list:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except OSError as error:
            return [type(error).__name__]
        return [done.returncode, done.stdout]

    @operation("lim.denied")
    def denied(path: str) -> list:
        found = []
        for attempt in (lambda: socket.socket(), lambda: open(path).read()):
            try:
                attempt()
            except OSError as error:
                found.append(type(error).__name__)
        return found

    @operation("lim.write")
    def write(path: str) -> str:
        with open(path, "w") as file:
            file.write("written")
        return open(path).read()
"""
NAMES = ("lim.hold", "lim.run", "lim.denied", "lim.write")


@pytest.fixture
def limited(start_kernel: Any, tmp_path: Path) -> Kernel:
    """A daemon that explains denials, with a plugin that was granted a few things."""
    kernel: Kernel = start_kernel(config="[sandbox]\nexplain = true\n")
    folder = kernel.base / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    extra = f"""
        threads = 20
        [permissions]
        profile = "tool"
        write = {{"{folder}" = "to keep what it made"}}
        programs = {{"/bin/sh" = "to run", "/usr/bin/sleep" = "to wait"}}
    """
    kernel.plugin("lim", CODE, dict.fromkeys(NAMES, ""), slots=2, extra=extra)
    return kernel


def states(group: int) -> set[str]:
    """The states of all processes of a process group."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[2] == str(group):
                found.add(fields[0])
    return found


def test_what_is_granted_works_and_what_is_not_is_named(limited: Kernel) -> None:
    client = limited.client()
    path = f"{limited.base}/shared/made"
    assert client.call("lim.write", {"path": path}).value == "written"
    said = client.call("lim.run", {"command": ["/bin/sh", "-c", "echo $((6 * 7))"]}).value
    assert said == [0, "42\n"]
    assert client.call("lim.run", {"command": ["/usr/bin/sed", "--version"]}).value != [0, ""]
    found = client.call("lim.denied", {"path": str(limited.config)}).value
    assert found == ["PermissionError", "FileNotFoundError"]
    wait_until(lambda: str(limited.config) in limited.log(), "the denied path is in the log")
    log = limited.log()
    assert "lim: denied socket(AF_INET) with EPERM\n" in log
    assert f'lim: denied openat("{limited.config}") with ENOENT: no path that its manifest' in log


def test_a_worker_above_its_memory_is_killed_and_the_client_reads_why(limited: Kernel) -> None:
    client = limited.client()
    with pytest.raises(ClawError) as caught:
        client.call("lim.hold", {"mib": 64})
    assert caught.value.code == "worker_died"
    assert "MiB of 64 MiB of memory" in caught.value.message
    assert "killed: used " in limited.log()
    assert client.call("lim.run", {"command": ["/bin/sh", "-c", "exit 3"]}).value == [3, ""]


def test_a_suspended_plugin_stops_with_all_its_programs(limited: Kernel) -> None:
    client = limited.client()
    task = client.submit("lim.run", {"command": ["/usr/bin/sleep", "600"]})
    worker = wait_until(lambda: limited.worker_pid("lim"), "it runs")
    group = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[2])
    wait_until(lambda: len(list(Path("/proc").glob(f"{worker}/task/*"))) > 1, "it serves")
    client.admin("suspend", "lim")
    wait_until(lambda: states(group) == {"T"}, "all are stopped")
    client.admin("resume", "lim")
    wait_until(lambda: "T" not in states(group), "all go on")
    assert not task.done
    limited.stop(signal.SIGTERM)
    wait_until(lambda: not states(group), "nothing survives")


def test_a_grant_that_cannot_be_kept_is_told_in_words(kernel: Kernel) -> None:
    kernel.plugin("odd", extra='[permissions]\nread = {"/nowhere" = "x"}\n')
    with pytest.raises(ClawError, match="cannot show /nowhere to the worker"):
        kernel.client().call("greet.hello")
