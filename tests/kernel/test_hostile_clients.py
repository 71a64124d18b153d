"""Clients that attack: the daemon stays small, stays up, and serves its other clients meanwhile."""

import contextlib
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import msgspec
import pytest
import zmq

from clawai.kernel import limits
from clawai.sdk import wire
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from clawai.sdk.leases import LeaseSocket
from clawai.sdk.zmtp import GREETING
from support import PATIENCE, Kernel, RawPeer, cpu_ticks, memory_kib, wait_until

GROWTH_KIB = 64 * 1024


@contextlib.contextmanager
def under_attack(kernel: Kernel) -> Iterator[Client]:
    """Another client must be served before, during and after, within 64 MiB of growth."""
    kernel.mark()
    victim = kernel.client(name="victim")
    assert victim.call("echo.say", {"text": "before"}).value == "before"
    before = memory_kib(kernel.pid)
    yield victim
    assert victim.call("echo.say", {"text": "during"}).value == "during"
    peak = memory_kib(kernel.pid, "VmHWM")
    assert peak - before <= GROWTH_KIB, f"grew by {(peak - before) // 1024} MiB"


def served(victim: Client) -> None:
    """The other client still gets its answer."""
    assert victim.call("echo.say", {"text": "x"}).value == "x"


# Malformed messages: a typed error, and the connection lives.


MALFORMED: dict[str, list[bytes]] = {
    "empty header": [b""],
    "not msgpack": [b"\xc1\xc1\xc1"],
    "garbage": [bytes(range(256))],
    "an array": [b"\x93\x01\x02\x03"],
    "no type": [msgpack.packb({"id": 1})],
    "unknown type": [msgpack.packb({"type": "explode", "id": 1})],
    "a type of the kernel's": [msgpack.packb({"type": "welcome"})],
    "type is a number": [msgpack.packb({"type": 7})],
    "id is a string": [msgpack.packb({"type": "cancel", "id": "x"})],
    "id is negative": [msgpack.packb({"type": "cancel", "id": -1})],
    "id is too large": [msgpack.packb({"type": "cancel", "id": 1 << 63})],
    "op is too long": [msgpack.packb({"type": "submit", "id": 1, "op": "x" * 300})],
    "no op": [msgpack.packb({"type": "submit", "id": 1})],
    "unknown priority": [
        msgpack.packb({"type": "submit", "id": 1, "op": "echo.say", "priority": "urgent"})
    ],
    "leases of a wrong type": [
        msgpack.packb({"type": "submit", "id": 1, "op": "echo.say", "leases": [1]})
    ],
    "deep nesting": [b"\x82\xa4type\xa6submit\xa6params" + b"\x91" * 100_000 + b"\xc0"],
    "deep nesting of keys": [b"\x81" * 100_000 + b"\xc0"],
    "truncated": [msgpack.packb({"type": "cancel", "id": 1})[:-1]],
    "trailing bytes": [msgpack.packb({"type": "cancel", "id": 1}) + b"\x00"],
    "a declared length of 4 GiB": [b"\x81\xa4type\xdb\xff\xff\xff\xff"],
    "a declared array of 4 G": [b"\xdd\xff\xff\xff\xff"],
    "bad UTF-8": [b"\x82\xa4type\xa5query\xa4what\xa2\xff\xfe"],
    "text in a byte field": [msgpack.packb({"type": "hello", "version": [1, 0], "token": 5})],
    "many frames": [b"x"] * wire.MAX_FRAMES,
}


@pytest.fixture
def target(shared_kernel: Kernel) -> Iterator[Kernel]:
    """One daemon for all that should not harm it."""
    yield shared_kernel
    shared_kernel.close_clients()


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(target: Kernel, name: str) -> None:
    with target.raw().hello() as peer:
        peer.send_raw(MALFORMED[name])
        error = peer.message()
        assert isinstance(error, wire.Error)
        assert error.code == "bad_message"
        assert error.message
        peer.send_map(type="query", id=5, what="status")
        assert isinstance(peer.answer(5), wire.Answer)


