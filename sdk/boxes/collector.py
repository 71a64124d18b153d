"""Takes what other boxes ship, and puts it on their shelves: `claw boxes collect`.

An ordinary process of the owner's, neither the kernel nor a plugin: it has to accept, and libzmq
makes its sockets itself. Whoever connects is let in by the public key that the owner has added
(ZAP), and is from then on the box of that key, whatever it says. A key that is removed is refused
at its next message.

libzmq does not bound the frames of one message (decision 001): a box that is let in and means harm
could make this process grow. So its memory is bounded by the system, and ``sdk/cli/boxes.py``
starts it again when it dies of that. Whoever is not let in never gets past the handshake.
"""

import fcntl
import ipaddress
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import zmq

from clawai.sdk import paths
from clawai.sdk.boxes import identity, keys, wire
from clawai.sdk.boxes.shelf import DAY, Mark, Seen, Shelf
from clawai.sdk.errors import ClawError

MEMORY = 256 << 20
"""Bytes that this process may have."""
DESCRIPTORS = 512
ONCE = 64
"""Messages between two looks at the clock."""
BYTES = 1 << 20, 8 << 20
"""A second that one box may send, and at once;"""
MESSAGES = 20.0, 100.0
"""and messages."""
LOOK = 1
"""Seconds between two looks at the file of boxes."""
TOLD = 100
"""Strangers that are told of."""
DOMAIN = b"clawai"


class Bucket:
    """So much a second, and so much at once."""

    def __init__(self, rate: tuple[float, float], now: float) -> None:
        self._rate, self._most = rate
        self._left, self._at = self._most, now

    def take(self, amount: float, now: float) -> float:
        """Take it; or else the seconds until it is worth another try."""
        self._left = min(self._most, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now
        if amount <= self._left:
            self._left -= amount
            return 0.0
        return (amount - self._left) / self._rate


@dataclass
class Held:
    """What is known of one box."""

    shelf: Shelf
    seen: Seen
    bytes: Bucket
    messages: Bucket
    session: int = 0
    number: int = 0
    """Of the last batch that was taken in this session."""


@dataclass
class Books:
    """All boxes, and what is done with their messages: no socket is here.

    Args:
        most: bytes of the lines of one box.
        days: for which they are kept.
    """

    folder: Path
    most: int
    days: float
    clock: Callable[[], float] = time.time
    by_key: dict[bytes, str] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    session: int = field(default_factory=lambda: int.from_bytes(os.urandom(3), "big") << 24)
    """The last one that was given: never one of another collector's."""

    def know(self, boxes: tuple[keys.Box, ...]) -> None:
        """Have these be the boxes from now on."""
        self.by_key = {bytes.fromhex(box.key): box.name for box in boxes}
        for name in set(self.held) - set(self.by_key.values()):
            self.held.pop(name).shelf.close()

    def forget(self) -> None:
        """Delete what is too old, also of those that are boxes no more.

        Raises:
            OSError: the disk fails.
        """
        for path in self.folder.iterdir():
            if path.name in self.held:
                self.held[path.name].shelf.forget()
            elif path.is_dir() and keys.NAME.fullmatch(path.name):
                newest = max((each.stat().st_mtime for each in path.iterdir()), default=0.0)
                if self.clock() - newest > self.days * DAY:
                    for each in path.iterdir():
                        each.unlink()
                    path.rmdir()

    def answer(self, key: bytes, data: bytes) -> wire.FromCollector:
        """What is said to a message of the box with this key."""
        name = self.by_key.get(key)
        if name is None:
            return wire.Refused("unknown", "this key may ship here no more", 30.0)
        now = self.clock()
        try:
            held = self.held.get(name) or self._open(name)
            if (wait := held.messages.take(1, now)) or (wait := held.bytes.take(len(data), now)):
                return wire.Refused("busy", "too much at once", min(wait, 3600.0))
            message = wire.from_agent.decode(data)
            if isinstance(message, wire.Hello):
                return self._hello(name, held, message)
            return self._batch(held, message, now)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return wire.Refused("wrong", str(error)[:200])
        except OSError as error:
            return wire.Refused("disk", str(error.strerror)[:200], 10.0)

    def _open(self, name: str) -> Held:
        shelf, now = Shelf(self.folder / name, self.most, self.days, self.clock), self.clock()
        held = Held(shelf, Seen(), Bucket(BYTES, now), Bucket(MESSAGES, now))
        self.held[name] = held
        return held

    def _hello(self, name: str, held: Held, hello: wire.Hello) -> wire.FromCollector:
        if hello.version != wire.VERSION:
            text = f"version {hello.version}; this collector speaks {wire.VERSION}"
            return wire.Refused("version", text, 60.0)
        self.session += 1
        held.session, held.number = self.session, 0
        return wire.Welcome(held.session, name, held.shelf.mark.cursor)

    def _batch(self, held: Held, batch: wire.Batch, now: float) -> wire.FromCollector:
        if not held.session or batch.session != held.session:
            newer = held.session > batch.session and held.session >> 24 == batch.session >> 24
            return wire.Refused("stale" if newer else "session")
        if wrong := wire.problem(batch):
            return wire.Refused("wrong", wrong)
        if batch.number == held.number:
            return wire.Taken(batch.number)
        if batch.number != held.number + 1:
            return wire.Refused("wrong", f"batch {batch.number} after {held.number}")
        shelf = held.shelf
        if batch.lines or batch.gap:
            shelf.add(_stored(batch, now), _marked(shelf.mark, batch, now))
        held.number = batch.number
        held.seen = Seen(
            end=shelf.end,
            arrived=now,
            ahead=batch.sent - now,
            lines=shelf.mark.lines,
            lost=shelf.mark.lost,
            whole=shelf.mark.whole,
            figures=batch.figures or held.seen.figures,
        )
        shelf.tell(held.seen)
        return wire.Taken(batch.number)


def _marked(mark: Mark, batch: wire.Batch, now: float) -> Mark:
    gap = batch.gap or wire.Gap()
    lines, lost = mark.lines + len(batch.lines), mark.lost + gap.lines
    return Mark(now, batch.cursor, lines, lost, mark.whole and gap.whole)


def _stored(batch: wire.Batch, now: float) -> list[bytes]:
    """The lines of a batch as they are kept, before them a word of those that are lost."""
    arrived = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now))
    lines = list(batch.lines)
    if batch.gap:
        lines.insert(0, wire.Line(lines[0].at if lines else int(now), "warning", lost(batch.gap)))
    return [_line(arrived, line) for line in lines]


