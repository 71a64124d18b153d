"""The steward's loop: what the daemon asks of it, in the order in which it asks.

One thread, so that a launcher can be forked from it at any time. It may wait for the daemon, which
never waits for it.
"""

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from clawai.kernel.broker.keeper import Network
from clawai.kernel.events import Spec
from clawai.kernel.limits import MIB, MS, SECOND
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.kernel.steward import ladder, launching, views
from clawai.kernel.steward.cages import Cages
from clawai.kernel.steward.door import Client, Door
from clawai.kernel.steward.errands import COMMANDS, Errands
from clawai.kernel.steward.folders import Folders
from clawai.kernel.steward.groups import Group
from clawai.kernel.steward.keepers import Keepers
from clawai.kernel.steward.log import LogFile
from clawai.kernel.steward.memory import Memory
from clawai.kernel.steward.news import News
from clawai.kernel.steward.ops import Ops
from clawai.kernel.steward.output import Outputs
from clawai.kernel.steward.packed import Pack
from clawai.kernel.steward.pressure import Watch
from clawai.kernel.steward.proofs import Proofs
from clawai.kernel.steward.registry import Registry
from clawai.kernel.steward.waits import Waits
from clawai.sandbox import syscalls as sc
from clawai.sandbox.policy import Policy, SandboxRefused
from clawai.sdk import paths, wire
from clawai.sdk.boxes import views as boxes
from clawai.sdk.config import Config, budget_bytes
from clawai.sdk.device import choose
from clawai.sdk.errors import ClawError
from clawai.sdk.plain import error_fields

LANES = ("main", "bulk")


def become(sock: socket.socket, daemon: int) -> NoReturn:
    """Be the steward of ``daemon``, our parent, until it or ``sock`` ends."""
    sc.close_all_but([0, 1, 2, sock.fileno()])
    sc.set_name("claw-steward")
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the daemon decides when to end
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
    status = 1
    try:
        if os.getppid() == daemon:
            link = Link(sock, blocking=True)
            first = link.receive()
            if first:
                (told, last, clients), (door, lease, *ready) = first[1:]
                config = msgspec.convert(told["config"], Config)
                steward = Steward(link, config, told)
                steward.door.last = last
                steward.door.clients = {number: Client(0) for number in clients}
                steward.ready = ready
                steward.serve([door, lease])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


