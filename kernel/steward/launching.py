"""What a worker's launcher is ordered: the policy, the arguments, and who the worker will be."""

import dataclasses
import fcntl
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from clawai.kernel.events import Spec
from clawai.kernel.steward import folders, limits
from clawai.kernel.steward.registry import BUNDLED, Registry, model_file, stored_model
from clawai.sandbox.launch import require_level
from clawai.sandbox.policy import Policy
from clawai.sdk import places, settings
from clawai.sdk.config import Config
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Plugin
from clawai.sdk.wire import MAX_MESSAGE

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
JUST_NOW_S = 0.05
"""The request that wants a worker has had its code looked at, mostly."""
UID_BASE, UIDS = 64000, 1500
"""A daemon that is root gives each plugin a uid of its own from here on."""


HOST = ("clawai.sdk.host", "clawai.sdk.plugin")
LIBRARIES = {
    "engine": (
        "numpy",
        "tokenizers",
        "jinja2.sandbox",
        "clawai.sdk.model.llama",
        "clawai.sdk.tuning",
    ),
}
"""What bundled plugins of a kind import of others, so that it need not be done at each start."""


@dataclass(frozen=True, slots=True)
class Order:
    """One worker to be started."""

    worker: int
    plugin: str
    code: str
    """Identity of the plugin's files at this moment."""
    policy: dict[str, Any]
    level: str
    args: dict[str, Any]
    uid: int
    import_paths: list[str]
    fds: dict[str, int]
    """Further descriptors that it gets, by name: ``model``, its file; ``secrets``; ``children``, a
    connection to the kernel."""
    groups: list[str] = dataclasses.field(default_factory=list)
    """Files into which its number is written: what bounds it (``cages``)."""
    forked: tuple[str, ...] = ()
    """Modules of the process that it is forked from; none for one that is started afresh."""

    def as_dict(self) -> dict[str, Any]:
        """For the launcher."""
        return {
            "policy": self.policy,
            "level": self.level,
            "args": self.args,
            "uid": self.uid,
            "import_paths": self.import_paths,
            "groups": self.groups,
            "forked": self.forked,
            "spare": self.code if self.forked and self.args["model"] else "",
        }

    def made_of(self, spec: Spec, host: str) -> dict[str, str]:
        """What the weights of its model are made of: names their packed file."""
        return {
            "plugin": self.plugin,
            "code": self.code,
            "model": spec.model,
            "file": spec.identity,
            "host": host,
        }


def order(
    worker: int,
    spec: Spec,
    registry: Registry,
    config: Config,
    level: str,
    advice: Sequence[str] = (),
) -> Order:
    """How to start the worker of ``spec``; its ``fds`` are the caller's.

    Raises:
        SandboxRefused: the level is below the configured minimum; ``advice`` would help.
        ClawError: the model or the plugin is no longer there, or it is not granted what it asks.
        OSError, ValueError: the model's file or the profile cannot be read.
    """
    registry.fresh(spec.plugin)
    if spec.plugin not in registry.plugins:  # its folder is gone since the task was queued
        raise ClawError("unknown_plugin", f"the plugin {spec.plugin} was removed", got=spec.plugin)
    plugin = registry.plugins[spec.plugin]
    if refused := registry.refusal(plugin):
        raise refused
    policy = _policy(plugin, config, spec)
    if registry.places[spec.plugin] in registry.developed:  # its author wants to know
        policy = dataclasses.replace(policy, explain=True)
    require_level(level, policy, advice)
    owner = uid(spec.plugin, registry.uids)
    own: dict[str, Any] = {"config": settings.values(plugin), "data": folders.make(plugin, owner)}
    if own["data"]:
        policy = dataclasses.replace(policy, write_paths=(*policy.write_paths, own["data"]))
    folder = registry.places[spec.plugin]
    loaded = [folder, *(registry.places[each.plugin.name] for each in registry.drivers(plugin))]
    model: dict[str, Any] = {}
    fds: dict[str, int] = {}
    if spec.model:
        record = stored_model(spec.model)
        path, _ = model_file(record)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fds["model"] = os.open(path, flags)
        model = {"name": record.name, "bytes": record.bytes, "capability": record.capability}
    code = registry.code(plugin, JUST_NOW_S)
    bundled = folder.parent == BUNDLED
    arguments = _arguments(worker, spec, plugin, registry, config, model)
    if plugin.secrets:
        fds["secrets"] = _sealed(msgspec.msgpack.encode(settings.secrets(plugin)))
    return Order(
        worker,
        spec.plugin,
        code,
        policy.to_dict(),
        level,
        # Weights are shared with workers of the same code, and the core was told of other code.
        arguments | own | {"shares": code == spec.code},
        owner,
        # A plugin that is part of the installed package is imported from there.
        [str(each.resolve()) for each in loaded if each.parent != BUNDLED],
        fds,
        # Those that are forked share one layout of memory, which no stranger is to know.
        forked=HOST + LIBRARIES.get(plugin.plugin.kind, ()) if bundled else (),
    )


