"""`claw doctor`: what this box has, what is missing, and what to do about it.

Works without a running kernel and on systems that the kernel refuses. Each check measures or tries
the thing itself where it can; the sandbox is proved by a program of its own that attempts escapes.
"""

import ctypes.util
import importlib.util
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from clawai.sdk import config, device, paths, tuning
from clawai.sdk.cli import ladder, output
from clawai.sdk.cli.daemon import require_system
from clawai.sdk.cli.holder import holder
from clawai.sdk.cli.ops import listing, overrides
from clawai.sdk.errors import ClawError

PROBE = ("-I", "-m", "clawai.sandbox.probe")
PROBE_S = 60
_LOW_DISK = 1_000_000_000


class Check(msgspec.Struct):
    """One thing that was looked at."""

    name: str
    state: str
    """ok, warn (works, but) or fail (the kernel or the models cannot work)."""
    found: str
    advice: str = ""
    details: dict[str, Any] = {}
    lines: list[str] = []
    """More for people, below it; ``details`` has the same for programs."""


def system() -> Check:
    """The operating system and its calls, tried."""
    found = f"{platform.system()} {platform.release()} {platform.machine()}"
    try:
        require_system()
        os.close(os.memfd_create("claw-doctor"))
        os.close(os.pidfd_open(os.getpid()))
    except ClawError as error:
        return Check("system", "fail", found, f"{error.message}; allowed: {error.allowed}")
    except OSError as error:
        return Check("system", "fail", found, f"memfd or pidfd is refused: {error.strerror}")
    if platform.machine() != "x86_64":
        advice = "ClawAI was not run on this processor family yet; only x86-64 was"
        return Check("system", "warn", found, advice)
    return Check("system", "ok", found)


def python() -> Check:
    """The interpreter, and pip, which `pypi:` sources need."""
    found = f"{platform.python_version()} ({sys.executable})"
    if importlib.util.find_spec("pip") is None:
        advice = f"`claw pull` needs pip for packages: {sys.executable} -m ensurepip"
        return Check("python", "warn", found, advice)
    return Check("python", "ok", found)


def packages() -> Check:
    """What language models need beside the core."""
    missing = [name for name in ("tokenizers", "jinja2") if not importlib.util.find_spec(name)]
    if missing:
        advice = "language models need it: pip install 'clawai[llm]'"
        return Check("packages", "fail", f"missing: {', '.join(missing)}", advice)
    if not importlib.util.find_spec("llguidance"):
        advice = "answers in a JSON schema and tools need it: pip install 'clawai[llm]'"
        return Check("packages", "warn", "missing: llguidance", advice)
    return Check("packages", "ok", "tokenizers, jinja2 and llguidance, for language models")


def libseccomp() -> Check:
    """The system library that compiles the filter of system calls."""
    found = ctypes.util.find_library("seccomp")
    if not found:
        advice = "install it: apt install libseccomp2 (Fedora: libseccomp, Alpine: libseccomp)"
        return Check("libseccomp", "fail", "missing", advice)
    return Check("libseccomp", "ok", found)


def processor() -> Check:
    """Cores that may be used, and instruction sets that have ops of their own."""
    model, has = device.processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{model}, {cores} cores; {' '.join(has) or 'no vector extension that counts here'}"
    details = {"cores": cores, "isa": has}
    if not {"avx2", "fma", "f16c"} <= set(has):
        advice = (
            "without AVX2, FMA and F16C the ops run in their generic form, several times slower"
        )
        return Check("processor", "warn", found, advice, details)
    return Check("processor", "ok", found, "", details)


def ops() -> Check:
    """Which C ops run here, by the profile of this box."""
    profile = tuning.kept(tuning.box())
    try:
        found = listing(profile)
    except ClawError as error:
        return Check("ops", "fail", error.message, error.hint)
    chosen = Counter(row["isa"] for row in found["ops"] if row["chosen"])
    text = ", ".join(f"{count} on {isa}" for isa, count in chosen.most_common())
    details = {"chosen": dict(chosen), "measured": profile is not None, **found["hints"]}
    if wanted := overrides():
        return Check("ops", "ok", f"{text}; overridden by {wanted}", "", details)
    if profile is None:
        found_text = f"{text}; not measured yet, the first model does that"
        return Check("ops", "ok", found_text, "", details)
    return Check("ops", "ok", f"{text}, as measured here (claw ops)", "", details)


