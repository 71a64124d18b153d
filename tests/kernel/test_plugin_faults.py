"""Plugins that crash, hang and fail: a typed error for each, and the worker comes back."""

import os
import signal
import time
from typing import Any

import pytest

from clawai.kernel import limits
from clawai.sdk.errors import ClawError
from evil_plugin import failing, with_evil, workers
from support import (
    Kernel,
    cpu_ticks,
    wait_until,
)


@pytest.mark.parametrize(
    ("op", "params", "part"),
    [
        ("evil.segfault", {}, "killed by SIGSEGV"),
        ("evil.quit", {"code": 0}, "exited with code 0"),
        ("evil.quit", {"code": 7}, "exited with code 7"),
    ],
)
def test_death_names_its_cause_and_the_worker_comes_back(
    evil: Kernel, op: str, params: dict[str, Any], part: str
) -> None:
    client = evil.client()
    first = evil.worker_pid("evil")
    error = failing(client, op, **params)
    assert error.code == "worker_died"
    assert part in error.message
    assert client.call("evil.fine").value == "fine"
    assert evil.worker_pid("evil") != first


@pytest.mark.parametrize(
    ("op", "params", "code", "part"),
    [
        ("evil.raise", {"text": "boo"}, "worker_failed", "ValueError: boo"),
        ("evil.raise", {"text": "x" * 100_000}, "worker_failed", "xxx"),
        ("evil.sysexit", {}, "worker_failed", "SystemExit"),
        ("evil.interrupt", {}, "worker_failed", "KeyboardInterrupt"),
        ("evil.code", {}, "worker_failed", "m"),
        ("evil.nested", {"levels": 30}, "bad_params", "deep"),
        ("evil.nested", {"levels": 5000}, "bad_params", "deep"),
        ("evil.unpackable", {}, "worker_failed", "object"),
        ("evil.large", {"size": 5 << 20}, "too_large", "does not fit"),
        ("evil.large", {"size": 9 << 20}, "too_large", "does not fit"),
        ("evil.largechunk", {"size": 5 << 20}, "too_large", "does not fit"),
        ("evil.progress", {}, "worker_failed", "could not convert"),
    ],
)
def test_an_error_in_an_operation_ends_the_task_only(
    evil: Kernel, op: str, params: dict[str, Any], code: str, part: str
) -> None:
    client = evil.client()
    client.call("evil.fine")
    first = evil.worker_pid("evil")
    bystander = client.submit("evil.sleep")
    error = failing(client, op, **params)
    assert error.code == code
    assert part in error.message
    assert not bystander.done
    assert client.call("evil.fine").value == "fine"
    bystander.cancel()
    with pytest.raises(ClawError, match="cancelled"):
        bystander.result()
    assert evil.worker_pid("evil") == first


def test_a_plugin_that_ignores_a_cancel_is_killed(evil: Kernel) -> None:
    client = evil.client()
    task = client.submit("evil.hang")
    assert next(event for event in task if event.note == "hangs"), "it runs"
    task.cancel()
    with pytest.raises(ClawError) as caught:
        task.result()
    assert caught.value.code == "cancelled"
    assert client.call("evil.fine").value == "fine"
    wait_until(lambda: "did not let go" in evil.log(), "its worker is killed")


def test_a_deadline_ends_a_running_task(evil: Kernel) -> None:
    client = evil.client()
    client.call("evil.fine")
    with pytest.raises(ClawError) as caught:
        client.call("evil.sleep", deadline=0.05)
    assert caught.value.code == "deadline_passed"


