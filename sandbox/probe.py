"""Prove what the sandbox stops on this box, once, at the daemon's start.

    python -I -m clawai.sandbox.probe  ->  one line of JSON on stdout:
    {"level": "full", "layers": {"landlock": "ok (ABI 7)", ...}, "landlock_abi": 7,
     "escapes": {"unix_connect": "stopped", ...}, "bpf": "<base64>", "advice": ["..."],
     "denials": "named", "limits": {"memory": "cgroup1", "pids": "cgroup1", "cpu": "watchdog"}}

Compiles the system call filter, then for each level, strongest first, runs the attempts of
``attempts.py`` in a throw-away worker and, forked, without the sandbox. An attempt counts only if
it works without the sandbox; a level holds when no attempt that counts works inside, but for the
gaps that the level is defined to have. Never raises for a box that lacks something: the level says
it, ``layers`` says why, ``advice`` says what to do. "weaker" is never proved.
"""

import base64
import json
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clawai.sandbox import attempts, cgroups, landlock
from clawai.sandbox.launch import Spawned, Status, spawn
from clawai.sandbox.policy import LEVELS, Policy

_TIMEOUT_S = 20  # a hang must not keep the daemon without workers for ever
_LAYERS = ("namespaces", "rlimits", "capabilities", "landlock", "seccomp")
_STOPPED, _WORKED, _NOT_COUNTED = "stopped", "WORKED", "does not work without the sandbox either"
_SWITCHES = {
    "kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "AppArmor restricts user namespaces to programs with a profile (Ubuntu 24.04 and newer): "
        "give this Python one (docs/sandbox.md has it: `userns,` for {python}), or for every "
        "program: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    "kernel/unprivileged_userns_clone": (
        "0",
        "user namespaces are switched off: sudo sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    "user/max_user_namespaces": (
        "0",
        "user namespaces are switched off: sudo sysctl -w user.max_user_namespaces=15000",
    ),
}
_NO_NAMESPACES = (
    "namespaces cannot be made here; in a container, allow unshare and mount (a seccomp profile "
    "that permits them), or run the daemon on the host; Linux 5.12 or newer is needed"
)
_NOT_NAMED = (
    "not named: something outside listens for system calls already, as some containers do; they "
    "are denied all the same"
)
_NO_LANDLOCK = (
    "Landlock is off: needs Linux 5.13 with CONFIG_SECURITY_LANDLOCK and `landlock` in the kernel "
    "command line's lsm= list"
)


@dataclass(slots=True)
class Proof:
    """What one run at one level showed."""

    failed_layer: str = ""
    error: str = ""
    named: bool = False
    """Denied calls got a name."""
    results: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Probe and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # removes the bait
    os.environ["CLAW_BAIT"] = "claw-bait"
    print(json.dumps(probe()), flush=True)


def probe() -> dict[str, Any]:
    """The record that ``main`` prints; ``bpf`` is base64."""
    version = landlock.abi()
    layers = dict.fromkeys(_LAYERS, "not tried")
    found: dict[str, Any] = {"level": "weaker", "layers": layers, "landlock_abi": version}
    groups = cgroups.find()
    limits = {name: groups.kind(name) or "watchdog" for name in cgroups.CONTROLLERS}
    found |= {"escapes": {}, "bpf": "", "advice": [], "denials": "not tried", "limits": limits}
    try:
        # ImportError and OSError alike name the package to install.
        from clawai.sandbox import seccomp

        bpf = seccomp.compile_filters(os.uname().machine)
    except OSError as error:
        layers["seccomp"] = str(error)
        found["advice"].append(str(error))
        return found
    found["bpf"] = base64.b64encode(bpf).decode()
    attempts.clear_stale()
    control = _control()
    for level in LEVELS[:3]:
        proof = _prove(level, bpf)
        if not proof.failed_layer:
            _note_layers(layers, level, version)
            found["denials"] = "named" if proof.named else _NOT_NAMED
            found["escapes"], escaped = _judge(level, proof.results, control)
            if not escaped:
                found["level"] = level
                break
            found["advice"].append(f"level {level} does not stop {', '.join(escaped)}: report this")
        else:
            layers[proof.failed_layer] = proof.error
    found["advice"] += _advice(layers, version)
    return found


