"""What the documents say is true: commands run, code is the code, links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from clawai.sdk.cli.main import main as claw
from support import Kernel

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CHINESE = ROOT / "README.zh-CN.md"
DOCUMENTS = [
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "sdk" / "WIRE.md")
    if path.is_file()
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(path.read_text()) if kind == language]


@pytest.fixture
def home(smollm2_path: Path) -> Iterator[Kernel]:
    """A home after `make demo`: the model is stored, no kernel runs, `claw` is on the path."""
    kernel = Kernel()
    try:
        kernel.model("smollm2", smollm2_path)
        share = kernel.base / "home" / ".local" / "share"
        share.mkdir(parents=True)
        (kernel.base / "data" / "clawai").rename(share / "clawai")
        for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            kernel.env.pop(name)
        kernel.env["HOME"] = str(kernel.base / "home")
        kernel.env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield kernel
    finally:
        subprocess.run(
            [sys.executable, "-m", "clawai.sdk.cli.main", "down"],
            env=kernel.env,
            capture_output=True,
            check=False,
        )
        kernel.remove()


def run(kernel: Kernel, *command: str, text: str = "") -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=kernel.env,
        input=text,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.model
def test_the_commands_of_the_readme_run(home: Kernel) -> None:
    use, install = blocks(README, "sh")
    assert use.startswith(". .venv/bin/activate\n")
    commands = use.removeprefix(". .venv/bin/activate\n")
    assert "world" not in run(home, "bash", "-ec", commands)
    assert "Hello, Ada!" in run(home, "bash", "-ec", install)


@pytest.mark.model
def test_the_python_of_the_readme_runs(home: Kernel) -> None:
    client, plugin = blocks(README, "python")
    run(home, "claw", "up")
    printed = run(home, sys.executable, "-c", client)
    assert "Paris" in printed and "queue_us" in printed
    assert plugin == (ROOT / "examples/hello/hello.py").read_text()
    (manifest,) = blocks(README, "toml")
    assert manifest == (ROOT / "examples/hello/plugin.toml").read_text()


def test_the_make_targets_that_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        named = re.findall(r"(?:^|[`$ ])make ([a-z-]+)(?=[`\n ])", path.read_text())
        code = {name for name in named if f"`make {name}" in path.read_text()}
        assert code <= targets, path


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_chinese_readme_has_the_same_content() -> None:
    for language in ("sh", "python", "toml"):
        assert blocks(CHINESE, language) == blocks(README, language)
    for pattern in (r"^## ", r"^\| `", r"^- "):
        counts = [len(re.findall(pattern, p.read_text(), re.MULTILINE)) for p in (README, CHINESE)]
        assert counts[0] == counts[1], pattern
    assert set(re.findall(r"\]\(([^)]+)\)", README.read_text())) - {CHINESE.name} == set(
        re.findall(r"\]\(([^)]+)\)", CHINESE.read_text())
    ) - {README.name}


def commands(group: click.Group, words: tuple[str, ...] = ("claw",)) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*words, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


def find(words: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = ROOT_COMMAND
    while words and isinstance(command, click.Group):
        if command.invoke_without_command and words[0].startswith("-"):
            break  # an option of its own
        inner = command.get_command(click.Context(command), words[0])
        assert inner is not None, f"no command {words[0]!r}"
        command, words = inner, words[1:]
    return command, words


def root_command() -> click.Group:
    """The click group behind the console script."""
    from clawai.sdk.cli import main as module

    (group,) = (value for value in vars(module).values() if isinstance(value, click.Group))
    return group


ROOT_COMMAND = root_command()


def test_the_console_script_is_the_group() -> None:
    assert callable(claw)


@pytest.mark.parametrize("words", list(commands(ROOT_COMMAND)), ids=" ".join)
def test_every_command_has_an_example_that_parses(words: tuple[str, ...]) -> None:
    command, _ = find(list(words[1:]))
    shown = command.get_help(click.Context(command, info_name=words[-1]))
    assert "Example" in shown, f"{' '.join(words)} has no example"
    after = shown.partition("Example")[2].partition("Options:")[0]
    examples = re.findall(r"\b(claw [^\n)]*)", after)
    assert examples
    for example in examples:
        given = shlex.split(re.split(r" [<|>] ", example)[0], comments=True)[1:]
        target, arguments = find(given)
        target.make_context(given[0], arguments)