def memory() -> Check:
    """What is free against what the kernel may hand out."""
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    budget = config.budget_bytes(config.load())
    found = (
        f"{output.size(free)} of {output.size(total)} available; "
        f"the kernel may hand out {output.size(budget)}"
    )
    details = {"total_bytes": total, "available_bytes": free, "budget_bytes": budget}
    if budget > free:
        advice = f"lower it: claw config set memory.budget_mib {max(64, (free >> 20) * 8 // 10)}"
        return Check("memory", "warn", found, advice, details)
    return Check("memory", "ok", found, "", details)


def huge_pages() -> Check:
    """Whether memfds can have huge pages, which spare large models page faults."""
    folder = Path("/sys/kernel/mm/transparent_hugepage")
    try:
        shared, private = (
            (folder / name).read_text(encoding="utf-8").partition("[")[2].partition("]")[0]
            for name in ("shmem_enabled", "enabled")
        )
    except OSError:
        return Check("huge pages", "ok", "not offered by this system")
    found = f"memfds (weights, leases): {shared}; a worker's own memory: {private}"
    details = {"shmem_enabled": shared, "enabled": private}
    if shared in ("never", "deny"):
        advice = f"optional, for large models, as root: echo advise > {folder}/shmem_enabled"
        return Check("huge pages", "ok", found, advice, details)
    return Check("huge pages", "ok", found, "", details)


def locked_weights() -> Check:
    """Whether weights stay in memory, where the device profile asks for it."""
    wanted = device.choose(config.load().device)
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    free = limit == resource.RLIM_INFINITY or os.geteuid() == 0
    may = "no limit" if free else f"{output.size(limit)} a process"
    details = {"lock_weights": wanted.lock_weights, "limit_bytes": None if free else limit}
    if not wanted.lock_weights:
        found = f"not asked for by the device profile {wanted.name}"
        return Check("mlock", "ok", found, "", details)
    found = f"asked for by the device profile {wanted.name}; this user may lock: {may}"
    if not free and limit < config.budget_bytes(config.load()):
        advice = "for models larger than that: LimitMEMLOCK=infinity in the unit, or ulimit -l"
        return Check("mlock", "warn", found, advice, details)
    return Check("mlock", "ok", found, "", details)


def preemption() -> Check:
    """Which rungs of the ladder are in force, by their measured effect."""
    found, source = ladder.report()
    kind, advice = found["means"]["kind"], "; ".join(found.get("advice") or ())
    state = "warn" if kind == "none" and 2 in found["rungs"] else "ok"
    said = f"{ladder.summary(found)} [{source}]"
    return Check("preemption", state, said, advice, found, ladder.lines(found))


def pressure() -> Check:
    """Whether the system tells how long tasks wait for processors and memory."""
    found, advice = ladder.pressure_files()
    return Check("pressure", "ok", found, advice)


def disk() -> Check:
    """Room for models."""
    folder = paths.models_dir()
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    found = f"{output.size(free)} free for models in {folder}"
    if not os.access(place, os.W_OK):
        return Check("disk", "fail", found, f"you may not write to {place}")
    if free < _LOW_DISK:
        return Check("disk", "warn", found, "free some space: `claw models --stored`, `claw rm`")
    return Check("disk", "ok", found, "", {"free_bytes": free})


def configuration() -> Check:
    """Whether the file can be used."""
    path = paths.config_file()
    try:
        config.load()
    except ClawError as error:
        return Check("config", "fail", error.message, f"edit {path}")
    return Check("config", "ok", str(path) if path.exists() else "all defaults (no config.toml)")


def models() -> Check:
    """What is stored, and what of it is damaged."""
    from clawai.sdk.store import Store

    stored, broken = Store().list()
    found = ", ".join(each.model.name for each in stored) or "none stored"
    if broken:
        return Check("models", "warn", broken[0].message, broken[0].hint)
    return Check("models", "ok", found, "" if stored else "claw pull smollm2")


