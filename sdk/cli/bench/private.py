"""A kernel of the benchmark's own: folders under /tmp, settings and plugins as asked.

    with Private('[memory]\\nbudget_mib = 512') as box:
        box.plugin("mirror")                       # a folder of ``bench/plugins``
        box.write_plugin("noop", CODE, "noop.run")  # or written here
        box.client().call("mirror.say", {"text": "x"})

It neither sees nor disturbs the owner's kernel, models and settings, and leaves nothing behind.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clawai.sdk import paths
from clawai.sdk.client import Client
from clawai.sdk.errors import ClawError

PLUGINS = Path(__file__).parent / "plugins"
START_S = 30.0
STOP_S = 20.0
TIMEOUT = 30.0


class Private:
    """A running kernel and its folders.

    Attributes:
        folder: its runtime folder, for clients of other processes. pid: of the daemon.
        log_file, plugins_dir, models_dir: where it keeps them.
    """

    def __init__(self, config: str = "", env: Mapping[str, str] | None = None) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="claw-bench-", dir="/tmp"))
        self.base.chmod(0o755)  # the worker of a root daemon has a uid of its own
        self.folder = self.base / "run"
        self.plugins_dir = self.base / "data" / "clawai" / "plugins"
        self.models_dir = self.base / "data" / "clawai" / "models"
        self.log_file = self.base / "state" / "clawai" / "kernel.log"
        settings = self.base / "config" / "clawai" / "config.toml"
        cache = self.base / "cache" / "clawai"
        for folder in (self.plugins_dir, self.models_dir, settings.parent, cache):
            folder.mkdir(parents=True)
        if (known := paths.cache_dir() / "ops.json").exists():  # else it would be measured again
            shutil.copyfile(known, cache / known.name)
        settings.write_text(textwrap.dedent(config), encoding="utf-8")
        self._env = {
            **os.environ,
            "CLAW_RUNTIME_DIR": str(self.folder),
            "XDG_DATA_HOME": str(self.base / "data"),
            "XDG_CONFIG_HOME": str(self.base / "config"),
            "XDG_STATE_HOME": str(self.base / "state"),
            "XDG_CACHE_HOME": str(self.base / "cache"),
            **(env or {}),
        }
        self._clients: list[Client] = []
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def start(self) -> "Private":
        """Start the kernel and wait until it is ready.

        Raises:
            ClawError: no_kernel, with what it said.
        """
        if threading.current_thread() is threading.main_thread():
            # A benchmark that is ended by a signal must not leave its kernel behind.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        reading, writing = os.pipe()
        errors = self.base / "stderr"
        with errors.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "clawai.kernel", "--ready-fd", str(writing)],
                env=self._env,
                pass_fds=[writing],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        os.close(writing)
        try:
            there = select.select([reading], [], [], START_S)[0]
            line = os.read(reading, 4096) if there else b""
        finally:
            os.close(reading)
        if not line:
            said = _end(errors)
            self.remove()
            raise ClawError("no_kernel", "the private kernel did not start", got=said)
        self.pid = json.loads(line)["pid"]
        return self

    def client(self, **options: Any) -> Client:
        """A client of it, closed with it at the latest."""
        client = Client(**{"folder": self.folder, "timeout": TIMEOUT, **options})
        self._clients.append(client)
        return client

    def plugin(self, name: str, copy_as: str = "") -> Path:
        """Install a plugin of ``bench/plugins``; ``copy_as`` under another name and operations.

        The name in a manifest and before the dot of its operations is replaced.
        """
        target = self.plugins_dir / (copy_as or name)
        shutil.copytree(PLUGINS / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        if copy_as:
            for file in target.iterdir():
                text = file.read_text(encoding="utf-8")
                text = text.replace(f'"{name}"', f'"{copy_as}"').replace(
                    f'"{name}.', f'"{copy_as}.'
                )
                file.write_text(text, encoding="utf-8")
        return target

    def write_plugin(self, name: str, code: str, *operations: str, limits: str = "") -> Path:
        """Install a plugin written here; ``limits`` are lines of its ``[limits]``.

        An operation is its name, with further lines of its entry after a line break.
        """
        target = self.plugins_dir / name
        target.mkdir()
        module = f"claw_bench_{name.replace('-', '_')}"
        (target / f"{module}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        entries = ""
        for operation in operations:
            word, _, lines = operation.partition("\n")
            entries += f'[[operation]]\nname = "{word}"\n{textwrap.dedent(lines)}\n'
        identity = f'[plugin]\nname = "{name}"\nversion = "1"\nmodule = "{module}"\n'
        manifest = f"{identity}{entries}[limits]\n{textwrap.dedent(limits)}\n"
        (target / "plugin.toml").write_text(manifest, encoding="utf-8")
        return target

    def model(self, name: str, file: Path) -> Path:
        """Store a copy of a model's file under ``name``; where it lies."""
        folder = self.models_dir / name
        folder.mkdir()
        stored = folder / "model.gguf"
        shutil.copyfile(file, stored)
        record = {"name": name, "file": stored.name, "bytes": stored.stat().st_size, "sha256": ""}
        (folder / "model.json").write_text(json.dumps(record | {"capability": "llm"}))
        return stored

    def alive(self) -> bool:
        """Whether the kernel that was started still runs."""
        return self._process is not None and self._process.poll() is None

    def processes(self) -> list[int]:
        """The daemon and everything that comes from it."""
        return family(self.pid) if self.pid else []

    def log(self) -> str:
        """The kernel's log so far."""
        return self.log_file.read_text(encoding="utf-8") if self.log_file.exists() else ""

    def stop(self) -> int:
        """Stop the kernel; its exit status."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        process = self._process
        if process is None:
            return 0
        family_then = self.processes()
        if process.poll() is None:
            # One that was never ready has not said its pid, and 0 would mean all of us.
            os.kill(self.pid or process.pid, signal.SIGTERM)
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            for pid in reversed(family_then):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return process.wait()

    def remove(self) -> None:
        """Stop it and delete its folders."""
        self.stop()
        shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self) -> "Private":
        return self.start() if self._process is None else self

    def __exit__(self, *_: object) -> None:
        self.remove()


def family(pid: int) -> list[int]:
    """A process and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                stat = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8", errors="replace")
                parent = int(stat.rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _end(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-500:].strip() or "no word"
