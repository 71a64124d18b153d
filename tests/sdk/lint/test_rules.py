"""`claw plugin lint`: each rule is kept by a good plugin and broken by one that is bad at it."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk import lint, schema
from clawai.sdk.cli.plugin import new
from clawai.sdk.lint.subject import Subject
from clawai.sdk.testing import FakeKernel

RULES = {rule.name: rule for rule in lint.RULES}
PLUGINS = Path(__file__).parents[3] / "plugins"


@pytest.fixture(autouse=True)
def imported_nothing() -> Iterator[None]:
    """What the fake kernel imports here must not be what the next test finds."""
    path, modules = sys.path[:], set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith("clawai"):
            del sys.modules[name]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """What `claw plugin new` makes, under a name of its own for each test."""
    return made(tmp_path, "good")


def made(folder: Path, name: str) -> Path:
    new.write(folder / name, name, "py")
    return folder / name


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def broken(folder: Path, rule: str) -> list[str]:
    """The problems that a rule finds; the operations are described by the fake kernel."""
    copies = len(list(folder.parent.iterdir()))  # else Python imports what it knows already
    folder = Path(shutil.copytree(folder, folder.parent / f"copy{copies}", symlinks=True))
    with Subject(folder) as subject:
        if subject.manifest:
            try:
                kernel = FakeKernel(folder)
            except Exception:
                kernel = None
            if kernel:
                subject.__dict__["_described"] = {
                    op: kernel.describe(op) for op in kernel.operations
                }
        return list(RULES[rule].check(subject))


BREAKS: dict[str, tuple[str, str, str, str]] = {
    # rule: file, what is replaced, by what, what the problem says
    "manifest": ("plugin.toml", "[plugin]", "[plug]", "plugin"),
    "module-name": ("plugin.toml", 'module = "good"', 'module = "json"', "Python's own"),
    "imports": ("good.py", "import operation", "import operation\nimport clawai.kernel.core", ":2"),
    "descriptions": ("plugin.toml", 'description = "Greet somebody."', "", "no description"),
    "version": ("plugin.toml", "0.1.0", "1", "MAJOR.MINOR.PATCH"),
    "docstrings": ("good.py", '"""Greet somebody.\n    name: who is greeted."""', "", "docstring"),
    "parameters": ("good.py", "name: who is greeted.", "", "nothing is said of name"),
    "results": ("good.py", ") -> str:", "):", "no annotation"),
    "flags": ("good.py", "return f", "yield f", "stream = true"),
    "idempotent": ("plugin.toml", "idempotent = true\n", "", "idempotent"),
    "limits": ("plugin.toml", "memory_mib = 64", "", "memory_mib"),
    "reasons": ("plugin.toml", "[limits]", '[permissions.read]\n"/srv" = "no"\n[limits]', "/srv"),
    "undeclared": ("good.py", "import operation", "import operation\nimport socket", "socket"),
    "readme": ("README.md", "good.greet", "something", "good.greet"),
    "examples": ("good.py", ' = "world"', "", "no example"),
    "checkpoints": ("good.py", "    return f", "    while name:\n        pass\n    return f", ":8"),
    "tests": ("test_good.py", "good.greet", "good.other", "no test names"),
}  # fmt: skip


@pytest.mark.parametrize("rule", BREAKS)
def test_a_rule_is_kept_by_the_good_and_broken_by_the_bad(rule: str, good: Path) -> None:
    assert broken(good, rule) == []
    file, before, after, says = BREAKS[rule]
    if rule == "examples":
        change(good / "plugin.toml", 'example = { name = "Ada" }', "")
    change(good / file, before, after)
    problems = broken(good, rule)
    assert problems
    assert says in " ".join(problems)


def test_a_link_is_found(good: Path) -> None:
    assert broken(good, "links") == []
    (good / "more.py").symlink_to("/etc/passwd")
    assert broken(good, "links") == ["more.py is a link"]


UNDECLARED = {
    "import urllib.request": "network",
    "from http import client": "network",
    "import subprocess": "programs",
    "import os\nos.system('x')": "programs",
    "open('/srv/data/x')": "read",
    "from pathlib import Path\nPath('/srv/data/x').read_text()": "read",
}


@pytest.mark.parametrize("code", UNDECLARED)
def test_what_needs_a_permission_is_seen_and_allowed_with_it(code: str, good: Path) -> None:
    (good / "more.py").write_text(code)
    (problem,) = broken(good, "undeclared")
    assert f"`{UNDECLARED[code]}`" in problem
    with (good / "plugin.toml").open("a") as file:
        things = {"network": "example.org", "programs": "/bin/true", "read": "/srv/data"}
        kind = UNDECLARED[code]
        file.write(f'[permissions.{kind}]\n"{things[kind]}" = "it is what it is for"\n')
    assert broken(good, "undeclared") == []


def test_every_rule_is_explained_and_has_a_test() -> None:
    here = Path(__file__).read_text()
    for row in lint.listing():
        assert row["level"] in lint.LEVELS
        assert len(row["reason"]) > 20
        assert f'"{row["rule"]}"' in here, f"no test of {row['rule']}"


# What runs.

BAD = """
import time
from clawai.sdk import operation

