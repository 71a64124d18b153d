"""Starting, asking and stopping a real kernel from the command line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clawai.sdk.cli import daemon, holder
from clawai.sdk.errors import ClawError


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits for its parent to notice that it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_up_ps_plugins_call_down(box):
    up = box.json("up")
    assert up["state"] == "runs"
    assert box.json("up")["pid"] == up["pid"]
    assert box.json("ps")["status"]["pid"] == up["pid"]
    assert "no task waits or runs" in box.run("ps").stdout
    listed = {each["name"]: each for each in box.json("plugins")}
    assert "echo.say" in listed["echo"]["operations"]
    assert "echo.say" in box.run("plugins").stdout
    called = box.json("call", "echo.say", "text=hello")
    assert called["result"] == "hello"
    assert called["timings"]
    assert box.run("call", "echo.count", "upto=3").stdout.splitlines() == ["1", "2", "3", "3"]
    assert [each["plugin"] for each in box.json("ps")["workers"]] == ["echo"]
    assert "echo" in box.run("ps").stdout
    assert "echo is unloaded" in box.run("stop", "echo").stdout
    assert box.json("down") == {"state": "stopped", "pid": up["pid"]}
    assert ended(up["pid"])
    assert box.json("down") == {"state": "not running", "pid": None}


def test_call_starts_a_kernel_and_says_so(box):
    done = box.run("call", "echo.say", "txt=1", code=1)
    assert "no kernel runs here; starting one" in done.stderr
    assert "bad_params" in done.stderr
    assert box.run("call", "echo.say", "text=two words").stdout == '"two words"\n'


@pytest.mark.parametrize("command", [["ps"], ["stop", "smollm2"]])
def test_what_needs_a_kernel_says_how_to_start_one(box, command):
    done = box.run(*command, code=1)
    assert "no_kernel" in done.stderr
    assert "claw up" in done.stderr
    assert box.json(*command, code=1)["error"]["code"] == "no_kernel"


def test_an_unknown_operation_gets_the_nearest(box):
    done = box.run("call", "echo.sai", code=1)
    assert "unknown_operation" in done.stderr
    assert "echo.say" in done.stderr


def test_a_parameter_without_a_value_is_wrong_usage(box):
    assert "key=value" in box.run("call", "echo.say", "text", code=2).stderr


def test_a_number_where_text_is_wanted_is_text(box):
    assert box.run("call", "echo.say", "text=123").stdout == '"123"\n'
    assert box.run("call", "echo.say", 'text="123"').stdout == '"123"\n'


def test_ctrl_c_cancels_the_task_and_says_so(box):
    child = box.start("call", "echo.count", "upto=1000000", "pause_ms=1")
    assert child.stdout.readline() == "1\n"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate()
    assert child.returncode == 130
    assert "cancelled after" in errors
    assert "Traceback" not in errors
    # The next task of the same worker gets its turn: the first one has really ended.
    assert box.run("call", "echo.say", "text=on").stdout == '"on"\n'


def test_ctrl_c_leaves_a_durable_task_alone(box):
    box.run("up")
    words = ("call", "echo.count", "upto=20", "pause_ms=100", "--durable")
    process = box.start(*words)
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "goes on without you" in said
    (job,) = box.json("jobs")
    assert job["job"] in said
    assert "20" in box.run("jobs", "wait", job["job"]).stdout
    assert [each["state"] for each in box.json("jobs")] == ["done"]


def test_a_deadline_ends_a_task(box):
    done = box.run("call", "echo.count", "upto=1000000", "pause_ms=5", "--deadline", "0.3", code=1)
    assert "deadline_passed" in done.stderr


def test_serve_runs_in_the_foreground_until_ctrl_c(box):
    child = box.start("serve")
    for line in child.stderr:
        if "serves" in line:
            break
    assert box.run("call", "echo.say", "text=hi").stdout == '"hi"\n'
    child.send_signal(signal.SIGINT)
    child.communicate()
    assert child.returncode in (0, 130)


def test_a_kernel_that_cannot_start_shows_why(box):
    config = box.home / "config" / "clawai" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[memory]\nbudget_mb = 1\n")
    done = box.run("up", code=1)
    assert "budget_mb" in done.stderr
    assert "bad_config" in done.stderr


def test_a_second_kernel_is_refused(box):
    pid = box.json("up")["pid"]
    done = box.run("serve", code=1)
    assert "address_in_use" in done.stderr
    assert box.json("ps")["status"]["pid"] == pid


def test_many_that_start_at_once_share_one_kernel(box):
    children = [box.start("call", "echo.say", f"text=n{number}") for number in range(3)]
    said = {child.communicate()[0].strip() for child in children}
    assert said == {'"n0"', '"n1"', '"n2"'}
    assert len(box.json("ps")["workers"]) == 1


def test_logs_show_the_end_of_the_file(box):
    assert "claw up" in box.run("logs", code=1).stderr
    assert box.json("logs") == []
    box.run("up")
    box.run("down")
    lines = box.json("logs")
    assert any("serves" in line for line in lines)
    assert box.run("logs", "-n", "1").stdout == lines[-1] + "\n"


def test_logs_follow_over_a_change_of_files(box):
    log = box.home / "state" / "clawai" / "kernel.log"
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwo\n")
    child = box.start("logs", "-f", "-n", "1")
    assert child.stdout.readline() == "two\n"
    with log.open("a") as file:
        file.write("three\n")
    assert child.stdout.readline() == "three\n"
    log.rename(log.with_suffix(".log.1"))
    log.write_text("four\n")
    assert child.stdout.readline() == "four\n"
    child.send_signal(signal.SIGINT)
    assert "Traceback" not in child.communicate()[1]


@pytest.mark.parametrize("broken", ["platform", "version", "memfd", "pidfd"])
def test_an_unsupported_system_gets_a_typed_error(monkeypatch, broken):
    match broken:
        case "platform":
            monkeypatch.setattr(sys, "platform", "darwin")
        case "version":
            monkeypatch.setattr(sys, "version_info", (3, 10, 0))
        case "memfd":
            monkeypatch.delattr(os, "memfd_create")
        case "pidfd":
            monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(ClawError) as caught:
        daemon.connect()
    assert caught.value.code == "unsupported_system"
    assert "claw doctor" in caught.value.hint


def test_every_command_that_needs_the_kernel_refuses_an_unsupported_system(box):
    (box.home / "old").mkdir()
    (box.home / "old" / "sitecustomize.py").write_text("import sys; sys.platform = 'darwin'\n")
    box.env["PYTHONPATH"] = str(box.home / "old")
    for words in (
        ["up"], ["down"], ["serve"], ["ps"], ["plugins"], ["stop", "m"], ["run", "m", "hi"],
        ["chat", "m"], ["call", "echo.say"],
    ):  # fmt: skip
        assert "unsupported_system" in box.run(*words, code=1).stderr, words
    del box.env["PYTHONPATH"]


def test_doctor_works_without_a_kernel(box):
    checks = {each["name"]: each for each in box.json("doctor")}
    assert checks["system"]["state"] == "ok"
    assert checks["kernel"]["found"] == "none runs"
    assert checks["sandbox"]["details"]["level"]
    text = box.run("doctor").stdout
    for name in checks:
        assert name in text


def test_doctor_finds_what_is_broken(box):
    config = box.home / "config" / "clawai" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("x = 1\n")
    done = box.run("doctor", code=1)
    assert "mend first" in done.stdout
    assert "config" in done.stdout


def test_a_kernel_that_hangs_is_named_and_ended(box):
    pid = box.json("up")["pid"]
    os.kill(pid, signal.SIGSTOP)
    for words in (["ps"], ["call", "echo.say", "text=x"], ["up"]):
        done = box.run(*words, code=1)
        assert f"the kernel (process {pid}) does not answer; `claw down` ends it" in done.stderr
    checks = {each["name"]: each for each in box.json("doctor", code=1)}
    assert checks["kernel"]["state"] == "fail"
    assert str(pid) in checks["kernel"]["found"]
    done = box.run("down")
    assert f"process {pid} holds" in done.stderr
    assert ended(pid)
    assert box.json("up")["pid"] != pid


def test_what_ignores_sigterm_is_killed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CLAW_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(holder, "TERM_S", 0.2)
    program = (
        "import fcntl, os, signal, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print(os.getpid(), file=file, flush=True); print('held', flush=True)\n"
        "signal.pause()"
    )
    assert holder.holder() is None
    command = [sys.executable, "-c", program, str(tmp_path / "kernel.pid")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        assert holder.holder() == child.pid
        holder.end_hung(child.pid)
        assert child.wait() == -signal.SIGKILL
    assert "killing it" in capsys.readouterr().err
    assert holder.holder() is None


def test_stop_knows_what_is_not_loaded_and_what_is_unknown(box):
    box.run("up")
    assert box.run("stop", "echo").stdout == "echo is not loaded\n"
    assert box.json("stop", "echo") == {"stopped": []}
    error = box.json("stop", "ecko", code=1)["error"]
    assert error["code"] == "unknown_model"
    assert "echo" in error["hint"]


def test_what_is_pinned_stays_and_says_so(box):
    box.run("up")
    for command in ("unpin", "suspend"):
        error = box.json(command, "echo", code=1)["error"]
        assert (error["code"], error["got"]) == ("bad_state", "echo")
    said = box.run("pin", "echo").stdout  # and so it is loaded
    assert "stays in memory until `claw unpin echo`" in said
    assert "echo · lane main" in said
    assert "pinned" in box.run("ps").stdout
    assert [row["pinned"] for row in box.json("ps")["workers"]] == [True]
    assert box.json("unpin", "echo")["changed"][0]["plugin"] == "echo"
    assert "pinned" not in box.run("ps").stdout
    assert box.json("pin", "ecko", code=1)["error"]["code"] == "unknown_model"


def test_what_is_suspended_waits_until_it_is_resumed(box):
    box.run("call", "echo.say", "text=hi")
    assert "until `claw resume echo`" in box.run("suspend", "echo").stdout
    waiting = box.start("call", "echo.say", "text=later")
    try:
        while not (tasks := box.json("ps")["tasks"]):
            pass
        assert tasks[0]["op"] == "echo.say"
        assert [row["state"] for row in box.json("ps")["workers"]] == ["suspended"]
        assert "echo goes on" in box.run("resume", "echo").stdout
        assert waiting.communicate()[0] == '"later"\n'
    finally:
        waiting.kill()
        waiting.communicate()


def test_plugins_show_restarts_and_ps_what_is_reserved(box):
    box.run("call", "echo.say", "text=hi")
    assert "RESERVED" in box.run("ps").stdout
    box.run("stop", "echo")
    box.run("call", "echo.say", "text=hi")
    lines = box.run("plugins").stdout.splitlines()
    assert "RESTARTS" in lines[0]
    place = lines[0].index("RESTARTS")
    echo = next(line for line in lines if line.startswith("echo "))
    assert echo[place : place + len("RESTARTS")].strip() == "1"
