"""`claw plugin dev`: a folder that the kernel serves while it is worked at, reloaded on every save.

The kernel knows the folder for as long as this process lives (``clawai.sdk.develop``). A save is
seen within 50 ms by the files' times; then the worker is stopped and a new one asked what it
offers, so that an error is shown at once with its line, and not with somebody's next call.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from clawai.sdk import asks, develop, paths, schema
from clawai.sdk.cli import arguments, output
from clawai.sdk.cli.daemon import connect
from clawai.sdk.cli.plugin import showing
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Plugin, read_plugin

POLL_S = 0.05
SETTLED_S = 0.02
"""An editor writes several files, or one in several steps: wait until they rest."""
FILES = 4096
_SKIPPED = ("__pycache__", "node_modules", "build", "dist")
_UNSEEN = (".pyc", ".swp", ".tmp", "~", schema.FILE)
Files = dict[str, tuple[int, int, int]]


class Changed(Exception):
    """A file was saved while we waited for an answer."""


def files(folder: Path) -> Files:
    """The plugin's files and what tells one of their versions from another."""
    found: Files = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED and name[0] != "."]
        for name in names:
            if name.endswith(_UNSEEN) or name[0] == ".":
                continue
            try:
                seen = os.stat(f"{parent}/{name}")  # noqa: PTH116
            except OSError:
                continue
            found[f"{parent}/{name}"] = seen.st_ino, seen.st_size, seen.st_mtime_ns
            if len(found) >= FILES:
                raise ClawError("too_large", f"files in {folder}", got=f"over {FILES}")
    return found


def check_syntax(folder: Path) -> None:
    """Compile every Python file, in memory only.

    Raises:
        ClawError: worker_failed, naming file and line.
    """
    for path in schema.sources(folder):
        if path.suffix != ".py":
            continue
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except SyntaxError as error:
            line = (error.text or "").strip()
            where = f"{path}:{error.lineno}"
            raise ClawError("worker_failed", f"{where}: {error.msg}", got=line) from None
        except ValueError as error:  # a null byte
            raise ClawError("worker_failed", f"{path}: {error}") from None


