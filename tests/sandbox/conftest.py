"""What the sandbox tests share: the prober's record, run once, workers, and other identities."""

import base64
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clawai.sandbox.launch import Spawned, Status, spawn
from clawai.sandbox.policy import Policy

HERE = Path(__file__).resolve().parent
# Not 65534: a root daemon's workers have that one.
ORDINARY_UID = 54_321
WAIT_S = 30


@pytest.fixture(scope="session")
def probed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the prober found for the user of the tests; ``bpf`` as bytes."""
    command = [sys.executable, "-I", "-m", "clawai.sandbox.probe"]
    folder = tmp_path_factory.mktemp("probed")
    env = os.environ | {"TMPDIR": str(folder)}
    said = subprocess.run(command, capture_output=True, check=True, timeout=60, env=env)
    assert not list(folder.iterdir()), "every start of a kernel would leave it behind"
    found: dict[str, Any] = json.loads(said.stdout)
    return found | {"bpf": base64.b64decode(found["bpf"])}


@pytest.fixture(params=["root", "user"])
def identity(request: pytest.FixtureRequest) -> str:
    """The kind of user that plays the daemon; root only where the tests may be root."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("the tests run as an ordinary user, who cannot play a root daemon")
    return str(request.param)


@pytest.fixture
def run_with() -> Callable[..., str]:
    """Run a Python program of this folder as the identity given first."""
    return run_program


@pytest.fixture
def run_as(identity: str) -> Callable[..., str]:
    """Run a Python program of this folder as ``identity``; gives its standard output."""

    return lambda program, *arguments: run_program(identity, program, *arguments)


def run_program(identity: str, program: str, *arguments: str) -> str:
    """Run a Python program of this folder as ``identity``; its standard output."""
    command = [sys.executable, str(HERE / program), *arguments]
    if os.geteuid() == 0:
        uid = "0" if identity == "root" else str(ORDINARY_UID)
        command = [sys.executable, str(HERE / "as_user.py"), uid, *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """No descriptor and no child is left behind."""
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the listing's own is closed
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


class Worker:
    """One spawned worker and our end of its wire."""

    def __init__(self, spawned: Spawned, wire: socket.socket) -> None:
        self.spawned, self.wire = spawned, wire
        wire.settimeout(WAIT_S)

    def reports(self) -> list[Status]:
        """Every report up to the one that closes."""
        seen: list[Status] = []
        while not seen or seen[-1].event != "closed":
            assert select.select([self.spawned.status_fd], [], [], WAIT_S)[0]
            seen += self.spawned.read_status()
        return seen

    def said(self) -> Any:
        """The one line of JSON that the target sends, once it has started."""
        events = [report.event for report in self.reports() if report.event != "denied"]
        assert events == ["started", "running", "closed"]
        with self.wire.makefile() as lines:
            return json.loads(lines.readline())

    def ended(self) -> int:
        """The exit code, after the end."""
        return self.spawned.stage.wait(WAIT_S)


@pytest.fixture
def start(probed: dict[str, Any]) -> Iterator[Any]:
    """Start a target of inside.py at the level that this box has."""
    with contextlib.ExitStack() as stack:

        def run(target: str, policy: Policy | None = None, **more: Any) -> Worker:
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            with theirs:
                spawned = spawn(
                    target if ":" in target else f"inside:{target}",
                    policy or Policy.load("tool"),
                    {"wire": theirs.fileno(), "stderr": 2, **more.pop("fds", {})},
                    bpf=probed["bpf"],
                    level=more.pop("level", probed["level"]),
                    args=more.pop("args", {}),
                    import_paths=[str(HERE)],
                    **more,
                )
            stack.callback(spawned.stage.wait)
            stack.callback(spawned.close)
            return Worker(spawned, ours)

        yield run


@pytest.fixture
def bpf_file(probed: dict[str, Any]) -> Iterator[str]:
    """The compiled filters, in a file that every user may read."""
    with tempfile.NamedTemporaryFile(prefix="claw-bpf-") as file:
        file.write(probed["bpf"])
        file.flush()
        Path(file.name).chmod(0o644)
        yield file.name
