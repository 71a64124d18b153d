"""`claw audit`: rows for people and programs, filters, and the verdict on the chain."""

from pathlib import Path
from typing import Any

import pytest

from clawai.kernel.broker.audit import AuditLog
from clawai.sdk import audit


@pytest.fixture
def state(box: Any, tmp_path: Path) -> Path:
    """The state folder of a box whose log has some records."""
    folder = tmp_path / "state" / "clawai"
    log = AuditLog(folder)
    told = {"plugin": "fetch", "worker": 7}
    where = {"host": "api.example.org", "port": 443, "address": "1.2.3.4"}
    for record in (
        {"event": "grant", **told, "network": "api.example.org", "listen": "8080"},
        {"event": "connect", **told, "n": 1, **where, "verdict": "allowed", "reason": "",
         "principal": "uid:1000", "tasks": [4]},
        {"event": "connect", **told, "n": 2, "host": "evil\x1b[2J.org", "port": 80, "address": "",
         "verdict": "denied", "reason": "the plugin fetch may not"},
        {"event": "end", **told, "n": 1, "reason": "closed", "sent": 1500, "received": 20,
         "seconds": 1.25},
        {"event": "connect", "plugin": "other", "worker": 8, "n": 1, **where,
         "verdict": "allowed", "reason": ""},
        {"event": "accept", "plugin": "other", "worker": 8, "n": 2, "port": 8080,
         "address": "192.168.1.4", "peer_port": 40123, "principal": "", "tasks": []},
    ):  # fmt: skip
        log.write(record, now=1.0)
    log.close()
    return folder


def test_it_shows_a_row_a_connection(box: Any, state: Path) -> None:
    lines = box.run("audit").stdout.splitlines()
    assert lines[0].split() == [
        "TIME", "PLUGIN", "WORKER", "FOR", "VERDICT", "SENT", "RECEIVED", "TOOK", "WHAT"
    ]  # fmt: skip
    assert "may connect to api.example.org, may listen on 8080" in lines[1]
    assert "closed" in lines[2]
    assert "1.5 kB" in lines[2]
    assert "api.example.org:443 at 1.2.3.4" in lines[2]
    assert "denied" in lines[3]
    assert "\x1b" not in lines[3]
    assert "open" in lines[4]
    assert lines[2].split()[3:6] == ["7", "uid:1000", "closed"]
    assert lines[5].split()[3:6] == ["8", "-", "open"]
    assert "192.168.1.4:40123 connected to port 8080" in lines[5]
    assert len(lines) == 6


def test_filters(box: Any, state: Path) -> None:
    assert [row["plugin"] for row in box.json("audit", "--plugin", "other")] == ["other", "other"]
    assert [row["n"] for row in box.json("audit", "--denied")] == [2]
    assert [row["seq"] for row in box.json("audit", "-n", "2")] == [5, 6]
    assert box.run("audit", "--plugin", "nobody").stdout == "no such record\n"
    assert "leave the filters" in box.run("audit", "--verify", "--denied", code=2).stderr


def test_verify(box: Any, state: Path) -> None:
    assert "6 records, 1 to 6: the chain is whole" in box.run("audit", "--verify").stdout
    path = audit.log_path(state)
    path.write_bytes(path.read_bytes().replace(b"1.2.3.4", b"1.2.3.5", 1))
    assert "line 3: the chain breaks" in box.run("audit", "--verify", code=1).stdout
    found = box.json("audit", "--verify", code=1)
    assert (found["ok"], found["records"]) == (False, 6)


def test_without_a_log(box: Any) -> None:
    assert box.run("audit").stdout == "nothing is written down yet\n"
    assert box.json("audit") == []
    assert box.json("audit", "--verify")["ok"] is True