def _sealed(data: bytes) -> int:
    """A descriptor that holds ``data``, which nobody can change."""
    fd = os.memfd_create("claw-secrets", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def uid(plugin: str, taken: dict[str, int]) -> int:
    """The uid of a plugin's workers under a daemon that is root: the same at every start.

    Two plugins whose names lead to the same number get neighbours, the later one the next.
    """
    if plugin not in taken:
        first = int.from_bytes(hashlib.sha256(plugin.encode()).digest()[:4], "big")
        used = set(taken.values())
        numbers = (UID_BASE + (first + more) % UIDS for more in range(UIDS))
        found = next((number for number in numbers if number not in used), None)
        if found is None:
            raise ClawError("worker_failed", f"more than {UIDS} plugins have run; restart")
        taken[plugin] = found
    return taken[plugin]


def _policy(plugin: Plugin, config: Config, spec: Spec) -> Policy:
    """The profile that the manifest names, with this plugin's paths and limits."""
    asked = plugin.permissions
    # Who listens needs a descriptor for each connection, and nothing more than a tool otherwise.
    listens = asked.listen and asked.profile == "tool"
    profile = "network" if listens else asked.profile
    base = Policy.load("front" if listens and asked.on_behalf_of else profile)
    # What is charged, and room for what an interpreter maps but hardly touches (thread stacks).
    budget = spec.base_bytes + limits.WORKER_SLACK
    if spec.model:
        # The ledger decides what a model may hold; the rlimit only stops what runs away.
        budget += 4 * spec.model_bytes + (1 << 30)
    # Looked at again: a link may lead elsewhere than when the manifest was read.
    read = tuple(places.folder(path, write=False) for path in asked.read)
    write = tuple(places.folder(path, write=True) for path in asked.write)
    return dataclasses.replace(
        base,
        minimum_level=config.sandbox.minimum,
        read_paths=base.read_paths + read,
        write_paths=base.write_paths + write,
        programs=base.programs + tuple(map(places.program, asked.programs)),
        devices=base.devices + tuple(map(places.device, asked.devices)),
        accept=False,  # the broker does, and writes it down
        memory_bytes=budget,
        max_threads=max(base.max_threads, plugin.limits.threads),
        # What it declared; what a model adds, the ledger charges and the rlimit stops.
        resident_bytes=budget if spec.model else max(spec.base_bytes, limits.RESIDENT_LEAST),
        cpu=float(plugin.limits.cpu),
        explain=base.explain or config.sandbox.explain,
    )


def _library(plugin: Plugin, registry: Registry) -> str:
    """The shared object of a plugin in C or C++, as its worker sees it; nothing for Python."""
    if plugin.plugin.language == "python":
        return ""
    return str(registry.places[plugin.plugin.name].resolve() / plugin.plugin.module)


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
        "library": _library(plugin, registry),
        "operations": [entry.name for entry in plugin.operation],
        "idempotent": [entry.name for entry in plugin.operation if entry.idempotent],
        "batches": [entry.name for entry in plugin.operation if entry.batch > 1],
        "drivers": [driver.plugin.module for driver in registry.drivers(plugin)],
        "model": model,
        "slots": spec.slots,
        "threads": config.workers.threads or len(os.sched_getaffinity(0)),
        "context": config.workers.context,
        "weights": config.workers.weights,
        "kv": config.workers.kv,
        "max_message": MAX_MESSAGE,
        "network": sorted(plugin.permissions.network),
        "listen": sorted(plugin.permissions.listen),
    }
