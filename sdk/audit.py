"""The audit log: what plugins did on the network, in files that show when they were changed.

A record is one line of JSON. Its ``prev`` is the SHA-256 of the line before it, so that a line that
is changed, removed, added or moved breaks the chain at its place. The hash of the last line, and
the number of the oldest that is kept, stand in ``audit.head`` beside it: lines cut off at either
end show too. Both files are their owner's alone. Whoever is the owner (or root) could write both
anew: against that only a copy of the head's hash elsewhere helps (``claw audit --verify`` prints
it).
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clawai.sdk import paths

NAME = "audit.log"
HEAD = "audit.head"
START = "0" * 64
"""``prev`` of the very first record."""
LINE = 8192
"""Bytes of a record at most."""
Record = dict[str, Any]


def log_path(folder: Path | None = None) -> Path:
    """The newest file; older ones have ``.1``, ``.2``, ... behind, the oldest the highest."""
    return (folder or paths.state_dir()) / NAME


def head_path(folder: Path | None = None) -> Path:
    """Where the end of the chain is kept."""
    return (folder or paths.state_dir()) / HEAD


def digest(line: bytes) -> str:
    """What the next record says of a line (without its newline)."""
    return hashlib.sha256(line).hexdigest()


def encode(record: Record) -> bytes:
    """The line of a record, without its newline."""
    return json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode()


def files(folder: Path | None = None) -> list[Path]:
    """The files that there are, the oldest first."""
    newest = log_path(folder)
    older = []
    number = 1
    while (path := newest.with_name(f"{NAME}.{number}")).exists():
        older.append(path)
        number += 1
    return [*reversed(older), *([newest] if newest.exists() else [])]


def read_head(folder: Path | None = None) -> Record | None:
    """``seq``, ``hash`` and ``first``; None if there is none, or nothing readable in it."""
    try:
        head = json.loads(head_path(folder).read_bytes())
        return {"seq": int(head["seq"]), "hash": str(head["hash"]), "first": int(head["first"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def lines(folder: Path | None = None) -> Iterator[tuple[str, int, bytes]]:
    """File, line number and text of every record, the oldest first."""
    for path in files(folder):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield path.name, number, line.removesuffix(b"\n")


def records(folder: Path | None = None) -> Iterator[Record]:
    """Every record that can be read, the oldest first."""
    for _, _, line in lines(folder):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


@dataclass
class Verdict:
    """What ``verify`` found."""

    count: int = 0
    first: int = 0
    last: int = 0
    hash: str = START
    """Of the last record."""
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was changed, as far as the files can tell."""
        return not self.problems


def verify(folder: Path | None = None) -> Verdict:
    """Follow the chain from the oldest record to the head."""
    head = read_head(folder)  # before the records: the log may grow meanwhile
    verdict = Verdict()
    reached = ""
    for name, number, line in lines(folder):
        try:
            record = json.loads(line)
            seq, prev = int(record["seq"]), str(record["prev"])
        except (ValueError, KeyError, TypeError):
            verdict.problems.append(f"{name}, line {number}: not a record")
            seq, prev = verdict.last + 1, ""
        else:
            _compare(verdict, f"{name}, line {number}", seq, prev)
        if not verdict.count:
            verdict.first = seq
        verdict.count += 1
        verdict.last, verdict.hash = seq, digest(line)
        if head and seq == head["seq"]:
            reached = verdict.hash
    _compare_head(verdict, head, reached, head_path(folder))
    return verdict


def _compare(verdict: Verdict, where: str, seq: int, prev: str) -> None:
    """A record with the one before it."""
    if not verdict.count:
        if seq == 1 and prev != START:
            verdict.problems.append(f"{where}: the first record names one before it")
    elif prev != verdict.hash:
        text = f"{where}: the chain breaks: record {verdict.last} was changed, or records between"
        verdict.problems.append(f"{text} {verdict.last} and {seq} were removed, added or moved")
    elif seq != verdict.last + 1:
        verdict.problems.append(f"{where}: number {seq} follows {verdict.last}")


def _compare_head(verdict: Verdict, head: Record | None, reached: str, path: Path) -> None:
    """The ends of the chain with what the head says."""
    if head is None:
        if verdict.count:
            text = f"{path} is missing or damaged: records cut off at the end would not show"
            verdict.problems.append(text)
        return
    if verdict.count and verdict.first > head["first"]:
        text = f"the oldest records are missing: {head['first']} to {verdict.first - 1}"
        verdict.problems.append(text)
    if verdict.last < head["seq"]:
        first = verdict.last + 1
        verdict.problems.append(f"records are missing at the end: {first} to {head['seq']}")
    elif reached != head["hash"]:
        verdict.problems.append(f"record {head['seq']} is not the one that {path.name} names")


def connections(found: Iterator[Record]) -> Iterator[Record]:
    """Records for people: a connection's end joined to its beginning; the others as they are.

    A connection without an end is still open, or the broker or the box died meanwhile.
    """
    rows: list[Record] = []
    begun: dict[tuple[Any, Any], Record] = {}
    for record in found:
        key = (record.get("worker"), record.get("n"))
        if record.get("event") == "end" and key in begun:
            begun.pop(key).update(
                {name: record.get(name) for name in ("sent", "received", "seconds")}
                | {"ended": record.get("reason")}
            )
            continue
        row = {name: value for name, value in record.items() if name != "prev"}
        rows.append(row)
        allowed = record.get("event") == "connect" and record.get("verdict") == "allowed"
        if allowed or record.get("event") == "accept":
            begun[key] = row
    yield from rows


def is_private(path: Path) -> bool:
    """Whether nobody but its owner can read or write a file."""
    return not os.stat(path).st_mode & 0o077  # noqa: PTH116
