"""Fuzzes the wire by seed: the decoders alone, a running daemon as its clients, and as its worker.

    PYTHONPATH=tests python -m fuzz.fuzzer --minutes 60 [--seed N]      (make fuzz)

What must hold for every input: the decoders raise ``ClawError`` or return; the daemon answers a
malformed message with a typed error, or closes the connection; it serves others all the while; its
memory grows by 64 MiB at most; it prints nothing. An input is a function of the corpus and its
seed, and a failure names the seed.
"""

import argparse
import contextlib
import random
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from clawai.sdk import wire
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_from, error_message, unpack
from clawai.sdk.zmtp import Connection
from clawai.sdk.zmtp_handshake import Conversation
from fuzz.make_corpus import FOLDER, GREETING, HELLO, READY, message
from fuzz.mutate import mutate
from support import Kernel

GROWTH_KIB = 64 << 10
FLOOD = 96 << 20
"""Bytes after which an endless stream would have shown growth."""
SENTINEL = 4_000_000_001
RARELY = 150
"""Inputs to one that never ends, which takes a second or two."""
CALM = 20
"""Inputs between two looks at the daemon's memory and at whether others are served."""


def corpus(kind: str) -> list[bytes]:
    """The files of a folder, in an order that is the same everywhere."""
    return [file.read_bytes() for file in sorted((FOLDER / kind).iterdir())]


class Failure(AssertionError):
    """What did not hold, with the seed that shows it."""


@dataclass
class Run:
    """Inputs by seed until a time."""

    seed: int
    until: float
    done: int = 0

    def each(self) -> Any:
        """Seeds and their generators, while there is time."""
        while time.monotonic() < self.until:
            self.done += 1
            yield self.seed, random.Random(self.seed)
            self.seed += 1


def holds(true: object, seed: int, what: str) -> None:
    """Fail with the seed."""
    if not true:
        raise Failure(f"seed {seed}: {what}")


# The decoders alone.

KINDS = (wire.FromClient, wire.ToClient, wire.ToWorker, wire.FromWorker)


def decoders(run: Run) -> None:
    """Bytes into ZMTP and msgpack, in pieces of any size, without a process."""
    streams = corpus("client-stream") + corpus("worker-stream")
    headers = corpus("client-header") + corpus("worker-header")
    for seed, chance in run.each():
        try:
            _stream(mutate(chance.choice(streams), streams, chance), chance)
            header = mutate(chance.choice(headers), headers, chance)
            _header(header, chance.choice(KINDS))
        except Exception as error:
            raise Failure(f"seed {seed} (decoders): {type(error).__name__}: {error}") from error


def _stream(data: bytes, chance: random.Random) -> None:
    limits = {"max_frames": wire.MAX_FRAMES, "max_bytes": 1 << 20}
    greeted = chance.choice((False, True))
    connection = Connection(**limits) if greeted else Conversation(b"ROUTER", **limits)
    at = 0
    with contextlib.suppress(ClawError):
        while at < len(data):
            end = at + (1 << chance.randrange(14))
            for frames in connection.receive(data[at:end], 8):
                assert len(frames) <= wire.MAX_FRAMES
                _header(frames[0], wire.FromClient)
            while connection.stalled:
                connection.receive(b"", 8)
            assert connection.buffered <= (1 << 20) + 512 + 9
            at = end


def _header(data: bytes, kind: Any) -> None:
    with contextlib.suppress(ClawError):
        found = wire.decode([data], kind)
        for name in ("params", "data", "result"):
            if isinstance(raw := getattr(found, name, None), msgspec.Raw):
                with contextlib.suppress(ClawError):
                    unpack(raw)
        if isinstance(found, wire.Error | wire.Unready):
            # What a worker complains of is passed on: it must be possible to send it, and to any.
            wire.encode(wire.error_message(found))
            wire.encode(error_message(error_from(found)))


# A daemon.


