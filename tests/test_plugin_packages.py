"""docs/plugin-packages.md: its plugin is packed, signed, installed and called by its commands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk import checks
from clawai.sdk.asks import KINDS
from clawai.sdk.manifest import UNASKED
from conftest import StartKernel
from support import Kernel
from test_documents import ROOT, blocks

PAGE = ROOT / "docs" / "plugin-packages.md"


@pytest.fixture
def home(start_kernel: StartKernel) -> Kernel:
    """A kernel whose `claw` is on the path, and a folder to work in."""
    kernel = start_kernel()
    kernel.env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return kernel


def sh(kernel: Kernel, commands: str) -> str:
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=kernel.base / "work",
        env=kernel.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shape(value: Any) -> Any:
    """Which keys there are, and of which types their values."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value)


def test_the_page_from_its_first_command_to_its_last(home: Kernel) -> None:
    work = home.base / "work" / "garden"
    work.mkdir(parents=True)
    (manifest,), (source,), (shown,) = (blocks(PAGE, kind) for kind in ("toml", "python", "text"))
    (work / "plugin.toml").write_text(manifest)
    (work / "garden.py").write_text(source)
    pack, look, install, remove, keys = blocks(PAGE, "sh")
    sh(home, pack)
    assert "garden.water" in sh(home, look)
    said = sh(home, install)
    assert said.rstrip().endswith("true") and "garden" in said
    for line in shown.splitlines()[5:-2]:
        assert line in said, line
    book = json.loads((home.config.parent / "grants.json").read_text())
    (example,) = blocks(PAGE, "json")
    assert shape(book) == shape(json.loads(example))
    assert json.loads(example)["plugins"]["garden"][0]["permissions"] == [
        each | {} for each in book["plugins"]["garden"][0]["permissions"]
    ]
    sh(home, remove)
    assert "ada" in sh(home, keys)
    assert not (home.plugins_dir / "garden").exists()


def test_the_table_names_every_permission() -> None:
    table = PAGE.read_text().partition("| in `[permissions]`")[2].partition("\n\n")[0]
    for name in (*checks.ALLOWED, "on_behalf_of"):
        assert f"`{name}`" in table, name
    asked = {*checks.ALLOWED, *checks.QUANTITIES} - {"limits"}
    assert set(KINDS) == asked | {"on_behalf_of", "secrets"}
    beyond = f"{UNASKED['memory']} MiB, {UNASKED['cpu']} processors, {UNASKED['threads']} threads"
    assert beyond in table
