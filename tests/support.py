"""What tests of the running kernel share: a real daemon in folders of its own, and its leak check.

``Kernel`` starts ``python -m clawai.kernel`` in a session of its own, and its launchers may lead
others, so that every process that comes from it can be found afterwards by its session, whatever
it was reparented to. ``check_gone`` is called when it has stopped: no process, no memfd,
no descriptor of it may be left.
"""

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from clawai.sdk import grants, paths, wire
from clawai.sdk.asks import asks
from clawai.sdk.client import Client
from clawai.sdk.manifest import read_plugin
from clawai.sdk.zmtp_handshake import Conversation

PATIENCE = 60.0
"""Seconds after which a wait is a failure. Never what decides between right and wrong."""

GREET = """
from clawai.sdk.plugin import operation

@operation("greet.hello")
def hello(name: str = "world") -> str:
    return f"Hello, {name}!"
"""


def wait_until(true: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait for something that must come; its value, or AssertionError naming ``what``."""
    until = time.monotonic() + patience
    while not (value := true()):
        assert time.monotonic() < until, f"never happened: {what}"
        time.sleep(0.005)
    return value


def descriptors(pid: int | str = "self") -> dict[int, str]:
    """The open descriptors of a process and what they lead to."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):  # the one that lists them
            found[int(name)] = str(Path(f"/proc/{pid}/fd/{name}").readlink())
    return found


def memfds(pid: int | str = "self") -> list[str]:
    """The kernel's memfds that a process has open or mapped."""
    mapped = Path(f"/proc/{pid}/maps").read_text().splitlines()
    held = [line for line in mapped if "memfd:claw" in line]
    return held + [link for link in descriptors(pid).values() if "memfd:claw" in link]


def memory_kib(pid: int, key: str = "VmRSS") -> int:
    """A figure of ``/proc/PID/status`` in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise AssertionError(f"no {key} for process {pid}")


def sessions() -> dict[int, dict[int, str]]:
    """The living processes of each session: id to command line."""
    found: dict[int, dict[int, str]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit():
            continue
        try:
            stat = Path(f"/proc/{name}/stat").read_text()
            fields = stat.rpartition(")")[2].split()
            if fields[0] not in "ZX":
                line = Path(f"/proc/{name}/cmdline").read_text().replace("\0", " ")
                found.setdefault(int(fields[3]), {})[int(name)] = line
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def parent_of(pid: int) -> int:
    """The parent of a process; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def cpu_ticks(pid: int) -> int:
    """Clock ticks of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def cpu_ms(pid: int) -> float:
    """Milliseconds of processor time that a process has used, exactly, ended threads included."""
    clock = (~pid << 3) | 2  # as clock_getcpuclockid(3) makes it; Python has no such function
    return time.clock_gettime(clock) * 1e3


def take_profile(cache: Path) -> None:
    """Give a cache folder the profile of this box, if it was measured: half a second is saved."""
    cache.mkdir(parents=True)
    if (known := paths.cache_dir() / "ops.json").exists():
        shutil.copyfile(known, cache / known.name)


class Kernel:
    """A real daemon with folders of its own.

    Attributes:
        folder: its runtime folder. plugins_dir, models_dir: drop plugins and models there.
        pid: of the daemon.
    """

    def __init__(self, config: str = "", env: Mapping[str, str] | None = None) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="claw-", dir="/tmp"))
        self.base.chmod(0o755)  # a worker of a root daemon has a uid of its own
        self.folder = self.base / "run"
        self.plugins_dir = self.base / "data" / "clawai" / "plugins"
        self.models_dir = self.base / "data" / "clawai" / "models"
        self.config = self.base / "config" / "clawai" / "config.toml"
        self.log_file = self.base / "state" / "clawai" / "kernel.log"
        self.env = {
            **os.environ,
            "CLAW_RUNTIME_DIR": str(self.folder),
            "XDG_DATA_HOME": str(self.base / "data"),
            "XDG_CONFIG_HOME": str(self.base / "config"),
            "XDG_STATE_HOME": str(self.base / "state"),
            "XDG_CACHE_HOME": str(self.base / "cache"),
            "PYTHONDEVMODE": "",
            **(env or {}),
        }
        for folder in (self.plugins_dir, self.models_dir, self.config.parent):
            folder.mkdir(parents=True)
        take_profile(self.base / "cache" / "clawai")
        if "[preemption]" not in config:
            # Nothing is measured at each start, and no bulk worker starves on a box full of tests.
            config = f'{textwrap.dedent(config)}\n[preemption]\nmeans = "none"\n'
        self.config.write_text(textwrap.dedent(config))
        self.process: subprocess.Popen[bytes] | None = None
        self.pid = 0
        self.said = b""
        """What the daemon wrote to standard error; a healthy one writes nothing."""
        self._clients: list[Client] = []
        self._mark = 0
        self._sessions: set[int] = set()
        """Of the daemon and of every launcher that was seen."""

    def start(self, *, wrapper: tuple[str, ...] = ()) -> "Kernel":
        """Start the daemon and wait until it says that it is ready."""
        reading, writing = os.pipe()
        try:
            command = [sys.executable, "-m", "clawai.kernel", "--ready-fd", str(writing)]
            with (self.base / "stderr").open("wb") as errors:
                self.process = subprocess.Popen(
                    [*wrapper, *command],
                    env=self.env,
                    pass_fds=[writing],
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    start_new_session=True,
                )
            os.close(writing)
            writing = -1
            assert select.select([reading], [], [], PATIENCE)[0], "the kernel was never ready"
            line = os.read(reading, 4096)
            assert line, f"the kernel ended: {(self.base / 'stderr').read_text()}"
            self.pid = json.loads(line)["pid"]
            self._sessions.add(self.process.pid)
            wait_until(lambda: len(self.launchers()) == 2, "both launchers are there")
        finally:
            for fd in (reading, writing):
                if fd >= 0:
                    os.close(fd)
        return self

    def client(self, **options: Any) -> Client:
        """A client of this daemon, closed with it at the latest."""
        client = Client(folder=self.folder, timeout=PATIENCE, **options)
        self._clients.append(client)
        return client

    def raw(self) -> "RawPeer":
        """A connection that speaks ZMTP by hand."""
        return RawPeer(self.folder / "kernel.sock")

    def plugin(
        self,
        name: str,
        code: str = GREET,
        operations: Mapping[str, str] | None = None,
        *,
        slots: int = 1,
        memory_mib: int = 64,
        extra: str = "",
        granted: bool = True,
    ) -> Path:
        """Drop a plugin whose module is ``claw_test_NAME``.

        Args:
            operations: name to further lines of its ``[[operation]]``.
            extra: further lines of ``plugin.toml``.
            granted: grant what these ask for.
        """
        folder = self.plugins_dir / name
        folder.mkdir()
        module = f"claw_test_{name.replace('-', '_')}"
        (folder / f"{module}.py").write_text(textwrap.dedent(code))
        entries = "".join(
            f'[[operation]]\nname = "{operation}"\n{lines}\n'
            for operation, lines in (operations or {"greet.hello": ""}).items()
        )
        identity = f'[plugin]\nname = "{name}"\nversion = "1"\nmodule = "{module}"\n'
        limits = f"[limits]\nmemory_mib = {memory_mib}\nslots = {slots}\n"
        # Whole at once: the daemon may read the folder at any moment.
        draft = folder / "plugin.toml.new"
        draft.write_text(f"{identity}{entries}{limits}{textwrap.dedent(extra)}")
        draft.rename(folder / "plugin.toml")
        if granted:
            self.grant(folder)
        return folder

    def grant(self, folder: Path) -> None:
        """Grant the plugin in ``folder`` what it asks for, as its owner would by installing it."""
        plugin = read_plugin(folder)
        if asks(plugin):
            before = os.environ.get("XDG_CONFIG_HOME")
            os.environ["XDG_CONFIG_HOME"] = self.env["XDG_CONFIG_HOME"]
            try:
                grants.change(plugin.plugin.name, [grants.grant(plugin, folder, "test")])
            finally:
                os.environ.pop("XDG_CONFIG_HOME")
                if before is not None:
                    os.environ["XDG_CONFIG_HOME"] = before

    def model(self, name: str, file: Path, capability: str = "llm") -> None:
        """Put a model file into the store, by a hard link if possible."""
        folder = self.models_dir / name
        folder.mkdir()
        target = folder / file.name
        try:
            target.hardlink_to(file)
        except OSError:
            shutil.copyfile(file, target)
        record = {
            "name": name,
            "file": file.name,
            "bytes": file.stat().st_size,
            "sha256": "",
            "capability": capability,
            "format": {".onnx": "onnx", ".tar": "bundle"}.get(file.suffix, "gguf"),
        }
        (folder / "model.json").write_text(json.dumps(record))

    def offer(self, name: str, source: str, sha256: str, size: int) -> None:
        """Put a model into the owner's catalogue."""
        entry = f'source = "{source}"\nsha256 = "{sha256}"\nbytes = {size}\n'
        with self.config.with_name("catalogue.toml").open("a") as file:
            file.write(f'[model.{name}]\n{entry}licence = "MIT"\ncapability = "llm"\n')

    def log(self) -> str:
        """The log so far, or since ``mark``."""
        return self.log_file.read_text()[self._mark :] if self.log_file.exists() else ""

    def mark(self) -> None:
        """Have ``log`` begin here, and the peak of the kernel's memory (VmHWM) too."""
        self._mark = 0
        self._mark = len(self.log())
        for pid in self.exposed():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def exposed(self) -> tuple[int, int]:
        """The processes that strangers talk to: the daemon, and the steward with its door."""
        return self.pid, self.steward()

    def held_kib(self, key: str = "VmRSS") -> int:
        """Memory of these two together, as ``memory_kib`` says it."""
        return sum(memory_kib(pid, key) for pid in self.exposed())

    def close_clients(self) -> None:
        """Close every client of ``client``."""
        for client in self._clients:
            client.close()
        self._clients.clear()

    def stderr(self) -> str:
        """What the daemon printed."""
        return (self.base / "stderr").read_text()

    def steward(self) -> int:
        """The process of the daemon's steward; 0 if there is none."""
        for pid in sessions().get(self.process.pid, {}) if self.process else {}:
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text()
                if parent_of(pid) == self.pid and name == "claw-steward\n":
                    return pid
        return 0

    def launchers(self) -> dict[str, int]:
        """The launchers by lane; the sessions that they lead are kept in mind."""
        found = {}
        steward = self.steward()
        for session, members in sessions().items():
            for pid in members if steward else ():
                with contextlib.suppress(OSError):
                    name = Path(f"/proc/{pid}/comm").read_text().strip()
                    if parent_of(pid) == steward and name in ("claw-main", "claw-bulk"):
                        found[name.removeprefix("claw-")] = pid
                        self._sessions.add(session)
        return found

    def processes(self) -> dict[int, str]:
        """Every living process that comes from the daemon, itself included."""
        self.launchers()
        living = sessions()
        return {pid: line for each in self._sessions for pid, line in living.get(each, {}).items()}

    def worker_pid(self, plugin: str = "echo") -> int:
        """The process of a plugin's worker; 0 if none runs."""
        with self.client() as client:
            while True:
                workers = client.query("workers")["workers"]
                pids = [worker["pid"] for worker in workers if worker["plugin"] == plugin]
                # A forked worker may have answered before its launcher has said its number.
                if not pids or pids[0]:
                    break
        self._clients.pop()
        return pids[0] if pids else 0

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self.process
        self.launchers()  # so that their sessions are known afterwards
        self.close_clients()
        if self.process.poll() is None:
            os.kill(self.pid, number)
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()

    def check_gone(self) -> None:
        """No process that came from the daemon lives."""
        assert self.process
        wait_until(lambda: not self.processes(), f"the end of {self.processes()}")

    def remove(self) -> None:
        """Kill what is left and delete the folders."""
        if self.process:
            self.process.kill()
            self.process.wait()
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.said = (self.base / "stderr").read_bytes() if self.process else b""
        shutil.rmtree(self.base, ignore_errors=True)


@contextlib.contextmanager
def no_leak() -> Iterator[None]:
    """This process has the same descriptors and maps no memfd of a kernel, before and after."""
    gc.collect()
    before = descriptors()
    yield
    gc.collect()
    after = descriptors()
    opened = {fd: link for fd, link in after.items() if before.get(fd) is None}
    assert not opened, f"descriptors left open: {opened}"
    assert not memfds(), f"memory of the kernel left mapped: {memfds()}"


class RawPeer:
    """A client without libzmq: every byte that it sends is the test's own."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(path))
        self.zmtp = Conversation(b"DEALER", max_frames=1 << 30, max_bytes=1 << 40)
        self._inbox: list[list[bytes]] = []

    def handshake(self) -> "RawPeer":
        """The ZMTP handshake only."""
        self.sock.sendall(self.zmtp.outgoing())
        while not self.zmtp.ready:
            self._read()
        return self

    def hello(self, token: bytes = b"") -> "RawPeer":
        """Handshake and ``hello``; expects ``welcome``."""
        self.handshake()
        self.send(wire.Hello(version=wire.VERSION, token=token))
        assert isinstance(self.message(), wire.Welcome)
        return self

    def send(self, message: wire.Message, frames: tuple[bytes, ...] = ()) -> None:
        """Send a proper message."""
        self.send_raw([bytes(part) for part in wire.encode(message, frames)])

    def send_raw(self, frames: list[bytes]) -> None:
        """Send any frames as one message."""
        self.sock.sendall(b"".join(self.zmtp.message(frames)))

    def send_map(self, **fields: Any) -> None:
        """Send any map as a header."""
        self.send_raw([msgspec.msgpack.encode(fields)])

    def _read(self) -> None:
        data = self.sock.recv(1 << 20)
        if not data:
            raise ConnectionResetError("the kernel has closed the connection")
        self._inbox += self.zmtp.receive(data)

    def frames(self) -> list[bytes]:
        """The next message, as frames."""
        while not self._inbox:
            self._read()
        return self._inbox.pop(0)

    def message(self) -> Any:
        """The next message, decoded."""
        return wire.decode(self.frames(), wire.ToClient)

    def answer(self, request: int | None) -> Any:
        """The next message about a request that is neither accepted nor progress."""
        while True:
            message = self.message()
            if getattr(message, "id", None) == request and not isinstance(
                message, wire.Accepted | wire.Progress
            ):
                return message

    def closed(self) -> bool:
        """Whether the kernel closes the connection, after whatever it still has to say."""
        try:
            while self.sock.recv(1 << 20):
                pass
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def __enter__(self) -> "RawPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
