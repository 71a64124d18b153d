"""The runtime folder, the configuration, the log, and a full disk."""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from clawai.sdk.errors import ClawError
from evil_plugin import failing, with_evil
from support import (
    PATIENCE,
    Kernel,
    wait_until,
)


def run_daemon(kernel: Kernel) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "clawai.kernel"]
    return subprocess.run(
        command, env=kernel.env, capture_output=True, timeout=PATIENCE, check=False
    )


def test_a_second_kernel_is_refused(kernel: Kernel) -> None:
    done = run_daemon(kernel)
    assert done.returncode == 1
    assert f"another kernel (process {kernel.pid})" in done.stderr.decode()
    assert "[address_in_use]" in done.stderr.decode()
    assert kernel.client().call("echo.say", {"text": "x"}).value == "x"


def test_what_a_killed_daemon_left_is_replaced(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel()
    assert kernel.process
    kernel.process.kill()
    kernel.process.wait()
    kernel.check_gone()
    assert list(kernel.folder.glob("*.sock"))
    kernel.start()
    assert kernel.client().call("echo.say", {"text": "x"}).value == "x"


def test_a_folder_that_others_may_enter_is_refused(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel(start=False)
    kernel.folder.mkdir(mode=0o755)
    kernel.folder.chmod(0o755)
    done = run_daemon(kernel)
    assert done.returncode == 1
    assert "drwxr-xr-x" in done.stderr.decode()
    assert "[not_permitted]" in done.stderr.decode()


def test_a_folder_that_is_a_link_is_refused(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel(start=False)
    (kernel.base / "elsewhere").mkdir(mode=0o700)
    kernel.folder.symlink_to(kernel.base / "elsewhere")
    done = run_daemon(kernel)
    assert (done.returncode, b"[not_permitted]" in done.stderr) == (1, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of another user")
def test_a_folder_of_another_user_is_refused(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel(start=False)
    kernel.folder.mkdir(mode=0o700)
    os.chown(kernel.folder, 12345, 12345)
    done = run_daemon(kernel)
    assert (done.returncode, b"uid 12345" in done.stderr) == (1, True)


@pytest.mark.parametrize("kind", ["file", "long", "impossible"])
def test_a_folder_that_cannot_be_used(start_kernel: Callable[..., Kernel], kind: str) -> None:
    kernel = start_kernel(start=False)
    if kind == "file":
        kernel.folder.write_text("")
    else:
        bad = {"long": kernel.base / ("x" * 120), "impossible": "/proc/self/nothing/here"}
        kernel.env["CLAW_RUNTIME_DIR"] = str(bad[kind])
    done = run_daemon(kernel)
    assert done.returncode == 1
    text = done.stderr.decode()
    assert text.startswith("claw: ")
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[memory]\nbudget_mib = 'many'\n", "Expected `int`"),
        ("[memory]\nbudgte_mib = 5\n", "budgte_mib"),
        ("[memory\n", "config.toml"),
        ("[sandbox]\nminimum = 'none'\n", "sandbox.minimum"),
        ("\xff", "config.toml"),
    ],
)
def test_a_bad_configuration(start_kernel: Callable[..., Kernel], text: str, part: str) -> None:
    kernel = start_kernel(start=False)
    kernel.config.write_text(text, encoding="latin-1")
    done = run_daemon(kernel)
    assert done.returncode == 1
    assert part in done.stderr.decode()
    assert "[bad_config]" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_a_full_disk_costs_log_lines_only(start_kernel: Callable[..., Kernel]) -> None:
    kernel = with_evil(start_kernel())
    client = kernel.client()
    client.call("evil.fine")
    # To the daemon and its steward a limit on the size of their files is a disk that is full.
    size = kernel.log_file.stat().st_size + 100
    for pid in (kernel.pid, kernel.steward()):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))
    client.call("evil.talk", {"lines": 150, "width": 100})
    wait_until(lambda: client.query("status")["log_lines_lost"] > 0, "lines are lost")
    assert client.call("evil.fine").value == "fine"
    assert failing(client, "evil.raise", text="boo").code == "worker_failed"
    with pytest.raises(ClawError) as caught:
        client.borrow("evil.fine", 1 << 20)
    assert caught.value.code == "no_memory"
    assert kernel.log_file.stat().st_size <= size


def test_a_log_that_cannot_be_written(start_kernel: Callable[..., Kernel]) -> None:
    kernel = start_kernel(start=False)
    (kernel.base / "state").write_text("not a folder")
    kernel.start()
    client = kernel.client()
    assert client.call("echo.say", {"text": "x"}).value == "x"
    assert client.query("status")["log_lines_lost"] > 0


def test_the_log_is_kept_small(start_kernel: Callable[..., Kernel]) -> None:
    kernel = with_evil(start_kernel(config="[log]\nmax_mib = 1\n"))
    client = kernel.client()
    while not kernel.log_file.with_suffix(".log.1").exists():
        client.call("evil.talk", {"lines": 190, "width": 4000})
    assert kernel.log_file.stat().st_size <= 1 << 20


def test_a_socket_in_the_way(start_kernel: Callable[..., Kernel]) -> None:
    """A file with the socket's name, from whatever, is replaced."""
    kernel = start_kernel(start=False)
    kernel.folder.mkdir(mode=0o700)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(kernel.folder / "kernel.sock"))
    stale.close()
    (kernel.folder / "lease.sock").write_text("")
    kernel.start()
    assert kernel.client().call("echo.say", {"text": "x"}).value == "x"
