"""The workers' side of the shell: their processes, sockets and output, turned into events."""

import base64
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from clawai.kernel import events as ev
from clawai.kernel import limits, supervisor
from clawai.kernel.log import LogFile
from clawai.kernel.loop import Loop
from clawai.kernel.peers import Peer
from clawai.kernel.registry import Registry
from clawai.kernel.segments import Segments, read_only
from clawai.kernel.supervisor import Process
from clawai.sandbox.policy import SandboxRefused
from clawai.sdk import wire
from clawai.sdk.config import Config
from clawai.sdk.errors import ClawError

PROBE_LIMIT = 1 << 20


@dataclass
class Processes:
    """All worker processes, and what the sandbox probe found."""

    loop: Loop
    log: LogFile
    registry: Registry
    config: Config
    segments: Segments
    running: dict[int, Process] = field(default_factory=dict)
    probed: dict[str, Any] | None = None
    """Level, layers and advice, once known."""
    bpf: bytes = b""
    waiting: list[ev.Start] = field(default_factory=list)
    muted: list[Process] = field(default_factory=list)
    unmute: int = 0
    """When the muted are listened to again."""
    _probing: "subprocess.Popen[bytes] | None" = None
    _probe_output: bytes = b""

    # The probe.

    def probe(self) -> None:
        """Prove the sandbox level in a process of its own; workers wait for it, clients do not."""
        self._probing = subprocess.Popen(
            supervisor.probe_command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd="/"
        )
        assert self._probing.stdout
        fd = self._probing.stdout.fileno()
        os.set_blocking(fd, False)
        self.loop.watch(fd, self._probe_said)

    def _probe_said(self, _: int) -> None:
        probing = self._probing
        assert probing and probing.stdout
        data = os.read(probing.stdout.fileno(), 65536)
        self._probe_output += data
        if data and len(self._probe_output) < PROBE_LIMIT:
            return
        self.loop.unwatch(probing.stdout.fileno())
        probing.stdout.close()
        probing.wait()
        self._probing = None
        try:
            found = json.loads(self._probe_output)
            self.bpf = base64.b64decode(found.pop("bpf"))
            self.probed = found
        except (ValueError, KeyError, TypeError, AttributeError):
            said = self._probe_output[:500].decode("utf-8", "replace")
            self.probed = {"level": "none", "advice": [f"the sandbox probe failed: {said}"]}
        self.log.write("info", f"sandbox level: {self.probed['level']}")
        waiting, self.waiting = self.waiting, []
        for start in waiting:
            self.start(start)

    # Start and end.

    def start(self, told: ev.Start) -> None:
        """Launch a worker, as soon as the sandbox level is known."""
        if self.probed is None:
            self.waiting.append(told)
            return
        try:
            if self.probed["level"] == "none":
                raise SandboxRefused("none", self.config.sandbox.minimum, self._advice())
            process = supervisor.launch(
                told.worker,
                told.spec,
                self.registry,
                self.config,
                self.probed["level"],
                self.bpf,
            )
        except SandboxRefused as refused:
            self._refuse(told.worker, ClawError("sandbox_refused", str(refused)))
            return
        except (ClawError, OSError, ValueError) as error:
            if not isinstance(error, ClawError):
                error = ClawError("worker_failed", f"the worker could not be started: {error}")
            self._refuse(told.worker, error)
            return
        self.running[told.worker] = process
        self.log.write(
            "info", f"worker {told.worker} {' '.join(filter(None, told.spec.key[:2]))} starts"
        )
        self.loop.watch(process.spawned.status_fd, lambda _: self._status(process))
        self.loop.watch(process.spawned.stage_pidfd, lambda _: self._stage_ended(process))
        self.loop.watch(process.peer.fileno(), lambda mask: self._ready(process, mask))
        self._listen(process)
        process.peer.flush_handshake()

    def _advice(self) -> tuple[str, ...]:
        return tuple(self.probed.get("advice", ())) if self.probed else ()

    def _refuse(self, worker: int, error: ClawError) -> None:
        self.loop.happen(ev.WorkerUnready(worker, error))
        self.loop.happen(ev.WorkerGone(worker, error.message))

    def _status(self, process: Process) -> None:
        for report in process.spawned.read_status():
            if report.event == "closed":
                self.loop.unwatch(process.spawned.status_fd)
            elif report.event == "failed":
                text = f"{process.spec.plugin}: {report.layer}: {report.error}"
                self.log.write("error", f"worker {process.worker} {text}")
                code = "worker_failed" if report.layer == "import" else "sandbox_refused"
                error = ClawError(code, text[:2000], hint="`claw doctor` and `claw logs` tell more")
                self.loop.happen(ev.WorkerUnready(process.worker, error))
            elif report.event == "started":
                self.log.write(
                    "debug", f"worker {process.worker} is process {process.spawned.worker_pid}"
                )

    def kill(self, told: ev.Kill) -> None:
        """End a worker's process."""
        if process := self.running.get(told.worker):
            supervisor.end(process)
        else:
            self.waiting = [start for start in self.waiting if start.worker != told.worker]
            self.loop.happen(ev.WorkerGone(told.worker, told.why))

    def _stage_ended(self, process: Process) -> None:
        """The outer process has ended; the worker inside it has too, or is made to."""
        code = process.spawned.exit_code()
        if code is None:
            return
        self.loop.unwatch(process.spawned.stage_pidfd)
        process.exit = _exit_text(code)
        inner = process.spawned.worker_pidfd
        if inner >= 0 and not select.select([inner], [], [], 0)[0]:
            supervisor.end(process)
            self.loop.watch(inner, lambda _: self._ended(process))
        else:
            self._ended(process)

    def _ended(self, process: Process) -> None:
        self._drain(process)
        # A worker closes its socket as it dies, so all that it said before is read by now.
        for fd in (
            process.spawned.worker_pidfd,
            process.spawned.status_fd,
            process.peer.fileno(),
            process.output,
        ):
            self.loop.unwatch(fd)
        self.running.pop(process.worker, None)
        process.close()
        self.segments.worker_gone(process.worker)
        self.loop.happen(ev.WorkerGone(process.worker, process.exit))

    def _drain(self, process: Process) -> None:
        """Read what the dead worker had still said and logged."""
        for _ in range(4096):
            if process.peer.closed or not self._receive(process):
                break
        for _ in range(16):
            said, more = supervisor.lines(process, 0)
            self._log_lines(process, said)
            if not said or not more:
                break

    # Messages.

    def holders(self) -> Iterable[tuple[Peer, Callable[[], None]]]:
        """For the bound on half-sent messages: each connection, and how to end it."""
        return [
            (process.peer, partial(self._broke, process, "it holds too much of a message"))
            for process in self.running.values()
        ]

    def _ready(self, process: Process, mask: int) -> None:
        if mask & select.EPOLLOUT:
            process.peer.flush()
        if mask & ~select.EPOLLOUT and not self._receive(process):
            self.loop.unwatch(process.peer.fileno())
            supervisor.end(process)  # it has nothing more to say; mostly it is dead already
            return
        if process.peer.zmtp.stalled:
            self.loop.again.add(process.peer.fileno())
        self._settle(process)

    def _receive(self, process: Process) -> bool:
        """Read some; False when the worker has closed or broken its side."""
        try:
            messages = process.peer.receive()
            if messages is None:
                return False
            for frames in messages:
                self._message(process, frames)
        except ClawError as error:
            self._broke(process, error.message)
            return False
        self.loop.shed()
        return True

    def _broke(self, process: Process, why: str) -> None:
        self.loop.unwatch(process.peer.fileno())
        self.loop.happen(ev.WorkerBroke(process.worker, why))

    def _settle(self, process: Process) -> None:
        if process.peer.fileno() in self.loop.callbacks:
            out = select.EPOLLOUT if process.peer.waiting else 0
            self.loop.rewatch(process.peer.fileno(), select.EPOLLIN | out)

    def _message(self, process: Process, frames: list[bytes]) -> None:
        message = wire.decode(frames, wire.FromWorker)
        number = process.worker
        if message.incarnation != number:
            raise ClawError("bad_worker", "another incarnation", message.incarnation, number)
        match message:
            case wire.Progress() | wire.Chunk() | wire.Done() | wire.Error():
                event: ev.Event = ev.Output(number, message, tuple(frames[1:]))
            case wire.Reserve():
                event = ev.WorkerReserved(number, message.bytes)
            case wire.Ready():
                event = ev.WorkerReady(number, message.slots)
            case wire.Unready():
                event = ev.WorkerUnready(number, wire.error_from(message))
            case wire.Dropped():
                event = ev.SegmentDropped(number, message.segment)
            case _:
                event = ev.WorkerAnswered(number)
        self.loop.happen(event)

    def tell(self, told: ev.Tell) -> None:
        """Send to a worker; a dying one does not hear it."""
        process = self.running.get(told.worker)
        if process is None or process.peer.closed:
            return
        if process.peer.waiting > limits.WORKER_OUTBOX:
            self._broke(process, "it does not read")
            return
        process.peer.send(told.message, told.body or ())
        self._settle(process)

    def control(self, told: ev.Control) -> None:
        """Write a control word."""
        if process := self.running.get(told.worker):
            process.control.set(told.slot, told.value)

    def give(self, worker: int, segment: int, size: int, fd: int, rights: wire.Rights) -> None:
        """Send a segment's descriptor to its worker."""
        process = self.running.get(worker)
        if process is None:
            raise OSError(0, "the worker is gone")
        header = {"segment": segment, "bytes": size, "rights": rights}
        theirs = read_only(fd) if rights == "r" else fd
        try:
            socket.send_fds(process.leases, [msgspec.msgpack.encode(header)], [theirs])
        finally:
            if theirs != fd:
                os.close(theirs)

    # Output.

    def _listen(self, process: Process) -> None:
        self.loop.watch(process.output, lambda _: self._output(process))

    def _output(self, process: Process) -> None:
        second = int(time.monotonic())
        said, more = supervisor.lines(process, second)
        self._log_lines(process, said)
        if not more:
            self.loop.unwatch(process.output)
        elif process.lines[2] > limits.OUTPUT_RATE:
            # The rest of the second it waits in its write, not we in our reads.
            self.loop.unwatch(process.output)
            self.muted.append(process)
            self.unmute = (second + 1) * limits.SECOND

    def expire(self, now: int) -> None:
        """Listen again to those who had said too much."""
        if self.muted and now >= self.unmute:
            muted, self.muted = self.muted, []
            for process in muted:
                if self.running.get(process.worker) is process:
                    self._listen(process)

    def _log_lines(self, process: Process, said: list[str]) -> None:
        for line in said:
            title = f"{process.spec.plugin}[{process.worker}]"
            self.log.write("info", f"{title} {line}")

    def close(self) -> None:
        """Kill and reap what is left."""
        if self._probing:
            self._probing.kill()
            self._probing.wait()
        for process in list(self.running.values()):
            supervisor.end(process)
            process.spawned.stage.wait()
            process.close()
        self.running.clear()


def _exit_text(code: int) -> str:
    """How a process ended, in words."""
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if number:
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"exited with code {code}"