@dataclass
class Daemon:
    """A daemon under attack, and a client that is to be served."""

    kernel: Kernel
    good: Client = field(init=False)
    start_kib: int = field(init=False)

    def __post_init__(self) -> None:
        self.good = self.kernel.client()
        assert self.good.call("echo.say", {"text": "warm"}).value == "warm"
        self.start_kib = self.kernel.held_kib()
        self.kernel.mark()

    def check(self, seed: int) -> None:
        """It serves, has not grown, and has printed nothing."""
        try:
            holds(self.good.call("echo.say", {"text": "x"}).value == "x", seed, "a wrong answer")
        except ClawError as error:
            raise Failure(f"seed {seed}: others are not served: {error}") from error
        grown = self.kernel.held_kib("VmHWM") - self.start_kib
        holds(grown <= GROWTH_KIB, seed, f"the kernel has grown by {grown >> 10} MiB")
        holds(not self.kernel.stderr(), seed, self.kernel.stderr()[-2000:])
        holds("Traceback" not in self.kernel.log(), seed, self.kernel.log()[-3000:])

    def connect(self) -> socket.socket:
        """A new connection that is slow to nothing."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(20)
        sock.connect(str(self.kernel.folder / "kernel.sock"))
        return sock


def clients(daemon: Daemon, run: Run) -> None:
    """All the ways in which a client can be wrong."""
    attacks: list[Callable[[Daemon, int, random.Random], None]] = [
        *[bad_header] * 12,
        *[bad_stream] * 6,
        lease_socket,
    ]
    for seed, chance in run.each():
        try:
            attack = endless if seed % RARELY == 0 else chance.choice(attacks)
            attack(daemon, seed, chance)
        except TimeoutError as error:
            raise Failure(f"seed {seed}: the daemon neither answers nor closes") from error
        if run.done % CALM == 0:
            daemon.check(seed)
    daemon.check(run.seed)


def harmful(header: bytes) -> bool:
    """Whether it is by chance an order that would take the daemon from the others."""
    with contextlib.suppress(ClawError):
        return isinstance(wire.decode([header], wire.FromClient), wire.Admin)
    return False


def malformed(frames: list[bytes]) -> bool:
    """Whether the kernel must refuse the message."""
    try:
        wire.decode(frames, wire.FromClient)
    except ClawError:
        return True
    return False


def bad_header(daemon: Daemon, seed: int, chance: random.Random) -> None:
    """A proper frame with a bad header: an error comes, or the connection ends."""
    headers = corpus("client-header")
    frames = [mutate(chance.choice(headers), headers, chance)]
    frames += [chance.randbytes(chance.randrange(300)) for _ in range(chance.randrange(4))]
    if harmful(frames[0]):
        return
    query = msgspec.msgpack.encode({"type": "query", "id": SENTINEL, "what": "status"})
    with daemon.connect() as sock:
        zmtp = Conversation(b"DEALER", max_frames=1 << 20, max_bytes=1 << 30)
        sock.sendall(zmtp.outgoing() + message(HELLO) + message(*frames) + message(query))
        refused = False
        with contextlib.suppress(ConnectionError):
            while data := sock.recv(1 << 18):
                for heard in zmtp.receive(data):
                    answer = wire.decode(heard, wire.ToClient)
                    refused = refused or isinstance(answer, wire.Error)
                    if getattr(answer, "id", None) == SENTINEL:
                        good = refused or not malformed(frames)
                        holds(good, seed, f"no word about a malformed message: {frames[0][:80]!r}")
                        return
    # It has closed the connection.


def bad_stream(daemon: Daemon, seed: int, chance: random.Random) -> None:
    """Any bytes, then the end of the stream: the connection ends, whatever it made of them."""
    streams = corpus("client-stream")
    data = mutate(chance.choice(streams), streams, chance)
    if b"shutdown" in data or b"suspend" in data or b"unload" in data:
        return
    with daemon.connect() as sock, contextlib.suppress(ConnectionError):
        at = 0
        while at < len(data):
            end = at + (1 << chance.randrange(16))
            sock.sendall(data[at:end])
            at = end
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 18):
            pass


def endless(daemon: Daemon, seed: int, chance: random.Random) -> None:
    """A stream that goes on until the daemon ends it; what it answers is not read."""
    first, _, piece = chance.choice(corpus("endless")).partition(b"|")
    if chance.randrange(2):
        piece = mutate(piece, [piece], chance) or b"\x01\x00"
    if b"admin" in piece:
        return
    block = piece * (1 + (1 << 16) // len(piece))
    with daemon.connect() as sock, contextlib.suppress(ConnectionError):
        sock.sendall(GREETING + READY + first)
        sent, sock_limit = 0, time.monotonic() + 10
        sock.settimeout(0.5)
        while sent < FLOOD and time.monotonic() < sock_limit:
            try:
                sent += sock.send(block)
            except TimeoutError:
                return  # it waits for us to read: bounded as well
    # The memory is looked at by the caller; others must be served right away.
    daemon.check(seed)


def lease_socket(daemon: Daemon, seed: int, chance: random.Random) -> None:
    """The other door takes no word at all."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(20)
        sock.connect(str(daemon.kernel.folder / "lease.sock"))
        with contextlib.suppress(ConnectionError):
            sock.recv(4096)
            sock.send(chance.randbytes(1 + chance.randrange(4096)))
            while sock.recv(4096):
                pass


