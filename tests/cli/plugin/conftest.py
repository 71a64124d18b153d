"""A box whose `claw` runs in this process: what a verb does is looked at many times here."""

import contextlib
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk.cli.main import main
from plugin_folders import ASKS, plugin


class Inside:
    """`claw` without a terminal; ``program`` is the same as a program of its own."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self.home: Path = program.home

    def run(self, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and check its exit code."""
        out, err = io.StringIO(), io.StringIO()
        streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with streams[0], streams[1], pytest.raises(SystemExit) as ended:
            main(args)
        done = subprocess.CompletedProcess(args, ended.value.code, out.getvalue(), err.getvalue())
        assert done.returncode == code, done
        return done

    def json(self, *args: str, code: int = 0) -> Any:
        """Run a command with --json and read what it printed."""
        return json.loads(self.run(*args, "--json", code=code).stdout)


@pytest.fixture
def inside(box: Any, monkeypatch: pytest.MonkeyPatch) -> Inside:
    """The box, in this process."""
    for name in ("DATA", "CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", box.env[f"XDG_{name}_HOME"])
    monkeypatch.setenv("CLAW_RUNTIME_DIR", box.env["CLAW_RUNTIME_DIR"])
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return Inside(box)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plugin that asks for two things."""
    return plugin(tmp_path / "demo", permissions=ASKS)
