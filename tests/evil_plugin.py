"""A plugin that does everything a plugin should not, for the tests of the running kernel."""

from typing import Any

import pytest

from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError
from support import (
    Kernel,
)

EVIL = """
import collections, itertools
import ctypes, mmap, os, signal, stat, sys, threading, time
from clawai.sdk import wire
from clawai.sdk.errors import ClawError
from clawai.sdk.plugin import Context, Tensor, operation

def _sock(ctx):
    return ctx.outlet._sock

@operation("evil.fine")
def fine() -> str:
    return "fine"

@operation("evil.segfault")
def segfault() -> None:
    ctypes.string_at(8)

@operation("evil.quit")
def quit(code: int) -> None:
    os._exit(code)

@operation("evil.sysexit")
def sysexit() -> None:
    sys.exit(3)

@operation("evil.interrupt")
def interrupt() -> None:
    raise KeyboardInterrupt

@operation("evil.raise")
def raise_(text: str) -> None:
    raise ValueError(text)

@operation("evil.code")
def code() -> None:
    error = ClawError("worker_failed", "m")
    error.code, error.got = "nonsense", [[[[object()]]]]
    raise error

@operation("evil.nested")
def nested(levels: int) -> None:
    value = None
    for _ in range(levels):
        value = [value]
    error = wire.Error(id=0, code="bad_params", message="deep", got=None)
    raise ClawError("bad_params", "deep", got=value)

@operation("evil.hang")
def hang(ctx: Context) -> None:
    ctx.progress(None, "hangs")
    while True:
        time.sleep(0.05)

@operation("evil.spin")
def spin() -> None:
    # In C, with the interpreter's lock held: no other thread of the worker runs either.
    collections.deque(itertools.repeat(0), maxlen=0)

@operation("evil.sleep")
def sleep(ctx: Context) -> None:
    while True:
        ctx.checkpoint()
        time.sleep(0.005)

@operation("evil.unpackable")
def unpackable() -> object:
    return object()

@operation("evil.large")
def large(size: int) -> str:
    return "x" * size

@operation("evil.largechunk")
def largechunk(size: int):
    yield "x" * size

@operation("evil.progress")
def progress(ctx: Context):
    ctx.progress("half", "note")

@operation("evil.endless")
def endless(ctx: Context) -> None:
    piece = b"\\x01\\xff" + b"x" * 255
    while True:
        _sock(ctx).sendall(piece * 100)

@operation("evil.halfmessage")
def halfmessage(ctx: Context) -> None:
    _sock(ctx).sendall(b"\\x02" + (8 << 20).to_bytes(8, "big") + b"x" * (7 << 20))
    time.sleep(1000)

@operation("evil.raw")
def raw(ctx: Context, data: bytes) -> None:
    _sock(ctx).sendall(data)
    time.sleep(1000)

@operation("evil.pings")
def pings(ctx: Context) -> None:
    ping = b"\\x04\\x17\\x04PING\\x00\\x00" + b"c" * 16
    for _ in range(300):
        _sock(ctx).sendall(ping * 1000)
    time.sleep(1000)

@operation("evil.close")
def close(ctx: Context) -> None:
    _sock(ctx).shutdown(2)
    time.sleep(1000)

@operation("evil.impostor")
def impostor(ctx: Context, what: str) -> None:
    me = ctx.outlet.incarnation
    messages = {
        "another incarnation": wire.Pong(seq=1, incarnation=me + 1),
        "another task": wire.Done(id=999, incarnation=me),
        "a drop": wire.Dropped(segment=1, incarnation=me),
        "ready again": wire.Ready(version=(1, 0), incarnation=me),
        "filled": wire.Filled(incarnation=me),
        "reserve": wire.Reserve(bytes=1, incarnation=me),
        "an order": wire.Stop(),
        "no id": wire.Error(code="x", message="y", incarnation=me),
    }
    ctx.outlet.send(messages[what])
    time.sleep(1000)

@operation("evil.deeperror")
def deeperror(ctx: Context, levels: int) -> None:
    header = (b"\\x85\\xa4type\\xa5error\\xa2id" + b"\\xce" + ctx.task.to_bytes(4, "big")
        + b"\\xa4code\\xa1x\\xabincarnation" + b"\\xce"
        + ctx.outlet.incarnation.to_bytes(4, "big"))
    header = header.replace(b"\\x85", b"\\x86", 1) + b"\\xa7message\\xa1m\\xa3got"
    header += b"\\x91" * levels + b"\\xc0"
    ctx.outlet._transmit([b"\\x02" + len(header).to_bytes(8, "big"), header])
    time.sleep(1000)

@operation("evil.badchunk")
def badchunk(ctx: Context) -> None:
    me = ctx.outlet.incarnation
    ctx.outlet.send(wire.Chunk(id=ctx.task, data=wire.Raw(b"\\xa2\\xff\\xfe"), incarnation=me))
    time.sleep(1000)

@operation("evil.badresult")
def badresult(ctx: Context) -> None:
    me = ctx.outlet.incarnation
    ctx.outlet.send(wire.Done(id=ctx.task, result=wire.Raw(b"\\xa2\\xff\\xfe"), incarnation=me))
    time.sleep(1000)

@operation("evil.talk")
def talk(lines: int, width: int) -> str:
    for _ in range(lines):
        print("x" * width)
    sys.stdout.flush()
    return "said"

@operation("evil.forge")
def forge() -> None:
    print("2026-01-01 00:00:00 error forged\\r\\x1b[31mred\\x07")
    sys.stdout.flush()

@operation("evil.control")
def control(ctx: Context) -> list[str]:
    found = []
    for fd in range(3, 64):
        try:
            status = os.fstat(fd)
        except OSError:
            continue
        if not stat.S_ISREG(status.st_mode) or status.st_size != 4096:
            continue
        for what, attempt in {
            "write": lambda: os.pwrite(fd, b"x", 0),
            "map": lambda: mmap.mmap(fd, 4096),
            "grow": lambda: os.ftruncate(fd, 8192),
            "shrink": lambda: os.ftruncate(fd, 0),
        }.items():
            try:
                attempt()
            except (OSError, PermissionError):
                found.append(what)
    return found

kept = []

@operation("evil.keep")
def keep(ctx: Context, x: Tensor) -> str:
    array = ctx.array(x)
    kept.append(array)
    return "kept"

@operation("evil.fill")
def fill(ctx: Context, x: Tensor) -> None:
    array = ctx.array(x)
    while True:
        array[...] = 7
        ctx.checkpoint()
        time.sleep(0.005)

@operation("evil.refill")
def refill(ctx: Context, x: Tensor) -> str:
    # Say that it is unmapped, and write to it later all the same.
    host, number = ctx.outlet, ctx.leases[x.lease].segment
    array = ctx.array(x)
    host._drop = lambda n: host.send(wire.Dropped(segment=n, incarnation=host.incarnation))
    def later():
        while True:
            array[...] = 9
            time.sleep(0.01)
    threading.Thread(target=later, daemon=True).start()
    return "ok"
"""
NAMES = [line.split('"')[1] for line in EVIL.splitlines() if line.startswith("@operation")]


def workers(client: Client) -> set[str]:
    """The plugins that have a worker."""
    return {worker["plugin"] for worker in client.query("workers")["workers"]}


def with_evil(kernel: Kernel, slots: int = 2) -> Kernel:
    kernel.plugin("evil", EVIL, dict.fromkeys(NAMES, ""), slots=slots, memory_mib=256)
    return kernel


def failing(client: Client, op: str, /, **params: Any) -> ClawError:
    with pytest.raises(ClawError) as caught:
        client.call(op, params)
    return caught.value
