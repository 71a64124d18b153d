"""The recorder as a program: what it says is safe, what it keeps, forgets and gives back."""

import contextlib
import os
import resource
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawai.kernel import events as ev
from clawai.kernel.link import Link
from clawai.kernel.recorder.store import Submitted
from clawai.sdk import jobs, wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import unpack
from support import PATIENCE, no_leak

SPEC = ev.Spec("tool", "", 1 << 20, 0, 1)
TOOL = """
[plugin]
name = "tool"
version = "1"
module = "tool"

[[operation]]
name = "tool.op"
"""
JOURNAL = {"enabled": False, "mib": 1, "segments": 2}


def submitted(job: str, **fields: Any) -> ev.Submitted:
    values: dict[str, Any] = {
        "client": 3,
        "request": 7,
        "spec": SPEC,
        "op": "tool.op",
        "priority": "normal",
        "deadline": None,
        "idempotent": True,
        "payload": 10,
        "leases": (),
        "body": ev.Hidden(
            wire.pack({"prompt": f"secret of {job}"}), (b"payload of " + job.encode(),)
        ),
        "principal": "uid:1",
        "job": job,
    }
    return ev.Submitted(**(values | fields))


def done(value: Any) -> wire.Done:
    return wire.Done(id=7, result=wire.pack(value), timings={"compute_us": 5})


class Recorder:
    """The program, and our end of its socket."""

    def __init__(self, state: Path, live: tuple[str, ...] = (), **kept: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE)
        command = [sys.executable, "-m", "clawai.kernel.recorder", str(theirs.fileno())]
        env = os.environ | {"XDG_STATE_HOME": str(state)}
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env)
        theirs.close()
        self.link = Link(ours, blocking=True)
        ours.settimeout(PATIENCE)
        self.path = state / "clawai" / "jobs.sqlite"
        self.number = 0
        self.logged: list[str] = []
        folder = state / "plugins" / "tool"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plugin.toml").write_text(TOOL)
        config = {
            "jobs": {"max_mib": 16, "keep_days": 30} | kept,
            "journal": JOURNAL,
            "plugin_dirs": [str(folder.parent)],
        }
        self.link.send("hello", config, live)

    def hear(self, *names: str) -> list[Any]:
        """The arguments of the next message of one of these names."""
        while True:
            message = self.link.receive()
            assert message, "the recorder has ended"
            if message[0] == "log":
                self.logged.append(message[1][1])
            if message[0] in names:
                return message[1]

    def tell(self, kind: str, job: str, what: Any, frames: tuple[bytes, ...] = ()) -> int:
        self.number += 1
        if isinstance(what, ev.Submitted):
            what = what, what.body.message, what.body.frames
        packed = msgspec.msgpack.encode(what, enc_hook=ev.hide)
        self.link.send(kind, self.number, job, packed, frames)
        return self.number

    def write(self, kind: str, job: str, what: Any = None, frames: tuple[bytes, ...] = ()) -> Any:
        """Write one record and wait for it; why it is not safe, or None."""
        number = self.tell(kind, job, what, frames)
        answer = self.hear("safe")
        assert answer[0] == number
        return answer[1]

    def ask(self, verb: str, job: str = "", principal: str = "uid:1", live: bool = False) -> Any:
        """The answer to a client."""
        self.link.send("ask", 9, principal, verb, job, live)
        question, said = self.hear("answer", "refuse")
        assert question == 9
        if isinstance(said, bytes):
            return unpack(said)
        return ClawError(*said)

    def again(self) -> ev.Submitted:
        """The next job that is to run again."""
        (packed,) = self.hear("again")
        asked, params, frames = msgspec.msgpack.decode(packed, type=Submitted)
        return msgspec.structs.replace(asked, body=ev.Hidden(params, frames))

    def end(self) -> None:
        """The daemon is gone."""
        self.link.close()
        assert self.process.wait(PATIENCE) == 0


Start = Callable[..., Recorder]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    recorders: list[Recorder] = []

    def made(**options: Any) -> Recorder:
        recorders.append(Recorder(tmp_path, **options))
        return recorders[-1]

    with no_leak():
        yield made
        for recorder in recorders:
            recorder.link.close()
            recorder.process.kill()
            recorder.process.wait()


