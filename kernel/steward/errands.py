"""Errands: models that are fetched and deleted for others, by the owner's own commands.

A front whose manifest says so (``[permissions.kernel]``) has a model pulled or removed. Neither the
daemon nor the steward fetches anything: `claw pull` and `claw rm` run beside, with the rights of
the kernel's owner, and check what they bring as they do by hand. Who asked for it looks how far it
is, and while anybody looks it goes on: what nobody has looked at for a while is interrupted, as by
Ctrl-C, and what has come of it stays for the next time.

Refused: whatever is no name of the catalogue or the store (a path, an address, a hash), to put a
model in the place of another, and to delete one that is pinned or in use.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from clawai.kernel.loop import Loop
from clawai.kernel.steward import limits
from clawai.kernel.steward.log import LogFile
from clawai.kernel.steward.registry import model_names
from clawai.sandbox import syscalls as sc
from clawai.sdk import catalogue
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_fields
from clawai.sdk.store import Store

CLAW = [sys.executable, "-P", "-B", "-m", "clawai.sdk.cli.main"]
COMMANDS = {"pull": ["pull", "--json", "--progress"], "remove": ["rm", "--json"]}
_STEP = b'{"step"'
"""So begins each line of progress of `claw pull`."""


@dataclass(slots=True)
class Errand:
    """One, which runs or has ended a moment ago."""

    number: int
    command: str
    model: str
    looked: int
    """When somebody last did."""
    told: dict[str, Any] = field(default_factory=dict)
    """How far it is: what the last line of progress says; and how it ended."""
    running: subprocess.Popen[bytes] | None = None
    interrupted: int = 0
    """When it was."""
    ended: int = 0
    said: bytes = b""
    """What it has printed besides progress, and a piece of a line."""


class Errands:
    """All of them."""

    def __init__(self, loop: Loop, log: LogFile) -> None:
        self._loop = loop
        self._log = log
        self._last = 0
        self._by_number: dict[int, Errand] = {}

    def begin(self, command: str, name: str, front: str, rows: dict[str, Any]) -> dict[str, Any]:
        """Begin an errand, or join the same one that runs: ``errand`` is its number.

        What is stored already is not fetched: that has no number, and has ended.

        Args:
            command: one of ``COMMANDS``.
            name: of a model, as a stranger may have sent it.
            front: the plugin that asks; empty: a user does.
            rows: what the core knows of services and workers.

        Raises:
            ClawError: unknown_model, bad_params, bad_config; bad_state, if the model or its name
                is in use; overloaded.
        """
        try:
            return self._begin(command, name, front, rows)
        except OSError as error:
            text = f"the model cannot be {_DONE[command]}: {error}"
            raise ClawError("bad_config", text, hint="claw doctor") from error

    def _begin(self, command: str, name: str, front: str, rows: dict[str, Any]) -> dict[str, Any]:
        now = time.monotonic_ns()
        told: dict[str, Any] = {"step": "begins"}
        if command == "pull":
            model, already = _wanted(name)
            told |= {"sha256": model.sha256, "bytes": model.bytes, "already": already}
            if already:
                return {**told, "step": "done", "errand": 0, "ended": True}
        else:
            _unused(name, rows)
        running = [each for each in self._by_number.values() if not each.ended]
        for each in running:
            if each.model == name and not each.interrupted:
                if each.command == command:
                    each.looked = now
                    return self._shown(each)
                text = f"the model {name} is being {_DONE[each.command]}"
                raise ClawError("bad_state", text, hint="ask again when that has ended")
        if len(running) >= limits.ERRANDS:
            text = "other models are being fetched or deleted; ask again"
            raise ClawError("overloaded", text, len(running), limits.ERRANDS, retry_after_ms=5000)
        self._last += 1
        errand = Errand(self._last, command, name, now, told)
        self._start(errand)
        self._by_number[errand.number] = errand
        self._log.write("info", f"{front or 'a user'} has the model {name} {_DONE[command]}")
        return self._shown(errand)

    def look(self, command: str, number: str) -> dict[str, Any]:
        """How far an errand is, for who wants it to go on.

        Raises:
            ClawError: bad_params, if there is no such errand (any more).
        """
        errand = self._by_number.get(int(number)) if number.isdecimal() else None
        if errand is None or errand.command != command:
            raise ClawError("bad_params", f"there is no such {command} any more", number[:20])
        errand.looked = time.monotonic_ns()
        return self._shown(errand)

    def _shown(self, errand: Errand) -> dict[str, Any]:
        return {**errand.told, "errand": errand.number, "ended": bool(errand.ended)}

    def _start(self, errand: Errand) -> None:
        verb, *options = COMMANDS[errand.command]
        errand.running = subprocess.Popen(
            [*CLAW, verb, errand.model, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            process_group=0,
            preexec_fn=_die_with_us,  # noqa: PLW1509 (this process has one thread)
        )
        assert errand.running.stdout
        os.set_blocking(errand.running.stdout.fileno(), False)
        self._loop.watch(errand.running.stdout.fileno(), partial(self._said, errand))

    def _said(self, errand: Errand, _: int) -> None:
        """Take what it has printed; nothing: it has ended."""
        assert errand.running and errand.running.stdout
        fd = errand.running.stdout.fileno()
        if data := os.read(fd, 65536):
            *lines, rest = (errand.said + data).split(b"\n")
            steps = [line for line in lines if line.startswith(_STEP)]
            with contextlib.suppress(IndexError, ValueError):
                errand.told |= json.loads(steps[-1])
            others = [line + b"\n" for line in lines if not line.startswith(_STEP)]
            errand.said = (b"".join(others) + rest)[-limits.ERRAND_SAYS :]
            return
        self._loop.unwatch(fd)
        errand.running.stdout.close()
        status = errand.running.wait()
        errand.running = None
        self._end(errand, _failure(errand) if status else None)

    def _end(self, errand: Errand, error: ClawError | None) -> None:
        errand.ended, errand.said = time.monotonic_ns(), b""
        what = f"the model {errand.model}"
        if error:
            errand.told["error"] = error_fields(error)
            self._log.write("warning", f"{what} was not {_DONE[errand.command]}: {error}")
        else:
            errand.told["step"] = "done"
            self._log.write("info", f"{what} is {_DONE[errand.command]}")

    def next_timer(self) -> int | None:
        """When the next one is to be interrupted, killed or forgotten."""
        return min((_due(each) for each in self._by_number.values()), default=None)

    def expire(self, now: int) -> None:
        """Interrupt what nobody looks at; kill what does not mind that; forget what has ended."""
        for errand in [each for each in self._by_number.values() if _due(each) <= now]:
            if errand.ended:
                del self._by_number[errand.number]
                continue
            _signal(errand, signal.SIGKILL if errand.interrupted else signal.SIGINT)
            errand.interrupted = now

    def end(self) -> None:
        """End what still runs."""
        running = [each for each in self._by_number.values() if each.running]
        for errand in running:
            _signal(errand, signal.SIGINT)
        until = time.monotonic() + limits.ERRAND_FAREWELL_S
        for errand in running:
            assert errand.running
            with contextlib.suppress(subprocess.TimeoutExpired):
                errand.running.wait(max(0.0, until - time.monotonic()))
                continue
            _signal(errand, signal.SIGKILL)
            errand.running.wait()


_DONE = {"pull": "fetched", "remove": "deleted"}


def _due(errand: Errand) -> int:
    return (errand.ended or errand.interrupted or errand.looked) + limits.ERRAND_SILENCE


def _signal(errand: Errand, number: int) -> None:
    """To its program and to what that has started."""
    assert errand.running
    with contextlib.suppress(ProcessLookupError):
        os.killpg(errand.running.pid, number)


def _die_with_us() -> None:
    """In the child, before its program: to be interrupted, which we are not, as when we end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGINT)


