"""Clients that attack: the kernel stays small, stays up, and serves its other clients meanwhile."""

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator

import msgpack
import pytest

from clawai.kernel import limits
from clawai.sdk import wire
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from support import Kernel, RawPeer, wait_until

GROWTH_KIB = 64 * 1024


@contextlib.contextmanager
def under_attack(kernel: Kernel) -> Iterator[Client]:
    """Another client must be served before, during and after, within 64 MiB of growth."""
    kernel.mark()
    victim = kernel.client(name="victim")
    assert victim.call("echo.say", {"text": "before"}).value == "before"
    before = kernel.held_kib()
    yield victim
    assert victim.call("echo.say", {"text": "during"}).value == "during"
    peak = kernel.held_kib("VmHWM")
    assert peak - before <= GROWTH_KIB, f"grew by {(peak - before) // 1024} MiB"


def served(victim: Client) -> None:
    """The other client still gets its answer."""
    assert victim.call("echo.say", {"text": "x"}).value == "x"


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


@pytest.mark.parametrize("begin", [RawPeer.handshake, RawPeer.hello])
def test_half_messages_on_200_connections(
    target: Kernel, begin: Callable[[RawPeer], RawPeer]
) -> None:
    """Each claims 8 MiB and sends nearly all of it: together 1.5 GiB."""
    part = b"\x02" + wire.MAX_MESSAGE.to_bytes(8, "big") + b"x" * (6 << 20)
    with under_attack(target) as victim, contextlib.ExitStack() as stack:
        for number in range(200):
            peer = stack.enter_context(target.raw())
            with contextlib.suppress(ConnectionError):
                begin(peer)
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