BROKEN: dict[str, tuple[str, str, str]] = {
    "syntax error": ("def (", "worker_failed", "SyntaxError"),
    "import error": ("import not_there_at_all", "worker_failed", "not_there_at_all"),
    "raises at import": ("raise ValueError('at import')", "worker_failed", "at import"),
    "system exit at import": ("import sys; sys.exit(4)", "worker_failed", "SystemExit"),
    "exits at import": ("import os; os._exit(5)", "quarantined", "exited with code 5"),
    "dies at import": (
        "import ctypes; ctypes.string_at(8)",
        "quarantined",
        "killed by SIGSEGV",
    ),
    "other operations": (
        "from clawai.sdk.plugin import operation\n@operation('broken.other')\n"
        "def other() -> str:\n    return ''\n",
        "bad_config",
        "operations differ",
    ),
    "fails at start": (
        "from clawai.sdk.plugin import operation, hookimpl\n@operation('broken.op')\n"
        "def op() -> str:\n    return ''\n@hookimpl\ndef claw_start(worker):\n"
        "    raise RuntimeError('no device')\n",
        "worker_failed",
        "no device",
    ),
    "a hook that is not ours": (
        "from clawai.sdk.plugin import operation, hookimpl\n@operation('broken.op')\n"
        "def op() -> str:\n    return ''\n@hookimpl\ndef claw_made_up():\n    pass\n",
        "worker_failed",
        "claw_made_up",
    ),
    "no annotation": (
        "from clawai.sdk.plugin import operation\n@operation('broken.op')\n"
        "def op(x):\n    return x\n",
        "worker_failed",
        "needs a type annotation",
    ),
    "wants too much": (
        "from clawai.sdk.plugin import operation, hookimpl\n@operation('broken.op')\n"
        "def op() -> str:\n    return ''\n@hookimpl\ndef claw_start(worker):\n"
        "    worker.reserve(1 << 47)\n",
        "never_fits",
        "more memory than the whole budget",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_plugin_that_cannot_start(evil: Kernel, name: str) -> None:
    code, expected, part = BROKEN[name]
    plugin = f"broken{list(BROKEN).index(name)}"
    evil.plugin(plugin, code.replace("broken.", f"{plugin}."), {f"{plugin}.op": ""})
    client = evil.client()
    error = failing(client, f"{plugin}.op")
    assert error.code == expected
    assert part in error.message
    assert client.call("echo.say", {"text": "x"}).value == "x"
    wait_until(lambda: plugin not in workers(client), "its worker is gone")


def test_quarantine_is_shown_and_lifted_by_its_owner(evil: Kernel) -> None:
    folder = evil.plugin("mended", "import os; os._exit(5)", {"mended.op": ""})
    client = evil.client()
    assert failing(client, "mended.op").code == "quarantined"
    assert failing(client, "mended.op").code == "quarantined"
    listed = {p["name"]: p for p in client.query("plugins")["plugins"]}
    assert listed["mended"]["quarantined"]
    assert listed["mended"]["started"] == limits.DEATHS
    (folder / "claw_test_mended.py").write_text(
        "from clawai.sdk.plugin import operation\n@operation('mended.op')\n"
        "def op() -> str:\n    return 'mended'\n"
    )
    client.admin("unload", "mended")
    assert client.call("mended.op").value == "mended"


def worker_starts(evil: Kernel, plugin: str = "evil") -> int:
    return evil.log().count(f" {plugin} starts")


def test_the_first_restart_waits_for_nobody(evil: Kernel) -> None:
    """A worker that has served is back before anybody asks again, after one death and after two."""
    client = evil.client()
    for deaths in (1, 2):
        assert failing(client, "evil.segfault").code == "worker_died"
        wait_until(lambda n=deaths: worker_starts(evil) == n + 1, "it is started again")
    assert "quarantine" not in evil.log()
    assert client.call("evil.fine").value == "fine"


def test_an_answer_between_deaths_keeps_it_out_of_quarantine(evil: Kernel) -> None:
    client = evil.client()
    for _ in range(4 * limits.DEATHS):
        assert failing(client, "evil.segfault").code == "worker_died"
        assert client.call("evil.fine").value == "fine"
    assert "quarantine" not in evil.log()


def test_an_error_of_the_plugin_is_an_answer_too(evil: Kernel) -> None:
    client = evil.client()
    for _ in range(2 * limits.DEATHS):
        assert failing(client, "evil.segfault").code == "worker_died"
        assert failing(client, "evil.raise", text="boo").code == "worker_failed"
    assert "quarantine" not in evil.log()


def test_the_third_death_without_an_answer_is_quarantine(evil: Kernel) -> None:
    client, other = evil.client(), evil.client()
    for _ in range(limits.DEATHS):
        assert failing(client, "evil.segfault").code == "worker_died"
    error = failing(client, "evil.fine")
    assert error.code == "quarantined"
    assert "killed by SIGSEGV" in error.message
    wait = error.retry_after_ms
    assert wait is not None
    assert 0 < wait <= limits.QUARANTINE // limits.MS + 1000
    assert worker_starts(evil) == limits.DEATHS
    assert other.call("echo.say", {"text": "x"}).value == "x", "others do not notice"

    def served() -> bool:
        try:
            return client.call("evil.fine").value == "fine"
        except ClawError as refused:
            assert refused.code == "quarantined"
            time.sleep(0.05)
            return False

    wait_until(served, "the quarantine ends by itself")
    # The answer has wiped the slate: one more death is the first again.
    evil.mark()
    assert failing(client, "evil.segfault").code == "worker_died"
    assert client.call("evil.fine").value == "fine"
    assert "quarantine" not in evil.log()


def test_each_quarantine_without_an_answer_is_longer(evil: Kernel) -> None:
    """Who keeps dying is started more and more rarely: here at import, so it can never answer."""
    evil.plugin("hopeless", "import os; os._exit(5)", {"hopeless.op": ""})
    client = evil.client()
    waits = []
    while len(waits) < 2:
        error = failing(client, "hopeless.op")
        assert error.code == "quarantined"
        assert error.retry_after_ms is not None
        if evil.log().count("hopeless is in quarantine") > len(waits):
            waits.append(error.retry_after_ms)
        else:
            time.sleep(0.05)
    assert waits[1] > waits[0]
    assert worker_starts(evil, "hopeless") == limits.DEATHS + 1


@pytest.mark.soak
@pytest.mark.parametrize("how", ["loop", "stop"])
def test_a_worker_that_hangs_is_ended_by_its_heartbeat(evil: Kernel, how: str) -> None:
    """One that spins with the interpreter's lock held, and one that somebody else has stopped."""
    client, other = evil.client(), evil.client()
    client.call("evil.fine")
    task = client.submit("evil.spin" if how == "loop" else "evil.sleep")

    def runs() -> bool:
        return [task["state"] for task in other.query("tasks")["tasks"]] == ["running"]

    wait_until(runs, "it runs")
    if how == "stop":
        os.kill(evil.worker_pid("evil"), signal.SIGSTOP)
    while not task.done:
        assert other.call("echo.say", {"text": "x"}).value == "x"
        assert client.query("status")
        time.sleep(0.1)
    with pytest.raises(ClawError) as caught:
        task.result()
    assert caught.value.code == "worker_hung"
    assert client.call("evil.fine").value == "fine"


def test_a_plugin_removed_while_its_worker_is_down(kernel: Kernel) -> None:
    evil = with_evil(kernel)
    client = evil.client()
    client.call("evil.fine")
    for file in (evil.plugins_dir / "evil").iterdir():
        if file.is_file():
            file.unlink()
    client.query("plugins")  # the registry reads the folders again
    os.kill(evil.worker_pid("evil"), signal.SIGKILL)
    wait_until(lambda: "was removed" in evil.log() or not evil.worker_pid("evil"), "its end")
    assert failing(client, "evil.fine").code in ("unknown_operation", "unknown_plugin")
    assert client.call("echo.say", {"text": "x"}).value == "x"


def test_a_plugin_that_talks_without_end(evil: Kernel) -> None:
    client, other = evil.client(), evil.client()
    other.call("echo.say", {"text": "warm"})
    task = client.submit("evil.talk", {"lines": 200_000, "width": 200})
    for _ in range(5):
        assert other.call("echo.say", {"text": "x"}).value == "x"
    task.cancel()
    assert evil.log().count("xxxxx") < 100_000
    assert evil.log_file.stat().st_size < 9 << 20


def test_a_plugin_cannot_forge_a_line_of_the_log(evil: Kernel) -> None:
    client = evil.client()
    client.call("evil.forge")
    wait_until(lambda: "forged" in evil.log(), "it is logged")
    line = next(line for line in evil.log().splitlines() if "forged" in line)
    assert "evil[" in line
    assert "\x1b" not in evil.log()
    assert "\r" not in evil.log()


def test_output_without_end_is_read_at_a_bounded_rate(evil: Kernel) -> None:
    """A plugin that only prints waits in its write; the daemon does not spend its time on it."""
    client = evil.client()
    client.call("evil.fine")
    task = client.submit("evil.talk", {"lines": 10**9, "width": 1000})
    wait_until(lambda: evil.log().count("xxxxx") > 0, "it talks")
    time.sleep(1)  # the first second's share is read
    before = cpu_ticks(evil.pid)
    time.sleep(2)
    assert cpu_ticks(evil.pid) - before < 50, "a quarter of a processor"
    assert not task.done
