"""The wire: round trips, golden vectors, garbage, and that WIRE.md speaks of all of it."""

import json
import re
import resource
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any, Literal

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wire_vectors
from clawai.kernel import limits
from clawai.kernel.steward import limits as door
from clawai.sdk import wire
from clawai.sdk.codes import CALLER, CODES, PEER
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_from, error_message, unpack

ROOT = Path(__file__).parents[2]
WIRE_MD = (ROOT / "sdk" / "WIRE.md").read_text()
GOLDEN = json.loads((ROOT / "sdk" / "wire_vectors.json").read_text())
KINDS = list(wire_vectors.KINDS.values())
MESSAGES = sorted({m for kind in KINDS for m in typing.get_args(kind)}, key=lambda m: m.__name__)

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
IDS = st.integers(0, (1 << 62) - 1)
SIZES = st.integers(0, (1 << 48) - 1)
LEASES = st.builds(
    wire.Lease,
    segment=IDS,
    offset=SIZES,
    length=SIZES,
    generation=IDS,
    rights=st.sampled_from(["r", "rw"]),
)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of one field's type."""
    if hint is wire.Id:
        return IDS
    if hint is wire.Size:
        return SIZES
    if hint is wire.Raw:
        return PLAIN.map(wire.pack)
    if hint is wire.Lease:
        return LEASES
    if hint is wire.BatchItem:
        return made(wire.BatchItem)
    if hint is Any:
        return PLAIN
    if hint is type(None):
        return st.none()
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        base, meta = inner[0], inner[1]
        if base is str:
            if meta.pattern:
                return st.from_regex(meta.pattern)
            return st.text(max_size=min(meta.max_length, 40))
        return st.integers(meta.ge, meta.lt - 1 if meta.le is None else meta.le)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return st.lists(values(inner[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, inner))
    if origin is dict:
        return st.dictionaries(values(inner[0]), values(inner[1]), max_size=3)
    if inner:  # a union
        return st.one_of(*map(values, inner))
    return {
        int: st.integers(-(1 << 63), (1 << 63) - 1),
        str: st.text(max_size=20),
        bytes: st.binary(max_size=20),
        bool: st.booleans(),
        float: st.floats(allow_nan=False),
    }[hint]


def made(message: type[wire.Message] | type[wire.BatchItem]) -> st.SearchStrategy[Any]:
    """Messages of one type."""
    hints = typing.get_type_hints(message, include_extras=True)
    return st.builds(message, **{name: values(hint) for name, hint in hints.items()})


def kind_of(message: type) -> Any:
    return next(kind for kind in KINDS if message in typing.get_args(kind))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_round_trip(message: type[wire.Message], data: st.DataObject) -> None:
    sent = data.draw(made(message))
    frames = wire.encode(sent, [b"payload"])
    got = wire.decode([bytes(frame) for frame in frames], kind_of(message))
    assert type(got) is message
    for field in message.__struct_fields__:
        before, after = getattr(sent, field), getattr(got, field)
        if isinstance(before, wire.Raw):
            before, after = bytes(before), bytes(after)
        if field not in ("operations", "items"):
            assert after == before
    # Any other msgpack library reads it too.
    read = msgpack.unpackb(frames[0], strict_map_key=False)
    assert read["type"] == message.__name__.lower()


def test_golden_vectors() -> None:
    now = {vector["name"]: vector for vector in json.loads(json.dumps(wire_vectors.vectors()))}
    assert {vector["name"]: vector for vector in GOLDEN} == now


@pytest.mark.parametrize("vector", [v for v in GOLDEN if "header" in v], ids=lambda v: v["name"])
def test_golden_vectors_are_read(vector: dict[str, Any]) -> None:
    header = bytes.fromhex(vector["header"])
    message = wire.decode([header], wire_vectors.KINDS[vector["from"], vector["to"]])
    assert type(message).__name__.lower() == vector["value"]["type"]
    plain = msgpack.unpackb(header, strict_map_key=False)
    assert wire_vectors.as_json(plain) == vector["value"]
    # In another order of keys, with a field that nobody knows.
    other = dict(reversed(plain.items())) | {"later": [1, {"x": None}]}
    again = wire.decode([msgpack.packb(other)], wire_vectors.KINDS[vector["from"], vector["to"]])
    assert bytes(wire.encode(again)[0]) == header


def test_every_message_has_a_golden_vector() -> None:
    seen = {(v["from"], v["to"], v["value"]["type"]) for v in GOLDEN if "value" in v}
    missing = {
        (sender, receiver, message.__name__.lower())
        for (sender, receiver), kind in wire_vectors.KINDS.items()
        for message in typing.get_args(kind)
    } - seen
    assert missing <= {("worker", "kernel", name) for name in ("progress", "done", "error")}


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.one_of(
        st.binary(max_size=200),
        PLAIN.map(msgspec.msgpack.encode),
        st.dictionaries(
            st.sampled_from(["type", "id", "op", "leases", "params", "version", "got", "slots"]),
            PLAIN | st.sampled_from([m.__name__.lower() for m in MESSAGES]),
        ).map(msgspec.msgpack.encode),
        st.tuples(
            st.sampled_from([bytes.fromhex(v["header"]) for v in GOLDEN if "header" in v]),
            st.integers(0, 200),
            st.binary(max_size=3),
        ).map(lambda t: t[0][: t[1] % len(t[0])] + t[2] + t[0][t[1] % len(t[0]) + len(t[2]) :]),
    ),
)
def test_garbage_is_a_typed_error(kind: Any, header: bytes) -> None:
    try:
        message = wire.decode([header], kind)
    except ClawError as error:
        assert error.code == "bad_message"
        wire.encode(error_message(error))
    else:
        wire.encode(message)
    try:
        unpack(header)
    except ClawError as error:
        assert error.code == "bad_message"