# A worker.

FUZZED = """
import os
from clawai.sdk.plugin import Context, operation

TASK, INCARNATION = bytes.fromhex("cefffffff2"), bytes.fromhex("cefffffff1")

@operation("fuzzed.say")
def say(ctx: Context, data: bytes, times: int) -> None:
    host = ctx.outlet
    data = data.replace(TASK, b"\\xce" + ctx.task.to_bytes(4, "big"))
    data = data.replace(INCARNATION, b"\\xce" + host.incarnation.to_bytes(4, "big"))
    for _ in range(times):
        host._sock.sendall(data)
    os._exit(0)

@operation("fuzzed.fine")
def fine() -> str:
    return "fine"
"""
OPERATIONS = {"fuzzed.say": "", "fuzzed.fine": ""}


def workers(daemon: Daemon, run: Run) -> None:
    """A plugin that says anything, in its sandbox."""
    if not (daemon.kernel.plugins_dir / "fuzzed").exists():
        daemon.kernel.plugin("fuzzed", FUZZED, OPERATIONS)
    headers, streams = corpus("worker-header"), corpus("worker-stream")
    with daemon.kernel.client() as client:
        for seed, chance in run.each():
            if chance.randrange(3):
                data = message(mutate(chance.choice(headers), headers, chance))
            else:
                data = mutate(chance.choice(streams), streams, chance)
            times = 1 if chance.randrange(8) or not data else max(1, (48 << 20) // len(data))
            try:
                client.call("fuzzed.say", {"data": data, "times": times}, deadline=30)
            except ClawError as error:
                holds(error.code != "deadline_passed", seed, "the kernel waits for a mad worker")
            _fine(client, seed)
            if run.done % 5 == 0:
                daemon.check(seed)
    daemon.check(run.seed)


def _fine(client: Client, seed: int) -> None:
    """The plugin's next request is answered, whatever the last one did to its worker."""
    try:
        holds(client.call("fuzzed.fine", deadline=30).value == "fine", seed, "a wrong answer")
    except ClawError as error:
        # A stray message may have hit this very task while its worker was dying.
        if error.code not in ("worker_died", "bad_worker", "worker_failed"):
            raise Failure(f"seed {seed}: the plugin does not come back: {error}") from error


def main() -> int:
    """Fuzz for a while, a part of it each way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() // 1_000_000)
    chosen = parser.parse_args()
    share = chosen.minutes * 60 / 6
    run = Run(chosen.seed, time.monotonic() + share)
    print(f"seed {chosen.seed}", flush=True)
    decoders(run)
    print(f"decoders: {run.done} inputs", flush=True)
    kernel = Kernel()
    try:
        daemon = Daemon(kernel.start())
        for name, attack, parts in (("clients", clients, 3), ("worker", workers, 2)):
            run = Run(chosen.seed, time.monotonic() + parts * share)
            attack(daemon, run)
            print(f"{name}: {run.done} inputs", flush=True)
        kernel.stop()
        kernel.check_gone()
    finally:
        kernel.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
