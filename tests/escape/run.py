"""Run every escape attempt: ``run.py BPF LIBRARIES WAY...``; a program, so that any user can be it.

A WAY is ``none`` (the control: a fork, nothing applied), a level of the sandbox (the real launcher
and stage), or ``only:LAYER`` (that one layer of the sandbox's own code in a forked child, all
others switched off), or ``claims:LAYER`` (the same, for those attempts alone that the committed
table says it stops: these can share a worker). Prints one JSON object: way -> name -> "WORKED",
"stopped" or "killed CODE", and "box": the layers that this box has.

A root runs all of it in mount, IPC and host name namespaces of its own, so that what succeeds in
the control does not reach the box.
"""

import contextlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LIBRARIES = Path(sys.argv[2])
sys.path[:0] = [str(LIBRARIES)]

import inside  # noqa: E402 - its C half lies in the folder that was just named
from bait import GROUP_SIGNAL, Bait  # noqa: E402
from registry import (  # noqa: E402
    ADDRESS_BYTES,
    ATTEMPTS,
    FILE_BYTES,
    MAX_FDS,
    MAX_THREADS,
    MEMORY_BYTES,
    TMP_BYTES,
    Attempt,
)

from clawai.sandbox import (  # noqa: E402
    filters,
    landlock,
    launch,
    namespaces,
    paths,
    privileges,
    rlimits,
)
from clawai.sandbox import syscalls as sc  # noqa: E402
from clawai.sandbox.policy import LEVELS, Policy  # noqa: E402

LAYERS = (
    "handover",
    "identity",
    "namespaces",
    "limits",
    "capabilities",
    "landlock",
    "syscalls",
    "code",
)
NEEDS = {
    "full": {"namespaces", "landlock"},
    "no-landlock": {"namespaces"},
    "no-userns": {"landlock"},
}
for _way in ("only", "claims"):
    NEEDS |= {f"{_way}:{layer}": {layer} for layer in ("namespaces", "landlock")}
UID = 65_534
Names = list[str]


@dataclass(slots=True)
class Started:
    """A way's worker: the process between us and it, how to let go of it, its exit code."""

    stage: int
    let_go: Callable[[], None]
    finish: Callable[[], int]
    workers: set[int] = field(default_factory=set)


def policy(strict: bool, tmp_bytes: int = TMP_BYTES) -> Policy:
    """What the workers get; ``strict`` forbids new executable memory."""
    return Policy(
        minimum_level="weaker",
        tmp_bytes=tmp_bytes,
        file_bytes=FILE_BYTES,
        memory_bytes=MEMORY_BYTES,
        address_bytes=ADDRESS_BYTES,
        max_threads=MAX_THREADS,
        max_fds=MAX_FDS,
        executable_memory=not strict,
    )


def main() -> None:
    """See the top of this module."""
    signal.signal(GROUP_SIGNAL, signal.SIG_IGN)  # one attempt sends it to the whole group
    private_box()
    bpf = Path(sys.argv[1]).read_bytes()
    found: dict[str, Any] = {"box": box()}
    for way in sys.argv[3:]:
        if not NEEDS.get(way, set()) <= {name for name, there in found["box"].items() if there}:
            continue
        found[way] = {}
        for names in runs(way):
            found[way] |= one_run(way, names, bpf)
    print(json.dumps(found))


def private_box() -> None:
    """What a root changes of host names, mounts and IPC stays in here."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            sc.unshare(sc.CLONE_NEWNS | sc.CLONE_NEWUTS | sc.CLONE_NEWIPC)
            sc.mount("none", "/", "", sc.MS_REC | sc.MS_PRIVATE)


def box() -> dict[str, int]:
    """The Landlock version, and whether namespaces can be made."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            namespaces.enter(policy(False), visible(), UID)
            os._exit(0)
        os._exit(1)
    return {"landlock": landlock.abi(), "namespaces": int(os.waitpid(pid, 0)[1] == 0)}


def runs(way: str) -> Iterator[Names]:
    """Which attempts share a worker: where all are stopped, those that do not end it then."""
    wanted = ATTEMPTS
    if way.startswith("claims:"):
        wanted = claimed(way.removeprefix("claims:"))
    stopped = way in LEVELS or way.startswith("claims:")
    apart = {name for name, a in wanted.items() if (a.ends if stopped else a.alone)}
    for strict in (False, True):
        together = [n for n, a in wanted.items() if n not in apart and a.strict == strict]
        if together:
            yield together
    yield from ([name] for name in sorted(apart))


def claimed(layer: str) -> dict[str, Attempt]:
    """What the committed table says that a layer stops for this user."""
    rows = json.loads((HERE / "table.json").read_text())["attempts"]
    who = "user" if os.geteuid() else "root"
    return {name: a for name, a in ATTEMPTS.items() if who in rows[name]["stopped by"][layer]}


def one_run(way: str, names: Names, bpf: bytes) -> dict[str, str]:
    """Run ``names`` in one process and judge each from out here."""
    strict, survives = ATTEMPTS[names[0]].strict, ATTEMPTS[names[0]].survives
    layers = set() if way == "none" else {way.partition(":")[2]}
    bait = Bait(names, sealed=way in LEVELS or "handover" in layers)
    with contextlib.closing(bait):
        os.environ["CLAW_BAIT"] = bait.secret
        results, results_end = os.pipe()
        fds = {"results": results_end, **bait.named}
        args = {"names": names, "facts": bait.facts}
        if way in LEVELS:
            started = at_level(way, policy(strict), fds, args, bpf)
        else:
            started = with_layers(layers, policy(strict), fds, args, filters.unpack(bpf))
        os.close(results_end)
        bait.inner.close()
        bait.begin(started.stage, started.workers)
        with os.fdopen(results, "rb") as file:
            said = [json.loads(line) for line in bait.answers(file.fileno()).splitlines()]
        survived = bool(survives) and outlives(survives, started, bait)
        evidence = {line["name"]: line.get("evidence") for line in said}
        bait.release()
        code = started.finish()
        judged = {name: survived or bait.judge(name, evidence.get(name)) for name in names}
    ended = {name: "stopped" if name in evidence else f"killed {code}" for name in names}
    return {name: "WORKED" if judged[name] else ended[name] for name in names}


