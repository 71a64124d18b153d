"""`claw plugin new`, `dev`, `test` and `docs`, as an author uses them."""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clawai.sdk.cli.plugin.new import LANGUAGES, TEMPLATES, write
from clawai.sdk.errors import ClawError

PATIENCE = 60


def new(box: Any, name: str = "saluter", **options: Any) -> Path:
    folder: Path = box.home / name
    box.run("plugin", "new", name, "--dir", str(folder), **options)
    return folder


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


# new


def test_a_new_plugin_is_eight_lines_and_a_short_readme(box: Any) -> None:
    folder = new(box)
    assert len((folder / "saluter.py").read_text().splitlines()) <= 8
    assert len((folder / "README.md").read_text().splitlines()) <= 10
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "plugin.toml",
        "saluter.py",
        "test_saluter.py",
    }
    assert "{{" not in "".join(path.read_text() for path in folder.iterdir())
    listed = box.json("plugin", "new", "two-words", "--dir", str(box.home / "w"))
    assert (box.home / "w" / "two_words.py").is_file()
    assert len(listed["files"]) == 4


@pytest.mark.parametrize("name", ["json", "numpy", "Big", "a b", "../x", "-x", "x" * 33, "é"])
def test_a_name_that_could_not_be_used_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ClawError) as caught:
        write(tmp_path / "no", name, "py")
    assert caught.value.code == "bad_params"
    assert not (tmp_path / "no").exists()


def test_nothing_is_written_over(box: Any) -> None:
    folder = new(box)
    (folder / "saluter.py").write_text("mine")
    done = box.run("plugin", "new", "saluter", "--dir", str(folder), code=1)
    assert "is there already" in done.stderr
    assert (folder / "saluter.py").read_text() == "mine"


def test_only_languages_that_have_a_template_are_offered(box: Any) -> None:
    offered = {path.name for path in TEMPLATES.iterdir() if (path / "plugin.toml").is_file()}
    assert set(LANGUAGES) == offered
    assert "py" in offered
    assert "cobol" in box.run("plugin", "new", "x", "--lang", "cobol", code=2).stderr


# test


def test_the_tests_run_and_their_failure_is_an_exit_code(box: Any) -> None:
    folder = new(box)
    (folder / "test_saluter.py").write_text(
        "import pytest\n"
        "def test_time(claw, claw_clock):\n"
        "    claw_clock.advance(1)\n"
        "    assert claw.clock is claw_clock and claw_clock.monotonic() == 1\n"
        "@pytest.mark.claw_fake\n"
        "def test_fake(claw):\n"
        "    assert not claw.sandboxed\n"
        "def test_wrong(claw):\n"
        "    assert claw.call('saluter.greet').value == 'no'\n"
    )
    done = box.run("plugin", "test", str(folder), "--", "-q", code=1)
    assert "2 passed" in done.stdout
    assert "1 failed" in done.stdout
    assert "'Hello, world!' == 'no'" in done.stdout
    left = {path.name for path in folder.iterdir()}
    assert not left & {"__pycache__", ".pytest_cache"}


def test_no_tests_are_no_success(box: Any) -> None:
    folder = new(box)
    (folder / "test_saluter.py").unlink()
    assert "no test was found" in box.run("plugin", "test", str(folder), code=1).stderr
    assert "no plugin.toml" in box.run("plugin", "test", str(box.home), code=1).stderr


# docs and help


def test_the_page_of_a_plugin_without_a_kernel(box: Any) -> None:
    from clawai.plugins import echo

    page = box.run("plugin", "docs", str(Path(str(echo.__file__)).parent)).stdout
    assert "# echo\n" in page
    assert "| upto | integer | needed | the last number. |" in page
    assert "It streams integer." in page
    assert "claw call echo.say text=hello" in page
    tool = json.loads(page.partition("```json\n")[2].partition("```")[0])
    assert tool["function"]["name"] == "echo-say"


def test_a_wrong_use_of_the_verbs_says_so(box: Any) -> None:
    assert "no plugin.toml" in box.run("plugin", "dev", str(box.home), code=1).stderr
    assert "no plugin.toml" in box.run("plugin", "lint", str(box.home), code=1).stderr
    assert "there is no folder" in box.run("plugin", "dev", "/nowhere", code=1).stderr
    assert "Missing argument" in box.run("plugin", "lint", code=2).stderr
    folder = new(box)
    assert "--call OP" in box.run("plugin", "dev", str(folder), "a=b", code=2).stderr
    rules = box.json("plugin", "lint", "--rules")
    assert {rule["level"] for rule in rules} == {"bronze", "silver", "gold", "platinum"}


# dev