@operation("bad.deaf")
def deaf(seconds: float = 30.0) -> int:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return 1

@operation("bad.hog")
def hog() -> int:
    held or held.append(bytearray(b"x") * (60 << 20))
    return 1

@operation("bad.edgy")
def edgy(text: str = "x", number: int = 1) -> int:
    return text.index("x") + 10 // number

@operation("bad.sorry")
def sorry() -> int:
    raise ValueError("always")

held = []
"""


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    folder = tmp_path_factory.mktemp("plugins") / "bad"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "bad_one.py").write_text(BAD)
    entries = "".join(
        f'[[operation]]\nname = "bad.{each}"\n' for each in ("deaf", "edgy", "hog", "sorry")
    )
    head = '[plugin]\nname = "bad"\nversion = "1"\nmodule = "bad_one"\n'
    (folder / "plugin.toml").write_text(f"{head}{entries}[limits]\nmemory_mib = 64\n")
    with Subject(folder) as subject:
        yield subject


def only(subject: Subject, op: str, **example: Any) -> None:
    """Try one operation only, so that each rule is tested by what it is about."""
    import msgspec

    entries = [e for e in subject.plugin.operation if e.name == op] or [None]
    changed = msgspec.structs.replace(entries[0], example=example)
    whole = msgspec.structs.replace(subject.plugin, operation=(changed,))
    subject.__dict__["manifest"] = whole


def test_what_runs_badly_is_found(bad: Subject) -> None:
    whole = bad.manifest
    assert list(RULES["loads"].check(bad)) == []
    only(bad, "bad.sorry")
    assert "always" in " ".join(RULES["answers"].check(bad))
    bad.__dict__["manifest"] = whole
    only(bad, "bad.edgy")
    problems = " ".join(RULES["edges"].check(bad))
    assert "text = ''" in problems
    assert "number = 0" in problems
    bad.__dict__["manifest"] = whole
    only(bad, "bad.hog")
    problems = " ".join(RULES["memory"].check(bad))
    assert "memory_mib = 64" in problems or "bad.hog with its example" in problems
    bad.__dict__["manifest"] = whole


@pytest.mark.soak
def test_what_does_not_hear_a_cancel_is_found(bad: Subject) -> None:
    only(bad, "bad.deaf", seconds=20)
    bad.kernel.client.admin("unload", "bad")  # what the test before made it hold
    assert "to stop when it was cancelled" in " ".join(RULES["cancels"].check(bad))


def test_what_does_not_start_does_not_load(good: Path) -> None:
    change(good / "good.py", "import operation", "import operation, nothing_of_this_name")
    report = lint.examine(good)
    (loads,) = (each for each in report.findings if each.rule.name == "loads")
    assert loads.state == "broken"
    assert "nothing_of_this_name" in loads.problems[0]
    assert report.level == "none"
    assert not (good / schema.FILE).exists()


def test_a_new_plugin_lacks_only_that_its_tests_are_run(good: Path) -> None:
    report = lint.examine(good)
    left = {each.rule.name: each.problems for each in report.findings if each.state != "kept"}
    assert list(left) == ["tests-pass"]
    assert "--tests" in left["tests-pass"][0]
    assert (report.level, report.written) == ("silver", True)
    assert schema.read(good) is not None


def test_tests_that_fail_are_found(good: Path) -> None:
    """That they pass, the guide's own plugin shows (tests/test_guide.py)."""
    change(good / "test_good.py", "Hello, Ada!", "Hello, Bob!")
    with Subject(good, tests=True) as subject:
        assert "1 failed" in " ".join(RULES["tests-pass"].check(subject))


@pytest.mark.parametrize("name", ["accelerator", "echo", "engine"])
def test_the_bundled_plugins_are_silver_at_least(name: str) -> None:
    report = lint.examine(PLUGINS / name, write=False)
    print(f"{name}: {report.level}")
    why = [(f.rule.name, f.problems) for f in report.findings if f.state != "kept"]
    assert not report.below("silver"), why


@pytest.mark.parametrize("name", ["echo", "engine", "onnx"])
def test_what_bundled_plugins_say_of_themselves_fits_their_code(name: str) -> None:
    """Else: `claw plugin lint plugins/NAME`."""
    kept = schema.read(PLUGINS / name)
    assert kept is not None, f"run: claw plugin lint plugins/{name}"
    with Subject(PLUGINS / name) as subject:
        assert {entry.name for entry in subject.plugin.operation} == set(kept)


def test_an_engine_of_a_stranger_is_not_judged_without_a_model(tmp_path: Path) -> None:
    folder = made(tmp_path, "strange")
    change(folder / "plugin.toml", "idempotent = true", "needs_model = true\nidempotent = true")
    report = lint.examine(folder)
    states = {f.rule.name: f.state for f in report.findings}
    assert states["loads"] == "not checked"
    assert report.level == "none"
    shutil.rmtree(folder)
