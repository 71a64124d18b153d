"""Boxes of their own on this one: a collector and agents as programs, over real CURVE."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zmq

from broker_parts import free_port
from clawai.sdk.boxes import shelf, wire
from clawai.sdk.boxes.agent import Link
from support import Kernel, wait_until

CLAW = (sys.executable, "-m", "clawai.sdk.cli.main")
HEAD = "0" * 32


def claw(env: Mapping[str, str], *words: str, code: int = 0) -> str:
    """Run a command of a box; what it printed."""
    command = [*CLAW, *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return done.stdout + (done.stderr if code else "")


def key(env: Mapping[str, str]) -> str:
    """The public key of a box."""
    return claw(env, "boxes", "key").strip()


def cursor(offset: int) -> wire.Cursor:
    """A place in a log that nobody has."""
    return wire.Cursor(1, HEAD, offset)


class Collecting:
    """A box that collects.

    Attributes:
        pid: of the process that listens; the one that starts it again is ``process``.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.env = kernel, kernel.env
        self.port = free_port()
        self.key = key(self.env)
        self.folder = kernel.base / "state" / "clawai" / "boxes"
        self.errors = kernel.base / "collector"

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start(self, *words: str) -> "Collecting":
        """Listen."""
        place = f"127.0.0.1:{self.port}"
        command = [*CLAW, "boxes", "collect", "--listen", place, "--json", *words]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                command, env=self.env, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert self.process.stdout
        said = ""
        while not said.endswith("}\n"):
            line = self.process.stdout.readline()
            assert line, self.said()
            said += line
        self.pid = json.loads(said)["pid"]
        return self

    def said(self) -> str:
        """What was told to whoever looks."""
        return self.errors.read_text()

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it; nothing of it lives then."""
        os.kill(self.process.pid, number)
        status = self.process.wait(20)
        assert self.process.stdout
        self.process.stdout.close()
        wait_until(lambda: not Path(f"/proc/{self.pid}").exists(), "the collector has ended")
        return status

    def rows(self) -> dict[str, dict[str, Any]]:
        """What `claw boxes` lists, by name."""
        listed = json.loads(claw(self.env, "boxes", "--json"))["boxes"]
        return {row["name"]: row for row in listed}

    def lines(self, name: str) -> list[str]:
        """All that is kept of a box, without the time of arrival."""
        folder, place, found = self.folder / name, "0", list[str]()
        while True:
            piece = shelf.read(folder, place)
            texts = piece["text"].splitlines()
            found += [text.partition(" ")[2] for text in texts if not text.startswith("= ")]
            if piece["end"] >= piece["last"]:
                return found
            place = str(piece["end"])


class Shipping:
    """An agent, as a program."""

    def __init__(self, env: Mapping[str, str], where: Collecting, *words: str) -> None:
        self.errors = where.kernel.base / f"agent-{time.monotonic_ns()}"
        command = [*CLAW, "boxes", "ship", where.address, "--server-key", where.key, *words]
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(command, env=env, stderr=errors)

    def said(self) -> str:
        """What was told to whoever looks."""
        return self.errors.read_text()

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.process.wait(20)


class Peer:
    """A box that says what the test wants, with a key that is known."""

    def __init__(self, where: Collecting, name: str) -> None:
        public, secret = zmq.curve_keypair()
        from zmq.utils import z85

        self.name, self.where = name, where
        self.own = z85.decode(public), z85.decode(secret)
        claw(where.env, "boxes", "add", name, self.own[0].hex())
        self._number = 0
        self.session = 0
        self.context: zmq.Context[Any] = zmq.Context()

    def connect(self) -> Link:
        """A connection of its own."""
        return Link(self.context, self.where.address, bytes.fromhex(self.where.key), self.own)

    def hello(self) -> wire.Welcome:
        """Connect, and be welcomed, once the collector knows this box."""
        until = time.monotonic() + 10
        while True:
            self.link = self.connect()
            try:
                said = self.link.ask(wire.Hello())
                break
            except Exception:
                self.link.close()
                assert time.monotonic() < until
                time.sleep(0.2)
        assert isinstance(said, wire.Welcome)
        self.session, self._number = said.session, 0
        return said

    def ship(self, *texts: str, **fields: Any) -> wire.FromCollector:
        """Send lines of now."""
        self._number += 1
        now = int(time.time())
        lines = tuple(wire.Line(now, "info", text) for text in texts)
        batch = wire.Batch(self.session, self._number, time.time(), cursor(self._number), lines)
        return self.link.ask(msgspec.structs.replace(batch, **fields))

    def close(self) -> None:
        """Leave."""
        self.link.close()
        self.context.term()


@contextmanager
def collecting(kernel: Kernel, *words: str) -> Iterator[Collecting]:
    """A collector for a test."""
    made = Collecting(kernel).start(*words)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.stop()
