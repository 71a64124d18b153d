"""`claw quantize`: a stored model with its weights in fewer bits, as a file or as another model.

The plugin's worker reads the model in its sandbox and streams the new file; here it is written. The
file has no name until it is complete, verified and on the disk, so that whatever interrupts this
(Ctrl-C, a kill, a full disk) leaves nothing behind; an output that exists is never replaced.
"""

import hashlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from clawai.sdk import catalogue
from clawai.sdk.cli import output, stream
from clawai.sdk.cli.daemon import connect, require_system
from clawai.sdk.cli.main import CANCELLED
from clawai.sdk.errors import ClawError
from clawai.sdk.files import Unnamed
from clawai.sdk.manifest import Model
from clawai.sdk.store import Store, Stored

if TYPE_CHECKING:
    from clawai.sdk.client import Task

OPERATION = "model.quantize"
TYPES = ("q8_0", "q4_0", "q4_1")


@click.command("quantize", no_args_is_help=True)
@click.argument("model")
@click.option(
    "--to", "wanted", type=click.Choice(TYPES), required=True, help="Type of the weights."
)
@click.option("--name", help="Name of the new model in the store; else MODEL-TYPE.")
@click.option(
    "--output", "path", type=click.Path(path_type=Path), metavar="FILE",
    help="Write a file instead of storing a model.",
)  # fmt: skip
@click.option(
    "--embedding", type=click.Choice(TYPES),
    help="Type of the embedding and the output; else 8 bits, or what they have if that is less.",
)  # fmt: skip
@click.option(
    "--priority", type=click.Choice(stream.PRIORITIES), default="normal", show_default=True,
    help="Who goes first.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def quantize_command(
    model: str,
    wanted: str,
    name: str | None,
    path: Path | None,
    embedding: str | None,
    priority: str,
    as_json: bool,
) -> None:
    """Make a smaller model of the stored MODEL.

    q8_0 has 8.5 bits a weight and is hardly worse than the original; q4_1 has 5 bits, searched
    for the smallest error; q4_0 has 4.5. Begin with the largest file there is: what an earlier
    quantization has lost does not come back.

    \b
    Examples:
      claw quantize smollm2 --to q4_0
      claw quantize smollm2 --to q8_0 --output smollm2-q8.gguf
    """
    if name and path:
        raise click.UsageError("--name stores a model, --output writes a file: give one of them.")
    store = Store()
    source = store.get(model)
    target = path or _free_name(store, name or default_name(source.model.name, wanted))
    if isinstance(target, Path):
        _require_free(target)
    require_system()
    params = {"to": wanted} | ({"embedding": embedding} if embedding else {})
    try:
        with connect(start=True) as client:
            task = client.submit(OPERATION, params, model=source.model.name, priority=priority)
            if isinstance(target, Path):
                told = _written(task, target, as_json)
            else:
                told = _stored(task, store, source, target, wanted, as_json)
    except KeyboardInterrupt:  # wherever it comes, the task ends with its client at the latest
        output.note("cancelled; nothing was written")
        raise click.exceptions.Exit(CANCELLED) from None
    told = {"model": source.model.name, "to": wanted} | told
    if as_json:
        output.print_json(told)
    else:
        _say(told)


def default_name(model: str, wanted: str) -> str:
    """What the new model is called if nobody says; the type that it had is no longer named."""
    for each in TYPES:
        model = model.removesuffix(f"-{each}")
    return f"{model}-{wanted}"[-64:]


def _free_name(store: Store, name: str) -> str:
    """A name that no stored model has.

    Raises:
        ClawError: bad_params.
    """
    if not catalogue.MODEL_NAME.fullmatch(name):
        allowed = catalogue.MODEL_NAME.pattern
        raise ClawError("bad_params", "this cannot be the name of a model", name, allowed)
    taken = (store.root / name).is_dir()
    if not taken:
        entries = catalogue.load()
        taken = any(name == each.name or name in each.aliases for each in entries.values())
    if taken:
        raise ClawError(
            "bad_params",
            "a model has this name already",
            got=name,
            allowed="a name that is neither stored nor in the catalogue",
            hint=f"choose another with --name, or delete that one: claw rm {name}",
        )
    return name


def _exists(path: Path) -> ClawError:
    text, hint = "the output exists, and is not replaced", "choose another name, or delete it first"
    return ClawError("bad_params", text, got=str(path), hint=hint)


def _require_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise _exists(path)
    if not path.parent.is_dir():
        folder = str(path.parent)
        raise ClawError("bad_params", "the folder of the output is not there", got=folder)


