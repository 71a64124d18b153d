"""The golden vectors: each that goes to a client is read, each that a client sends is written."""

import json
from pathlib import Path
from typing import Any

import msgspec

from clawai.sdk import wire
from clawai.sdk.conformance.client import ClientProcess, Failed, require_same
from clawai.sdk.conformance.values import from_json

FILE = Path(__file__).parents[1] / "wire_vectors.json"
DEFAULTS: dict[str, Any] = {
    "token": b"",
    "name": "",
    "model": "",
    "priority": "interactive",
    "params": {},
    "deadline_ms": None,
    "leases": [],
    "durable": False,
    "keep_alive_s": None,
    "rights": "rw",
    "incarnation": 0,
}
"""Of what a client sends: a writer may write them or leave them out."""


def load() -> list[dict[str, Any]]:
    """All vectors that are messages to or from a client."""
    every = json.loads(FILE.read_text(encoding="utf-8"))
    return [each for each in every if "header" in each and "client" in (each["from"], each["to"])]


def check(client: ClientProcess, vector: dict[str, Any]) -> None:
    """Have the client read or write one.

    Raises:
        Failed: it did not.
    """
    value = from_json(vector["value"])
    if vector["to"] == "client":
        client.tell("decode", header=bytes.fromhex(vector["header"]))
        require_same(client.wait("decoded")["value"], value, vector["name"])
        return
    client.tell("encode", value=value)
    written = client.wait("encoded")["header"]
    try:
        header = msgspec.msgpack.decode(written)
        wire.decode([written], wire.FromClient)
    except Exception as error:
        raise Failed(f"{vector['name']}: the kernel cannot read it: {error}") from error
    require_same(_plain(header), _plain(value), vector["name"])


def _plain(value: Any) -> Any:
    """Without what has its default."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        missing = object()
        return {
            key: _plain(each) for key, each in value.items() if DEFAULTS.get(key, missing) != each
        }
    return value