@pytest.mark.parametrize("frames", [[], [b""], [b"\x80" + bytes(wire.MAX_HEADER)]])
def test_no_header_or_too_large_a_one(frames: list[bytes]) -> None:
    with pytest.raises(ClawError) as caught:
        wire.decode(frames, wire.FromClient)
    assert caught.value.code == "bad_message"


def test_declared_lengths_allocate_nothing() -> None:
    """Each header claims gigabytes; the process may not grow by more than a little."""
    program = (
        "import re\nfrom clawai.sdk import wire\n"
        "from clawai.sdk.errors import ClawError\n"
        "heads = [b'\\xdd', b'\\xdf', b'\\xdb', b'\\xc6', b'\\xc9']\n"
        "forms = [b'%s\\xff\\xff\\xff\\xff', b'\\x81\\xa4type%s\\xff\\xff\\xff\\xff',"
        " b'\\x82\\xa4type\\xa5error\\xa3got%s\\xff\\xff\\xff\\xff',"
        " b'\\x82\\xa4type\\xa6submit\\xa6leases%s\\xff\\xff\\xff\\xff']\n"
        "for kind in (wire.FromClient, wire.ToClient, wire.ToWorker, wire.FromWorker):\n"
        "    for form in forms:\n        for head in heads:\n"
        "            try:\n                wire.decode([form % head], kind)\n"
        "                raise SystemExit('accepted')\n"
        "            except ClawError:\n                pass\n"
        "print(re.search('VmHWM:\\\\s+(\\\\d+)', open('/proc/self/status').read())[1])\n"
    )
    limit = 512 << 20
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 * 1024


# Errors.


class Odd:
    """Nothing that msgpack knows."""

    def __repr__(self) -> str:
        return "Odd" * 10_000


def _nested(levels: int) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        Odd(),
        {"a": Odd()},
        [{1: {2: Odd()}}],
        {1, 2},
        b"x" * 9000,
        "x" * 9000,
        list(range(5000)),
        1 << 200,
        -(1 << 100),
        "\ud800",
        {"\ud800": 1},
        float("nan"),
        _nested(50),
        _nested(980),
        Path("/x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_detail_of_an_error_can_be_sent(value: Any) -> None:
    message = error_message(ClawError("bad_params", "no", got=value, allowed=value), 1)
    header = bytes(wire.encode(message)[0])
    assert len(header) < 20_000
    assert wire.decode([header], wire.ToClient).code == "bad_params"


@settings(deadline=None)
@given(PLAIN)
def test_small_details_survive(value: Any) -> None:
    message = error_message(ClawError("bad_params", "no", got=value))
    back = error_from(wire.decode([bytes(wire.encode(message)[0])], wire.ToClient))
    assert back.got == value or len(msgspec.msgpack.encode(value)) > 1000 or _deep(value) > 8


def _deep(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_deep, value.values()), default=0)
    return 1 + max(map(_deep, value), default=0) if isinstance(value, list) else 0


def test_an_unknown_code_is_the_plugins_fault() -> None:
    error = error_from(wire.Error(code="from_the_future", message="m"))
    assert (error.code, error.callers_fault) == ("worker_failed", False)


