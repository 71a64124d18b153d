"""`claw jobs`: durable tasks through the kernel, and from the file when none runs."""

import json
import os
import signal
from pathlib import Path


def made(box) -> str:
    """A job that has ended well."""
    box.run("call", "--durable", "echo.say", "text=hello")
    return str(box.json("jobs")[0]["job"])


def test_without_jobs_it_says_how_to_make_one(box):
    assert "--durable" in box.run("jobs").stdout
    assert box.json("jobs") == []
    box.run("up")
    assert "--durable" in box.run("jobs").stdout
    assert box.json("jobs") == []


def test_a_job_is_listed_shown_and_forgotten(box):
    job = made(box)
    text = box.run("jobs").stdout
    assert job in text
    assert "echo.say" in text
    assert "done" in text
    assert '"hello"' in box.run("jobs", "show", job).stdout
    assert box.json("jobs", "show", job)["result"] == "hello"
    assert box.json("jobs", "wait", job)["state"] == "done"
    assert box.json("jobs", "cancel", job)["state"] == "done"
    assert f"{job} is forgotten" in box.run("jobs", "rm", job).stdout
    assert box.json("jobs") == []
    for command in ("show", "wait", "cancel", "rm"):
        assert "unknown_task" in box.run("jobs", command, job, code=1).stderr


def test_the_file_is_read_when_no_kernel_runs(box):
    job = made(box)
    box.run("down")
    assert box.json("jobs")[0]["job"] == job
    assert box.json("jobs", "show", job)["result"] == "hello"
    assert '"hello"' in box.run("jobs", "show", job).stdout
    assert "unknown_task" in box.run("jobs", "show", "nothing", code=1).stderr


def test_an_error_is_shown(box):
    tensor = '{"dtype": "<f4", "shape": [2], "frame": 5}'
    box.run("call", "--durable", "echo.tensor", f"x={tensor}", code=1)
    job = box.json("jobs")[0]["job"]
    assert "failed (bad_params)" in box.run("jobs").stdout
    assert "bad_params" in box.run("jobs", "show", job).stderr
    assert box.json("jobs", "show", job)["error"]["code"] == "bad_params"


def test_a_job_outlives_its_client_and_is_cancelled(box):
    child = box.start("call", "--durable", "echo.count", "upto=1000000", "pause_ms=5")
    assert child.stdout.readline() == "1\n"
    child.kill()
    child.communicate()
    (job,) = box.json("jobs")
    assert job["state"] == "started"
    assert "cancel it first" not in box.run("jobs", "rm", job["job"], code=1).stdout
    assert "bad_state" in box.run("jobs", "rm", job["job"], code=1).stderr
    assert "cancelled" in box.run("jobs", "cancel", job["job"]).stdout
    assert box.json("jobs", "wait", job["job"])["state"] == "cancelled"


def test_a_job_outlives_the_kernel(box):
    box.run("up")
    child = box.start("call", "--durable", "echo.count", "upto=1000000", "pause_ms=5")
    assert child.stdout.readline() == "1\n"
    pid = int((Path(box.env["CLAW_RUNTIME_DIR"]) / "kernel.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    child.communicate()
    assert child.returncode == 1
    (job,) = box.json("jobs")
    assert job["state"] == "started"
    # Starts a kernel, which sees that it may run only once.
    found = box.json("jobs", "wait", job["job"])
    assert found["error"]["code"] == "interrupted"


def test_a_file_of_another_version_is_refused(box):
    made(box)
    box.run("down")
    path = box.home / "state" / "clawai" / "jobs.sqlite"
    for wal in path.parent.glob("jobs.sqlite-*"):
        wal.unlink()
    path.write_bytes(b"not a database at all" * 10)
    assert "bad_config" in box.run("jobs", code=1).stderr
    assert json.loads(box.run("jobs", "--json", code=1).stdout)["error"]["code"] == "bad_config"