def _prove(level: str, bpf: bytes) -> Proof:
    """One worker at ``level`` that runs every attempt, judged from out here."""
    policy = replace(
        Policy.load("strict"),
        minimum_level=level,
        executable_memory=True,
        tmp_bytes=attempts.TMP_BYTES,
        max_threads=attempts.MAX_THREADS,
    )
    with attempts.bait() as bait:
        results, results_end = os.pipe()
        fds = {"results": results_end, "memfd": bait.memfd, "stderr": 2}
        args = {"names": list(attempts.ATTEMPTS), "facts": bait.facts}
        spawned = spawn(
            "clawai.sandbox.attempts:run_all", policy, fds, bpf=bpf, level=level, args=args
        )
        os.close(results_end)
        try:
            proof = Proof(results=_collect(results, bait))
            for report in _reports(spawned):
                if report.event == "failed":
                    proof.failed_layer, proof.error = report.layer, report.error
                proof.named |= report.event == "denied"
            if not proof.failed_layer and set(proof.results) != set(attempts.ATTEMPTS):
                proof.failed_layer = "attempts"
                proof.error = f"the worker ended after {sorted(proof.results)}"
        finally:
            os.close(results)
            spawned.close()
            spawned.stage.wait()
    return proof


def _reports(spawned: Spawned) -> Iterator[Status]:
    """Every report up to the end; stops early when the stage says nothing for too long."""
    while select.select([spawned.status_fd], [], [], _TIMEOUT_S)[0]:
        for report in spawned.read_status():
            if report.event == "closed":
                return
            yield report


def _control() -> dict[str, Any]:
    """The same attempts in a forked child without the sandbox."""
    with attempts.bait() as bait:
        results, results_end = os.pipe()
        child = os.fork()
        if child == 0:
            args = {"names": list(attempts.ATTEMPTS), "facts": bait.facts}
            attempts.run_all({"results": results_end}, args)
            os._exit(0)
        os.close(results_end)
        try:
            return _collect(results, bait)
        finally:
            os.close(results)
            os.waitpid(child, 0)


def _collect(results: int, bait: attempts.Bait) -> dict[str, Any]:
    """Which attempts worked, judged outside; a missing name was never reported."""
    text = b""
    while select.select([results], [], [], _TIMEOUT_S)[0] and (data := os.read(results, 65536)):
        text += data
    worked = {}
    for line in text.splitlines():
        said = json.loads(line)
        name = said["name"]
        judged = attempts.ATTEMPTS[name].worked(bait, said.get("evidence"))
        worked[name] = _WORKED if judged else _STOPPED
    return worked


def _judge(
    level: str, inside: Mapping[str, str], control: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """What to print for each attempt, and those that the level should have stopped."""
    escapes = {
        name: state if control.get(name) == _WORKED else _NOT_COUNTED
        for name, state in inside.items()
    }
    worked = {name for name, state in escapes.items() if state == _WORKED}
    return escapes, sorted(worked - attempts.KNOWN_GAPS[level])


def _note_layers(layers: dict[str, str], level: str, version: int) -> None:
    missing = {"no-landlock": ("landlock",), "no-userns": ("namespaces",)}.get(level, ())
    for name in _LAYERS:
        if name not in missing:
            layers[name] = _landlock_text(version) if name == "landlock" else "ok"


def _landlock_text(version: int) -> str:
    """The ABI, and what an older one leaves to the other layers."""
    left = landlock.missing(version)
    more = f"; left to the other layers: {', '.join(left)}" if left else ""
    return f"ok (ABI {version}{more})"


def _advice(layers: Mapping[str, str], version: int, switches: str = "/proc/sys") -> list[str]:
    """The next steps. ``switches`` is the folder of the system's settings."""
    advice = []
    if not layers["namespaces"].startswith("ok"):
        python = os.path.realpath(sys.executable)
        found = [
            text.format(python=python)
            for path, (bad, text) in _SWITCHES.items()
            if _read(f"{switches}/{path}") == bad
        ]
        advice += found or [_NO_NAMESPACES]
    if not layers["landlock"].startswith("ok"):
        advice.append(_NO_LANDLOCK if version == 0 else layers["landlock"])
    return advice


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