@pytest.mark.parametrize("code", ["", "Bad", "a-b", "a b", "x" * 65, "fine\n", "\u00e9"])
def test_a_code_is_a_short_name(code: str) -> None:
    header = msgspec.msgpack.encode({"type": "error", "id": 1, "code": code, "message": "m"})
    with pytest.raises(ClawError) as caught:
        wire.decode([header], wire.FromWorker)
    assert caught.value.code == "bad_message"


@pytest.mark.parametrize("value", [1 << 64, -(1 << 100), "x" * 9000, list(range(9000))])
def test_the_kernel_leaves_out_what_it_cannot_send(value: Any) -> None:
    message = wire.error_message(ClawError("bad_frame", "no", got=value, allowed=5), 1)
    assert (message.got, message.allowed) == (wire.NIL, wire.pack(5))


def test_what_is_raised_in_a_plugin_has_a_code_of_the_list() -> None:
    assert error_message(ClawError("Made up", "m")).code == "worker_failed"


def test_every_code_has_one_family() -> None:
    assert not set(CALLER) & set(PEER)
    for code in CODES:
        assert ClawError(code, "m").callers_fault == (code in CALLER)


# The specification.


def section(name: str) -> str:
    """The part of WIRE.md that speaks of a message."""
    found = re.search(rf"\*\*{name}\*\*.*?(?=\n\n\*\*|\n## |\n### |\Z)", WIRE_MD, re.DOTALL)
    assert found, f"WIRE.md says nothing of {name}"
    return found.group()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_every_field_is_specified(message: type[wire.Message]) -> None:
    text = section(message.__name__.lower())
    worker = message in typing.get_args(wire.ToWorker) + typing.get_args(wire.FromWorker)
    for field in message.__struct_fields__:
        assert f"`{field}`" in text or (worker and field == "incarnation"), f"{field} in {text}"


def test_nothing_is_specified_that_does_not_exist() -> None:
    for message in typing.get_args(wire.FromClient) + typing.get_args(wire.ToClient):
        rows = re.findall(r"^\| `(\w+)` \|", section(message.__name__.lower()), re.MULTILINE)
        assert rows == list(message.__struct_fields__)


def test_every_code_is_specified() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", WIRE_MD.split("## 8. Errors")[1], re.M))
    assert listed == CODES


def test_the_limits_are_those_of_the_code() -> None:
    text = WIRE_MD.split("## 9. Limits")[1]
    for row in (
        f"frames of one message | {wire.MAX_FRAMES} ",
        f"bytes of all frames of one message | {wire.MAX_MESSAGE >> 20} MiB ",
        f"header | {wire.MAX_HEADER >> 20} MiB ",
        f"connections | {limits.CLIENTS} ",
        f"bytes before a proper `hello` | {door.EARLY >> 10} KiB ",
        f"half-received messages of all connections | {limits.PARTIAL_TOTAL >> 20} MiB ",
        f"open tasks of one client | {limits.TASKS_PER_CLIENT} ",
        f"open tasks of all clients | {limits.TASKS:,} ",
        f"bytes of all open requests | {limits.PAYLOAD_TOTAL >> 20} MiB ",
        f"unread output of one client | {limits.OUTBOX >> 20} MiB",
        f"unread output of all clients | {limits.OUTBOX_TOTAL >> 20} MiB ",
        f"segments of one client | {limits.SEGMENTS_PER_CLIENT} ",
        f"leases of one client | {limits.LEASES_PER_CLIENT:,} ",
    ):
        assert f"| {row}" in text, row
    seconds = {
        "hello": door.HANDSHAKE,
        "it counts": door.TOKEN_LIFE,
        "cancel": limits.CANCEL_GRACE,
        "hung": limits.HUNG,
    }
    assert {name: span // limits.SECOND for name, span in seconds.items()} == {
        "hello": 5,
        "it counts": 30,
        "cancel": 3,
        "hung": 20,
    }, "WIRE.md names these"
    assert wire.VERSION == (1, 4)
    assert WIRE_MD.startswith("# The wire of ClawAI, version 1.4\n")


def test_the_control_word_is_that_of_the_code() -> None:
    row = next(line for line in WIRE_MD.splitlines() if line.startswith("| 0-7 |"))
    numbers = {int(number): text.strip() for number, text in re.findall(r"(\d): ([^.:|]+)", row)}
    assert list(numbers) == [wire.GO, wire.STOP, wire.HOLD, wire.YIELD]
    for number, word in ((wire.GO, "go on"), (wire.STOP, "end"), (wire.HOLD, "wait")):
        assert numbers[number].startswith(word)
    assert "`yielded`" in numbers[wire.YIELD]