def test_unknown_fields_are_ignored(target: Kernel) -> None:
    with target.raw().hello() as peer:
        peer.send_map(type="query", id=5, what="status", colour="red", nested={"a": [1]})
        assert isinstance(peer.answer(5), wire.Answer)


def test_the_first_message_must_be_hello(target: Kernel) -> None:
    with target.raw().handshake() as peer:
        peer.send_map(type="query", id=1, what="status")
        assert peer.message().code == "bad_state"
        peer.send_map(type="hello", version=[2, 0])
        assert peer.message().code == "bad_version"
        peer.send_map(type="hello", version=[1, 7], later=True)
        assert isinstance(peer.message(), wire.Welcome)
        peer.send_map(type="hello", version=[1, 0])
        assert peer.message().code == "bad_state"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"type": "query", "what": "secrets"}, "bad_params"),
        ({"type": "admin", "command": "format"}, "bad_params"),
        ({"type": "submit", "op": "echo.sayy"}, "unknown_operation"),
        ({"type": "submit", "op": "../../etc/passwd"}, "unknown_operation"),
        ({"type": "submit", "op": "echo.say", "model": "x"}, "bad_params"),
        ({"type": "submit", "op": "echo.say", "deadline_ms": 0}, "deadline_passed"),
        ({"type": "submit", "op": "echo.say", "deadline_ms": -(1 << 62)}, "deadline_passed"),
        ({"type": "submit", "op": "echo.say", "params": [1]}, "bad_params"),
        ({"type": "submit", "op": "echo.say", "params": 7}, "bad_params"),
        ({"type": "submit", "op": "echo.say", "params": {"text": b"\xff"}}, "bad_params"),
        ({"type": "submit", "op": "echo.say", "params": {"text": {"a": 1}}}, "bad_params"),
        ({"type": "submit", "op": "llm.generate", "model": "../x"}, "unknown_model"),
        ({"type": "submit", "op": "llm.generate"}, "bad_params"),
        ({"type": "borrow", "op": "echo.tensor", "bytes": 4096}, "no_lease"),
    ],
)
def test_wrong_requests(target: Kernel, fields: dict[str, Any], code: str) -> None:
    with target.raw().hello() as peer:
        peer.send_map(id=3, **fields)
        assert peer.answer(3).code == code
        peer.send_map(type="submit", id=4, op="echo.say", params={"text": "fine"})
        assert wire.unpack(peer.answer(4).result) == "fine"


def test_a_far_deadline(target: Kernel) -> None:
    with target.raw().hello() as peer:
        peer.send_map(
            type="submit", id=1, op="echo.say", params={"text": "x"}, deadline_ms=(1 << 63) - 1
        )
        assert isinstance(peer.answer(1), wire.Done)


GARBAGE: dict[str, bytes] = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "zeros": bytes(200),
    "ZMTP 1": b"\x01\x00",
    "ZMTP 2": b"\xff" + bytes(8) + b"\x7f\x01" + bytes(53),
    "another mechanism": GREETING[:12] + b"CURVE".ljust(20, b"\0") + bytes(32),
    "a message before READY": GREETING + b"\x00\x01x",
    "an endless command": GREETING + b"\x06" + (1 << 40).to_bytes(8, "big"),
    "a wrong socket type": GREETING + b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB",
    "reserved flags": GREETING + b"\xf0\x01x",
    "an oversize frame": GREETING
    + b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    + b"\x02"
    + (1 << 62).to_bytes(8, "big"),
    "too many frames": GREETING
    + b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    + b"\x01\x01x" * (wire.MAX_FRAMES + 1),
    "property beyond the command": GREETING + b"\x04\x0a\x05READY\x0bSoc",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_closes_the_connection(target: Kernel, name: str) -> None:
    with target.raw() as peer:
        with contextlib.suppress(BrokenPipeError):
            peer.sock.sendall(GARBAGE[name])
        assert peer.closed()
    with target.raw().hello():
        pass


def test_the_complaint_says_which_limit(target: Kernel) -> None:
    with target.raw().hello() as peer:
        peer.sock.sendall(b"\x02" + (wire.MAX_MESSAGE + 1).to_bytes(8, "big"))
        error = peer.message()
        assert (error.code, error.id) == ("too_large", None)
        assert (error.got, error.allowed) == (wire.MAX_MESSAGE + 1, wire.MAX_MESSAGE)
        assert peer.closed()


