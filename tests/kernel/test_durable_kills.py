"""The daemon is killed at every message of the job journal's path; no job is lost or run too often.

How often an operation began is counted by tokens: each run takes one byte out of a pipe that the
test has filled.
"""

import contextlib
import fcntl
import os
import sqlite3
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import durable_daemon
from clawai.sdk.client import Client, Task
from clawai.sdk.errors import ClawError
from support import Kernel, wait_until

TOKENS = 64
CODE = """
import os
from clawai.sdk.plugin import operation

def take(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        assert os.read(fd, 1) == b"."
    finally:
        os.close(fd)

@operation("count.again")
def again(path: str) -> str:
    take(path)
    return "again"

@operation("count.once")
def once(path: str) -> str:
    take(path)
    return "once"
"""
MESSAGES = 12
"""Of two jobs: accept, start and end of each, and the answer to each."""


class Pipe:
    """Tokens in a named pipe."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o644)
        self.path = path
        self.fd = os.open(path, os.O_RDWR)
        os.write(self.fd, b"." * TOKENS)

    @property
    def taken(self) -> int:
        left = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, b"\0" * 4))[0]
        return TOKENS - int(left)


@pytest.fixture
def counted(start_kernel: Callable[..., Kernel]) -> Iterator[tuple[Kernel, dict[str, Pipe]]]:
    """A kernel that is not started yet, with the operations and their pipes."""
    kernel = start_kernel(start=False)
    folder = kernel.base / "tokens"
    folder.mkdir(mode=0o755)
    pipes = {name: Pipe(folder / name) for name in ("again", "once")}
    kernel.plugin(
        "count",
        CODE,
        {"count.again": "idempotent = true", "count.once": ""},
        slots=2,
        extra=f'[permissions]\nread = {{ "{folder}" = "the tokens of the test" }}\n',
    )
    yield kernel, pipes
    for pipe in pipes.values():
        os.close(pipe.fd)


def submit(client: Client, pipes: dict[str, Pipe]) -> dict[str, Task]:
    return {
        name: client.submit(f"count.{name}", {"path": str(pipe.path)}, durable=True)
        for name, pipe in pipes.items()
    }


def heard(tasks: dict[str, Task]) -> tuple[dict[str, str], dict[str, object]]:
    """The jobs that were accepted, and the results that arrived, before the daemon died."""
    accepted, results = {}, {}
    for name, task in tasks.items():
        with contextlib.suppress(ClawError):
            for event in task:
                if event.kind == "accepted":
                    accepted[name] = event.job
        with contextlib.suppress(ClawError):
            results[name] = task.result().value
    return accepted, results


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, MESSAGES + 1))
def test_a_kill_at_every_message(
    counted: tuple[Kernel, dict[str, Pipe]], number: int, when: str
) -> None:
    kernel, pipes = counted
    kernel.start(wrapper=(sys.executable, durable_daemon.__file__, str(number), when))
    assert kernel.process
    accepted, results = heard(submit(kernel.client(), pipes))
    kernel.close_clients()
    kernel.process.wait()
    kernel.check_gone()

    client = kernel.start().client()
    wait_until(
        lambda: all(job["ended"] is not None for job in client.query("jobs")["jobs"]),
        "every job has ended",
    )
    jobs = {job["job"]: job for job in client.query("jobs")["jobs"]}
    assert set(accepted.values()) <= set(jobs)
    for name, job in accepted.items():
        shown = client.query(f"job:{job}")
        if name in results:
            assert shown["result"] == results[name]
        if name == "again":
            assert shown["result"] == "again"
        elif "error" in shown:
            assert shown["error"]["code"] == "interrupted"
        else:
            assert (shown["result"], pipes["once"].taken) == ("once", 1)
    assert pipes["once"].taken <= 1
    database = sqlite3.connect(kernel.base / "state" / "clawai" / "jobs.sqlite")
    with contextlib.closing(database):
        ends = database.execute("SELECT count(*), count(DISTINCT job) FROM results").fetchone()
    assert ends == (len(jobs), len(jobs))


def test_without_a_kill_there_are_so_many_messages(
    counted: tuple[Kernel, dict[str, Pipe]],
) -> None:
    kernel, pipes = counted
    beyond = str(MESSAGES + 1)
    kernel.start(wrapper=(sys.executable, durable_daemon.__file__, beyond, "before"))
    assert kernel.process
    client = kernel.client()
    accepted, results = heard(submit(client, pipes))
    assert set(accepted) == set(results) == {"again", "once"}
    assert all(pipe.taken == 1 for pipe in pipes.values())
    with pytest.raises(ClawError):
        client.query("jobs")  # the next message of the path: now it is killed
    kernel.close_clients()
    kernel.process.wait()
    kernel.check_gone()
