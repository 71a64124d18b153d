"""Run one target of granted.py or inside.py at one level: ``grant_run.py LEVEL BPF SPEC``.

A program of its own, so that it can run as root and as an ordinary user. SPEC is JSON: target,
policy (what differs from the profile "tool"), args. Prints one JSON object: reports, said.
"""

import json
import select
import socket
import sys
from pathlib import Path

from clawai.sandbox.launch import spawn
from clawai.sandbox.policy import Policy


def main() -> None:
    """See the top of this module."""
    level, bpf, spec = sys.argv[1], Path(sys.argv[2]).read_bytes(), json.loads(sys.argv[3])
    policy = Policy.from_dict(
        Policy.load("tool").to_dict() | {"minimum_level": level} | spec.get("policy", {})
    )
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            spawned = spawn(
                spec["target"],
                policy,
                {"wire": theirs.fileno(), "stderr": 2},
                bpf=bpf,
                level=level,
                args=spec.get("args", {}),
                import_paths=[str(Path(__file__).resolve().parent)],
            )
        reports = []
        while not reports or reports[-1]["event"] != "closed":
            select.select([spawned.status_fd], [], [])
            for each in spawned.read_status():
                keys = ("event", "layer", "error", "call", "detail", "count")
                reports.append({key: getattr(each, key) for key in keys})
        line = ours.makefile().readline()
    spawned.stage.wait()
    spawned.close()
    print(json.dumps({"reports": reports, "said": json.loads(line) if line else None}))


if __name__ == "__main__":
    main()
