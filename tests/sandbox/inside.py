"""Targets that the launch tests run inside a worker; each says what it found on the wire socket."""

import array
import asyncio
import ctypes
import fcntl
import json
import mmap
import os
import select
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

Fds = Mapping[str, int]
Args = Mapping[str, Any]


def _say(fds: Fds, value: Any) -> None:
    with socket.socket(fileno=fds["wire"]) as wire:
        wire.sendall(json.dumps(value).encode() + b"\n")


def greet(fds: Fds, args: Args) -> None:
    """What a worker can tell of itself."""
    open_fds = []
    for fd in range(256):
        try:
            fcntl.fcntl(fd, fcntl.F_GETFD)
        except OSError:
            continue
        open_fds.append(fd)
    _say(
        fds,
        {
            "args": dict(args),
            "pid": os.getpid(),
            "uid": os.getuid(),
            "environment": dict(os.environ),
            "open": open_fds,
            "fds": dict(fds),
            "umask": os.umask(0o077),
        },
    )


def end(_: Fds, args: Args) -> None:
    """End with a given code."""
    raise SystemExit(args["code"])


def abort(_: Fds, __: Args) -> None:
    """End the way a broken C library does."""
    os.abort()


def stay(fds: Fds, _: Args) -> None:
    """Leave something where it may write, say where that is, and wait to be killed."""
    home = os.environ["HOME"]
    with open(f"{home}/mine", "w") as file:  # noqa: PTH123
        file.write("x")
    os.write(fds["wire"], home.encode() + b"\n")
    time.sleep(600)


def wait(fds: Fds, args: Args) -> None:
    """Until killed, with as many more threads as ``args`` says."""
    for _ in range(args.get("threads", 0)):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    os.write(fds["wire"], b"ready\n")
    while True:
        time.sleep(60)


def libraries(fds: Fds, _: Args) -> None:
    """What every bundled plugin needs of the system, used and not only imported."""
    import cffi
    import jinja2
    import msgspec
    import numpy as np
    import tokenizers
    import zmq

    found: dict[str, Any] = {}
    matrix = np.ones((300, 300), np.float32)
    found["numpy"] = float((matrix @ matrix).sum())
    found["cffi"] = cffi.FFI().sizeof("int")
    found["msgspec"] = msgspec.msgpack.decode(msgspec.msgpack.encode({"a": 1}))
    found["jinja2"] = jinja2.Template("{{ a }}").render(a=1)
    found["tokenizers"] = tokenizers.__name__
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as two:
        one.bind("inproc://a")
        two.connect("inproc://a")
        one.send(b"over")
        found["zmq"] = two.recv().decode()
    _say(fds, found)


def system(fds: Fds, _: Args) -> None:
    """The calls of the contract: threads, big maps, clocks, polling, an event loop."""
    found: dict[str, Any] = {"threads": 0}

    def count() -> None:
        found["threads"] += 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, 64 << 20, flags) as area:
        area.madvise(mmap.MADV_HUGEPAGE)
        area[0 :: 1 << 20] = b"x" * 64
        found["mapped"] = area[0]
    found["cpus"] = len(os.sched_getaffinity(0))
    os.sched_yield()
    found["random"] = len(os.getrandom(8))
    event = os.eventfd(1)
    found["event"] = os.eventfd_read(event)
    os.close(event)
    found["clock"] = time.clock_gettime(time.CLOCK_MONOTONIC) > 0
    poller = select.poll()
    poller.register(fds["wire"], select.POLLOUT)
    found["poll"] = len(poller.poll(1000))
    found["asyncio"] = asyncio.run(asyncio.sleep(0, "looped"))
    with open("scratch", "w+", encoding="utf-8") as file:  # noqa: PTH123 - the plain call
        file.write("kept")
        file.seek(0)
        found["tmp"] = file.read()
    with open("/dev/null", "w", encoding="utf-8") as null:  # noqa: PTH123
        null.write("gone")
    _say(fds, found)


def segments(fds: Fds, _: Args) -> None:
    """Map what arrives on the SEQPACKET pair (one writable, one sealed) and a read-only file."""
    with socket.socket(fileno=fds["leases"]) as leases:
        _, control, _, _ = leases.recvmsg(1, socket.CMSG_SPACE(8))
    shared, sealed = array.array("i", control[0][2][:8])
    with mmap.mmap(shared, 4096) as area:
        area[:5] = b"worker"[:5]
    found: dict[str, Any] = {}
    with mmap.mmap(sealed, 4096, prot=mmap.PROT_READ) as area:
        found["sealed"] = area[:6].decode()
    with mmap.mmap(fds["model"], 0, prot=mmap.PROT_READ) as area:
        found["model"] = area[:5].decode()
    for name, fd in (("sealed", sealed), ("model", fds["model"])):
        try:
            mmap.mmap(fd, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE).close()
        except OSError as error:
            found[f"write {name}"] = type(error).__name__
    _say(fds, found)


def new_code(fds: Fds, _: Args) -> None:
    """Whether a new executable mapping can be had, by mmap, mprotect and a late C extension."""
    found = {}
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        mmap.mmap(-1, 4096, flags, mmap.PROT_READ | mmap.PROT_EXEC).close()
        found["mmap"] = True
    except OSError:
        found["mmap"] = False
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(-1, 4096, flags) as area:
        view = ctypes.c_char.from_buffer(area)
        address = ctypes.c_void_p(ctypes.addressof(view))
        found["mprotect"] = libc.mprotect(address, ctypes.c_size_t(4096), 5) == 0
        del view
    try:
        import numpy

        found["numpy"] = bool(numpy.ones(1).all())
    except ImportError:
        found["numpy"] = False
    _say(fds, found)


def read_path(fds: Fds, args: Args) -> None:
    """Read one declared path, and try to write it."""
    found: dict[str, Any] = {}
    with open(args["read"], encoding="utf-8") as file:  # noqa: PTH123
        found["read"] = file.read()
    try:
        os.open(args["read"], os.O_WRONLY)
    except OSError as error:
        found["write"] = type(error).__name__
    target = f"{args['write']}/made"
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600))
    _say(fds, found)