def _line(arrived: str, line: wire.Line) -> bytes:
    said = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.at))
    # As the kernel's own log does: what could forge lines, or drive a terminal, goes.
    text = "".join(char if char.isprintable() else "\ufffd" for char in line.text)
    return f"{arrived} {said} {line.level} {text}\n".encode("utf-8", "replace")


def lost(gap: wire.Gap) -> str:
    """What people read where lines are missing."""
    why = "its log went on before they came"
    if not gap.whole and not gap.lines:
        return f"boxes: lines of this box may be missing here: {why}"
    more = "" if gap.whole else " or more"
    return f"boxes: {gap.lines}{more} lines of this box are missing here: {why}"


class Collector:
    """The sockets.

    Args:
        place: ``ADDRESS:PORT``; port 0: any that is free.

    Raises:
        ClawError: address_in_use, bad_params.
    """

    def __init__(self, place: str, books: Books, secret: bytes, say: Callable[[str], None]) -> None:
        self.books = books
        self._say = say
        self._strangers: set[bytes] = set()
        self._stamp: Any = None
        self._context = zmq.Context()
        self._zap = self._context.socket(zmq.REP)
        self._router = self._context.socket(zmq.ROUTER)
        for option, value in _OPTIONS.items():
            self._router.setsockopt(option, value)
        self._router.ipv6 = place.startswith("[")
        self._router.curve_server = True
        self._router.curve_secretkey = secret
        try:
            self._zap.bind("inproc://zeromq.zap.01")
            self._router.bind(f"tcp://{place}")
        except zmq.ZMQError as error:
            self.close()
            taken = error.errno == zmq.EADDRINUSE
            code = "address_in_use" if taken else "bad_params"
            text = f"cannot listen there: {error.strerror}"
            raise ClawError(code, text, place, hint="another port: --listen") from None
        self.address: str = self._router.getsockopt_string(zmq.LAST_ENDPOINT)

    def run(self, alive: int) -> None:
        """Take what comes until ``alive``, a descriptor, has ended.

        Raises:
            ClawError: of the file of boxes.
        """
        poller = zmq.Poller()
        for each in (self._zap, self._router, alive):
            poller.register(each, zmq.POLLIN)
        due = swept = 0.0
        while True:
            now = time.monotonic()
            if now >= due:
                due = now + LOOK
                self._know()
            if now >= swept + 60:
                swept = now
                self._forget()
            ready = dict(poller.poll(1000 * LOOK))
            if alive in ready:
                return
            if self._zap in ready:
                self._let_in()
            if self._router in ready:
                for _ in range(ONCE):
                    if not self._take():
                        break

    def close(self) -> None:
        """Let go of everything."""
        self._router.close(0)
        self._zap.close(0)
        self._context.term()
        for held in self.books.held.values():
            held.shelf.close()

    def _know(self) -> None:
        """Read the file of boxes, if it is another one."""
        if (found := _stamp()) != self._stamp:
            self._stamp = found
            self.books.know(keys.read())

    def _forget(self) -> None:
        try:
            self.books.forget()
        except OSError as error:
            self._say(f"lines that are too old stay: {error}")

    def _let_in(self) -> None:
        """Answer the question of libzmq whether a key is known (ZeroMQ RFC 27)."""
        version, number, domain, address, _, mechanism, *given = self._zap.recv_multipart()
        key = given[0] if mechanism == b"CURVE" and domain == DOMAIN and len(given) == 1 else b""
        self._know()
        known = key in self.books.by_key
        status = [b"200", b"", key.hex().encode()] if known else [b"400", b"unknown key", b""]
        self._zap.send_multipart([version, number, *status, b""])
        if not known and len(self._strangers) < TOLD and key not in self._strangers:
            self._strangers.add(key)
            who = address.decode("ascii", "replace")
            self._say(f"refused {who}, whose key is {key.hex()}: claw boxes add NAME KEY")

    def _take(self) -> bool:
        """Handle one message, if there is one."""
        try:
            frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        try:
            key = bytes.fromhex(str(frames[-1].get("User-Id")))
        except (zmq.ZMQError, ValueError):
            return True  # not even a connection that was let in
        said: wire.FromCollector = wire.Refused("wrong", f"{len(frames) - 1} frames; allowed: 1")
        if len(frames) == 2:
            said = self.books.answer(key, frames[1].bytes)
        try:
            self._router.send_multipart([frames[0].bytes, wire.encode(said)], zmq.NOBLOCK)
        except zmq.ZMQError:
            pass  # who does not read hears nothing
        return True