def outlives(whom: str, started: Started, bait: Bait) -> bool:
    """Whether the worker still answers after that one has died; no clock decides it."""
    if not bait.sights:
        return False  # it ended before
    if whom == "stage":
        os.kill(started.stage, signal.SIGKILL)
    else:
        started.let_go()
    # The kernel has told the children of a process of its death before it tells its parent.
    os.waitid(os.P_PID, started.stage, os.WEXITED | os.WNOWAIT)
    with contextlib.suppress(OSError):
        bait.outer.send(b"?")
        survivors = {seen.pid for sights in bait.sights.values() for seen in sights}
        if bait.answer():
            for pid in survivors:
                os.kill(pid, signal.SIGKILL)
            return True
    return False


def visible() -> list[str]:
    """The read-only paths of a worker that imports this folder."""
    return paths.runtime_paths([str(HERE), str(LIBRARIES)])


def at_level(
    level: str, rules: Policy, fds: dict[str, int], args: Mapping[str, Any], bpf: bytes
) -> Started:
    """A worker of the real launcher."""
    spawned = launch.spawn(
        "inside:run",
        rules,
        {**fds, "stderr": 2},
        bpf=bpf,
        level=level,
        args=args,
        import_paths=[str(HERE), str(LIBRARIES)],
    )
    workers = set()
    failures = []
    while select.select([spawned.status_fd], [], []):
        reports = spawned.read_status()
        workers |= {report.pid for report in reports if report.event == "started"}
        failures += [report for report in reports if report.event == "failed"]
        if any(report.event in ("running", "closed") for report in reports):
            break
    if failures:
        raise SystemExit(f"the worker did not start: {failures}")

    def finish() -> int:
        code = spawned.stage.wait()
        spawned.close()
        return code if code >= 0 else 128 - code

    return Started(spawned.stage_pid, spawned.close, finish, workers)


def with_layers(
    layers: set[str],
    rules: Policy,
    fds: dict[str, int],
    args: Mapping[str, Any],
    programs: list[bytes],
) -> Started:
    """A fork of a fork, as the stage makes its worker, with those layers only."""
    told, told_end = os.pipe()
    stage = os.fork()
    if stage == 0:
        with contextlib.suppress(BaseException):
            own = _outer_layers(layers, rules, fds, told_end)
            going, going_end = os.pipe()
            worker = os.fork()
            if worker == 0:
                with contextlib.suppress(BaseException):
                    os.close(going_end)
                    os.read(going, 1)  # the end: the stage holds nothing of ours any more
                    os.close(going)
                    _inner_layers(layers, rules, own, programs)
                    os.write(told_end, b"ok")
                    os.close(told_end)
                    inside.run(fds, args)
                os._exit(0)
            sc.close_all_but([0, 1, 2])
            code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
            os._exit(code if code >= 0 else 128 - code)
        os._exit(78)
    os.close(told_end)
    workers = children_of(stage, told)

    def finish() -> int:
        code = os.waitstatus_to_exitcode(os.waitpid(stage, 0)[1])
        return code if code >= 0 else 128 - code

    return Started(stage, lambda: os.kill(stage, signal.SIGKILL), finish, workers)


def children_of(stage: int, told: int) -> set[int]:
    """The worker of a stage, once its layers are on."""
    # Not to the end of it: one attempt stops the stage, which holds the other end for a moment.
    applied = os.read(told, 2) == b"ok"
    os.close(told)
    if not applied:
        raise SystemExit("a layer could not be applied alone")
    return {int(pid) for pid in Path(f"/proc/{stage}/task/{stage}/children").read_text().split()}


def _outer_layers(layers: set[str], rules: Policy, fds: dict[str, int], told: int) -> bool:
    """What the worker inherits; says whether it has a user namespace of its own."""
    if "handover" in layers:
        sc.close_all_but([0, 1, 2, told, *fds.values()])
        os.environ.pop("CLAW_BAIT")
    if "namespaces" in layers:
        # Without the drop of the identity, which is a layer of its own.
        privileges.drop_root = lambda *_: None
        return namespaces.enter(rules, visible(), UID if os.geteuid() else 0)
    if "identity" in layers:
        privileges.drop_root(UID)
    return False


def _inner_layers(layers: set[str], rules: Policy, own: bool, programs: list[bytes]) -> None:
    if "limits" in layers:
        rlimits.apply(rules, own)
    if "capabilities" in layers:
        privileges.drop_capabilities()
    if layers & {"landlock", "syscalls", "code"}:
        sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)  # what these three ask for first
    if "landlock" in layers:
        landlock.restrict(rules, visible(), os.environ.get("TMPDIR", "/nowhere"))
    if "syscalls" in layers:
        filters.load(programs, filters.BASE)
    if "code" in layers:
        filters.load(programs, filters.NO_NEW_CODE)


if __name__ == "__main__":
    main()