def test_libzmq_learns_that_it_broke_a_limit(target: Kernel) -> None:
    context = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.RECONNECT_IVL, 1 << 30)
    try:
        sock.connect(f"ipc://{target.folder}/kernel.sock")
        sock.send(msgpack.packb({"type": "hello", "version": [1, 0]}))
        assert msgpack.unpackb(sock.recv())["type"] == "welcome"
        sock.send_multipart([b"x"] * 100)
        assert sock.poll(PATIENCE * 1000)
        assert msgpack.unpackb(sock.recv())["code"] == "too_large"
    finally:
        context.destroy(0)


# Memory and time.


def flood(peer: RawPeer, data: bytes | Iterator[bytes]) -> int:
    """Send until the kernel has had enough or all is sent; the bytes that it took."""
    sent = 0
    peer.sock.settimeout(2)
    try:
        for piece in [data] if isinstance(data, bytes) else data:
            peer.sock.sendall(piece)
            sent += len(piece)
    except (TimeoutError, OSError):
        pass
    return sent


def test_endless_parts(target: Kernel) -> None:
    with under_attack(target) as victim, target.raw().hello() as peer:
        piece = b"\x01\xff" + b"x" * 255
        took = flood(peer, itertools.repeat(piece * 100, 4000))
        assert took < 4 << 20
        served(victim)


def test_endless_empty_parts(target: Kernel) -> None:
    with under_attack(target), target.raw().hello() as peer:
        assert flood(peer, itertools.repeat(b"\x01\x00" * 1000, 2000)) < 4 << 20


def test_half_messages_on_200_connections(target: Kernel) -> None:
    """Each claims 8 MiB and sends nearly all of it: together 1.5 GiB."""
    part = b"\x02" + wire.MAX_MESSAGE.to_bytes(8, "big") + b"x" * (6 << 20)
    with under_attack(target) as victim, contextlib.ExitStack() as stack:
        for number in range(200):
            peer = stack.enter_context(target.raw())
            with contextlib.suppress(ConnectionError):
                peer.handshake()
                peer.sock.settimeout(2)
                peer.sock.sendall(part[: len(part) if number < 20 else 1 << 18])
            if number % 50 == 0:
                served(victim)


def test_half_open_connections_make_room(target: Kernel) -> None:
    """Connections that never say hello keep nobody out."""
    with under_attack(target), contextlib.ExitStack() as stack:
        for _ in range(limits.CLIENTS + 50):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.connect(str(target.folder / "kernel.sock"))
            lease = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            lease.connect(str(target.folder / "lease.sock"))
        assert target.client().call("echo.say", {"text": "new"}).value == "new"


def test_connections_that_come_and_go(target: Kernel) -> None:
    with under_attack(target) as victim:
        for _ in range(500):
            with target.raw():
                pass
        served(victim)
        wait_until(lambda: victim.query("status")["clients"] == 1, "the others are forgotten")


def test_a_reader_that_never_reads(target: Kernel) -> None:
    with under_attack(target) as victim, target.raw().hello() as peer:
        with contextlib.suppress(OSError):
            for number in range(64):
                pad = {"text": "x" * 250_000}
                peer.send_map(type="submit", id=number, op="echo.say", params=pad)
        wait_until(lambda: victim.query("status")["clients"] == 1, "it is disconnected")
        served(victim)
    assert "does not read" in target.log()


def test_pings_without_reading(target: Kernel) -> None:
    """Every ZMTP PING is answered, so that one who never reads could fill the daemon."""
    with under_attack(target) as victim, target.raw().hello() as peer:
        ping = b"\x04\x17\x04PING\x00\x00" + b"c" * 16
        flood(peer, itertools.repeat(ping * 1000, 300))
        served(victim)


def test_complaints_without_reading(target: Kernel) -> None:
    with under_attack(target) as victim, target.raw().hello() as peer:
        flood(peer, itertools.repeat(b"\x00\x01\xc1" * 1000, 200))
        served(victim)


