"""Clients in processes of their own, each with one connection and one request under way.

    python -m clawai.sdk.cli.bench.crowd kernel|broker ADDRESS COUNT

Prints ``ready``; then each line of standard input is a number of seconds, and is answered with the
requests a second that all of them together had answered. It ends when standard input does.
"""

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from clawai.sdk.cli.bench.load import Load, Ours, Plain, ZeroMQ
from clawai.sdk.errors import ClawError

PAYLOAD = bytes(range(64))
TENSOR = {"x": {"dtype": "<f4", "shape": [16], "frame": 0}}
OPERATION = "mirror.echo"
_NUMBER = struct.Struct("d")


def connect(side: str, address: str) -> Load:
    """One client of a side."""
    if side == "kernel":
        return Load.of_kernel(Path(address), [Ours(OPERATION, TENSOR, [PAYLOAD])])
    return Load(ZeroMQ(address, 1), [Plain(PAYLOAD)])


def client(side: str, address: str, leader: socket.socket) -> None:
    """Measure when told to, until the leader is gone."""
    load = connect(side, address)
    leader.sendall(_NUMBER.pack(0.0))
    while said := leader.recv(_NUMBER.size):
        leader.sendall(_NUMBER.pack(load.run(*_NUMBER.unpack(said))))


def main() -> None:
    """Fork the clients, before anything of libzmq runs, and lead them."""
    side, address, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    clients: list[socket.socket] = []
    for _ in range(count):
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            for each in (ours, *clients):
                each.close()
            client(side, address, theirs)
            os._exit(0)
        theirs.close()
        clients.append(ours)
    for each in clients:
        _NUMBER.unpack(each.recv(_NUMBER.size))
    print("ready", flush=True)
    for line in sys.stdin:
        for each in clients:
            each.sendall(_NUMBER.pack(float(line)))
        print(sum(_NUMBER.unpack(each.recv(_NUMBER.size))[0] for each in clients), flush=True)


class Crowd:
    """Starts such a crowd and tells it when to ask."""

    def __init__(self, side: str, address: str, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, side, address, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        if self._line() != "ready":
            self.close()
            raise ClawError("worker_failed", f"the clients of the {side} did not start", got=count)

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def run(self, seconds: float) -> float:
        """Requests a second of all together.

        Raises:
            ClawError: one of them failed.
        """
        assert self._process.stdin
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        if not (line := self._line()):
            raise ClawError("worker_failed", "a client of the benchmark failed")
        return float(line)

    def close(self) -> None:
        """End them all."""
        self._process.communicate()


if __name__ == "__main__":
    main()