def rows(path: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def test_a_job_from_its_acceptance_to_its_end(start: Start) -> None:
    recorder = start()
    assert recorder.write("accept", "a", submitted("a")) is None
    assert recorder.ask("job", "a")["state"] == "waiting"
    assert recorder.write("start", "a") is None
    assert recorder.ask("jobs")["jobs"][0]["state"] == "started"
    assert recorder.write("end", "a", done({"x": 1}), (b"one", b"two")) is None
    shown = recorder.ask("job", "a")
    assert (shown["state"], shown["attempts"]) == ("done", 1)
    assert (shown["result"], shown["frames"]) == ({"x": 1}, [b"one", b"two"])
    assert shown["timings"] == {"compute_us": 5}


def test_what_is_safe_survives_a_kill_of_the_recorder(start: Start) -> None:
    recorder = start()
    recorder.write("accept", "a", submitted("a"))
    recorder.process.kill()
    recorder.process.wait()
    after = start()
    asked = after.again()
    assert asked.job == "a"
    assert bytes(asked.body.message) == bytes(submitted("a").body.message)
    assert list(asked.body.frames) == [b"payload of a"]
    assert (asked.client, asked.principal, asked.idempotent) == (0, "uid:1", True)


def test_many_that_wait_are_answered_in_order(start: Start) -> None:
    recorder = start()
    numbers = [recorder.tell("accept", f"j{n}", submitted(f"j{n}")) for n in range(100)]
    assert [recorder.hear("safe") for _ in numbers] == [[number, None] for number in numbers]
    assert len(recorder.ask("jobs")["jobs"]) == 100


def test_a_second_end_is_ignored_and_logged(start: Start) -> None:
    recorder = start()
    recorder.write("accept", "a", submitted("a"))
    assert recorder.write("end", "a", done("first")) is None
    assert recorder.write("end", "a", done("second")) is None
    assert recorder.ask("job", "a")["result"] == "first"
    assert any("second end" in line for line in recorder.logged)


def test_what_is_told_twice_counts_once(start: Start) -> None:
    """A recorder that died had perhaps written what it had not confirmed."""
    recorder = start()
    recorder.write("accept", "a", submitted("a"))
    assert recorder.write("accept", "a", submitted("a")) is None
    recorder.write("start", "a")
    recorder.number -= 1
    recorder.write("start", "a")
    assert recorder.ask("job", "a")["attempts"] == 1
    recorder.write("start", "a")
    assert recorder.ask("job", "a")["attempts"] == 2


def test_a_record_of_an_unknown_job_is_not_safe(start: Start) -> None:
    recorder = start()
    assert recorder.write("start", "nothing")[0] == "unknown_task"
    assert recorder.write("end", "nothing", done(1))[0] == "unknown_task"


def test_recovery(start: Start) -> None:
    recorder = start()
    for job, idempotent, begun in (
        ("again", True, True),
        ("new", False, False),
        ("once", False, True),
        ("lives", False, True),
        ("ended", True, True),
    ):
        recorder.write("accept", job, submitted(job, idempotent=idempotent))
        if begun:
            recorder.write("start", job)
    recorder.write("end", "ended", done(1))
    recorder.end()
    after = start(live=("lives",))
    assert [after.again().job, after.again().job] == ["again", "new"]
    states = {job["job"]: (job["state"], job["code"]) for job in after.ask("jobs")["jobs"]}
    assert states == {
        "again": ("started", ""),
        "new": ("waiting", ""),
        "once": ("failed", "interrupted"),
        "lives": ("started", ""),
        "ended": ("done", ""),
    }


def test_a_deadline_goes_on_while_no_kernel_runs(start: Start) -> None:
    recorder = start()
    now = time.monotonic_ns()
    recorder.write("accept", "a", submitted("a", deadline=now + 3600 * 10**9))
    recorder.write("accept", "b", submitted("b", deadline=now - 1))
    recorder.end()
    after = start()
    first, second = after.again(), after.again()
    assert first.deadline is not None
    assert second.deadline is not None
    assert second.deadline < time.monotonic_ns() < first.deadline < now + 3601 * 10**9


def test_recovered_jobs_come_no_faster_than_they_end(start: Start) -> None:
    recorder = start()
    for number in range(100):
        recorder.tell("accept", f"j{number}", submitted(f"j{number}"))
    for _ in range(100):
        recorder.hear("safe")
    recorder.end()
    after = start()
    first = [after.again() for _ in range(64)]
    after.write("end", first[0].job, done(1))
    assert after.again().job == "j64"
    after.write("end", first[1].job, done(1))
    assert after.again().job == "j65"


def test_a_recovered_job_that_the_core_refuses(start: Start) -> None:
    recorder = start()
    for job in ("busy", "never"):
        recorder.write("accept", job, submitted(job))
    recorder.end()
    after = start()
    numbers = {asked.job: asked.request for asked in (after.again(), after.again())}
    full = wire.Error(id=numbers["busy"], code="queue_full", message="full", retry_after_ms=1)
    after.link.send("refused", numbers["busy"], msgspec.msgpack.encode(full))
    assert after.again().job == "busy"
    never = wire.Error(id=numbers["never"], code="unknown_model", message="gone")
    after.link.send("refused", numbers["never"], msgspec.msgpack.encode(never))
    assert after.ask("job", "never")["error"]["code"] == "unknown_model"


def test_params_go_when_the_job_has_ended(start: Start) -> None:
    recorder = start()
    recorder.write("accept", "a", submitted("a"))
    assert rows(recorder.path, "SELECT submit IS NULL, bytes > 0 FROM jobs") == [(0, 1)]
    recorder.write("end", "a", done(1))
    assert rows(recorder.path, "SELECT submit IS NULL, bytes FROM jobs") == [(1, 0)]


def test_the_files_are_their_owners_alone(start: Start) -> None:
    recorder = start()
    recorder.write("accept", "a", submitted("a"))
    files = list(recorder.path.parent.glob("jobs.sqlite*"))
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_others_see_nothing(start: Start) -> None:
    recorder = start()
    recorder.write("accept", "a", submitted("a"))
    assert recorder.ask("jobs", principal="uid:2") == {"jobs": []}
    for verb in ("job", "job-cancel", "job-rm", "job-wait"):
        assert recorder.ask(verb, "a", principal="uid:2").code == "unknown_task"
    assert recorder.ask("job", "a")["state"] == "waiting"


def test_who_waits_is_told_the_end(start: Start) -> None:
    recorder = start()
    recorder.write("accept", "a", submitted("a"))
    recorder.link.send("ask", 9, "uid:1", "job-wait", "a", True)
    recorder.tell("end", "a", done(1))
    question, data = recorder.hear("answer")
    assert question == 9
    assert unpack(data)["state"] == "done"


def test_cancel_and_forget(start: Start) -> None:
    recorder = start()
    recorder.write("accept", "a", submitted("a"))
    refused = recorder.ask("job-rm", "a")
    assert refused.code == "bad_state"
    assert "claw jobs cancel a" in refused.hint
    # One that runs is cancelled by the daemon, which tells the end.
    assert recorder.ask("job-cancel", "a", live=True)["ended"] is None
    assert recorder.ask("job-cancel", "a")["state"] == "cancelled"
    assert recorder.ask("job-rm", "a")["state"] == "cancelled"
    assert recorder.ask("jobs") == {"jobs": []}
    assert recorder.ask("job-fly", "a").code in ("bad_params", "unknown_task")


def test_what_ended_is_forgotten_to_make_room(start: Start) -> None:
    recorder = start(max_mib=1)
    large = ev.Hidden(wire.NIL, (bytes(400_000),))
    for job in ("a", "b"):
        assert recorder.write("accept", job, submitted(job, body=large)) is None
    problem = recorder.write("accept", "c", submitted("c", body=large))
    assert problem[0] == "queue_full"
    assert "jobs.max_mib" in problem[4]
    recorder.write("end", "a", done(1), large.frames)
    assert recorder.write("accept", "c", submitted("c", body=large)) is None
    assert [job["job"] for job in recorder.ask("jobs")["jobs"]] == ["c", "b"]


def test_what_ended_long_ago_is_forgotten(start: Start) -> None:
    recorder = start(keep_days=0)
    recorder.write("accept", "a", submitted("a"))
    recorder.write("end", "a", done(1))
    recorder.write("accept", "b", submitted("b"))
    assert [job["job"] for job in recorder.ask("jobs")["jobs"]] == ["b"]


def test_a_full_disk_is_said_and_gets_over(start: Start) -> None:
    recorder = start()
    recorder.write("accept", "a", submitted("a"))
    recorder.write("accept", "b", submitted("b"))
    # To a process a limit on the size of its files is a disk that is full.
    most = max(path.stat().st_size for path in recorder.path.parent.glob("jobs.sqlite*"))
    limit = resource.RLIMIT_FSIZE
    before = resource.prlimit(recorder.process.pid, limit, (most, resource.RLIM_INFINITY))
    problem = recorder.write(
        "accept", "c", submitted("c", body=ev.Hidden(wire.NIL, (bytes(1 << 20),)))
    )
    assert problem[0] == "disk_full"
    assert "make room" in problem[4]
    assert recorder.write("end", "a", done(bytes(1 << 20)))[0] == "disk_full"
    # Whoever waits for it was told so; the journal gets an end for it as soon as it takes one.
    resource.prlimit(recorder.process.pid, limit, before)
    recorder.link.send("ask", 9, "uid:1", "job-wait", "a", False)
    recorder.hear("answer")
    assert recorder.ask("job", "a")["error"]["code"] == "disk_full"
    assert recorder.write("accept", "d", submitted("d")) is None


def test_a_large_result_is_read_from_the_file(start: Start) -> None:
    recorder = start()
    recorder.write("accept", "a", submitted("a"))
    assert recorder.write("end", "a", done(bytes(3 << 20)), (bytes(4 << 20),)) is None
    refused = recorder.ask("job", "a")
    assert refused.code == "too_large"
    assert "claw down" in refused.hint
    recorder.end()
    with contextlib.closing(jobs.open_to_read(recorder.path)) as database:
        assert len(jobs.show(database, "uid:1", "a")["result"]) == 3 << 20


def test_a_broken_file_refuses_and_is_left_alone(start: Start, tmp_path: Path) -> None:
    broken = b"this is no database" * 100
    (tmp_path / "clawai").mkdir()
    (tmp_path / "clawai" / "jobs.sqlite").write_bytes(broken)
    recorder = start()
    problem = recorder.write("accept", "a", submitted("a"))
    assert problem[0] == "bad_config"
    assert "jobs.sqlite" in problem[1]
    assert recorder.ask("jobs").code == "bad_config"
    recorder.end()
    assert recorder.path.read_bytes() == broken


def test_a_second_kernel_of_the_folder_is_refused(start: Start) -> None:
    first = start()
    first.write("accept", "a", submitted("a"))
    second = start()
    problem = second.write("accept", "b", submitted("b"))
    assert problem[0] == "address_in_use"
    assert "XDG_STATE_HOME" in problem[4]


def test_signals_of_a_terminal_do_not_end_it(start: Start) -> None:
    recorder = start()
    recorder.write("accept", "a", submitted("a"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        recorder.process.send_signal(number)
    assert recorder.write("end", "a", done(1)) is None
    recorder.end()


def test_the_end_of_a_job_that_was_not_accepted_says_why(start: Start) -> None:
    recorder = start(max_mib=1)
    problem = recorder.write(
        "accept", "a", submitted("a", body=ev.Hidden(wire.NIL, (bytes(2 << 20),)))
    )
    assert problem[0] == "queue_full"
    assert recorder.write("end", "a", done("cancelled")) == problem
    assert recorder.ask("jobs") == {"jobs": []}
    assert recorder.write("end", "a", done("cancelled"))[0] == "unknown_task"


def test_a_recovered_job_whose_operation_is_gone_has_ended(start: Start) -> None:
    recorder = start()
    recorder.write("accept", "gone", submitted("gone", op="tool.removed"))
    recorder.write("accept", "a", submitted("a", spec=ev.Spec("old", "", 1, 0, 1)))
    recorder.end()
    after = start()
    asked = after.again()
    assert (asked.job, asked.spec.plugin) == ("a", "tool")
    assert after.ask("job", "gone")["error"]["code"] == "unknown_operation"


def test_a_listing_that_nobody_knows_is_refused(start: Start) -> None:
    recorder = start()
    recorder.write("accept", "a", submitted("a"))
    refused = recorder.ask("job-fly", "a")
    assert (refused.code, refused.got) == ("bad_params", "job-fly")


def test_without_a_journal_there_is_no_timeline_and_for_strangers_none_at_all(start: Start) -> None:
    recorder = start()
    error = recorder.ask("timeline", principal=f"uid:{os.getuid()}")
    assert error.code == "bad_state" and "[journal]" in error.hint
    assert recorder.ask("timeline", principal="uid:54321").code == "not_permitted"
