"""The client under test: a process that is told what to do and says what it heard.

Keeps the books of WIRE.md 5.1 beside every case: each request has exactly one end, and nothing
comes for it afterwards.
"""

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clawai.sdk.conformance.values import from_json, to_json

PATIENCE_S = 20.0
LINE = 64 << 20
"""Characters of one line, at most."""
ENDS = ("done", "error", "answer")
Event = dict[str, Any]


class Failed(Exception):
    """The client did not do what the case asks."""


class ClientProcess:
    """One run of the client's program.

    Args:
        patience: seconds until something that it must say is missing.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], patience: float = PATIENCE_S
    ) -> None:
        self.patience = patience
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=dict(env),
            )
        except OSError as error:
            self._errors.close()
            raise Failed(f"it cannot be run: {error}") from error
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self._last = 0
        self.open: set[int] = set()
        """Requests without an end."""
        self.ended: set[int] = set()
        self.order: list[int] = []
        """Those that have one, in the order of their ends."""
        self.folder: Path | None = None
        """Of the kernel to which it is connected."""
        self.heard: dict[int | None, list[Event]] = {}
        """What came for each request, in order; None: for the connection."""

    # Orders.

    def tell(self, what: str, /, **fields: Any) -> None:
        """Give an order."""
        assert self._process.stdin
        line = json.dumps({"do": what} | to_json(fields), ensure_ascii=False)
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise Failed(f"it has ended: {self.complaint()}") from error

    def hello(self, folder: Path, **fields: Any) -> Event:
        """Have it connect; its ``welcome``."""
        self.tell("hello", folder=str(folder), **fields)
        welcome = self.wait("welcome")
        self.folder = folder
        return welcome

    def close(self) -> None:
        """Have it disconnect; what is open has no end then."""
        self.tell("close")
        self.wait("closed")
        self.folder = None
        self.order.clear()
        self.open.clear()
        self.ended.clear()
        self.heard.clear()

    def ask(self, what: str, /, **fields: Any) -> int:
        """A request (submit, query, admin) with the next number."""
        self._last += 1
        number: int = fields.pop("id", self._last)
        self.open.add(number)
        self.tell(what, id=number, **fields)
        return number

    def submit(self, op: str, params: Mapping[str, Any] | None = None, /, **fields: Any) -> int:
        """Have it submit a task; the request's number."""
        return self.ask("submit", op=op, params=dict(params or {}), **fields)

    # Events.

    def wait(self, kind: str, number: int | None = None) -> Event:
        """The next event of a kind, of a request if it has one."""
        until = time.monotonic() + self.patience
        while True:
            event = self._next(until, f"{kind} of {number}" if number is not None else kind)
            if event["event"] == kind and event.get("id") == number:
                return event

    def end(self, number: int) -> Event:
        """The end of a request, which may have come already."""
        until = time.monotonic() + self.patience
        while number not in self.ended:
            self._next(until, f"the end of request {number}")
        return self.heard[number][-1]

    def pieces(self, number: int, kind: str) -> list[Event]:
        """What came for a request so far."""
        return [event for event in self.heard.get(number, []) if event["event"] == kind]

    def idle(self) -> None:
        """See that nothing more is said: a harmless order is answered first."""
        self.tell("decode", header=b"\x80")
        if (event := self.wait("decoded"))["value"] != {}:
            raise Failed(f"it read an empty map as {event['value']!r}")

    def _next(self, until: float, wanted: str) -> Event:
        try:
            line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise Failed(f"it never said: {wanted}; it heard {self._said()}") from None
        if not line:
            raise Failed(f"it ended before it said {wanted}: {self.complaint()}")
        try:
            event = from_json(json.loads(line))
            kind, number = event["event"], event.get("id")
        except (ValueError, KeyError, TypeError) as error:
            raise Failed(f"it said what is no event: {line[:200]!r}") from error
        self.heard.setdefault(number, []).append(event)
        if number is not None:
            if number in self.ended:
                raise Failed(f"it said {kind} of request {number} after its end")
            if number not in self.open:
                raise Failed(f"it said {kind} of request {number}, which is none")
            if kind in ENDS:
                self.open.remove(number)
                self.ended.add(number)
                self.order.append(number)
        return dict(event)

    def _said(self) -> str:
        said = [f"{e['event']} {number}" for number, all_ in self.heard.items() for e in all_]
        return ", ".join(said[-8:]) or "nothing"

    def _read(self) -> None:
        assert self._process.stdout
        with contextlib.suppress(ValueError, OSError):
            while line := self._process.stdout.readline(LINE):
                self._lines.put(line)
        self._lines.put(b"")

    def complaint(self) -> str:
        """How it ended, and the last that it wrote to standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        size = os.fstat(self._errors.fileno()).st_size
        text = os.pread(self._errors.fileno(), 500, max(0, size - 500)).decode(errors="replace")
        return f"code {self._process.returncode}; {text.strip() or 'no word'}"

    def finish(self) -> str:
        """Close its input, upon which it has to end; what was wrong with that, or nothing."""
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            code = self._process.wait(self.patience)
            return f"it ended with {self.complaint()}" if code else ""
        except subprocess.TimeoutExpired:
            return "it lives on"
        finally:
            self.kill()

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()


def require(true: Any, what: str) -> None:
    """Fail the case unless ``true``."""
    if not true:
        raise Failed(what)


def require_same(got: Any, wanted: Any, what: str) -> None:
    """Fail the case unless both are the same."""
    from clawai.sdk.conformance.values import same

    if not same(got, wanted):
        raise Failed(f"{what}: got {got!r:.300}, allowed {wanted!r:.300}")


def require_fields(got: Event, /, **wanted: Any) -> None:
    """Fail the case unless an event has these fields; it may have more."""
    for name, value in wanted.items():
        if name not in got:
            raise Failed(f"{got['event']} lacks {name}, which is {value!r:.100} here")
        require_same(got[name], value, f"{got['event']}.{name}")
