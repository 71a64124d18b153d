"""The steward's end of the network: starts the broker, binds ports, writes the log.

The broker is started when the first worker needs it, and again when it dies: a copy of each
worker's channel is kept here and handed to the next one, so that the workers notice no more than
that the connections which it carried have ended.
"""

import contextlib
import errno
import os
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clawai.kernel.broker import callers, limits, memory
from clawai.kernel.broker.audit import AuditLog
from clawai.kernel.broker.bucket import Bucket
from clawai.kernel.limits import SECOND
from clawai.kernel.link import Link
from clawai.kernel.loop import Loop
from clawai.kernel.steward.log import LogFile
from clawai.sdk import audit, config, netrules
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Permissions, covers

UID = 63999
"""Of the broker under a daemon that is root: below those of the plugins."""
TASKS = 16
"""Tasks that one record names at most."""
HOSTS = "CLAW_BROKER_HOSTS"
"""Environment variable, for tests: a file in place of name servers (``resolve.HostsFile``)."""


@dataclass(slots=True)
class Channel:
    """What one worker may ask the broker for."""

    plugin: str
    keys: list[str]
    end: socket.socket
    """The broker's end of the pair."""
    listeners: dict[int, socket.socket]
    """By port; the broker alone accepts on them."""
    serves: bool
    """It serves others: it may have more connections, and those that it accepts themselves."""
    memory: tuple[str, ...] = ()
    """Names of shared memory that it may have opened."""
    reads: Bucket = field(
        default_factory=lambda: Bucket(limits.READS_RATE, limits.READS_BURST, limits.READS_BURST)
    )
    """Of the system's table, to find whose a connection is."""


