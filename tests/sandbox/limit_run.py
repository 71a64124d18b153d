"""Watch one worker as the steward does, and tell how it ended: ``limit_run.py LEVEL BPF SPEC``.

A program of its own, so that it can run as root and as an ordinary user. SPEC is JSON: target,
policy, args, and groups: whether cgroups may be used. Prints one JSON object.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from clawai.kernel.steward.cages import Cages
from clawai.kernel.steward.log import LogFile
from clawai.kernel.steward.means import Means
from clawai.sandbox.launch import Spawned, spawn
from clawai.sandbox.policy import Policy

WORKER = 7


def main() -> None:
    """See the top of this module."""
    level, bpf, spec = sys.argv[1], Path(sys.argv[2]).read_bytes(), json.loads(sys.argv[3])
    policy = Policy.from_dict(Policy.load("tool").to_dict() | spec["policy"])
    signals: list[int] = []
    spawned: list[Spawned] = []

    def send(_: int, number: int) -> None:
        signals.append(number)
        if policy.programs and number != signal.SIGKILL:
            os.killpg(spawned[0].stage_pid, number)
        else:
            signal.pidfd_send_signal(spawned[0].worker_pidfd, number)

    with tempfile.TemporaryDirectory() as folder:
        log = LogFile(Path(folder, "log"), "info", 1 << 20, False)
        cages = Cages(log, send, os.getpid())
        if spec["groups"]:
            cages.open(Means("none"))
        groups = cages.add(WORKER, "test", policy, "main")
        ours, theirs = socket.socketpair()
        with theirs:
            spawned.append(start(policy, theirs, bpf, level, spec))
        for path in groups:
            Path(path).write_text(str(spawned[0].stage_pid))
        line, code = watch(cages, spawned[0], ours, lambda: slowed(cages) or len(signals) > 1)
        throttled = slowed(cages)
        words = cages.gone(WORKER, f"code {code}")
        cages.end()
        log.close()
        kinds = {name: cages.places.kind(name) for name in ("memory", "pids", "cpu")}
        left = [path for path in groups if Path(path).exists()]
        text = Path(folder, "log").read_text() if Path(folder, "log").exists() else ""
    found = {"words": words, "said": line, "signals": signals, "kinds": kinds, "left": left}
    print(json.dumps(found | {"throttled": throttled, "log": text, "groups": groups}))


def start(
    policy: Policy, wire: socket.socket, bpf: bytes, level: str, spec: dict[str, object]
) -> Spawned:
    """The worker of the specification."""
    return spawn(
        str(spec["target"]),
        policy,
        {"wire": wire.fileno(), "stderr": 2},
        bpf=bpf,
        level=level,
        args=spec["args"],  # type: ignore[arg-type]
        import_paths=[str(Path(__file__).resolve().parent)],
    )


def slowed(cages: Cages) -> int:
    """How often the system has held the worker for its processor time."""
    cage = cages.wards[WORKER].cage
    if cage is None or "cpu" not in cage.folders:
        return 0
    lines = (cage.folders["cpu"] / "cpu.stat").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("nr_throttled")))


def watch(
    cages: Cages, spawned: Spawned, wire: socket.socket, enough: Callable[[], object]
) -> tuple[str, int]:
    """Do what the steward's loop does until the worker has ended; what it said, and its code.

    It is killed once there is ``enough`` to be seen.
    """
    said = b""
    wire.setblocking(False)
    while True:
        due = cages.next_timer()
        pause = 1.0 if due is None else max(0.0, (due - time.monotonic_ns()) / 1e9)
        fds = [spawned.status_fd, spawned.stage_pidfd]
        ready = select.select(fds, [], [], pause)[0]
        if spawned.status_fd in ready:
            for report in spawned.read_status():
                if report.event == "started":
                    cages.started(WORKER, spawned.worker_pid, spawned.stage_pid)
        cages.expire(time.monotonic_ns())
        if enough() and spawned.worker_pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(spawned.worker_pidfd, signal.SIGKILL)
        if (code := spawned.exit_code()) is not None:
            break
    try:
        said = wire.recv(4096)
    except BlockingIOError:
        pass
    wire.close()
    spawned.close()
    return said.decode(), code


if __name__ == "__main__":
    main()
