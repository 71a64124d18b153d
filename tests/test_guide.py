"""docs/plugin-guide.md, from its first line to its last: files are written, commands run."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import PATIENCE, Kernel

GUIDE = Path(__file__).parent.parent / "docs" / "plugin-guide.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVED = "waiting for the next save"


class Dev:
    """The `claw plugin dev` of the guide, left running."""

    def __init__(self, command: str, folder: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command.split(), cwd=folder, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.lines: queue.Queue[str] = queue.Queue()
        self.said = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.put(line)

    def served(self) -> None:
        """Wait until the plugin has been loaded and called."""
        while SERVED not in (line := self.lines.get(timeout=PATIENCE)):
            self.said += line

    def end(self) -> None:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(PATIENCE) == 0
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def home() -> Iterator[Kernel]:
    """A home without a kernel, with `claw` on the path."""
    kernel = Kernel()
    kernel.env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    kernel.env["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        yield kernel
    finally:
        subprocess.run(["claw", "down"], env=kernel.env, capture_output=True, check=False)
        kernel.remove()


def run(commands: str, folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-ec", commands], cwd=folder, env=env, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def write(text: str, folder: Path) -> Path:
    """A block whose first line names its file."""
    first, _, rest = text.partition("\n")
    path = folder / re.sub(r"^(# |<!-- )| -->$", "", first)
    assert path.parent.is_dir(), first
    path.write_text(rest)
    return path


def test_everything_in_the_guide_runs(home: Kernel) -> None:
    folder = home.base / "work"
    folder.mkdir()
    dev: Dev | None = None
    printed, levels = "", ""
    try:
        for kind, text in BLOCK.findall(GUIDE.read_text()):
            if kind == "text":
                assert printed == text
            elif kind == "sh" and text.startswith("claw plugin dev "):
                dev = Dev(text, folder, home.env)
                dev.served()
                assert '"Hello, Ada!"' in dev.said
            elif kind == "sh":
                if dev and "claw plugin pack" in text:
                    dev.end()  # as the guide says before this
                    dev = None
                printed = run(text, folder, home.env)
                levels += printed if "claw plugin lint" in text else ""
            else:
                known = write(text, folder)
                if dev and known.name == "plugin.toml":
                    dev.served()
        assert dev is None, "it was not ended"
    finally:
        if dev and dev.process.poll() is None:
            dev.process.kill()
            dev.process.wait()
    assert "level: platinum" in levels, levels
    assert (folder / "hello" / "operations.json").is_file()


def test_the_first_file_of_the_guide_is_what_new_makes(tmp_path: Path) -> None:
    claw = Path(sys.executable).with_name("claw")
    subprocess.run([claw, "plugin", "new", "hello"], cwd=tmp_path, capture_output=True, check=True)
    blocks: dict[str, Any] = {}
    for kind, text in BLOCK.findall(GUIDE.read_text()):
        if kind in ("python", "toml"):
            name, _, rest = text.partition("\n")
            blocks.setdefault(name.removeprefix("# "), rest)
    for name in ("hello/hello.py", "hello/plugin.toml"):
        assert (tmp_path / name).read_text() == blocks[name]
