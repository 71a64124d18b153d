"""The audit log shows what was changed in it, survives what may happen to it, and stays small."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawai.kernel.broker import limits
from clawai.kernel.broker.audit import AuditLog
from clawai.sdk import audit

COUNT = 12


def record(**fields: Any) -> audit.Record:
    return {"event": "connect", "plugin": "p", "worker": 1, "verdict": "allowed", **fields}


def filled(folder: Path, count: int = COUNT, limit: int = limits.LOG_BYTES) -> AuditLog:
    log = AuditLog(folder, limit)
    for number in range(count):
        log.write(record(n=number, host=f"host-{number}.example.org"), now=float(number))
    return log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log with some records."""
    filled(tmp_path).close()
    assert audit.verify(tmp_path).ok
    return tmp_path


def change(folder: Path, edit: Callable[[list[bytes]], list[bytes]]) -> list[str]:
    """What verify says once the lines were edited."""
    path = audit.log_path(folder)
    path.write_bytes(b"".join(edit(path.read_bytes().splitlines(keepends=True))))
    return audit.verify(folder).problems


def edited(lines: list[bytes], at: int) -> list[bytes]:
    lines[at] = lines[at].replace(b"host-", b"hose-")
    return lines


@pytest.mark.parametrize("at", range(COUNT))
def test_a_changed_byte_shows_in_every_line(folder: Path, at: int) -> None:
    problems = change(folder, lambda lines: edited(lines, at))
    assert problems
    # The line behind it tells, and of the last one the head.
    place = f"line {at + 2}" if at < COUNT - 1 else f"record {COUNT}"
    assert place in problems[0]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda lines: lines[:4] + lines[5:], "line 5: the chain breaks"),
        (lambda lines: lines[1:], "oldest records are missing: 1 to 1"),
        (lambda lines: lines[:-1], f"missing at the end: {COUNT} to {COUNT}"),
        (lambda lines: lines[:3], f"missing at the end: 4 to {COUNT}"),
        (lambda lines: [], f"missing at the end: 1 to {COUNT}"),
        (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], "line 5: the chain breaks"),
        (lambda lines: [*lines[:4], lines[3], *lines[4:]], "line 5: the chain breaks"),
        (lambda lines: [*lines[:4], b"garbage\n", *lines[4:]], "line 5: not a record"),
        (lambda lines: [*lines[:4], b"\n", *lines[4:]], "line 5: not a record"),
        (lambda lines: [*lines[:4], lines[4] + lines[5][:20]], "not a record"),
        (lambda lines: [*lines, lines[-1]], f"line {COUNT + 1}: the chain breaks"),
    ],
)
def test_deleted_moved_added_and_cut_lines_show(
    folder: Path, edit: Callable[[list[bytes]], list[bytes]], said: str
) -> None:
    assert any(said in problem for problem in change(folder, edit))


def test_a_line_rewritten_with_its_whole_tail_shows_against_the_head(folder: Path) -> None:
    """Who can write the log but not the head cannot hide a change."""

    def rewrite(lines: list[bytes]) -> list[bytes]:
        out, prev = [], audit.START
        for place, line in enumerate(lines):
            told = json.loads(line) | {"prev": prev}
            if place == 3:
                told["host"] = "harmless.example.org"
            out.append(audit.encode(told) + b"\n")
            prev = audit.digest(out[-1].removesuffix(b"\n"))
        return out

    assert change(folder, rewrite) == [f"record {COUNT} is not the one that audit.head names"]


def test_a_missing_head_shows(folder: Path) -> None:
    audit.head_path(folder).unlink()
    assert "audit.head is missing" in audit.verify(folder).problems[0]
    audit.head_path(folder).write_text("{}")
    assert not audit.verify(folder).ok


def test_the_files_are_their_owners_alone(folder: Path) -> None:
    assert audit.is_private(audit.log_path(folder))
    assert audit.is_private(audit.head_path(folder))


def test_it_goes_on_where_it_was(folder: Path) -> None:
    filled(folder, 3).close()
    verdict = audit.verify(folder)
    assert (verdict.ok, verdict.count, verdict.last) == (True, COUNT + 3, COUNT + 3)


def test_a_crash_between_log_and_head_is_no_tampering(folder: Path) -> None:
    head = audit.head_path(folder).read_bytes()
    filled(folder, 1).close()
    audit.head_path(folder).write_bytes(head)
    assert audit.verify(folder).ok
    filled(folder, 1).close()
    assert audit.verify(folder).ok


def test_half_a_line_of_a_crash_is_cut_off_and_said(folder: Path) -> None:
    path = audit.log_path(folder)
    with path.open("ab") as file:
        file.write(b'{"seq":13,"ti')
    filled(folder, 1).close()
    assert audit.verify(folder).ok
    (damage,) = [each for each in audit.records(folder) if each["event"] == "damage"]
    assert "half a record" in damage["reason"]


