"""A daemon to be killed: ``forked_daemon.py LEVEL BPF`` prints its zygote, stage and worker."""

import json
import select
import signal
import socket
import sys
from pathlib import Path

from clawai.sandbox.forking import Zygote
from clawai.sandbox.launch import spawn
from clawai.sandbox.policy import Policy


def main() -> None:
    """See the top of this module."""
    ours, theirs = socket.socketpair()
    zygote = Zygote()
    spawned = spawn(
        "inside:wait",
        Policy.load("tool"),
        {"wire": theirs.fileno()},
        bpf=Path(sys.argv[2]).read_bytes(),
        level=sys.argv[1],
        args={},
        import_paths=[str(Path(__file__).resolve().parent)],
        start=zygote.start,
    )
    ours.recv(6)
    select.select([spawned.status_fd], [], [])
    spawned.read_status()
    print(json.dumps([zygote.pid, spawned.stage_pid, spawned.worker_pid]), flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
