"""What the sandbox tests share: the prober's record, run once, and programs run as some user."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
# Not 65534: a root daemon's workers have that one.
ORDINARY_UID = 54_321


@pytest.fixture(scope="session")
def probed() -> dict[str, Any]:
    """What the prober found for the user of the tests; ``bpf`` as bytes."""
    command = [sys.executable, "-I", "-m", "clawai.sandbox.probe"]
    said = subprocess.run(command, capture_output=True, check=True, timeout=60)
    found: dict[str, Any] = json.loads(said.stdout)
    return found | {"bpf": base64.b64decode(found["bpf"])}


@pytest.fixture(params=["root", "user"])
def identity(request: pytest.FixtureRequest) -> str:
    """The kind of user that plays the daemon; root only where the tests may be root."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("the tests run as an ordinary user, who cannot play a root daemon")
    return str(request.param)


@pytest.fixture
def run_as(identity: str) -> Callable[..., str]:
    """Run a Python program of this folder as ``identity``; gives its standard output."""

    def run(program: str, *arguments: str) -> str:
        command = [sys.executable, str(HERE / program), *arguments]
        if os.geteuid() == 0:
            uid = "0" if identity == "root" else str(ORDINARY_UID)
            command = [sys.executable, str(HERE / "as_user.py"), uid, *command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
