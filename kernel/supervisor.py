"""Worker processes: launch in the sandbox, watch, pass descriptors, end.

All sockets of a worker are pairs made for one incarnation: nothing has a name that another process
could connect to, and what a dead worker left unread can never reach its successor.
"""

import dataclasses
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import Any

from clawai.kernel import limits
from clawai.kernel.events import Spec
from clawai.kernel.peers import Peer
from clawai.kernel.registry import BUNDLED, Registry, model_file, stored_model
from clawai.kernel.segments import ControlPage
from clawai.sandbox.launch import Spawned, spawn
from clawai.sandbox.policy import Policy
from clawai.sdk.config import Config
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Plugin
from clawai.sdk.wire import MAX_MESSAGE

TARGET = "clawai.sdk.host:main"
UID_BASE = 64000
"""A daemon that is root gives each plugin a uid of its own from here on."""


@dataclass(slots=True)
class Process:
    """What the shell holds of one incarnation."""

    worker: int
    spec: Spec
    spawned: Spawned
    peer: Peer
    leases: socket.socket
    control: ControlPage
    output: int
    """The reading end of its standard output and error."""
    pending: bytes = b""
    lines: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Second, and the lines logged and bytes read in it."""
    exit: str = ""

    def close(self) -> None:
        """Close everything of ours; the stage then ends what may still live inside."""
        self.peer.close()
        self.leases.close()
        self.control.close()
        os.close(self.output)
        self.spawned.close()


def launch(
    worker: int, spec: Spec, registry: Registry, config: Config, level: str, bpf: bytes
) -> Process:
    """Start the worker of ``spec``.

    Raises:
        SandboxRefused: the level is below the configured minimum.
        ClawError: the model or the plugin is no longer there.
        OSError: the system refused a process or a descriptor.
    """
    if spec.plugin not in registry.plugins:  # its folder is gone since the task was queued
        raise ClawError("unknown_plugin", f"the plugin {spec.plugin} was removed", got=spec.plugin)
    plugin = registry.plugins[spec.plugin]
    ours: list[socket.socket] = []
    theirs: list[int] = []
    try:
        wire_ours, wire_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        lease_ours, lease_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours += [wire_ours, lease_ours]
        theirs += [wire_theirs.detach(), lease_theirs.detach()]
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writing, True)
        theirs.append(writing)
        control = ControlPage.create()
        fds = {
            "wire": theirs[0],
            "leases": theirs[1],
            "control": control.fd,
            "stdout": writing,
            "stderr": writing,
        }
        model: dict[str, Any] = {}
        if spec.model:
            record = stored_model(spec.model)
            path, _ = model_file(record)
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            fds["model"] = os.open(path, flags)
            theirs.append(fds["model"])
            model = {"name": record.name, "bytes": record.bytes, "capability": record.capability}
        policy = _policy(plugin, config, spec)
        spawned = spawn(
            TARGET,
            policy,
            fds,
            bpf=bpf,
            level=level,
            args=_arguments(worker, spec, plugin, registry, config, model),
            uid=UID_BASE + sorted(registry.plugins).index(spec.plugin),
            import_paths=_folders(plugin, registry),
        )
    except BaseException:
        for sock in ours:
            sock.close()
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    lease_ours.setblocking(False)
    return Process(worker, spec, spawned, Peer(wire_ours, b"PAIR"), lease_ours, control, reading)


def _policy(plugin: Plugin, config: Config, spec: Spec) -> Policy:
    """The profile that the manifest names, with this plugin's paths and limits."""
    base = Policy.load(plugin.permissions.profile)
    # What is charged, and room for what an interpreter maps but hardly touches (thread stacks).
    budget = spec.base_bytes + limits.WORKER_SLACK
    if spec.model:
        # The ledger decides what a model may hold; the rlimit only stops what runs away.
        budget += 4 * spec.model_bytes + (1 << 30)
    return dataclasses.replace(
        base,
        minimum_level=config.sandbox.minimum,
        read_paths=base.read_paths + tuple(plugin.permissions.read),
        memory_bytes=budget,
        max_threads=max(base.max_threads, plugin.limits.threads),
    )


def _folders(plugin: Plugin, registry: Registry) -> list[str]:
    """Where the plugin is imported from, if it is not part of the installed package."""
    folder = registry.places[plugin.plugin.name]
    return [] if folder.parent == BUNDLED else [str(folder.resolve())]


def _arguments(
    worker: int,
    spec: Spec,
    plugin: Plugin,
    registry: Registry,
    config: Config,
    model: dict[str, Any],
) -> dict[str, Any]:
    """What the worker's host is told at its start."""
    return {
        "incarnation": worker,
        "plugin": plugin.plugin.name,
        "module": plugin.plugin.module,
        "operations": [entry.name for entry in plugin.operation],
        "idempotent": [entry.name for entry in plugin.operation if entry.idempotent],
        "batches": [entry.name for entry in plugin.operation if entry.batch > 1],
        "drivers": [driver.plugin.module for driver in registry.drivers(plugin)],
        "model": model,
        "slots": spec.slots,
        "threads": config.workers.threads or len(os.sched_getaffinity(0)),
        "context": config.workers.context,
        "max_message": MAX_MESSAGE,
    }


def end(process: Process) -> None:
    """Kill the worker; its stage then ends by itself and tells through its pidfd."""
    for fd in (process.spawned.worker_pidfd, process.spawned.stage_pidfd):
        if fd >= 0:
            try:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            return


def lines(process: Process, second: int) -> tuple[list[str], bool]:
    """What the worker wrote since last time, as lines within its rate; False at the end of it."""
    try:
        data = os.read(process.output, 65536)
    except BlockingIOError:
        return [], True
    if not data:
        return [], False
    *whole, process.pending = (process.pending + data).split(b"\n")
    if len(process.pending) > limits.LOG_LINE:
        whole.append(process.pending)
        process.pending = b""
    if process.lines[0] != second:
        process.lines[:] = [second, 0, 0]
    process.lines[2] += len(data)
    room = max(0, limits.LOG_RATE - process.lines[1])
    process.lines[1] += len(whole)
    return [line[: limits.LOG_LINE].decode("utf-8", "replace") for line in whole[:room]], True


def probe_command() -> list[str]:
    """The one-shot process that proves the sandbox level and compiles the filter."""
    return [sys.executable, "-I", "-B", "-m", "clawai.sandbox.probe"]
