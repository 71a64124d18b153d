"""A box of its own for every test: empty XDG folders, and the real `claw` as a program."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import no_leak

CLAW = str(Path(sys.executable).with_name("claw"))


class Box:
    """Runs `claw` in folders of its own."""

    command = (CLAW,)

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CLAW_", "XDG_", "HF_")) and name != "NO_COLOR"
        }
        for name in ("DATA", "CONFIG", "STATE"):
            self.env[f"XDG_{name}_HOME"] = str(home / name.lower())
        self.env["CLAW_RUNTIME_DIR"] = str(home / "run")

    def run(self, *args: str, code: int = 0, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end and check its exit code."""
        done = subprocess.run(
            [CLAW, *args], env=self.env, input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *args: str, code: int = 0) -> Any:
        """Run a command with --json and read what it printed."""
        return json.loads(self.run(*args, "--json", code=code).stdout)

    def start(self, *args: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [CLAW, *args], env=self.env, text=True, errors="replace", **(pipes | options)
        )


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """A box whose kernel, if one was started, is stopped at the end."""
    made = Box(tmp_path)
    with no_leak():
        yield made
    if not (tmp_path / "run" / "kernel.pid").exists():
        return
    try:
        made.run("down")
    except AssertionError:
        # A kernel that cannot be stopped must not outlive the test that broke it.
        pid = (tmp_path / "run" / "kernel.pid").read_text().strip()
        os.kill(int(pid), signal.SIGKILL)
        raise