class Network:
    """The broker and the listening sockets of all workers."""

    def __init__(
        self,
        loop: Loop,
        log: LogFile,
        ask: Callable[[int], None] | None = None,
        port: str = "",
    ) -> None:
        self.loop = loop
        self.log = log
        self._ask = ask
        """Asks the daemon what runs on a worker, which ``runs`` hears; None: nobody knows."""
        self._port = [port] if port else []
        """As one of ``plugins.ports``, over what stands there."""
        self._unwritten: deque[tuple[audit.Record, bool]] = deque()
        """Records in their order, and whether one waits for what ``runs`` hears."""
        self.audit = AuditLog()
        self.pid = 0
        """The broker's process; 0 while there is none."""
        self._running: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._channels: dict[int, Channel] = {}
        self._listeners: dict[tuple[str, str], tuple[socket.socket, set[int]]] = {}
        self._started = 0.0
        self._pause = limits.AGAIN_FIRST
        self._again = 0.0
        """When to start the broker again; 0: there is no need."""
        self._handlers: dict[str, Callable[..., None]] = {
            "jailed": self._jailed,
            "audit": self._audit,
            "look": self._look,
        }

    # Workers.

    def join(self, worker: int, plugin: str, permissions: Permissions) -> dict[str, int]:
        """What a worker gets for its permissions, by name: copies that belong to the caller.

        Raises:
            ClawError: address_in_use or not_permitted, for a port that cannot be listened on.
            OSError: no descriptor could be had.
        """
        fds: dict[str, int] = {}
        network, listen = list(permissions.network), list(permissions.listen)
        shared = tuple(permissions.shared_memory)
        if not network and not listen and not shared:
            return fds
        if len(listen) > limits.LISTENERS:
            text = f"the plugin {plugin} listens on too many ports"
            raise ClawError("bad_config", text, len(listen), limits.LISTENERS)
        try:
            listening = {netrules.listen_rule(key)[1]: key for key in listen}
            for port, key in listening.items():
                fds[f"listen:{port}"] = self._listen(worker, plugin, key)
            held = {port: self._listeners[plugin, key][0] for port, key in listening.items()}
            serves = bool(held and permissions.on_behalf_of)
            fds["broker"] = self._channel(worker, plugin, network, held, serves, shared)
        except BaseException:
            for fd in fds.values():
                os.close(fd)
            self.leave(worker)
            raise
        told = {"event": "grant", "plugin": plugin, "worker": worker}
        told |= {"network": ", ".join(network), "listen": ", ".join(listen)}
        self._note(told | ({"memory": ", ".join(shared)} if shared else {}))
        return fds

    def leave(self, worker: int) -> None:
        """A worker is gone: its connections end, and nobody listens for it."""
        if channel := self._channels.pop(worker, None):
            channel.end.close()
            self._tell("gone", worker)
        for place, (sock, workers) in list(self._listeners.items()):
            workers.discard(worker)
            if not workers:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # the broker's copy listens no more, too
                sock.close()
                del self._listeners[place]

    def _channel(
        self,
        worker: int,
        plugin: str,
        keys: list[str],
        listeners: dict[int, socket.socket],
        serves: bool,
        shared: tuple[str, ...],
    ) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channels[worker] = Channel(plugin, keys, ours, listeners, serves, shared)
        if self._link:
            self._hand_over(worker, again=False)
        elif not self._again:
            self._start()
        return theirs.detach()

    def _listen(self, worker: int, plugin: str, key: str) -> int:
        """A copy of the listening socket of a plugin's port, which its workers share."""
        if (plugin, key) not in self._listeners:
            # Read anew: the owner may have changed it, and nobody listens there now.
            named = *config.load().plugins.ports, *self._port
            ports = dict(each.split("=") for each in named)
            chosen = ports.get(f"{plugin}:{netrules.listen_rule(key)[1]}", "")
            self._listeners[plugin, key] = bind(plugin, key, chosen), set()
        sock, workers = self._listeners[plugin, key]
        workers.add(worker)
        return os.dup(sock.fileno())

    # The broker.

    def _start(self) -> None:
        """Start the broker and give it every channel that there is."""
        self._again = 0.0
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        hosts = [path] if (path := os.environ.get(HOSTS)) else []
        module = "clawai.kernel.broker.service"
        # The system's resolver gives up while the one who asked may still wait.
        environment = {"PATH": "/usr/bin:/bin", "RES_OPTIONS": "timeout:2 attempts:2"}
        with theirs:
            self._running = subprocess.Popen(
                [sys.executable, "-I", "-B", "-m", module, str(theirs.fileno()), str(UID), *hosts],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd="/",
            )
        self.pid = self._running.pid
        self._link = Link(ours)
        self._started = time.monotonic()
        self.loop.watch(ours.fileno(), self._ready)
        for worker in self._channels:
            self._hand_over(worker, again=self._pause > limits.AGAIN_FIRST)

    def _hand_over(self, worker: int, again: bool) -> None:
        channel = self._channels[worker]
        ports, listeners = list(channel.listeners), channel.listeners.values()
        copies = tuple(os.dup(sock.fileno()) for sock in (channel.end, *listeners))
        told = worker, channel.plugin, channel.keys, channel.serves, again, ports
        self._tell("worker", *told, fds=copies)

    def _tell(self, name: str, *arguments: Any, fds: tuple[int, ...] = ()) -> None:
        if self._link:
            self._link.send(name, *arguments, fds=fds)
            self.loop.rewatch(self._link.fileno(), self._link.mask)

    def _ready(self, mask: int) -> None:
        assert self._link
        if mask & select.EPOLLOUT:
            self._link.flush()
            self.loop.rewatch(self._link.fileno(), self._link.mask)
        if mask & ~select.EPOLLOUT:
            message = self._link.receive()
            if message is None:
                self._died()
                return
            name, arguments, fds = message
            self._handlers[name](*arguments, fds)

    def _jailed(self, layers: list[str], _: list[int]) -> None:
        self.log.write("info", f"network broker {self.pid}, jailed by {', '.join(layers)}")

    def _look(
        self, worker: int, n: int, name: str, host: str, port: int, plugin: str, _: list[int]
    ) -> None:
        """Say whose a connection is to a port of a worker's, or open shared memory of his.

        Args:
            name: of the memory; else it is not asked for.
            plugin: the one that the broker has made the connection for.
        """
        if (channel := self._channels.get(worker)) is None:
            return
        listening = [sock.getsockname()[:2] for sock in channel.listeners.values()]

        def may_read() -> bool:
            return channel.reads.take(time.monotonic())

        fds: tuple[int, ...] = ()
        try:
            uid = None if plugin else callers.caller((host, port), listening, may_read=may_read)
            if name:
                told, fds = self._opened(worker, channel, n, name, uid)
            else:
                told = {"uid": uid, "owner": os.getuid(), "plugin": plugin}
        except callers.TooOften:
            told = {"reason": "too_many", "error": _too_often(channel.plugin)}
        self._tell("found", worker, n, told, fds=fds)

    def _opened(
        self, worker: int, channel: Channel, n: int, name: str, owner: int | None
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Open shared memory for a worker, and write down that it was asked for."""
        told: dict[str, Any] = {}
        fds: tuple[int, ...] = ()
        try:
            if not covers(channel.memory, name):
                text = f"the plugin {channel.plugin} may not have this shared memory opened"
                allowed = sorted(channel.memory)
                raise ClawError("not_permitted", text, name[:200], allowed, _ASK_FOR_MEMORY)
            fds = (memory.opened(name, owner),)
        except ClawError as error:
            told = {"reason": "", "error": {each: getattr(error, each) for each in _FIELDS}}
        record = {"event": "memory", "plugin": channel.plugin, "worker": worker, "n": n}
        reason = told["error"]["message"] if told else ""
        self._note(record | {"name": name[:200], "owner": owner, "reason": reason})
        return told, fds

    def _audit(self, record: dict[str, Any], _: list[int]) -> None:
        self._note(record)
        if record["event"] == "cut":
            if channel := self._channels.pop(record["worker"], None):
                channel.end.close()  # only now does the worker see its end
            who = f"worker {record['worker']} {record['plugin']}"
            text = f"{who} was cut off from the network: {record['reason']}"
            self.log.write("warning", text)

    def _note(self, record: audit.Record) -> None:
        """Have a record written; of a connection only once it is known for whom."""
        beginning = record["event"] in ("connect", "accept")
        self._unwritten.append((record, beginning and self._ask is not None))
        if beginning and self._ask:
            self._ask(record["worker"])
        elif beginning:
            self._tell("noted", record["worker"], record["n"])
        self._write_known()

    def runs(self, tasks: list[tuple[int, str]], _: list[int]) -> None:
        """The daemon's answer to the oldest question: a worker's tasks, and whose each is."""
        place = next(place for place, (_, waits) in enumerate(self._unwritten) if waits)
        record = self._unwritten[place][0]
        record["principal"] = ", ".join(sorted({principal for _, principal in tasks}))
        record["tasks"] = [number for number, _ in tasks[:TASKS]]
        self._unwritten[place] = record, False
        self._tell("noted", record["worker"], record["n"])
        self._write_known()

    def _write_known(self) -> None:
        while self._unwritten and not self._unwritten[0][1]:
            self._write(self._unwritten.popleft()[0])

    def _write(self, record: audit.Record) -> None:
        before = self.audit.lost
        self.audit.write(record, time.monotonic())
        if self.audit.lost and not before:
            self.log.write("error", "the audit log cannot be written; is the disk full?")

    def _died(self) -> None:
        """The broker has: what it carried is closed, and another one gets the channels.

        What it had handed over goes on, and nobody counts it any more.
        """
        self._reap()
        if time.monotonic() - self._started > limits.STEADY:
            self._pause = limits.AGAIN_FIRST
        self.log.write(
            "error", "the network broker died; the connections that it carried have ended"
        )
        self._note({"event": "broker", "reason": "died; what it carried has ended"})
        self._again = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, limits.AGAIN_LAST)

    def _reap(self) -> None:
        assert self._link
        assert self._running
        self.loop.unwatch(self._link.fileno())
        self._link.close()
        self._link = None
        self._running.kill()  # it has closed its end, so that it is of no use in any case
        self._running.wait()
        self._running, self.pid = None, 0

    def next_timer(self) -> int | None:
        """When ``expire`` has something to do, in nanoseconds."""
        planned = [when for when in (self._again, self.audit.next_summary()) if when]
        return int(min(planned) * SECOND) if planned else None

    def expire(self, now: int) -> None:
        """Do what is due."""
        seconds = now / SECOND
        if self._again and seconds >= self._again:
            if self._channels:
                self._start()
            self._again = 0.0
        due = self.audit.next_summary()
        if due and seconds >= due:
            self.audit.summarise(seconds)

    def end(self) -> None:
        """End the broker, and write down what it still says; all workers are gone."""
        for worker in list(self._channels):
            self.leave(worker)
        if self._link:
            self._link.sock.shutdown(socket.SHUT_WR)
            while select.select([self._link], [], [], limits.FAREWELL)[0]:
                message = self._link.receive()
                if message is None:
                    break
                name, arguments, fds = message
                self._handlers[name](*arguments, fds)
            self._reap()
        self._ask = None
        for record, _ in self._unwritten:  # the daemon answers no more
            self._write(record)
        self.audit.close()


_FIELDS = ("code", "message", "got", "allowed", "hint")
_ASK_FOR_MEMORY = "name it in plugin.toml, [permissions.shared_memory], with the reason"


def bind(plugin: str, key: str, chosen: str = "") -> socket.socket:
    """A listening socket for a key of ``[permissions.listen]``.

    Args:
        chosen: ``PORT`` or ``ADDRESS:PORT`` that the owner wants in place of the key's.

    Raises:
        ClawError: address_in_use, not_permitted.
    """
    wide, named = netrules.listen_rule(key)
    address, _, number = chosen.rpartition(":")
    address = address.strip("[]")
    port = int(number or named)
    try:
        if address:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            return socket.create_server((address, port), family=family, backlog=limits.BACKLOG)
        if wide and socket.has_dualstack_ipv6():
            try:
                family = socket.AF_INET6
                return socket.create_server(
                    ("", port), family=family, backlog=limits.BACKLOG, dualstack_ipv6=True
                )
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise  # else IPv6 is switched off
        return socket.create_server(("" if wide else "127.0.0.1", port), backlog=limits.BACKLOG)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        text = f"the plugin {plugin} cannot listen on port {port}: {why}"
        if error.errno == errno.EADDRINUSE:
            hint = f"end what has the port (`ss -ltnp sport = :{port}` names it), or use another: "
            hint += f"claw config set plugins.ports '[\"{plugin}:{named}=NUMBER\"]'"
            raise ClawError("address_in_use", text, key, hint=hint) from error
        hint = "use a port of 1024 or more" if error.errno == errno.EACCES else ""
        raise ClawError("not_permitted", text, key, hint=hint) from error


def _too_often(plugin: str) -> dict[str, Any]:
    text = f"the plugin {plugin} asks too often whose a connection is"
    allowed, wait = f"{limits.READS_RATE:g} a second", int(1000 / limits.READS_RATE)
    error = ClawError("network", text, None, allowed, "", wait)
    return {each: getattr(error, each) for each in (*_FIELDS, "retry_after_ms")}
