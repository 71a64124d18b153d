"""Folders that somebody works at: in force while they are held, and not a moment longer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clawai.kernel.steward.registry import Registry
from clawai.sdk import develop
from clawai.sdk.errors import ClawError

MANIFEST = (
    '[plugin]\nname = "{name}"\nversion = "1"\nmodule = "m"\n[[operation]]\nname = "{name}.x"\n'
)


@pytest.fixture
def plugin(home: Path) -> Path:
    folder = home / "work" / "mine"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "plugin.toml").write_text(MANIFEST.format(name="mine"))
    return folder


def test_a_folder_is_in_force_while_it_is_held(plugin: Path) -> None:
    registry = Registry()
    with develop.Session(plugin) as session:
        assert develop.folders() == [plugin]
        assert registry.offer("mine.x").plugin == "mine"
    assert develop.folders() == []
    assert not session.path.exists()
    with pytest.raises(ClawError, match="no plugin offers"):
        registry.offer("mine.x")
    session.close()  # twice is harmless


def test_what_a_killed_process_left_is_not_in_force(plugin: Path) -> None:
    code = "import sys, time; from pathlib import Path; from clawai.sdk import develop\n"
    code += "kept = develop.Session(Path(sys.argv[1])); print(flush=True); time.sleep(100)"
    command = [sys.executable, "-c", code, str(plugin)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert develop.folders() == [plugin]
        process.kill()
    (left,) = (plugin.parents[1] / "run" / "develop").iterdir()
    assert develop.folders() == []
    assert not left.exists(), "it is removed by whoever finds it"


def test_what_is_worked_at_stands_before_what_is_installed(plugin: Path, home: Path) -> None:
    installed = home / "data" / "clawai" / "plugins" / "mine"
    installed.mkdir(parents=True)
    (installed / "plugin.toml").write_text(MANIFEST.format(name="mine"))
    registry = Registry()
    registry.scan()
    assert registry.places["mine"] == installed
    with develop.Session(plugin):
        registry.look()
        assert registry.places["mine"] == plugin
    registry.look()
    assert registry.places["mine"] == installed


def test_a_bundled_plugin_cannot_be_replaced(plugin: Path) -> None:
    (plugin / "plugin.toml").write_text(MANIFEST.format(name="echo"))
    registry = Registry()
    with develop.Session(plugin):
        registry.scan()
        assert registry.places["echo"] != plugin
        assert "taken by" in registry.problems[str(plugin)]
    assert develop.is_bundled(registry.places["echo"])
    assert not develop.is_bundled(plugin)


def test_a_runtime_folder_of_others_is_refused(plugin: Path, home: Path) -> None:
    (home / "run").mkdir()
    (home / "run").chmod(0o777)
    with pytest.raises(ClawError) as caught:
        develop.Session(plugin)
    assert caught.value.code == "not_permitted"


def test_a_folder_that_its_worker_could_not_read_is_refused(plugin: Path) -> None:
    plugin.chmod(0o700)
    if os.geteuid() == 0:  # then the worker is another user
        with pytest.raises(ClawError, match="chmod -R a\\+rX"):
            develop.Session(plugin)
        plugin.chmod(0o755)
    with develop.Session(plugin):
        assert develop.folders() == [plugin]


@pytest.mark.parametrize("content", [b"", b"relative", b"\xff\n"])
def test_an_entry_that_names_no_folder_is_nothing(plugin: Path, content: bytes) -> None:
    with develop.Session(plugin) as session:
        session.path.write_bytes(content)
        assert develop.folders() == []