class Steward:
    """Everything that the steward holds."""

    def __init__(self, link: Link, config: Config, told: dict[str, Any]) -> None:
        self.link = link
        self.config = config
        self.started: int = told["started"]
        """When the kernel was: told to those that follow, seen by the first."""
        self.loop = Loop(_no_event)
        self.log = LogFile(
            paths.log_file(), config.log.level, config.log.max_mib * MIB, told["echo"]
        )
        self.registry = Registry(tuple(Path(folder) for folder in config.plugin_dirs))
        self.registry.sequences = config.workers.sequences
        self.registry.guard.require_signature = config.plugins.require_signature
        self.outputs = Outputs(self.loop, self.log)
        self.daemon = os.getppid()
        self.door = Door(self.loop, self.link, self.log, self.daemon)
        self.device = choose(config.device)
        keepers = Keepers(self.loop, self.log, self.device.lock_weights)
        self.memory = Memory(self.loop, self.link, self.log, self.door, keepers)
        self.cages = Cages(self.log, self._signal, self.daemon)
        self.memory.given = self.cages.given
        shared = self.loop, self.link, self.outputs, self._gone, self.cages
        self.groups = {lane: Group(lane, *shared) for lane in LANES}
        self.proofs = Proofs(self.loop, self.log, config, self.daemon, self._proved)
        self.ops = Ops(self.loop, self.log, self._start_waiting)
        self.errands = Errands(self.loop, self.log)
        self.folders = Folders(self._end_worker)
        self.memory.packs.end = self._end_worker
        self.memory.packs.on = config.workers.packed
        self._ended: dict[int, str] = {}
        """Workers that were killed here, and why."""
        who: Callable[[int], None] = lambda worker: self.link.send("who", worker)  # noqa: E731
        self.network = Network(self.loop, self.log, who, told["port"])
        self.watch = Watch(budget_bytes(config), self._processes)
        self.waits = Waits(self.log, self._waited, self.groups["bulk"].pids, self.cages.throttled)
        self.news = News()
        self.running = True
        self.ready: list[int] = []
        """A descriptor that gets a line once the daemon serves, if somebody waits for it."""
        self._waiting: dict[int, tuple[Spec, list[int]]] = {}
        """Workers to be started once the sandbox is proved and the ops are measured."""
        self._handlers: dict[str, Callable[..., None]] = {
            "ready": self._ready,
            "end": self._end,
            "log": lambda level, text, _: self.log.write(level, text),
            "resolve": self._resolve,
            "view": self._view,
            "errand": self._errand,
            "news": self._news,
            "left": self._left,
            "runs": self.network.runs,
            "launch": self._launch,
            "Kill": lambda worker, _why, _: self._signal(worker, signal.SIGKILL),
            "Suspend": self._suspend,
            **self.memory.handlers(),
        }

    def serve(self, listeners: list[int]) -> None:
        """Serve until the daemon is gone; then end what was started here, and wait for its end."""
        # The launchers first, from a process that is small yet.
        for group in self.groups.values():
            group.fork()
        self.door.open(listeners)
        self.loop.watch(self.link.fileno(), self._told)
        self.proofs.begin()
        self.registry.scan()
        for where, why in self.registry.problems.items():
            self.log.write("warning", f"plugin {where}: {why}")
        if self.watch.cores != len(os.sched_getaffinity(0)):
            self.link.send("happened", "Pressure", *self.watch.told)  # a container has less
        now = time.monotonic_ns()
        while self.running:
            self.watch.attend(any(group.workers for group in self.groups.values()), now)
            self.waits.attend(now)
            timed = (self.folders, self.network, self.cages, self.errands, self.waits)
            parts = (self.door, self.memory, self.outputs, self.watch, *timed)
            planned = [when for part in parts if (when := part.next_timer()) is not None]
            due = min(planned, default=None)
            self.loop.turn(None if due is None else max(0.0, (due - time.monotonic_ns()) / 1e9))
            now = time.monotonic_ns()
            self.door.expire(now)
            self.memory.expire(now)
            self.outputs.expire(now)
            self.cages.expire(now)
            self.waits.expire(now)
            self.folders.expire(now)
            self.errands.expire(now)
            self.network.expire(now)
            if found := self.watch.look(now):
                left = f"{found[0]:g} cores and {found[1] // MIB} MiB"
                self.log.write("debug", f"others leave us {left}")
                self.link.send("happened", "Pressure", *found)
        for group in self.groups.values():
            group.end()
        self.cages.end()
        self.proofs.end()
        self.ops.end()
        self.errands.end()
        self.network.end()
        self.outputs.drain()
        self.log.close()

    def _told(self, _: int) -> None:
        message = self.link.receive()
        if message is None:
            self.loop.unwatch(self.link.fileno())
            self.running = False
            return
        name, arguments, fds = message
        self._handlers[name](*arguments, fds)

    def _ready(self, _: list[int]) -> None:
        """The daemon serves."""
        self.started = time.monotonic_ns()
        path = str(paths.kernel_socket())
        self.log.write("info", f"kernel {self.daemon} serves {path}")
        for fd in self.ready:
            line = {"ready": True, "pid": self.daemon, "socket": path}
            with contextlib.suppress(OSError):  # who waited is gone
                os.write(fd, msgspec.json.encode(line) + b"\n")
            os.close(fd)

    def _end(self, _: list[int]) -> None:
        """The daemon ends; it waits for us, and holds the lock of its folder as long."""
        for path in (paths.kernel_socket(), paths.lease_socket()):
            path.unlink(missing_ok=True)

    def _answer(self, question: int, value: Any, *fds: int) -> None:
        self.link.send("answer", question, value, fds=fds)

    def _refuse(self, question: int, error: ClawError) -> None:
        self.link.send("refuse", question, error_fields(error))

    # The box.

    def _processes(self) -> list[int]:
        """All that is ours, so that the rest is others'."""
        workers = [each.pid for group in self.groups.values() for each in group.workers.values()]
        launchers = [group.pid for group in self.groups.values()]
        alone = self.daemon, os.getpid(), self.network.pid
        return [pid for pid in (*alone, *launchers, *workers) if pid]

    def _waited(self, worker: int, span: int) -> None:
        """A bulk worker has wanted a processor for so long, and had none."""
        self.link.send("happened", "WorkerWaited", worker, span)

    # Questions.

    def _resolve(
        self, question: int, op: str, model: str, batch: bool, caller: str, _: list[int]
    ) -> None:
        self._reply(question, lambda: self.registry.resolve(op, model, batch, caller))

    def _view(
        self, question: int, what: str, lost: int, rows: dict[str, Any], _: list[int]
    ) -> None:
        """Make a listing of what the core knows; ``lost``: lines that never came here."""
        if what.startswith("logs:"):
            place = what.removeprefix("logs:")
            self._reply(question, lambda: bytes(wire.pack(self.log.read(place))))
            return
        verb, rest = what.partition(":")[::2]
        if verb in COMMANDS:
            self._reply(question, lambda: bytes(wire.pack(self.errands.look(verb, rest))))
            return
        if verb == "boxes":
            self._reply(question, lambda: bytes(wire.pack(boxes.view(what))))
            return
        proofs = self.proofs
        rows["pid"], rows["clients"] = self.daemon, self.door.count
        rows["uptime_s"] = (rows["now"] - self.started) // SECOND
        rows["log_lines_lost"] = lost + self.log.lost
        rows["sandbox"] = proofs.sandbox or {"level": "being proved"}
        rows["preemption"] = proofs.means.as_dict() if proofs.means else {}
        if proofs.means and proofs.means.means.kind != "realtime" and rows["boost_ns"]:
            rows["preemption"]["boost_ms"] = rows["boost_ns"] // MS
        started = [group.workers.items() for group in self.groups.values()]
        rows["pids"] = {number: each.pid for workers in started for number, each in workers}
        rows["device"] = self.device.name
        rows["launchers"] = {lane: group.pid for lane, group in self.groups.items()}
        self._reply(question, lambda: bytes(wire.pack(views.view(what, rows, self.registry))))

    def _errand(self, question: int, *told: Any) -> None:
        """Have a model fetched or deleted; it goes on while somebody looks."""
        self._reply(question, lambda: bytes(wire.pack(self.errands.begin(*told[:-1]))))

    def _news(self, question: int, *rows: Any) -> None:
        self._answer(question, self.news.tell(*rows[:-1]))

    def _reply(self, question: int, make: Callable[[], Any]) -> None:
        """Answer with what ``make`` gives; if it has found folders changed, that is told first."""
        before = self.registry.version
        told: Any = None
        try:
            told = make()
        except ClawError as error:
            told = error
        except (TypeError, ValueError, OverflowError, OSError) as error:
            # A listing must never end anything, whatever stands in a manifest or a setting.
            told = ClawError("bad_config", f"the listing cannot be sent: {error}")
        if self.registry.version != before:
            self.link.send("forget")
        if isinstance(told, ClawError):
            self._refuse(question, told)
        else:
            self._answer(question, told)

    def _left(self, question: int, client: int, _: list[int]) -> None:
        """The daemon serves a client no more; what it had asked for that one is done now."""
        self.door.left(client)
        self._answer(question, None)

    # Workers.

    def _proved(self) -> None:
        """Workers can be started now."""
        assert self.proofs.means
        self.cages.open(self.proofs.means.means)
        wanted = self.config.preemption
        apart = ladder.apart(wanted.rungs, wanted.means)
        for group in self.groups.values():
            group.enter(apart, asdict(self.proofs.means.means))
        self._start_waiting()

    def _launch(self, worker: int, spec: list[Any], fds: list[int]) -> None:
        self._waiting[worker] = (msgspec.convert(spec, Spec), fds)
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Start those for which all is known."""
        if not self.proofs.done:
            return
        for worker, (spec, fds) in list(self._waiting.items()):
            line = self.ops.line(spec.plugin, self.registry)
            if line is not None:
                del self._waiting[worker]
                self._start(worker, spec, fds, line)

    def _start(self, worker: int, spec: Spec, fds: list[int], ops: str) -> None:
        """Have the launcher of the worker's lane start it."""
        found = self.proofs.sandbox
        assert found
        named: dict[str, int] = {}
        try:
            fds.append(self.memory.pair(worker))
            level, advice = found["level"], tuple(found.get("advice", ()))
            if level == "none":
                raise SandboxRefused("none", self.config.sandbox.minimum, advice)
            order = launching.order(worker, spec, self.registry, self.config, level, advice)
            named = order.fds
            order.args["ops"] = ops
            permissions = self.registry.plugins[spec.plugin].permissions
            named.update(self.network.join(worker, spec.plugin, permissions))
            if order.code != spec.code:
                self.memory.unlike.add(worker)
            elif spec.model and (pack := self._packed(order, spec)):
                named["packed"] = os.dup(pack.fd)
                order.args["packed_huge"] = pack.huge
            plugin = self.registry.plugins[spec.plugin]
            if plugin.permissions.operations:
                named["children"] = self.door.children(worker)
                if permissions.on_behalf_of:
                    may = permissions.kernel
                    named["front"] = self.door.children(worker, spec.plugin, may)
            now, most = time.monotonic_ns(), plugin.limits.data_mib * MIB
            self.folders.watch(worker, order.args["data"], most, now)
            self.log.write("info", f"worker {worker} {' '.join(filter(None, spec.key[:2]))} starts")
            policy = Policy.from_dict(order.policy)
            order.groups.extend(self.cages.add(worker, order.plugin, policy, spec.lane))
            self.groups[spec.lane].spawn(order, self.proofs.bpf, fds)
            return
        except SandboxRefused as refused:
            error = ClawError("sandbox_refused", str(refused))
        except ClawError as wrong:
            error = wrong
        except (OSError, ValueError) as wrong:
            error = ClawError("worker_failed", f"the worker could not be started: {wrong}")
        for fd in (*fds, *named.values()):
            os.close(fd)
        self.link.send("failed", worker, error_fields(error))
        self._gone(worker, error.message)

    def _packed(self, order: launching.Order, spec: Spec) -> Pack | None:
        """The packed file for a worker of a model, if there is one."""
        return self.memory.packs.find(order.worker, order.made_of(spec, self.registry.host))

    def _gone(self, worker: int, why: str) -> None:
        """Nothing of a worker lives any more."""
        self.network.leave(worker)
        self.memory.worker_gone(worker)
        self.folders.watched.pop(worker, None)
        self.link.send("gone", worker, self.cages.gone(worker, self._ended.pop(worker, why)))

    def _end_worker(self, worker: int, why: str) -> None:
        """Kill a worker that holds more than it may."""
        self._ended[worker] = why
        self._signal(worker, signal.SIGKILL)

    def _suspend(self, worker: int, stopped: bool, _: list[int]) -> None:
        """Stop a worker, or let it go on.

        Process 1 of its namespace is every process in there, as its system call filter lets nobody
        fork; where it may start programs, its launcher reaches them all.
        """
        self.cages.hold(worker, "owner", stopped)

    def _signal(self, worker: int, number: int) -> None:
        if worker in self._waiting and number == signal.SIGKILL:
            for fd in self._waiting.pop(worker)[1]:
                os.close(fd)
            self._gone(worker, "killed before it was started")
        for group in self.groups.values():
            if worker in group.workers:
                group.signal(worker, number)


def _no_event(_: object) -> None:
    raise AssertionError("no event of the core happens in the steward")
