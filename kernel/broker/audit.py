"""Writes the audit log (``clawai.sdk.audit``): by the steward, out of the broker's reach.

A plugin that does more than is worth a line each gets one line a minute that counts the rest, and
the files are of bounded size and number: no plugin can fill the disk, nor quickly push out what it
did before. A full disk loses records, never the steward; how many is said in the next one.
"""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clawai.kernel.broker import limits
from clawai.kernel.broker.bucket import Bucket
from clawai.sdk import audit, paths

TEXT = 300
"""Letters of a text in a record; what a plugin named may be longer."""


@dataclass(slots=True)
class Allowance:
    """How many lines of its own one plugin still has, and what was counted instead."""

    lines: Bucket = field(
        default_factory=lambda: Bucket(
            limits.RECORDS_RATE, limits.RECORDS_BURST, limits.RECORDS_BURST
        )
    )
    since: float = 0.0
    connects: int = 0
    accepts: int = 0
    denied: int = 0
    sent: int = 0
    received: int = 0

    def count(self, record: audit.Record, now: float) -> None:
        """Count a record that gets none."""
        self.since = self.since or now
        if record["event"] == "connect":
            self.connects += 1
            self.denied += record["verdict"] == "denied"
        self.accepts += record["event"] == "accept"
        self.sent += record.get("sent", 0)
        self.received += record.get("received", 0)

    def summary(self) -> audit.Record:
        """What was counted, which begins anew."""
        names = ("connects", "accepts", "denied", "sent", "received")
        told = {name: getattr(self, name) for name in names}
        self.connects = self.accepts = self.denied = self.sent = self.received = 0
        self.since = 0.0
        return told


class AuditLog:
    """The files. ``clock`` is the monotonic one."""

    def __init__(self, folder: Path | None = None, limit: int = limits.LOG_BYTES) -> None:
        self.folder = folder or paths.state_dir()
        self.lost = 0
        """Records that the disk did not take since the last one that it took."""
        self._limit = limit
        self._allowances: dict[str, Allowance] = {}
        self._fd = self._head = -1
        self._size = self._seq = self._first = 0
        self._hash = audit.START

    def write(self, record: audit.Record, now: float) -> None:
        """Add a record, or count it: what is rare has its line in any case."""
        if record["event"] not in ("connect", "accept", "end"):
            self._add(record)
            return
        plugin = str(record.get("plugin", ""))
        allowance = self._allowances.setdefault(plugin, Allowance())
        if allowance.lines.take(now):
            self._add(record)
        else:
            allowance.count(record, now)

    def next_summary(self) -> float | None:
        """When ``summarise`` has something to do."""
        begun = [each.since for each in self._allowances.values() if each.since]
        return min(begun) + limits.SUMMARY if begun else None

    def summarise(self, now: float, all_of_them: bool = False) -> None:
        """Write what was counted a minute ago and since."""
        for plugin, allowance in self._allowances.items():
            if allowance.since and (all_of_them or now - allowance.since >= limits.SUMMARY):
                self._add({"event": "more", "plugin": plugin, **allowance.summary()})

    def _add(self, record: audit.Record) -> None:
        try:
            if self._fd < 0:
                self._open()
            if self._size >= self._limit:
                self._rotate()
            self._append(record)
        except OSError:
            self.lost += 1

    def _append(self, record: audit.Record) -> None:
        told: dict[str, Any] = {"seq": self._seq + 1, "time": _stamp()}
        told |= {name: _short(value) for name, value in record.items()}
        if self.lost:
            told["lost_before"] = self.lost
        told["prev"] = self._hash
        line = audit.encode(told)
        if os.write(self._fd, line + b"\n") <= len(line):
            os.ftruncate(self._fd, self._size)  # a part of a line would look like tampering
            raise OSError("the disk is full")
        self._size += len(line) + 1
        self._seq, self._hash, self.lost = self._seq + 1, audit.digest(line), 0
        self._write_head()

    def _write_head(self) -> None:
        head = {"seq": self._seq, "hash": self._hash, "first": self._first}
        # Of one length and in one write: there is no moment at which it is half.
        os.pwrite(self._head, audit.encode(head).ljust(200) + b"\n", 0)

    def _open(self) -> None:
        """Go on where the last steward stopped; what it left that is not right is written down."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        if self._head < 0:
            self._head = os.open(audit.head_path(self.folder), flags, 0o600)
        there = audit.files(self.folder)
        head = audit.read_head(self.folder)
        self._fd = os.open(audit.log_path(self.folder), flags | os.O_APPEND, 0o600)
        self._size = os.fstat(self._fd).st_size
        cut = self._mend()
        last = self._last(there)
        damage = ""
        if last:
            self._seq, self._hash, self._first = last
        if head:
            behind = last is not None and last[0] >= head["seq"]
            if not behind:
                damage = f"records up to {head['seq']} were written, but are not there"
            # The numbers go on after those that are missing, and the chain breaks where they were.
            self._seq = max(self._seq, head["seq"])
            self._hash = self._hash if behind else head["hash"]
            self._first = head["first"]
        elif last and last[0] > 0:
            damage = f"{audit.HEAD} was missing"
        self._first = self._first or self._seq + 1
        if cut or damage:
            self._append({"event": "damage", "reason": damage or "half a record was cut off"})

    def _mend(self) -> bool:
        """Cut off half a line, which a crash may leave; whether there was one."""
        tail = os.pread(self._fd, audit.LINE, max(0, self._size - audit.LINE))
        if not tail or tail.endswith(b"\n"):
            return False
        self._size -= len(tail) - (tail.rfind(b"\n") + 1)
        os.ftruncate(self._fd, self._size)
        return True

    def _last(self, there: list[Path]) -> tuple[int, str, int] | None:
        """Number and hash of the last record, and the number of the oldest."""
        first = 0
        for path in there:
            with path.open("rb") as file:
                first = first or _seq(file.readline(audit.LINE))
        for path in reversed(there):
            with path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - audit.LINE))
                if whole := file.read().splitlines():
                    return _seq(whole[-1]), audit.digest(whole[-1]), first
        return None

    def _rotate(self) -> None:
        """Begin a new file; the oldest beyond the number that is kept goes."""
        newest = audit.log_path(self.folder)
        names = [newest, *(newest.with_name(f"{audit.NAME}.{n}") for n in range(1, 99))]
        count = next(n for n, path in enumerate(names) if not path.exists())
        for number in reversed(range(count)):
            if number + 1 >= limits.LOG_FILES:
                names[number].unlink()
            else:
                names[number].rename(names[number + 1])
        os.close(self._fd)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_APPEND
        self._fd, self._size = os.open(newest, flags, 0o600), 0
        oldest = audit.files(self.folder)[0]
        with oldest.open("rb") as file:
            self._first = _seq(file.readline(audit.LINE)) or self._seq + 1

    def close(self) -> None:
        """Write what was counted, and close the files."""
        self.summarise(0.0, all_of_them=True)
        for fd in (self._fd, self._head):
            if fd >= 0:
                os.close(fd)
        self._fd = self._head = -1


def _seq(line: bytes) -> int:
    """The number of a record; 0 if it is none."""
    try:
        return int(json.loads(line)["seq"])
    except (ValueError, KeyError, TypeError):
        return 0


def _short(value: Any) -> Any:
    return value[:TEXT] if isinstance(value, str) else value


def _stamp() -> str:
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03}Z"
