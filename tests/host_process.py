"""A worker's host in a real process, without a kernel: the test holds the kernel's ends itself."""

import contextlib
import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from clawai.kernel.control import ControlPage
from clawai.sdk import wire
from clawai.sdk.plain import unpack
from clawai.sdk.zmtp import Connection
from support import PATIENCE

_PROGRAM = """
import json, sys
told = json.loads(sys.argv[1])
sys.path.insert(0, told["folder"])
from clawai.sdk.host import main
main(told["fds"], told["args"])
"""
F_SEAL_WRITE = 0x0008


class HostProcess:
    """Starts the host with one plugin, and speaks the kernel's part word by word.

    Args:
        folder: for the module ``name`` with ``code``.
        operations: as the manifest would declare them.
        more: arguments of the worker.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        code: str,
        operations: Sequence[str],
        *,
        idempotent: Sequence[str] = (),
        batches: Sequence[str] = (),
        slots: int = 1,
        threads: int = 2,
        ready: bool = True,
        more: Mapping[str, Any] = {},
    ) -> None:
        (folder / f"{name}.py").write_text(textwrap.dedent(code))
        self.sock, theirs = socket.socketpair()
        self.leases, their_leases = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(PATIENCE)
        self.page = ControlPage()
        self.slots = slots
        fds = {
            "wire": theirs.fileno(),
            "leases": their_leases.fileno(),
            "control": self.page.fd,
        }
        args = {
            "incarnation": 1,
            "plugin": "test",
            "module": name,
            "operations": list(operations),
            "idempotent": list(idempotent),
            "batches": list(batches),
            "drivers": [],
            "model": {},
            "slots": slots,
            "threads": threads,
            "context": 0,
        }
        told = json.dumps({"folder": str(folder), "fds": fds, "args": args | dict(more)})
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, told], pass_fds=list(fds.values())
        )
        theirs.close()
        their_leases.close()
        self.zmtp = Connection(max_frames=wire.MAX_FRAMES, max_bytes=wire.MAX_MESSAGE)
        self.inbox: list[list[bytes]] = []
        if ready:
            assert self.next(wire.Ready).slots == slots

    # Both ways.

    def send(self, *messages: wire.Message, frames: Sequence[bytes] = ()) -> None:
        """Messages in one piece; the frames belong to the last."""
        out = bytearray()
        for place, message in enumerate(messages):
            payload = frames if place == len(messages) - 1 else ()
            out += b"".join(map(bytes, self.zmtp.message(wire.encode(message, payload))))
        self.sock.sendall(out)

    def run(self, number: int, op: str, params: Mapping[str, Any] = {}, **more: Any) -> wire.Run:
        """A run message."""
        return wire.Run(id=number, op=op, params=wire.pack(params), **{"slot": 0, **more})

    def receive(self) -> None:
        """One read of the socket."""
        data = self.sock.recv(1 << 20)
        assert data, "the worker has ended"
        self.inbox += self.zmtp.receive(data)
        if due := self.zmtp.outgoing():
            self.sock.sendall(due)

    def next(self, kind: type[Any], frames: int = 0) -> Any:
        """The next message, which must be of ``kind``."""
        while not self.inbox:
            self.receive()
        parts = self.inbox.pop(0)
        message = wire.decode(parts, wire.FromWorker)
        assert type(message) is kind, message
        assert message.incarnation == 1
        self.frames = parts[1:]
        assert len(self.frames) == frames
        return message

    def value(self, number: int) -> Any:
        """The result of a task that ends next."""
        done = self.next(wire.Done)
        assert done.id == number
        return unpack(done.result)

    def ping(self) -> None:
        """The worker answers, before it says anything else."""
        self.send(wire.Ping(seq=99))
        assert self.next(wire.Pong).seq == 99

    def give(self, header: Mapping[str, Any], fd: int) -> None:
        """Send a descriptor."""
        socket.send_fds(self.leases, [msgspec.msgpack.encode(header)], [fd])

    # The process.

    def signal(self, number: int) -> None:
        """Send a signal; a stop is waited for."""
        os.kill(self.process.pid, number)
        if number == signal.SIGSTOP:
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def __enter__(self) -> "HostProcess":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        self.sock.close()
        self.leases.close()
        self.page.close()


class WeightsObject:
    """A memfd as the kernel makes it for weights."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fd = os.memfd_create("claw-weights-test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)

    def seal(self) -> None:
        """Forbid writing; EBUSY while a mapping could."""
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, F_SEAL_WRITE | fcntl.F_SEAL_SEAL)

    def content(self) -> bytes:
        """All of it."""
        with mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as mapping:
            return mapping[:]

    def __enter__(self) -> "WeightsObject":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