def _wanted(name: str) -> tuple[catalogue.Entry, bool]:
    """The entry of the catalogue for a name, and whether that model is stored already.

    Raises:
        ClawError: unknown_model, bad_state, bad_config.
    """
    entries = catalogue.load()
    entry = entries.get(name)  # no alias: what a front lets somebody have is decided by the name
    if entry is None:
        text = f"{name[:80]!r} is no model of the catalogue, and nothing else is fetched for others"
        hint = "by hand: claw pull NAME, or a path, or an address with its --sha256"
        raise ClawError("unknown_model", text, name[:80], sorted(entries), hint)
    try:
        stored = Store().get(name).model
    except ClawError:  # not stored, or damaged: both are pulled
        return entry, False
    if stored.sha256 != entry.sha256:
        text = f"another file is stored under the name {entry.name}, and is not replaced for others"
        hint = f"by hand: claw pull {entry.name}"
        raise ClawError("bad_state", text, stored.sha256, entry.sha256, hint)
    return entry, True


def _unused(name: str, rows: dict[str, Any]) -> None:
    """Refuse to delete what is not stored (whole or not), or what somebody needs.

    Raises:
        ClawError: unknown_model, bad_params, bad_state.
    """
    try:
        stored = Store().known(name) == name
    except ClawError as error:
        if error.code != "unknown_model":
            raise
        stored = False
    if not stored:
        text, hint = f"no model {name[:80]!r} is stored here", "`claw models --stored` lists them"
        raise ClawError("unknown_model", text, name[:80], model_names(), hint)
    services = [each for each in rows["services"] if each["spec.model"] == name]
    workers = zip(rows["workers"], rows["running"], strict=True)
    tasks = sum(each["queue.count"] for each in services)
    tasks += sum(count for each, count in workers if each["spec.model"] == name)
    by_hand = f"or by hand, whatever needs it: claw rm {name}"
    if any(each["pinned"] for each in services):
        text = f"the model {name} is pinned: it is to stay"
        raise ClawError("bad_state", text, hint=f"claw unpin {name}; {by_hand}")
    if tasks:
        text = f"the model {name} is in use"
        said = f"{tasks} tasks run or wait"
        raise ClawError("bad_state", text, said, "none", f"ask when they have ended; {by_hand}")


def _failure(errand: Errand) -> ClawError:
    """Why its program has failed, in its own words."""
    if errand.interrupted:
        return ClawError("cancelled", "nobody has looked at it any more")
    begin, end = errand.said.find(b"{"), errand.said.rfind(b"}")
    try:
        return ClawError(**json.loads(errand.said[begin : end + 1])["error"])
    except (ValueError, KeyError, TypeError):
        text = errand.said[-500:].decode("utf-8", "replace").strip()
        return ClawError("worker_failed", f"claw {errand.command} failed", text)
