"""What the sandbox adds to the start of a worker: ``python -I -m clawai.sandbox.bench [RUNS]``.

Starts the same imports bare and sandboxed, in turn, and compares the medians; both times run from
the start of the process to its end. Prints one JSON object with figures in milliseconds.
"""

import base64
import json
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from clawai.sandbox.launch import ENVIRONMENT, spawn
from clawai.sandbox.policy import Policy
from clawai.sandbox.probe import probe

MODULES = ("numpy", "zmq")


def start_costs(
    bpf: bytes, level: str, runs: int = 20, modules: Sequence[str] = MODULES
) -> dict[str, float]:
    """Medians over ``runs``: ``bare_ms``, ``sandboxed_ms``, ``start_added_ms``, ``spawn_ms``.

    ``spawn_ms`` is how long the daemon's thread is held. A module that cannot be imported fails
    both ways and is not noticed here.
    """
    bare, whole, held = [], [], []
    policy = Policy.load("tool")
    code = "".join(f"import {name};" for name in modules)
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-c", code], env=ENVIRONMENT, check=False)
        bare.append(time.perf_counter() - start)
        start = time.perf_counter()
        # The lightest target there is: what it prints goes to /dev/null.
        spawned = spawn(
            "builtins:print", policy, {}, bpf=bpf, level=level, args={}, preload=modules
        )
        held.append(time.perf_counter() - start)
        while spawned.worker_pidfd < 0:
            select.select([spawned.status_fd], [], [])
            if spawned.read_status()[0].event != "started":
                raise OSError(f"no worker at level {level!r}; run the prober to see why")
        select.select([spawned.worker_pidfd], [], [])
        whole.append(time.perf_counter() - start)
        spawned.close()
        spawned.stage.wait()
    figures = {
        "bare_ms": statistics.median(bare),
        "sandboxed_ms": statistics.median(whole),
        "start_added_ms": statistics.median(whole) - statistics.median(bare),
        "spawn_ms": statistics.median(held),
    }
    return {name: round(seconds * 1000, 2) for name, seconds in figures.items()}


def main() -> None:
    """Probe, measure, print."""
    found = probe()
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    figures = start_costs(base64.b64decode(found["bpf"]), found["level"], runs)
    print(json.dumps({"level": found["level"], **figures}))


if __name__ == "__main__":
    main()
