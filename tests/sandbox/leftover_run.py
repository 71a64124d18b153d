"""What workers without a mount of their own leave in /tmp: ``leftover_run.py LEVEL BPF``.

A program of its own, so that it can run as root and as an ordinary user. Prints one JSON object:
which of the folders of two workers were there while both stages lived, and after one was killed and
another had ended. A third was left with more folders in each other than can be removed.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from clawai.sandbox.launch import Spawned, spawn
from clawai.sandbox.policy import Policy


def staying(stack: ExitStack, level: str, bpf: bytes) -> tuple[Spawned, Path]:
    """A worker that waits to be killed, and its folder."""
    policy = Policy.from_dict(Policy.load("tool").to_dict() | {"minimum_level": level})
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    with theirs:
        spawned = spawn(
            "inside:stay",
            policy,
            {"wire": theirs.fileno(), "stderr": 2},
            bpf=bpf,
            level=level,
            args={},
            import_paths=[str(Path(__file__).resolve().parent)],
        )
    stack.callback(spawned.stage.wait)
    stack.callback(spawned.close)
    spawned.read_status()
    line = ours.makefile().readline().strip()
    assert line.startswith("/tmp/claw-worker-"), f"{line!r}, {spawned.read_status()}"
    return spawned, Path(line)


def nested(folder: Path) -> Path:
    """A stale folder with more in each other than Python's recursion goes down."""
    folder.mkdir(0o700)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(2 * sys.getrecursionlimit()):
        os.mkdir("d", dir_fd=here)
        down = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = down
    os.close(here)
    os.utime(folder, (1, 1))
    return folder


def main() -> None:
    """See the top of this module."""
    level, bpf = sys.argv[1], Path(sys.argv[2]).read_bytes()
    codes: list[int] = []
    with ExitStack() as stack:
        (first, killed), (_, kept) = (staying(stack, level, bpf) for _ in range(2))

        def there() -> list[bool]:
            for folder in (killed, kept):
                os.utime(folder, (1, 1))
            other, _ = staying(stack, level, bpf)
            other.close()
            codes.append(other.stage.wait())
            return [folder.is_dir() for folder in (killed, kept)]

        both = there()
        os.kill(first.stage_pid, signal.SIGKILL)
        first.stage.wait()
        deep = nested(killed.parent / f"claw-worker-{os.urandom(8).hex()}")
        os.chown(deep, killed.stat().st_uid, -1)
        after = there()
        subprocess.run(["rm", "-rf", str(deep)], check=True)
    print(json.dumps({"both": both, "after": after, "codes": codes}))


if __name__ == "__main__":
    main()