def test_what_was_cut_off_stays_visible_after_a_restart(folder: Path) -> None:
    change(folder, lambda lines: lines[:5])
    filled(folder, 2).close()
    verdict = audit.verify(folder)
    assert "the chain breaks" in verdict.problems[0]
    (damage,) = [each for each in audit.records(folder) if each["event"] == "damage"]
    assert f"up to {COUNT} were written" in damage["reason"]
    assert damage["seq"] == COUNT + 1


def test_a_log_that_was_deleted_is_missed(folder: Path) -> None:
    audit.log_path(folder).unlink()
    assert not audit.verify(folder).ok
    filled(folder, 2).close()
    assert "oldest records are missing" in audit.verify(folder).problems[0]


def test_rotation_keeps_the_chain_and_bounds_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RECORDS_BURST", 10_000)
    log = filled(tmp_path, 400, limit=2000)
    verdict = audit.verify(tmp_path)
    assert verdict.ok, verdict.problems
    assert verdict.last == 400
    assert 1 < verdict.first < 400
    assert len(audit.files(tmp_path)) == limits.LOG_FILES
    assert sum(path.stat().st_size for path in audit.files(tmp_path)) < limits.LOG_FILES * 2600
    log.close()
    middle = audit.files(tmp_path)[3]
    kept = middle.read_bytes()
    middle.write_bytes(b"".join(kept.splitlines(keepends=True)[1:]))
    assert "the chain breaks" in audit.verify(tmp_path).problems[0]
    middle.write_bytes(kept)
    assert audit.verify(tmp_path).ok
    oldest = audit.files(tmp_path)[0]
    oldest.unlink()
    assert "oldest records are missing" in audit.verify(tmp_path).problems[0]


def test_the_chain_holds_over_a_restart_right_after_a_rotation(tmp_path: Path) -> None:
    for _ in range(40):
        filled(tmp_path, 3, limit=900).close()
    assert audit.verify(tmp_path).ok


def test_a_plugin_that_floods_the_log_is_counted(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    for number in range(100_000):
        log.write(record(n=number, verdict="denied", sent=2), now=number / 10_000)
    log.write(record(plugin="other"), now=10.0)
    log.summarise(now=80.0)
    written = list(audit.records(tmp_path))
    assert len(written) < 2 * limits.RECORDS_BURST
    assert written[-2]["plugin"] == "other", "another plugin's records are its own"
    more = written[-1]
    counted = more["denied"] + sum(each.get("verdict") == "denied" for each in written)
    assert (more["event"], more["plugin"], counted) == ("more", "p", 100_000)
    assert log.next_summary() is None
    log.close()
    assert audit.verify(tmp_path).ok


def test_what_was_counted_is_written_at_the_end(tmp_path: Path) -> None:
    filled(tmp_path, 1).close()
    log = AuditLog(tmp_path)
    for number in range(1000):
        log.write(record(n=number), now=1.0)
    log.close()
    assert list(audit.records(tmp_path))[-1]["connects"] == 1000 - limits.RECORDS_BURST


def test_long_texts_are_cut_and_controls_stay_harmless(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.write(record(host="\n\x1b[31m\u202e" + "x" * 10_000), now=1.0)
    log.close()
    (line,) = audit.log_path(tmp_path).read_bytes().splitlines()
    assert len(line) < audit.LINE
    assert line.isascii()
    assert b"\x1b" not in line


def test_a_full_disk_loses_records_and_says_how_many(folder: Path) -> None:
    log = filled(folder, 1)
    fd, log._fd = log._fd, os.open("/dev/full", os.O_WRONLY)
    for number in range(3):
        log.write(record(n=number), now=1.0)
    assert log.lost == 3
    os.close(log._fd)
    log._fd = fd
    log.write(record(n=9), now=1.0)
    log.close()
    assert list(audit.records(folder))[-1]["lost_before"] == 3
    assert audit.verify(folder).ok


def test_a_connection_is_one_row(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    for event in (
        record(n=1, host="a"),
        record(n=2, host="b"),
        {"event": "end", "plugin": "p", "worker": 1, "n": 1, "sent": 5, "received": 6,
         "seconds": 0.5, "reason": "closed"},
        {"event": "end", "plugin": "p", "worker": 2, "n": 2, "sent": 1, "reason": "closed"},
    ):  # fmt: skip
        log.write(event, now=1.0)
    log.close()
    first, second, alone = audit.connections(audit.records(tmp_path))
    assert (first["host"], first["sent"], first["ended"]) == ("a", 5, "closed")
    assert "sent" not in second
    assert alone["worker"] == 2


def test_a_link_in_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("mine")
    folder = tmp_path / "state"
    folder.mkdir()
    audit.log_path(folder).symlink_to(target)
    log = AuditLog(folder)
    log.write(record(), now=1.0)
    assert log.lost == 1
    log.close()
    assert target.read_text() == "mine"
    shutil.rmtree(folder)
