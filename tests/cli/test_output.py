"""What people see: nothing that drives their terminal, and every error in four parts."""

import io
import json
import os
import subprocess
import sys

import pytest

from clawai.sdk.cli import output
from clawai.sdk.cli.stream import waiting
from clawai.sdk.errors import ClawError
from clawai.sdk.session import Event


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_control_characters_are_taken_out():
    text = "a\x1b[2Jb\x07\x9bc\u202ed\n\te\x7f"
    assert output.clean(text) == "a[2Jbcd\n\te"


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.style("x", "red", stream=Terminal()) == "\033[31mx\033[0m"
    assert output.style("x", "red", stream=io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.style("x", "red", stream=Terminal()) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert output.style("x", "red", stream=Terminal()) == "x"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (98_362_432, "98.4 MB"), (491_400_064, "491 MB"),
     (999_999, "1.0 MB"), (17_700_000_000, "17.7 GB"), (5e12, "5000 GB")],
)  # fmt: skip
def test_sizes(count, text):
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0004, "0 ms"), (0.35, "350 ms"), (4.21, "4.2 s"), (59.4, "59 s"), (60, "1 min"),
     (200, "3 min 20 s"), (7500, "2 h 5 min")],
)  # fmt: skip
def test_durations(seconds, text):
    assert output.duration(seconds) == text


def test_an_error_says_what_got_allowed_and_next(capsys):
    output.print_error(
        ClawError("bad_params", "top_k is out of range", got=-1, allowed=[0, 100], hint="leave it")
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "error: top_k is out of range",
        "  got      -1",
        "  allowed  0, 100",
        "  next     leave it",
        "  code     bad_params",
    ]


def test_an_error_cannot_drive_the_terminal_nor_fill_it(capsys):
    output.print_error(ClawError("bad_params", "x\x1b[2J", got="y\x1b" * 9999, hint="z\x1b"))
    text = capsys.readouterr().err
    assert "\x1b" not in text
    assert len(text) < 600


def test_an_error_says_when_to_try_again(capsys):
    output.print_error(ClawError("overloaded", "too much", retry_after_ms=2500))
    assert "retry    in 2.5 s it may fare better" in capsys.readouterr().err
    output.print_error(ClawError("overloaded", "too much", retry_after_ms=2500), as_json=True)
    assert json.loads(capsys.readouterr().out)["error"]["retry_after_ms"] == 2500


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            Event("accepted", position=3, estimate_ms=4200),
            "3 in the queue before this, about 4.2 s",
        ),
        (Event("accepted", position=3), "3 in the queue before this"),
        (Event("progress", state="queued", position=0, estimate_ms=80), "queued m ... about 80 ms"),
        (Event("progress", state="loading", position=0), "loading m ..."),
        (Event("progress", state="held"), "held while something more urgent runs ..."),
        (Event("progress", state="suspended"), "suspended; `claw resume` lets it go on"),
        (Event("progress", note="reading", fraction=0.5), "reading 50%"),
    ],
)
def test_who_waits_is_told_for_what_and_how_long(event, text):
    assert waiting(event, "m") == text


def test_an_error_as_json(capsys):
    output.print_error(ClawError("bad_params", "m", got=b"\xff", hint="h"), as_json=True)
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "bad_params"


def test_a_table_aligns_what_is_wide_and_what_is_a_figure(capsys):
    output.table(("NAME", "SIZE"), [("ab", 1), ("模型", 22), ("x\ny", 333)], right=[1])
    assert capsys.readouterr().out.splitlines() == [
        "NAME  SIZE",
        "ab       1",
        "模型    22",
        "x y    333",
    ]


def test_a_table_fits_a_terminal(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "60")
    output.table(("NAME", "DESCRIPTION"), [("model", "word " * 40), ("模型", "字" * 60)])
    for line in screen.getvalue().splitlines():
        assert output._width(line.replace("\033[1m", "").replace("\033[0m", "")) <= 60
    assert "…" in screen.getvalue()


def test_a_status_line_is_for_terminals_only(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        status = output.Status()
        status.show("loading")
        status.clear()
        assert bool(stream.getvalue()) == stream.isatty()


def test_progress_into_a_file_is_plain_lines(capsys):
    bar = output.DownloadBar("m")
    bar._EVERY_S = 0.0
    with bar:
        bar(1000, 2000)
        bar.say("verifying")
    assert capsys.readouterr().err.splitlines() == ["m: 1.0 kB of 2.0 kB", "m: verifying"]


def test_a_reader_that_leaves_is_no_error(box):
    """`claw config | head -1`: silence, and the code that a shell shows for SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    child = box.start("config", stdout=writer)
    os.close(writer)
    _, errors = child.communicate()
    assert (child.returncode, errors) == (141, "")


def test_a_fault_of_ours_is_told_without_a_traceback(box):
    program = (
        "from clawai.sdk.cli import main, listing\n"
        "import click\n"
        "def broken(): raise RuntimeError('inside')\n"
        "listing.version_command = click.Command('version', callback=broken)\n"
        "main.main(['version'])"
    )
    for debug, traced in (("", False), ("1", True)):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=box.env | {"CLAW_DEBUG": debug},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "internal error: RuntimeError: inside" in done.stderr
        assert ("Traceback" in done.stderr) == traced


def test_a_small_terminal_gets_names_and_values(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "30")
    output.table(("NAME", "TEXT"), [("a", "word " * 8), ("b", "short")])
    assert screen.getvalue().splitlines() == [
        "name: a",
        "text: word word word word",
        "  word word word word",
        "",
        "name: b",
        "text: short",
    ]


def test_what_json_lacks_is_replaced(capsys):
    output.print_json({"x": [float("nan"), float("inf"), 1.5], 3: b"\xff\x00"})
    assert json.loads(capsys.readouterr().out) == {"x": [None, None, 1.5], "3": {"base64": "/wA="}}
