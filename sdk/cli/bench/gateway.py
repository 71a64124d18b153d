"""`claw bench gateway`: what HTTP adds to a request, and how many idle connections are held.

A kernel of the benchmark's own serves a model to a client over the wire and, through the gateway,
to one over HTTP with a connection that stays open. Both are asked for the same in turn, in
alternating order: one token, and the first piece of a streamed answer. What is added is the
difference of the percentiles. Then idle connections are opened, one after the other, until there
are as many as asked for or one is not answered; all are asked again at the end.

    p50_added_ms, p99_added_ms     one token, whole answer
    first_added_ms                 median, to the first piece of a stream
    wire_p50_ms, http_p50_ms       what these are differences of
    library_p50_added_ms, library_first_added_ms
                                   the same with Python's http.client, which takes a part of a
                                   millisecond for each answer's head: no gateway can give it back
    idle_streams                   connections that were answered, stayed idle, and were again
    busy_rps, busy_p50_ms, busy_p99_ms
                                   32 clients at once, a text said back: through the gateway, the
                                   kernel and a sandboxed worker, and with --against by servers
                                   in which a function answers at once. Triton is not among them,
                                   as no package of it can be installed from PyPI.
"""

import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from clawai.sdk.cli import output
from clawai.sdk.cli.bench import busy
from clawai.sdk.cli.bench.command import finish
from clawai.sdk.cli.bench.neighbours import Neighbours
from clawai.sdk.cli.bench.private import Private
from clawai.sdk.cli.bench.report import Bar, Report
from clawai.sdk.cli.bench.sampling import percentile
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from clawai.sdk.store import Store

BARS = (
    Bar(key="p50_added_ms", most=1.0),
    Bar(key="p99_added_ms", most=4.0),
    Bar(key="first_added_ms", most=1.0),
    Bar(key="idle_streams", least=1000),
)
NAME = "model"
PROMPT = "The capital of France is"
PIECES = 4
"""Tokens of a streamed answer."""


def asked(tokens: int, stream: bool) -> str:
    """What is asked over HTTP."""
    body = {"model": NAME, "prompt": PROMPT, "max_tokens": tokens, "temperature": 0}
    return json.dumps(body | {"stream": stream})


class Plain:
    """An HTTP/1.1 client that does what one has to and no more: its request leaves in one piece, as
    most clients' do, and of an answer it reads the status, the headers, and the body by its length
    or its chunks."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = f"127.0.0.1:{port}"
        self._buffer = b""

    def ask(self, tokens: int, stream: bool) -> float:
        """As ``Web.ask``."""
        start = time.perf_counter()
        body = asked(tokens, stream).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self._host}\r\nAccept: */*\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._sock.sendall(head.encode() + body)
        status, headers = self._head()
        took, said = 0.0, b""
        if headers.get(b"transfer-encoding") == b"chunked":
            while size := int(self._line(), 16):
                said += self._take(size + 2)[:-2]
                took = took or time.perf_counter() - start
            self._take(2)
        else:
            said = self._take(int(headers[b"content-length"]))
        took = took if stream else time.perf_counter() - start
        if status != 200:
            raise ClawError("worker_failed", "the gateway refused", got=said[:200].decode())
        return took

    def _head(self) -> tuple[int, dict[bytes, bytes]]:
        """Status and headers of an answer."""
        _, status, *_ = self._line().split(b" ")
        headers = {}
        while line := self._line():
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        return int(status), headers

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _more(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise ClawError("worker_failed", "the gateway has hung up")
        self._buffer += data

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


class Web:
    """Python's own client, whose connection stays open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, tokens: int, stream: bool) -> float:
        """Seconds to the whole answer, or to the first piece of a stream."""
        start = time.perf_counter()
        self._connection.request("POST", "/v1/completions", asked(tokens, stream))
        response = self._connection.getresponse()
        if stream:
            response.readline()
            took = time.perf_counter() - start
        said = response.read()
        if not stream:
            took = time.perf_counter() - start
        if response.status != 200:
            raise ClawError("worker_failed", "the gateway refused", got=said[:200].decode())
        return took

    def alive(self) -> bool:
        """Whether it is answered."""
        try:
            self._connection.request("GET", "/health")
            return self._connection.getresponse().read() == b"ok\n"
        except (OSError, http.client.HTTPException):
            return False

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def over_the_wire(client: Client, tokens: int, stream: bool) -> float:
    """The same as they ask, without the gateway."""
    params: dict[str, Any] = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0.0}
    params |= {"top_p": 1.0, "top_k": 0, "whole": not stream}  # as the gateway asks
    start, took = time.perf_counter(), 0.0
    task = client.submit("llm.generate", params, model=NAME)
    if stream:
        for event in task:
            if event.kind == "chunk" and not took:
                took = time.perf_counter() - start
    task.result()
    return took or time.perf_counter() - start