def test_a_flood_of_listings(target: Kernel) -> None:
    """One client that asks without end is served in turn with the others."""
    with under_attack(target) as victim, target.raw().hello() as peer:
        query = b"".join(
            map(
                bytes,
                peer.zmtp.message([msgpack.packb({"type": "query", "id": 1, "what": "plugins"})]),
            )
        )
        peer.sock.setblocking(False)
        peer.sock.send(query * (200_000 // len(query)))
        answered = threading.Event()

        def read() -> None:
            peer.sock.settimeout(0.2)
            with contextlib.suppress(OSError):
                while not answered.is_set() and peer.sock.recv(1 << 20):
                    pass

        reader = threading.Thread(target=read)
        reader.start()
        try:
            before = victim.query("status")["uptime_s"]
            for _ in range(20):
                served(victim)
            assert victim.query("status")["uptime_s"] - before < 10
        finally:
            answered.set()
            reader.join()


def test_submits_over_the_limits(target: Kernel) -> None:
    target.plugin(
        "slow",
        "import time\nfrom clawai.sdk.plugin import operation, Context\n"
        "@operation('slow.nap')\ndef nap(ctx: Context):\n"
        "    while True:\n        ctx.checkpoint()\n        time.sleep(0.01)\n",
        {"slow.nap": ""},
    )
    with under_attack(target) as victim:
        client = target.client()
        tasks = [client.submit("slow.nap") for _ in range(limits.TASKS_PER_CLIENT + 20)]
        codes = []
        for task in tasks[-20:]:
            with pytest.raises(ClawError) as caught:
                task.result()
            codes.append(caught.value.code)
        assert set(codes) == {"queue_full"}
        large = [target.client() for _ in range(3)]
        refused = 0
        for one in large * 3:
            task = one.submit("slow.nap", {"pad": "x" * (3 << 20)})
            if not list(itertools.islice(task, 1)):
                with pytest.raises(ClawError, match="the queue is full"):
                    task.result()
                refused += 1
        assert refused == 3, "6 of 9 times 3 MiB fit 20 MiB"
        served(victim)
        for one in [client, *large]:
            one.close()
        wait_until(lambda: victim.query("status")["tasks"] == 0, "their tasks are cancelled")


def test_everything_at_once(target: Kernel) -> None:
    """Half messages, queued payload and unread answers together stay within 64 MiB."""
    part = b"\x02" + wire.MAX_MESSAGE.to_bytes(8, "big") + b"x" * (7 << 20)
    with under_attack(target) as victim, contextlib.ExitStack() as stack:
        for _ in range(6):
            peer = stack.enter_context(target.raw().hello())
            flood(peer, part)
        for _ in range(6):
            peer = stack.enter_context(target.raw().hello())
            message = wire.Submit(id=1, op="echo.say", params=wire.pack({"text": "x" * (3 << 20)}))
            flood(peer, b"".join(map(bytes, peer.zmtp.message(wire.encode(message)))) * 3)
        served(victim)


# Tokens and leases.


def token(kernel: Kernel) -> LeaseSocket:
    return LeaseSocket.connect(kernel.folder / "lease.sock", PATIENCE)


def test_tokens_are_for_one_use(target: Kernel) -> None:
    door = token(target)
    try:
        with target.raw().handshake() as peer:
            peer.send(wire.Hello(version=wire.VERSION, token=b"guess"))
            assert peer.message().code == "not_permitted"
            peer.send(wire.Hello(version=wire.VERSION, token=door.token[:-1]))
            assert peer.message().code == "not_permitted"
            peer.send(wire.Hello(version=wire.VERSION, token=door.token))
            assert peer.message().leases
            with target.raw().handshake() as other:
                other.send(wire.Hello(version=wire.VERSION, token=door.token))
                assert other.message().code == "not_permitted"
    finally:
        door.close()


def test_whoever_speaks_on_the_lease_socket_is_closed(target: Kernel) -> None:
    door = token(target)
    door.sock.send(b"hello?")
    with contextlib.suppress(ConnectionResetError):
        assert door.sock.recv(100) == b""
    door.close()


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 1},
        {"segment": 99},
        {"offset": 1},
        {"offset": 1 << 47, "length": 1},
        {"length": 8193},
    ],
)
def test_forged_leases(target: Kernel, change: dict[str, int]) -> None:
    client = target.client()
    loan = client.borrow("echo.tensor", 8192)
    lease = msgspec.structs.replace(loan.lease, **change)
    loan.lease = lease
    with pytest.raises(ClawError) as caught:
        client.call("echo.tensor", {"x": loan.tensor("<u1", (1,))}, leases=[loan])
    assert caught.value.code == "no_lease"