class Dev:
    """A running `claw plugin dev`, its lines as they come."""

    def __init__(self, box: Any, *args: str) -> None:
        self.process = box.start("plugin", "dev", *args, stderr=subprocess.STDOUT)
        self.lines: queue.Queue[str] = queue.Queue()
        self.seen: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)

    def until(self, *texts: str) -> str:
        """Read on until each of ``texts`` has come, in any order; the line of the first."""
        wanted, found = dict.fromkeys(texts, ""), ""
        while wanted:
            try:
                line = self.lines.get(timeout=PATIENCE)
            except queue.Empty:
                said = "".join(self.seen)
                raise AssertionError(f"never said: {list(wanted)}\n{said}") from None
            self.seen.append(line)
            for text in [text for text in wanted if text in line]:
                found = found or line
                del wanted[text]
        return found

    def end(self, number: int) -> int:
        """Send a signal, and wait for the end."""
        os.kill(self.process.pid, number)
        code: int = self.process.wait(PATIENCE)
        self._reader.join()
        self.process.stdout.close()
        return code


@pytest.fixture
def start_dev(box: Any) -> Iterator[Callable[..., Dev]]:
    """Starts `claw plugin dev`; one that a test has not ended is killed."""
    started: list[Dev] = []

    def start(*args: str) -> Dev:
        started.append(Dev(box, *args))
        return started[-1]

    yield start
    for dev in started:
        if dev.process.poll() is None:
            dev.end(signal.SIGKILL)


def test_a_save_is_answered_and_errors_have_their_line(
    box: Any, start_dev: Callable[..., Dev]
) -> None:
    began = time.monotonic()
    folder = new(box)
    dev = start_dev(str(folder), "--call", "saluter.greet", "name=123")
    dev.until('"Hello, 123!"')
    print(f"from `claw plugin new` to an answer: {time.monotonic() - began:.2f} s")
    dev.until("waiting")
    code = folder / "saluter.py"

    change(code, "    return", '    print("said \\x1b[31m this")\n    return')
    dev.until("| said", "waiting")
    began = time.monotonic()
    change(code, "Hello", "Salut")
    dev.until('"Salut, 123!"')
    print(f"from a save to the answer: {1000 * (time.monotonic() - began):.0f} ms")
    dev.until("waiting")

    change(code, "    return", '    open("/etc/passwd")\n    return')
    dev.until("error:", "denied openat")  # in any order
    assert "No such file" in "".join(dev.seen)
    assert 'denied openat("/etc/passwd")' in "".join(dev.seen)
    change(code, '    open("/etc/passwd")\n    return', "    return")
    dev.until('"Salut, 123!"')
    dev.until("waiting")

    change(code, "    return", "    retrun")
    assert f"{code}:9: invalid syntax" in dev.until("error:")
    change(code, "    retrun", "    return 1 / 0 or")
    assert "division by zero" in dev.until("error:", "| Traceback", "| ZeroDivisionError")
    shown = "".join(dev.seen).rpartition("| Traceback")[2]
    assert "saluter.py" in shown
    assert "runner.py" not in shown, "the traceback begins where the plugin does"
    change(code, "import operation", "import operation, nothing")
    assert "cannot import name 'nothing'" in dev.until("error:")
    change(code, "operation, nothing", "operation\nimport time; time.sleep(1000)")
    time.sleep(0.3)  # it hangs at its start, and the next save need not wait for it
    change(code, "; time.sleep(1000)", "")
    change(code, "1 / 0 or", "")
    dev.until('"Salut, 123!"')
    change(folder / "plugin.toml", 'name = "saluter.greet"', 'name = "saluter.other"')
    assert "differ from those of plugin.toml" in dev.until("error:")
    change(folder / "plugin.toml", 'name = "saluter.other"', 'name = "saluter.greet"')
    dev.until('"Salut, 123!"')
    dev.until("waiting")
    assert "\x1b" not in "".join(dev.seen), "what a plugin prints drives no terminal"

    help_text = box.run("call", "saluter.greet", "--help").stdout
    assert "who is greeted." in help_text
    assert "Example: claw call saluter.greet name=Ada" in help_text
    tool = json.loads(box.run("call", "saluter.greet", "-h", "--json").stdout)
    assert tool["function"]["parameters"]["properties"]["name"]["type"] == "string"
    (row,) = [row for row in box.json("plugins") if row["name"] == "saluter"]
    assert row["tools"] == [tool]
    assert "# saluter" in box.run("plugin", "docs", "saluter").stdout
    wrong = box.run("call", "saluter.greet", "nmae=Ada", code=1).stderr
    assert "did you mean 'name'" in wrong

    assert dev.end(signal.SIGINT) == 0
    assert "unknown_operation" in box.run("call", "saluter.greet", code=1).stderr


def test_what_a_killed_session_left_is_not_in_force(
    box: Any, start_dev: Callable[..., Dev]
) -> None:
    folder = new(box)
    dev = start_dev(str(folder))
    dev.until("waiting")
    box.run("call", "saluter.greet")
    dev.end(signal.SIGKILL)
    assert "saluter" not in [row["name"] for row in box.json("plugins")]
    assert "unknown_operation" in box.run("call", "saluter.greet", code=1).stderr
    assert not list((box.home / "run" / "develop").iterdir())
    once = box.run("plugin", "dev", str(folder), "--once", "--call", "saluter.greet")
    assert '"Hello, Ada!"' in once.stdout, "without words, the example of plugin.toml"
    change(folder / "saluter.py", "return", "retrun")
    assert "invalid syntax" in box.run("plugin", "dev", str(folder), "--once", code=1).stderr
