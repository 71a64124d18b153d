"""Values between JSON and msgpack: what JSON cannot say is a map with one key.

bytes                      {"hex": "00ff"}
an integer beyond 2^53     {"int": "9223372036854775807"}
"""

import struct
from typing import Any

import msgspec

SAFE = (1 << 53) - 1
"""The largest integer that every reader of JSON gets right."""


def to_json(value: Any) -> Any:
    """What stands for ``value`` in a line of JSON."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"hex": bytes(value).hex()}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > SAFE:
        return {"int": str(value)}
    if isinstance(value, dict):
        return {key: to_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(each) for each in value]
    return value


def from_json(value: Any) -> Any:
    """The value that a line of JSON stands for."""
    if isinstance(value, dict):
        if value.keys() == {"hex"} and isinstance(value["hex"], str):
            return bytes.fromhex(value["hex"])
        if value.keys() == {"int"} and isinstance(value["int"], str):
            return int(value["int"])
        return {key: from_json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [from_json(each) for each in value]
    return value


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal: 1 and 1.0 are, as JSON has one kind of number; true is not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def wide(value: Any) -> bytes:
    """msgpack in its longest forms, which say the same: a reader takes any."""
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return msgspec.msgpack.encode(value)
    if isinstance(value, int):
        return struct.pack(">BQ", 0xCF, value) if value >= 0 else struct.pack(">Bq", 0xD3, value)
    if isinstance(value, str):
        data = value.encode()
        return struct.pack(">BI", 0xDB, len(data)) + data
    if isinstance(value, bytes):
        return struct.pack(">BI", 0xC6, len(value)) + value
    if isinstance(value, dict):
        pairs = reversed(value.items())  # the order of the keys means nothing
        return struct.pack(">BI", 0xDF, len(value)) + b"".join(
            wide(key) + wide(each) for key, each in pairs
        )
    return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(wide, value))
