"""WIRE.md and the golden vectors against the code: every type, field, code and limit is there."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgpack
import msgspec
import pytest

from clawai.kernel import limits
from clawai.sdk import wire
from clawai.sdk.errors import CALLER, CODES, PEER

SDK = Path(wire.__file__).parent
TEXT = (SDK / "WIRE.md").read_text()
DOCUMENT = json.loads((SDK / "wire_vectors.json").read_text())
UNIONS = {
    "client": wire.FromClient,
    "kernel": wire.ToClient,
    "to_worker": wire.ToWorker,
    "from_worker": wire.FromWorker,
}


def plain(value: Any) -> Any:
    """As JSON can carry it; a binary value as the vectors write it."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("vector", DOCUMENT["vectors"], ids=lambda v: v["header"]["type"])
def test_a_vector_is_read_and_written_the_same(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    assert plain(msgpack.unpackb(raw)) == vector["header"], "another library reads it otherwise"
    message = wire.decode([raw], UNIONS[vector["said_by"]])
    assert type(message).__name__.lower() == vector["header"]["type"]
    assert bytes(wire.encode(message)[0]) == raw


def test_every_message_has_a_vector_in_each_direction() -> None:
    for said_by, union in UNIONS.items():
        there = {v["header"]["type"] for v in DOCUMENT["vectors"] if v["said_by"] == said_by}
        assert there == {kind.__name__.lower() for kind in get_args(union)}


def test_the_version_is_the_codes() -> None:
    assert tuple(DOCUMENT["wire"]) == wire.VERSION
    assert TEXT.startswith(f"# The ClawAI wire, version {wire.VERSION[0]}.{wire.VERSION[1]}\n")


@pytest.mark.parametrize("said_by", UNIONS)
def test_every_type_and_field_is_specified(said_by: str) -> None:
    for kind in get_args(UNIONS[said_by]):
        name = kind.__name__.lower()
        rows = [row for row in TEXT.splitlines() if re.match(rf"\| [^|]*`{name}`", row)]
        assert rows, f"no row for {name}"
        for field in msgspec.structs.fields(kind):
            assert any(f"`{field.name}`" in row for row in rows) or field.name in (
                # said for all messages of workers, or in the row of the other direction
                "incarnation",
                "id",
                "state",
                "position",
                "timings",
            ), f"{name}.{field.name}"


def test_every_code_is_specified_in_its_family() -> None:
    first, second = TEXT.partition("The peer's, the plugin's")[::2]
    for code, meaning in CALLER.items():
        assert f"| `{code}` | {meaning} |" in first
    for code, meaning in PEER.items():
        assert f"| `{code}` | {meaning} |" in second.partition("## 6")[0]
    named = set(re.findall(r"^\| `([a-z_]+)` \| [^|]+ \|$", TEXT, re.MULTILINE))
    assert set(CODES) <= named


def test_the_limits_are_the_codes() -> None:
    rows = dict(re.findall(r"^\| ([^|`]+) \| ([^|`]+) \|$", TEXT, re.MULTILINE))
    mib = 1 << 20
    assert rows["frames of a message"] == str(wire.MAX_FRAMES)
    assert rows["bytes of a message, all frames"] == f"{wire.MAX_MESSAGE // mib} MiB"
    assert rows["bytes of a header"] == f"{wire.MAX_HEADER // mib} MiB"
    assert rows["bytes of all waiting requests"] == f"{limits.PAYLOAD_TOTAL // mib} MiB"
    assert rows["segments of a client"] == str(limits.SEGMENTS_PER_CLIENT)
    assert rows["connections"] == str(limits.CLIENTS)
    requests = f"{limits.TASKS_PER_CLIENT} / {limits.TASKS}"
    assert rows["open requests of a client / of the kernel"] == requests
    outbox = rows["bytes waiting for a client that does not read"]
    assert outbox.startswith(f"{limits.OUTBOX // mib} MiB")
    for text, value in (
        ("closed after 5 s", limits.HANDSHAKE == 5 * limits.SECOND),
        ("within 30 s", limits.TOKEN_LIFE == 30 * limits.SECOND),
        ("within 3 s of that", limits.CANCEL_GRACE == 3 * limits.SECOND),
        ("no `ping` for 20 s", limits.HUNG == 20 * limits.SECOND),
    ):
        assert text in TEXT and value, text
