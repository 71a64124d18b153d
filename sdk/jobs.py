"""The job journal as a file: its tables, and how it is read.

One SQLite database in the state folder, for its owner only. The recorder of the kernel writes it;
``claw jobs`` reads it when no kernel runs. A job has one row in ``jobs`` and, once it has ended,
one in ``results``: the key of that table is what keeps a second end out. Params and payload are
deleted when a job has ended, as nothing needs them any more.
"""

import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec

from clawai.sdk import paths, wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_from, unpack

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    principal TEXT NOT NULL,
    op TEXT NOT NULL,
    model TEXT NOT NULL,
    priority TEXT NOT NULL,
    idempotent INTEGER NOT NULL,
    accepted REAL NOT NULL,
    deadline REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    stamp TEXT,
    submit BLOB,
    bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE results (
    job INTEGER PRIMARY KEY REFERENCES jobs (number) ON DELETE CASCADE,
    ended REAL NOT NULL,
    code TEXT NOT NULL,
    message BLOB NOT NULL,
    frames BLOB NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
CREATE INDEX ended ON results (ended);
"""
LISTED = 1000
"""Jobs of one listing, the latest."""
SHOWN = wire.MAX_HEADER - (1 << 16)
"""Bytes of a result that are shown through the kernel, whose answers are bounded."""
_COLUMNS = """number, id, op, model, priority, idempotent, accepted, attempts,
    jobs.bytes + coalesce(results.bytes, 0), ended, code"""
_FROM = "FROM jobs LEFT JOIN results ON results.job = jobs.number WHERE principal = ?"


def jobs_file() -> Path:
    """The database."""
    return paths.state_dir() / "jobs.sqlite"


def principal() -> str:
    """What the kernel calls who runs this process."""
    import os

    return f"uid:{os.getuid()}"


def open_to_read(path: Path | None = None) -> sqlite3.Connection:
    """The database, read-only.

    Raises:
        ClawError: unknown_task if there is none; bad_config if it cannot be read.
    """
    path = path or jobs_file()
    if not path.exists():
        raise ClawError("unknown_task", "no durable task was ever submitted here", got=str(path))
    try:
        database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
        version = database.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        raise ClawError("bad_config", f"{path}: {error}") from error
    if version != SCHEMA_VERSION:
        database.close()
        raise ClawError("bad_config", f"{path}: made by another version", version, SCHEMA_VERSION)
    return database


def _row(row: tuple[Any, ...]) -> dict[str, Any]:
    _, name, op, model, priority, idempotent, accepted, attempts, size, ended, code = row
    state = "started" if attempts else "waiting"
    if ended is not None:
        state = {"": "done", "cancelled": "cancelled"}.get(code, "failed")
    return {
        "job": name,
        "op": op,
        "model": model,
        "priority": priority,
        "state": state,
        "code": code or "",
        "idempotent": bool(idempotent),
        "attempts": attempts,
        "accepted": accepted,
        "ended": ended,
        "age_s": max(0.0, time.time() - accepted),
        "bytes": size,
    }


def listing(database: sqlite3.Connection, principal: str) -> list[dict[str, Any]]:
    """The jobs of a principal, the latest first; of very many the latest ``LISTED``."""
    rows = database.execute(
        f"SELECT {_COLUMNS} {_FROM} ORDER BY number DESC LIMIT {LISTED}", (principal,)
    )
    return [_row(row) for row in rows]


def find(database: sqlite3.Connection, principal: str, job: str) -> dict[str, Any]:
    """One job.

    Raises:
        ClawError: unknown_task.
    """
    query = f"SELECT {_COLUMNS} {_FROM} AND id = ?"
    row = database.execute(query, (principal, job)).fetchone()
    if row is None:
        hint = "`claw jobs` lists yours; one that has ended is forgotten after a while"
        raise ClawError("unknown_task", "there is no such job of yours", got=job[:80], hint=hint)
    return _row(row)


def show(
    database: sqlite3.Connection, principal: str, job: str, most: int | None = None
) -> dict[str, Any]:
    """One job with its result and frames, or its error.

    Raises:
        ClawError: unknown_task; too_large if the result has more than ``most`` bytes.
    """
    found = find(database, principal, job)
    query = "SELECT message, results.frames, results.bytes FROM jobs JOIN results"
    query += " ON results.job = jobs.number WHERE id = ?"
    row = database.execute(query, (job,)).fetchone()
    if row is None:
        return found
    packed, frames, size = row
    if most is not None and size > most:
        hint = "stop the kernel (`claw down`) and ask again: then it is read from the file"
        raise ClawError("too_large", "the result does not fit a message", size, most, hint)
    message = wire.decode([packed], wire.ToClient)
    found["timings"] = dict(message.timings)
    if isinstance(message, wire.Done):
        found["result"] = unpack(message.result)
        found["frames"] = msgspec.msgpack.decode(frames)
    else:
        error = error_from(message)
        fields = ("code", "message", "got", "allowed", "hint")
        found["error"] = {name: getattr(error, name) for name in fields}
    return found
