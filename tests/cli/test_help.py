"""Help: every command explains itself with an example, and starting is cheap."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from clawai.sdk.cli.main import SECTIONS, claw

COMMANDS = [name for section in SECTIONS.values() for name in section]


def help_of(*words: str) -> str:
    shown = CliRunner().invoke(claw, [*words, "--help"], prog_name="claw")
    assert shown.exit_code == 0
    return shown.output


def test_help_lists_every_command(box):
    text = box.run("--help").stdout
    for name in COMMANDS:
        assert f"\n  {name} " in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    text = help_of(name)
    assert "Example" in text
    assert f"claw {name}" in text


@pytest.mark.parametrize(
    "name",
    [
        "models",
        "ps",
        "plugins",
        "logs",
        "doctor",
        "ops",
        "config",
        "show",
        "bench decode",
        "version",
        "plugin list",
        "plugin info",
        "plugin trust",
    ],
)
def test_every_listing_offers_json(name):
    assert "--json" in help_of(*name.split())


def test_a_misspelt_command_gets_the_nearest(box):
    done = box.run("pul", code=2)
    assert "'pull'" in done.stderr


def test_a_wrong_option_is_wrong_usage(box):
    assert "--loud" in box.run("models", "--loud", code=2).stderr


def loaded(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_help_imports_nothing_that_is_slow():
    modules = loaded("from clawai.sdk.cli import main")
    slow = {"rich", "zmq", "numpy", "msgspec", "urllib.request", "asyncio", "clawai.kernel"}
    assert not slow & modules


def test_run_imports_neither_rich_nor_numpy_nor_the_kernel():
    modules = loaded("from clawai.sdk.cli import run, chat, daemon; import clawai.sdk.client")
    slow = {"rich", "numpy", "urllib.request", "clawai.kernel", "clawai.plugins"}
    assert not slow & modules


def test_help_and_version_have_both_forms(box):
    assert box.run("help").stdout == box.run("--help").stdout
    assert box.run("help", "run").stdout == box.run("run", "--help").stdout
    assert box.run("help", "config", "set").stdout == box.run("config", "set", "--help").stdout
    assert "'pull'" in box.run("help", "pul", code=2).stderr
    assert "no commands" in box.run("help", "run", "x", code=2).stderr
    assert box.run("-V").stdout == box.run("--version").stdout == box.run("version").stdout
