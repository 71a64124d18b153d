"""The job journal: one SQLite database, written here only.

A record is safe when its transaction is on the disk (WAL, ``synchronous=FULL``); those that wait
together are written together. A job's end is a row of ``results``, of which there can be one. What
has ended is forgotten by age and by size; what has not is never forgotten, so a journal full of
that refuses more.
"""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.sdk import jobs, wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_message

_FULL = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
)
Submitted = tuple[ev.Submitted, wire.Raw, tuple[bytes, ...]]
"""What a client asked for, its params and its payload."""
_submitted = msgspec.msgpack.Decoder(Submitted).decode
_ENDED = "SELECT number, idempotent, attempts, ended FROM jobs LEFT JOIN results ON job = number"


@dataclass(frozen=True, slots=True)
class Written:
    """One record of the daemon."""

    kind: str
    """accept, start or end"""
    number: int
    job: str
    packed: bytes
    """What was submitted (``Submitted``), or the outcome (a message of the wire)."""
    frames: tuple[bytes, ...] = ()
    """Of the outcome."""


@dataclass
class Store:
    """An open job journal.

    Args:
        most_bytes: of all params, payload and results.
        keep_s: how long what has ended is kept.
        run: of the daemon, so that a record that is told twice counts once.
        say: writes a line of the log.
    """

    path: Path
    most_bytes: int
    keep_s: float
    run: str
    say: Callable[[str, str], None]
    database: sqlite3.Connection = field(init=False)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self.database = sqlite3.connect(self.path, isolation_level=None)
            self._prepare()
        except sqlite3.Error as error:
            raise _typed(error, self.path) from error

    def _prepare(self) -> None:
        database = self.database
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, jobs.SCHEMA_VERSION):
            raise ClawError(
                "bad_config", f"{self.path}: made by another version", version, jobs.SCHEMA_VERSION
            )
        if not version:
            database.execute("PRAGMA auto_vacuum=INCREMENTAL")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("PRAGMA foreign_keys=ON")
        if not version:
            made = f"{jobs.SCHEMA}; PRAGMA user_version = {jobs.SCHEMA_VERSION}"
            database.executescript(f"BEGIN IMMEDIATE; {made}; COMMIT")
        self.path.chmod(0o600)

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    # Records.

    def write(self, group: list[Written]) -> list[ClawError | None]:
        """Make records safe, in one transaction if that can be; for each why not, or None."""
        try:
            return self._transaction(group)
        except sqlite3.Error as error:
            if len(group) == 1:
                return [_typed(error, self.path)]
        # One of them, or all together, were too much: as many as can be.
        return [self.write([each])[0] for each in group]

    def _transaction(self, group: list[Written]) -> list[ClawError | None]:
        self.database.execute("BEGIN IMMEDIATE")
        try:
            problems = [self._apply(each) for each in group]
            self.database.execute("COMMIT")
        except BaseException:
            if self.database.in_transaction:
                self.database.execute("ROLLBACK")
            raise
        return problems

    def _apply(self, record: Written) -> ClawError | None:
        try:
            {"accept": self._accept, "start": self._start, "end": self._end}[record.kind](record)
        except ClawError as error:
            return error
        return None

    def _accept(self, record: Written) -> None:
        if self._found(record.job):
            return  # told again, as the recorder before had not confirmed it
        asked = _submitted(record.packed)[0]
        size = len(record.packed)
        self._make_room(size)
        now = time.time()
        left = None if asked.deadline is None else (asked.deadline - time.monotonic_ns()) / 1e9
        self.database.execute(
            "INSERT INTO jobs (id, principal, op, model, priority, idempotent, accepted, deadline,"
            " submit, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(record.job, asked.principal, asked.op, asked.spec.model, asked.priority),
                *(asked.idempotent, now, None if left is None else now + left),
                *(record.packed, size),
            ),
        )

    def _start(self, record: Written) -> None:
        number, _, _, ended = self._known(record.job)
        if ended is not None:
            raise ClawError("bad_state", "the job has ended", got=record.job)
        stamp = f"{self.run}/{record.number}"
        self.database.execute(
            "UPDATE jobs SET attempts = attempts + 1, stamp = ?1"
            " WHERE number = ?2 AND stamp IS NOT ?1",
            (stamp, number),
        )

    def _end(self, record: Written) -> None:
        number, _, _, ended = self._known(record.job)
        if ended is not None:
            self.say("warning", f"job {record.job} has ended before; its second end is ignored")
            return
        self.end(number, record.packed, record.frames)

    def end(self, number: int, message: bytes, frames: tuple[bytes, ...] = ()) -> None:
        """Record the one result of a job, in a transaction that is open or by itself."""
        outcome = wire.decode([message], wire.ToClient)
        code = "" if isinstance(outcome, wire.Done) else outcome.code
        size = len(message) + sum(map(len, frames))
        self.database.execute(
            "INSERT INTO results (job, ended, code, message, frames, bytes)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (number, time.time(), code, message, msgspec.msgpack.encode(frames), size),
        )
        self.database.execute(
            "UPDATE jobs SET submit = NULL, bytes = 0 WHERE number = ?", (number,)
        )

    def fail(self, job: str, error: ClawError) -> bool:
        """Record an end that the daemon did not; False while the disk does not take it."""
        message = wire.encode(error_message(error, 0))[0]
        end = Written("end", 0, job, bytes(message))
        return self.write([end])[0] is None

    def _found(self, job: str) -> Any:
        return self.database.execute(f"{_ENDED} WHERE id = ?", (job,)).fetchone()

    def _known(self, job: str) -> tuple[int, int, int, float | None]:
        if found := self._found(job):
            number, idempotent, attempts, ended = found
            return number, idempotent, attempts, ended
        raise ClawError("unknown_task", "the job is not in the journal", got=job)

    def unfinished_number(self, job: str) -> int | None:
        """The number of a job that has not ended."""
        found = self._found(job)
        return found[0] if found and found[3] is None else None

    # Recovery.

    def recover(self, live: set[str]) -> list[int]:
        """What an earlier daemon left: interrupted if it may run only once, else to run again.

        Returns:
            The numbers of those to run, oldest first.
        """
        rows = self.database.execute(
            "SELECT number, id, idempotent, attempts FROM jobs"
            " WHERE number NOT IN (SELECT job FROM results) ORDER BY number"
        ).fetchall()
        again = []
        why = ClawError(
            "interrupted",
            "the kernel ended while the task ran, and its operation may run only once",
            hint="submit it again if that is safe",
        )
        for number, job, idempotent, attempts in rows:
            if job in live:
                continue
            if idempotent or not attempts:
                again.append(number)
            elif not self.fail(job, why):
                self.say("error", f"job {job} was interrupted, and the journal does not take that")
        return again

    def unfinished(self, number: int) -> Submitted | None:
        """A job as it was submitted, by nobody and under its number; None if it has ended."""
        row = self.database.execute(
            "SELECT deadline, submit FROM jobs WHERE number = ? AND submit IS NOT NULL", (number,)
        ).fetchone()
        if row is None:
            return None
        deadline, packed = row
        due = None
        if deadline is not None:
            due = time.monotonic_ns() + int((deadline - time.time()) * 1e9)
        asked, params, frames = _submitted(packed)
        again = msgspec.structs.replace(asked, client=0, request=number, deadline=due, body=None)
        return again, params, frames

    # Room.

    def _used(self) -> int:
        jobs_bytes, results = self.database.execute(
            "SELECT (SELECT coalesce(sum(bytes), 0) FROM jobs),"
            " (SELECT coalesce(sum(bytes), 0) FROM results)"
        ).fetchone()
        return int(jobs_bytes + results)

    def _make_room(self, size: int) -> None:
        """Forget what ended longest ago until ``size`` bytes fit.

        Raises:
            ClawError: queue_full, if what has not ended leaves no room.
        """
        self.forget_old()
        while self._used() + size > self.most_bytes:
            oldest = self.database.execute(
                "SELECT job FROM results ORDER BY ended LIMIT 16"
            ).fetchall()
            if not oldest:
                raise ClawError(
                    "queue_full",
                    "the job journal is full of jobs that have not ended",
                    got=f"{self._used() + size} bytes",
                    allowed=f"{self.most_bytes} bytes",
                    hint="wait for some to end, `claw jobs cancel` some, or set jobs.max_mib",
                )
            self.database.executemany("DELETE FROM jobs WHERE number = ?", oldest)

    def forget_old(self) -> None:
        """Forget what has ended long ago."""
        self.database.execute(
            "DELETE FROM jobs WHERE number IN (SELECT job FROM results WHERE ended < ?)",
            (time.time() - self.keep_s,),
        )

    def forget(self, job: str) -> None:
        """Forget one job that has ended."""
        self.database.execute("DELETE FROM jobs WHERE id = ?", (job,))

    def shrink(self) -> None:
        """Give back pages that nothing is in."""
        self.database.execute("PRAGMA incremental_vacuum")


def _typed(error: sqlite3.Error, path: Path) -> ClawError:
    """What a failure of SQLite means to who submitted a job."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _FULL:
        hint = f"make room on the disk of {path.parent}"
        return ClawError("disk_full", f"the job journal cannot be written: {error}", hint=hint)
    if code == sqlite3.SQLITE_TOOBIG:
        return ClawError("too_large", f"the job journal does not take it: {error}")
    hint = f"if the file is broken, move {path} away"
    return ClawError("bad_config", f"{path}: {error}", hint=hint)