def test_a_lease_of_another_client(target: Kernel) -> None:
    one, other = target.client(), target.client()
    loan = one.borrow("echo.tensor", 8192)
    with pytest.raises(ClawError) as caught:
        other.call("echo.tensor", {"x": loan.tensor("<u1", (1,))}, leases=[loan])
    assert caught.value.code == "no_lease"
    other.give_back(loan)
    assert other.query("status")["segments"] == 1
    assert one.call("echo.tensor", {"x": loan.tensor("<u1", (1,))}, leases=[loan]).value


def test_many_segments(target: Kernel) -> None:
    client = target.client()
    loans = [client.borrow("echo.tensor", 4096) for _ in range(limits.SEGMENTS_PER_CLIENT)]
    with pytest.raises(ClawError) as caught:
        client.borrow("echo.tensor", 4096)
    assert caught.value.code == "queue_full"
    for loan in loans:
        client.give_back(loan)
    assert client.borrow("echo.tensor", 4096).lease.generation == 1


def test_segments_until_descriptors_run_out(start_kernel: Callable[..., Kernel]) -> None:
    """With few descriptors left the daemon says no and goes on."""
    kernel = start_kernel(start=False).start(wrapper=("prlimit", "--nofile=128:128"))
    victim = kernel.client()
    clients, refused = [], 0
    for _ in range(3):
        client = kernel.client()
        clients.append(client)
        for _ in range(limits.SEGMENTS_PER_CLIENT):
            try:
                client.borrow("echo.tensor", 4096)
            except ClawError as error:
                assert error.code == "no_memory"
                refused += 1
    assert refused
    served(victim)
    for client in clients:
        client.close()
    wait_until(lambda: victim.query("status")["segments"] == 0, "the segments are gone")
    assert kernel.client().call("echo.say", {"text": "new"}).value == "new"


def test_connections_until_descriptors_run_out(start_kernel: Callable[..., Kernel]) -> None:
    """What cannot be accepted waits, and the daemon does not spin on it."""
    kernel = start_kernel(start=False).start(wrapper=("prlimit", "--nofile=64:64"))
    victim = kernel.client()
    served(victim)
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(kernel.raw())
        served(victim)
        before = cpu_ticks(kernel.pid)
        time.sleep(1)
        assert cpu_ticks(kernel.pid) - before < 20, "it spins"
    wait_until(lambda: victim.query("status")["clients"] == 1, "the others are gone")
    assert kernel.client().call("echo.say", {"text": "new"}).value == "new"


def test_two_clients_race_for_one_worker(target: Kernel) -> None:
    """Streams of two clients never mix."""
    first, second = target.client(), target.client()
    tasks = [c.submit("echo.count", {"upto": 300}) for c in (first, second, first, second)]
    for task in tasks:
        assert [e.data for e in task if e.kind == "chunk"] == list(range(1, 301))
        assert task.result().value == 300


def test_two_processes_race(target: Kernel) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom clawai.sdk.client import Client\n"
        "with Client(folder=Path(sys.argv[1]), timeout=60) as client:\n"
        "    for n in range(100):\n"
        "        assert client.call('echo.say', {'text': sys.argv[2] + str(n)}).value"
        " == sys.argv[2] + str(n)\n"
    )
    command = [sys.executable, "-c", program, str(target.folder)]
    racers = [subprocess.Popen([*command, name]) for name in ("a", "b", "c")]
    assert [racer.wait(PATIENCE) for racer in racers] == [0, 0, 0]