class Output:
    """Prints what the plugin's workers say, from now on: their lines of the kernel's log."""

    def __init__(self, name: str) -> None:
        word = re.escape(name)
        stamp = r"^\S+ \S+ (?P<level>\w+) "
        self._said = re.compile(rf"{stamp}{word}\[\d+\] (?P<text>.*)$")
        self._about = re.compile(rf"{stamp}(?P<text>.*\b{word}\b.*)$")
        self._stop = threading.Event()
        self._path = paths.log_file()
        self._at = self._path.stat().st_size if self._path.exists() else 0
        self._thread = threading.Thread(target=self._follow, name="output", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.wait(POLL_S):
            self._read()
        self._read()

    def _read(self) -> None:
        try:
            if self._path.stat().st_size < self._at:
                self._at = 0  # the kernel has begun it anew
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._show(line)

    def _show(self, line: str) -> None:
        if match := self._said.match(line):
            print(f"{output.style('|', 'cyan')} {output.clean(match['text'])}", flush=True)
        elif (match := self._about.match(line)) and match["level"] in ("warning", "error"):
            print(f"{output.style('!', 'yellow')} {output.clean(match['text'])}", flush=True)

    def close(self) -> None:
        """Print what has come, and stop."""
        self._stop.set()
        self._thread.join()


class Workbench:
    """One folder that is worked at.

    Args:
        call: an operation to call after every reload.
        words: its parameters, ``key=value``; without any, the example of the manifest.
    """

    def __init__(self, folder: Path, call: str = "", words: tuple[str, ...] = ()) -> None:
        self.folder = folder.resolve()
        self.call, self.pairs = call, arguments.pairs_of(words)
        self.seen: Files = {}
        self.name = ""

    def changed(self) -> bool:
        """Whether a file differs from those that were loaded."""
        return files(self.folder) != self.seen

    def settle(self) -> None:
        """Wait until the files rest, and take them for those that are loaded next."""
        self.seen = files(self.folder)
        time.sleep(SETTLED_S)
        while self.changed():
            self.seen = files(self.folder)
            time.sleep(SETTLED_S)

    def reload(self) -> None:
        """Start the plugin anew, say what it offers, call what is to be called.

        Raises:
            ClawError: why it cannot serve.
            Changed: a file was saved meanwhile.
        """
        began = time.monotonic()
        manifest = read_plugin(self.folder)
        check_syntax(self.folder)
        self.name = manifest.plugin.name
        with connect(start=True) as client:
            self._require_known(client)
            client.admin("unload", self.name)
            found = [self._ask(client, op) for op in _askable(manifest)]
            self._keep(manifest, found)
            took = output.duration(time.monotonic() - began)
            print(f"{output.style('●', 'green')} {self.name} serves after {took}", flush=True)
            for each in found:
                print(f"  {output.clean(signature(each))}", flush=True)
            if self.call:
                self._call(client, manifest, found)
            took = output.duration(time.monotonic() - began)
        print(output.style(f"  done in {took}; waiting for the next save", "dim"), flush=True)

    def _keep(self, manifest: Plugin, found: list[schema.Described]) -> None:
        """Write ``operations.json``, if all could be asked and the folder can be written."""
        if found and len(found) == len(manifest.operation):
            with contextlib.suppress(OSError):
                schema.write(self.folder, found)

    def _require_known(self, client: Any) -> None:
        """The kernel reads the manifest anew, and must take it."""
        listed = client.query("plugins")
        if problem := listed["problems"].get(str(self.folder)):
            raise ClawError("bad_config", problem)
        if not any(row["folder"] == str(self.folder) for row in listed["plugins"]):
            raise ClawError(
                "unknown_plugin",
                f"the kernel does not see {self.folder}",
                hint="is it another kernel's runtime folder? see CLAW_RUNTIME_DIR",
            )

    def _ask(self, client: Any, op: str) -> schema.Described:
        task = client.submit(op, schema.QUESTION)
        for _ in self._events(task):
            pass
        return arguments.as_described(op, task.result().value)

    def _call(self, client: Any, manifest: Plugin, found: list[schema.Described]) -> None:
        entry = next((each for each in manifest.operation if each.name == self.call), None)
        if entry is None:
            offered = [each.name for each in manifest.operation]
            raise ClawError("unknown_operation", "--call", got=self.call, allowed=offered)
        params = dict(entry.example)
        described = {each.name: each for each in found}
        if self.pairs and self.call in described:
            params = arguments.convert(self.pairs, described[self.call])
        elif self.pairs:
            params = arguments.guess(self.pairs)
        print(f"  {arguments.example_words(self.call, params)}", flush=True)
        task = client.submit(self.call, params)
        for event in self._events(task):
            if event.kind == "chunk":
                output.print_json(event.data)
        output.print_json(task.result().value)

    def _events(self, task: Any) -> Iterator[Any]:
        """The events of a task; the kernel sends some at least once a second."""
        for event in task:
            if self.changed():
                task.cancel()
                raise Changed
            yield event

    def serve(self) -> None:
        """Reload now and at every save, until Ctrl-C."""
        while True:
            self.settle()
            try:
                self.reload()
            except Changed:
                continue
            except ClawError as error:
                output.print_error(error)
            while not self.changed():
                time.sleep(POLL_S)

    def leave(self) -> None:
        """Have the kernel forget the folder, which is no longer held, and end its worker."""
        try:
            with connect(timeout=1.0) as client:
                client.query("plugins")
                client.admin("unload", self.name)
        except ClawError:
            pass  # the kernel has ended before us


def _askable(manifest: Plugin) -> list[str]:
    """The operations that can be asked without a model."""
    return [entry.name for entry in manifest.operation if not entry.needs_model]


def signature(found: schema.Described) -> str:
    """``hello.greet(name=text) -> text``"""
    needed = found.required
    fields = [
        f"{name}: {schema.type_text(field)}" + ("" if name in needed else " (optional)")
        for name, field in found.fields.items()
    ]
    given = found.chunks if found.stream else found.result
    arrow = "streams" if found.stream else "->"
    return f"{found.name}({', '.join(fields)}) {arrow} {schema.type_text(given)}"


def _tell_granted(folder: Path) -> None:
    """Say what the plugin asks for and has, because its author runs it."""
    wanted = asks.asks(read_plugin(folder))
    if wanted:
        print("While this runs it is granted what it asks for, also what it comes to ask for:")
        showing.list_asks(wanted)


@click.command("dev")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--call", metavar="OP", default="", help="Call this operation after every reload.")
@click.option("--once", is_flag=True, help="Load it once, and leave with its exit code.")
def command(folder: Path, pairs: tuple[str, ...], call: str, once: bool) -> None:
    """Serve the plugin in FOLDER while you work at it: every save reloads it.

    The kernel, which is started if none runs, knows the plugin until this command ends. What the
    plugin prints is shown, and errors with their line. With --call the operation is called after
    every reload, with KEY=VALUE or else with the example of plugin.toml.

    \b
    Examples:
      claw plugin dev hello
      claw plugin dev hello --call hello.greet name=Ada
    """
    develop.require_plugin(folder)
    if pairs and not call:
        raise click.UsageError("KEY=VALUE are the parameters of --call OP, which is missing.")
    bench = Workbench(folder, call, pairs)
    bench.name = read_plugin(bench.folder).plugin.name
    connect(start=True).close()
    said = Output(bench.name)
    try:
        with develop.Session(bench.folder, granted=True):
            _tell_granted(bench.folder)
            if once:
                bench.settle()
                bench.reload()
            else:
                bench.serve()
    except KeyboardInterrupt:
        print(flush=True)
    finally:
        bench.leave()
        said.close()