_OPTIONS: dict[int, int | bytes] = {
    zmq.LINGER: 0,
    zmq.MAXMSGSIZE: wire.MESSAGE,
    zmq.RCVHWM: 8,
    zmq.SNDHWM: 8,
    zmq.HANDSHAKE_IVL: 5000,
    zmq.HEARTBEAT_IVL: 5000,
    zmq.HEARTBEAT_TIMEOUT: 15000,
    zmq.ZAP_DOMAIN: DOMAIN,
}


def _stamp() -> Any:
    try:
        found = keys.book().stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Be the only one that writes to the shelves.

    Raises:
        ClawError: bad_state.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        hint = "end the other `claw boxes collect` first"
        raise ClawError("bad_state", "this box collects already", hint=hint) from None
    finally:
        os.close(handle)


def parsed(text: str) -> str:
    """An address as ``--listen`` takes it.

    Raises:
        ClawError: bad_params.
    """
    host, _, port = text.rpartition(":")
    try:
        found = ipaddress.ip_address(host.strip("[]"))
        if not 0 <= int(port) < 1 << 16:
            raise ValueError
    except ValueError:
        allowed = "0.0.0.0:PORT, 127.0.0.1:PORT, [::]:PORT or another address of this box"
        raise ClawError("bad_params", "no address to listen at", text[:80], allowed) from None
    return f"[{found}]:{int(port)}" if found.version == 6 else f"{found}:{int(port)}"


def main() -> None:
    """Of the process: ``PLACE MOST DAYS``. It ends when its standard input does."""
    place, most, days = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        folder = paths.make_private(paths.boxes_dir())
        with _alone(folder / "lock"):
            collector = Collector(place, Books(folder, most, days), identity.own()[1], say)
            print(collector.address, flush=True)
            try:
                collector.run(sys.stdin.fileno())
            finally:
                collector.close()
    except ClawError as error:
        print(f"! {msgspec.json.encode(_plain(error)).decode()}", flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _plain(error: ClawError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "got": str(error.got), "hint": error.hint}


if __name__ == "__main__":
    main()
