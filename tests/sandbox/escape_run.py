"""Run every escape attempt at one level, or without the sandbox: ``escape_run.py LEVEL BPF``.

A program of its own, so that it can run as root and as an ordinary user. Prints one JSON object:
name -> "WORKED", "stopped", or "killed N" (the worker ended with code N).
"""

import contextlib
import json
import os
import select
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import escapes

from clawai.sandbox.attempts import ATTEMPTS
from clawai.sandbox.launch import Spawned, spawn
from clawai.sandbox.policy import Policy

POLICY = Policy(
    minimum_level="weaker",
    tmp_bytes=escapes.TMP_BYTES,
    file_bytes=64 << 20,
    memory_bytes=escapes.MEMORY_BYTES,
    max_threads=escapes.MAX_THREADS,
    max_fds=escapes.MAX_FDS,
    executable_memory=True,
)
Start = Callable[[dict[str, int], dict[str, Any]], Callable[[], int]]


def main() -> None:
    """See the top of this module."""
    os.environ["CLAW_BAIT"] = "claw-bait"
    level, bpf = sys.argv[1], Path(sys.argv[2]).read_bytes()
    start: Start = unsandboxed if level == "none" else lambda f, a: sandboxed(f, a, level, bpf)
    together = [name for name in ATTEMPTS if name not in escapes.ALONE]
    found: dict[str, str] = {}
    for names in (together, *([name] for name in escapes.ALONE)):
        found |= one_run(names, start)
    print(json.dumps(found))


def one_run(names: list[str], start: Start) -> dict[str, str]:
    """Run ``names`` in one process and judge each from out here, after the process has ended."""
    bait = escapes.WideBait()
    with contextlib.closing(bait):
        results, results_end = os.pipe()
        fds = {"results": results_end, "memfd": bait.memfd, "stderr": 2}
        finish = start(fds, {"names": names, "facts": bait.facts})
        os.close(results_end)
        said = {line["name"]: line for line in map(json.loads, read_all(results).splitlines())}
        code = finish()
        found = {}
        for name in names:
            evidence = said.get(name, {}).get("evidence")
            worked = ATTEMPTS[name].worked(bait, evidence)
            missing = f"killed {code}" if name not in said else "stopped"
            found[name] = "WORKED" if worked else missing
        return found


def unsandboxed(fds: dict[str, int], args: dict[str, Any]) -> Callable[[], int]:
    """A forked child: the same code, nothing applied."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            escapes.run({"results": fds["results"]}, args)
        os._exit(0)

    def finish() -> int:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code if code >= 0 else 128 - code

    return finish


def sandboxed(
    fds: dict[str, int], args: Mapping[str, Any], level: str, bpf: bytes
) -> Callable[[], int]:
    """A worker at ``level``."""
    here = str(Path(__file__).resolve().parent)
    spawned = spawn(
        "escapes:run", POLICY, fds, bpf=bpf, level=level, args=args, import_paths=[here]
    )

    def finish() -> int:
        failures = [report for report in reports(spawned) if report.event == "failed"]
        code = spawned.stage.wait()
        spawned.close()
        if failures:
            raise SystemExit(f"the worker did not start: {failures}")
        return code

    return finish


def reports(spawned: Spawned) -> list[Any]:
    """Every report, up to the one that closes."""
    seen: list[Any] = []
    while not seen or seen[-1].event != "closed":
        select.select([spawned.status_fd], [], [])
        seen += spawned.read_status()
    return seen


def read_all(fd: int) -> bytes:
    """Until the last writer is gone."""
    with os.fdopen(fd, "rb") as file:
        return file.read()


if __name__ == "__main__":
    main()