def sandbox() -> Check:
    """The level of isolation that holds here, by attempted escapes."""
    try:
        done = subprocess.run(
            [sys.executable, *PROBE], capture_output=True, timeout=PROBE_S, check=False
        )
        proof = json.loads(done.stdout)
        level = str(proof["level"])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        return Check("sandbox", "fail", f"the proof did not run: {type(error).__name__}: {error}")
    minimum = config.load().sandbox.minimum
    advice = "; ".join(proof.get("advice") or [])
    escapes = proof.get("escapes") or {}
    stopped = sum(value == "stopped" for value in escapes.values())
    found = f"level {level}; {stopped} of {len(escapes)} attempted escapes stopped"
    names = ("level", "layers", "escapes", "advice", "limits", "denials")
    kept = {name: proof.get(name) for name in names}
    lines = _bounds(proof)
    rank = {name: place for place, name in enumerate(config.LEVELS)}
    if rank.get(level, len(rank)) > rank[minimum]:
        advice = f"weaker than sandbox.minimum = {minimum}: no worker will start. {advice}"
        return Check("sandbox", "fail", found, advice, kept, lines)
    return Check("sandbox", "ok" if level == "full" else "warn", found, advice, kept, lines)


def _bounds(proof: dict[str, Any]) -> list[str]:
    """What keeps workers to their limits, and what the log will say of denied calls."""
    limits: dict[str, str] = proof.get("limits") or {}
    words = {
        "memory": "a watchdog, four looks a second",
        "pids": "RLIMIT_NPROC of the worker's own user namespace",
        "cpu": "a watchdog that stops a worker until its balance is even",
    }
    titles = {"memory": "memory", "pids": "processes", "cpu": "processors"}
    lines = []
    for name, kind in limits.items():
        if name in titles:
            means = [] if kind == "watchdog" else [f"{kind}, for each worker"]
            if name == "memory" or not means:  # memory is looked at in any case, to say how much
                means.append(words[name])
            lines.append(f"{titles[name]}: {'; '.join(means)}")
    landlock = str((proof.get("layers") or {}).get("landlock", ""))
    if "left to" in landlock:
        lines.append(f"Landlock: {landlock}")
    return [*lines, f"denied system calls: {proof.get('denials', 'not tried')}"]


def kernel() -> Check:
    """Whether one runs, and where."""
    try:
        if paths.runtime_dir().exists():
            paths.make_private(paths.runtime_dir())
        require_system()
        from clawai.sdk.client import Client

        with Client(timeout=2.0) as client:
            status = client.query("status")
    except ClawError as error:
        if error.code == "no_kernel":
            if pid := holder():
                found = f"process {pid} does not answer"
                return Check("kernel", "fail", found, "end it: claw down", {"pid": pid})
            return Check("kernel", "ok", "none runs", "start one: claw up")
        return Check("kernel", "fail", error.message, error.hint)
    return Check("kernel", "ok", f"runs as pid {status['pid']}", "", {"pid": status["pid"]})


CHECKS: tuple[Callable[[], Check], ...] = (
    system, python, packages, libseccomp, processor, ops, memory, huge_pages, locked_weights,
    pressure, disk, configuration, models, sandbox, preemption, kernel,
)  # fmt: skip


def examine() -> Iterator[Check]:
    """Run all checks; one that fails by itself is a finding too."""
    for check in CHECKS:
        try:
            yield check()
        except ClawError as error:
            yield Check(check.__name__, "fail", error.message, error.hint)
        except Exception as error:
            yield Check(check.__name__, "fail", f"cannot be checked: {error!r}")


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
def doctor_command(as_json: bool) -> None:
    """Check this box: what works, what does not, and what to do about it.

    Leaves with exit code 1 if something must be mended before models can run.

    \b
    Example:
      claw doctor
    """
    found = []
    marks = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}
    for check in examine():
        found.append(check)
        if as_json:
            continue
        mark, colour = marks[check.state]
        name = output.style(check.name.ljust(10), "bold")
        print(f"{output.style(mark, colour)} {name}  {output.clean(check.found)}")
        for line in check.lines:
            print(f"{'':14}{line}")
        if check.advice:
            advice = output.wrapped(output.clean(check.advice), 16)
            print(f"{'':14}{output.style(f'→ {advice}', 'dim')}", flush=True)
    if as_json:
        plain = msgspec.to_builtins(found)
        output.print_json([{k: v for k, v in each.items() if k != "lines"} for each in plain])
    failed = [check.name for check in found if check.state == "fail"]
    if not as_json:
        print(f"\n{'mend first: ' + ', '.join(failed) if failed else 'this box is ready'}")
    if failed:
        raise click.exceptions.Exit(1)