def free_port() -> int:
    """One that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def started(model: Path, stack: ExitStack) -> tuple[Private, Client, int]:
    """A kernel that serves the model both ways; the port of the gateway."""
    port = free_port()
    settings = f'[plugins]\nports = ["gateway:8080={port}"]\n[workers]\nidle_minutes = 0\n'
    box = Private(settings)
    stack.callback(box.remove)
    box.model(NAME, model)
    box.start()
    client = box.client(timeout=120)
    task = client.submit("gateway.serve", {"tools": ["echo.say"]})
    for event in task:
        if event.note.startswith("http://"):
            return box, client, port
    task.result()
    raise ClawError("worker_failed", "the gateway has ended at once")


def idle(port: int, wanted: int, stack: ExitStack) -> int:
    """How many connections of ``wanted`` are answered, idle, and answered again."""
    held: list[Web] = []
    while len(held) < wanted:
        web = Web(port)
        stack.callback(web.close)
        if not web.alive():
            break
        held.append(web)
    return sum(web.alive() for web in held)


def measure(
    model: Path, samples: int, streams: int, seconds: float, peers: Sequence[str] = ()
) -> Report:
    """Both ways in turn.

    Raises:
        ClawError: whatever a request failed with.
    """
    status = output.Status()
    with ExitStack() as stack:
        stack.callback(status.clear)
        status.show("loading the model")
        box, client, port = started(model, stack)
        plain, web = Plain(port), Web(port)
        stack.callback(plain.close)
        stack.callback(web.close)
        ways: dict[str, Callable[[int, bool], float]] = {
            "wire": lambda tokens, stream: over_the_wire(client, tokens, stream),
            "http": plain.ask,
            "library": web.ask,
        }
        times: dict[tuple[str, bool], list[float]] = {
            (name, stream): [] for name in ways for stream in (False, True)
        }
        over_the_wire(client, 1, False)  # the engine's worker is there, and is no neighbour
        neighbours = Neighbours([os.getpid(), *box.processes()])
        for number in range(-20, samples):
            status.show(f"sample {max(number, 0)} of {samples}")
            names = sorted(ways, reverse=bool(number % 2))
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                for stream in (False, True):
                    took = ways[name](PIECES if stream else 1, stream)
                    if number >= 0:  # the first ones warm both
                        times[name, stream].append(1e3 * took)
        others = round(neighbours.share(), 3)
        status.show("idle connections")
        held = idle(port, streams, stack)
        status.show("busy clients")
        crowd = busy.load(port, "/operations/echo.say", seconds)
    against = {}
    for name in peers:
        status.show(f"busy clients of {name}")
        with busy.peer(name, number := free_port()):
            against[name] = busy.load(number, "/echo", seconds)
    status.clear()
    settings: dict[str, Any] = {"model": model.name, "prompt": PROMPT, "samples": samples}
    settings |= {"streams": streams, "others_busy_ratio": others}
    settings |= {"busy_clients": busy.CLIENTS, "busy_s": seconds}
    return Report("gateway", settings, figures(times) | {"idle_streams": held} | crowd, against)


def figures(times: dict[tuple[str, bool], list[float]]) -> dict[str, float]:
    """Of milliseconds by way, and whether streamed."""

    def added(share: float, stream: bool, client: str = "http") -> float:
        both = [percentile(times[name, stream], share) for name in (client, "wire")]
        return round(both[0] - both[1], 3)

    return {
        "p50_added_ms": added(50, False),
        "p99_added_ms": added(99, False),
        "first_added_ms": added(50, True),
        "wire_p50_ms": round(percentile(times["wire", False], 50), 3),
        "http_p50_ms": round(percentile(times["http", False], 50), 3),
        "library_p50_added_ms": added(50, False, "library"),
        "library_first_added_ms": added(50, True, "library"),
    }


@click.command("gateway")
@click.option(
    "--model", default="smollm2", show_default=True, help="A stored model or a GGUF file."
)
@click.option("--samples", type=click.IntRange(10, 100_000), default=500, show_default=True)
@click.option("--streams", type=click.IntRange(1, 1200), default=1000, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1, 600), default=5.0, show_default=True)
@click.option("--against", type=click.Choice(busy.PEERS), multiple=True, help="Measure it too.")
@click.option("--quick", is_flag=True, help="50 samples, 100 connections, a second of load.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    model: str,
    samples: int,
    streams: int,
    seconds: float,
    against: tuple[str, ...],
    quick: bool,
    as_json: bool,
) -> None:
    """What HTTP adds to a request, and how many idle connections are held.

    \b
    Example:
      claw bench gateway
      claw bench gateway --against fastapi --against litserve --json
    """
    if quick:
        samples, streams, seconds = 50, 100, 1.0
    path = Path(model) if model.endswith(".gguf") else Store().get(model).path
    if not path.is_file():
        raise ClawError("unknown_model", f"there is no file {path}", got=model)
    finish(measure(path, samples, streams, seconds, against), as_json)
