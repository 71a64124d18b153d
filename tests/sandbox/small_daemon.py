"""A daemon to be killed: ``small_daemon.py LEVEL BPF`` prints the stage's and the worker's pid."""

import json
import select
import signal
import socket
import sys
from pathlib import Path

from clawai.sandbox.launch import spawn
from clawai.sandbox.policy import Policy


def main() -> None:
    """See the top of this module."""
    ours, theirs = socket.socketpair()
    spawned = spawn(
        "inside:wait",
        Policy.load("tool"),
        {"wire": theirs.fileno()},
        bpf=Path(sys.argv[2]).read_bytes(),
        level=sys.argv[1],
        args={},
        import_paths=[str(Path(__file__).resolve().parent)],
    )
    ours.recv(6)
    select.select([spawned.status_fd], [], [])
    spawned.read_status()
    print(json.dumps([spawned.stage_pid, spawned.worker_pid]), flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
