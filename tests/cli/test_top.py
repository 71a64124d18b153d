"""`claw top`: live in a terminal, once into a pipe."""

import time

from terminal import Screen


def test_it_is_shown_once_into_a_pipe_and_as_json(box):
    box.run("up")
    box.run("call", "echo.say", "text=hello")
    shown = box.run("top").stdout
    assert "\x1b" not in shown
    for part in ("kernel ", "processor", "memory", "critical 0", "echo", "no tasks"):
        assert part in shown, part
    found = box.json("top")
    assert 0 <= found["processor_ratio"] <= 1
    assert 0 < found["used_bytes"] <= found["budget_bytes"]
    assert [row["plugin"] for row in found["workers"]] == ["echo"]
    assert found["workers"][0]["processors"] < 1
    assert found["waiting"] == {"critical": 0, "interactive": 0, "normal": 0, "batch": 0}


def test_it_lives_in_a_terminal_until_q(box):
    box.run("up")
    counting = box.start("call", "echo.count", "upto=600", "pause_ms=100", "--priority", "batch")
    screen = Screen(box, "top", "--interval", "0.2")
    try:
        screen.until("processor")
        screen.until("echo.count")
        screen.until("batch")
        screen.until("processor")  # it is drawn again
        screen.type("q")
        screen.until("\x1b[?1049l")  # the screen as it was before
    finally:
        status = screen.end()
        counting.terminate()
        counting.communicate(timeout=30)
    assert status == 0


def test_ctrl_c_leaves_the_terminal_as_it_was(box):
    box.run("up")
    screen = Screen(box, "top")
    try:
        screen.until("no tasks")
        time.sleep(0.1)
        screen.type("\x03")
        screen.until("\x1b[?1049l")
    finally:
        assert screen.end() == 0


def test_without_a_kernel_it_says_so(box):
    assert "claw up" in box.run("top", code=1).stderr
