"""The prober's attempts in an executed and in a forked worker: ``forked_run.py BPF LEVEL ...``.

Prints one JSON object: level -> way -> the attempts that worked, and those that said nothing.
"""

import json
import os
import select
import sys
from pathlib import Path
from typing import Any

from clawai.sandbox import attempts
from clawai.sandbox.forking import Zygote
from clawai.sandbox.launch import execute, spawn
from clawai.sandbox.policy import Policy

POLICY = Policy(minimum_level="weaker", executable_memory=True)


def target(fds: dict[str, int], args: dict[str, Any]) -> None:
    """All attempts, told the numbers that descriptors have in here."""
    args["facts"]["memfd"] = fds["memfd"]
    attempts.run_all(fds, args)


def main() -> None:
    """See the top of this module."""
    os.environ["CLAW_BAIT"] = "claw-bait"
    bpf = Path(sys.argv[1]).read_bytes()
    zygote = Zygote()
    zygote.load(["json", "clawai.sdk.host"])
    assert zygote.receive()
    found: dict[str, Any] = {}
    for level in sys.argv[2:]:
        ways = {"executed": execute, "forked": zygote.start}
        found[level] = {name: run(level, bpf, start) for name, start in ways.items()}
    zygote.close()
    print(json.dumps(found))


def run(level: str, bpf: bytes, start: Any) -> dict[str, list[str]]:
    """All attempts in one worker."""
    with attempts.bait() as bait:
        reading, writing = os.pipe()
        spawned = spawn(
            "forked_run:target",
            POLICY,
            {"results": writing, "memfd": bait.memfd, "stderr": 2},
            bpf=bpf,
            level=level,
            args={"names": list(attempts.ATTEMPTS), "facts": bait.facts},
            import_paths=[str(Path(__file__).resolve().parent)],
            start=start,
        )
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            said = {line["name"]: line.get("evidence") for line in map(json.loads, file)}
        while all(report.event != "closed" for report in spawned.read_status()):
            select.select([spawned.status_fd], [], [])
        spawned.close()
        spawned.stage.wait()
        worked = [name for name in said if attempts.ATTEMPTS[name].worked(bait, said[name])]
        return {"worked": worked, "silent": sorted(set(attempts.ATTEMPTS) - set(said))}


if __name__ == "__main__":
    main()