def _written(task: "Task", path: Path, quiet: bool) -> dict[str, Any]:
    """Take the stream into a file of that name."""
    with Unnamed(path.parent) as made:
        told = _taken(task, made.file, path.name, path.parent, quiet)
        try:
            made.link(path)
        except FileExistsError:
            raise _exists(path) from None
    return told | {"path": str(path)}


def _stored(
    task: "Task", store: Store, source: Stored, name: str, wanted: str, quiet: bool
) -> dict[str, Any]:
    """Take the stream into the store."""

    def wait() -> None:
        output.note(f"another process changes {name}; waiting")

    with store.lock(name, wait):
        staging = store.staging(name)
        try:
            with Unnamed(staging) as made:
                told = _taken(task, made.file, name, staging, quiet)
                _free_name(store, name)  # nobody else has stored one meanwhile
                whole = staging / "whole"
                whole.unlink(missing_ok=True)
                made.link(whole)
            model = Model(
                name=name,
                file=f"{name}.gguf",
                bytes=told["result"]["bytes"],
                sha256=told["sha256"],
                capability=source.model.capability,
                operation_prefix=source.model.operation_prefix,
                format=source.model.format,
                licence=source.model.licence,
                source=f"{source.model.name} (sha256 {source.model.sha256}) quantized to {wanted}",
                pulled_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            )
            found = store.publish(whole, model)
        except BaseException:
            store.clear_staging(name)
            raise
    return told | {"name": name, "path": str(found.path)}


def _taken(task: "Task", file: BinaryIO, name: str, place: Path, quiet: bool) -> dict[str, Any]:
    """Write the stream of a task and check it; what the task says of it.

    Raises:
        ClawError: what ended the task; disk_full; worker_failed, if the bytes are not those that
            the worker meant.
    """
    digest, done = hashlib.sha256(), 0
    told: dict[str, Any] = {}
    waits = output.Status()
    try:
        with output.DownloadBar(name, quiet) as bar:
            for event in task:
                if event.kind == "chunk" and not told:
                    waits.clear()
                    told = event.data
                    _require_room(place, told["result"]["bytes"])
                elif event.kind == "chunk":
                    file.write(event.data)
                    digest.update(event.data)
                    done += len(event.data)
                    bar(done, told["result"]["bytes"])
                elif not told and not quiet:
                    waits.show(stream.waiting(event, name))
    except BaseException:
        _give_up(task)
        raise
    finally:
        waits.clear()
    result: dict[str, Any] = task.result().value
    got, meant = [done, digest.hexdigest()], [result["result"]["bytes"], result["sha256"]]
    if got != meant:
        raise ClawError("worker_failed", "the file that arrived is another", got, meant)
    return result


def _give_up(task: "Task") -> None:
    """Cancel the task, whose kernel may be gone."""
    try:
        task.cancel()
    except ClawError:
        pass


def _require_room(place: Path, need: int) -> None:
    free = shutil.disk_usage(place).free
    if free < need:
        raise ClawError(
            "disk_full",
            f"the disk of {place} has no room for the new file",
            got=f"{output.size(free)} free",
            allowed=f"{output.size(need)} needed",
            hint="free some space (`claw models`, `claw rm NAME`) and run the same command again",
        )


def _say(told: dict[str, Any]) -> None:
    """What was made, with sizes and bits a weight before and after."""
    was, now = told["source"], told["result"]
    name = told.get("name")
    what = f"{name} is stored" if name else f"{told['path']} is written"
    print(f"{output.style('✓', 'green')} {what}")
    for label, each in (("before", was), ("after", now)):
        kinds = ", ".join(f"{kind} {output.size(size)}" for kind, size in each["types"].items())
        bits = f"{each['bits_per_weight']:.2f} bits a weight"
        print(f"  {label:6}  {output.size(each['bytes']):>9}  {bits}  ({kinds})")
    change = now["bytes"] / was["bytes"] - 1
    full = 2 * told["parameters"]
    less = 1 - sum(now["types"].values()) / full
    print(f"  {change:+.0%} against the source; weights {_against(less)} than as F16 (computed)")
    if change >= 0:
        print(f"  {told['model']} has no more bits than that: the new file is no better than it")
    if name:
        print(f'  next: claw run {name} "Why is the sky blue?"')


def _against(less: float) -> str:
    return f"{less:.0%} smaller" if less >= 0 else f"{-less:.0%} larger"
