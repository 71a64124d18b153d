"""Installing and removing plugins: from a package, a folder or an installed Python package.

What comes is copied into a folder of ours beside the installed plugins and checked there, byte by
byte; nothing of it runs. Once its owner has said yes the grant is written, then the folder takes
its place in one step. Whenever this is killed, either the old version is there with its grant or
the new one is; what is left over is swept away by the next command.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clawai.sdk import contents, grants, package, paths, signing
from clawai.sdk.asks import Ask, asks, grown
from clawai.sdk.errors import ClawError
from clawai.sdk.files import open_regular
from clawai.sdk.found import bundled, scan
from clawai.sdk.manifest import Plugin, read_plugin
from clawai.sdk.version import version_key

GROUP = "clawai.plugins"
"""The entry points by which a Python package says that it holds plugins."""
_STAGE = ".claw-"
_COMPILE_S, _COMPILE_BYTES = 60, 1 << 30


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plugin that could be installed: a copy of our own, checked."""

    plugin: Plugin
    contents: contents.Contents
    folder: Path
    source: str
    signer: str
    """The key that has signed it; empty: nobody has."""

    @property
    def name(self) -> str:
        """Of the plugin."""
        return self.plugin.plugin.name


@dataclass(frozen=True, slots=True)
class Before:
    """What is installed under the name of a candidate."""

    folder: Path
    """Where it lies, or will."""
    version: str = ""
    """Empty: nothing is."""
    held: tuple[grants.Grant, ...] = ()

    @property
    def granted(self) -> tuple[Ask, ...]:
        """What its owner has said yes to."""
        return self.held[-1].permissions if self.held else ()

    @property
    def signer(self) -> str:
        """The key that had signed it."""
        return self.held[-1].signer if self.held else ""


# Staging.


@contextlib.contextmanager
def staged(what: str) -> Iterator[Candidate]:
    """A checked copy of the plugin that ``what`` names, deleted at the end.

    Args:
        what: a package's path, a folder, or the name of an entry point.

    Raises:
        ClawError: bad_package, bad_config, unknown_plugin.
    """
    with _stage() as stage:
        folder = stage / "plugin"
        folder.mkdir()
        place = Path(what)
        if place.is_file():
            yield _unpacked(place, folder)
            return
        source = f"folder {place.resolve()}"
        if not place.is_dir():
            place, source = entry_point(what)
        yield _candidate(folder, _copied(place, folder), source, "")


@contextlib.contextmanager
def opened(place: Path) -> Iterator[Candidate]:
    """What a package holds, to look at only: deleted at the end.

    Raises:
        ClawError: as ``staged``.
    """
    with tempfile.TemporaryDirectory(prefix="claw-") as folder:
        yield _unpacked(place, Path(folder))


def _unpacked(place: Path, folder: Path) -> Candidate:
    """Unpack a package, and check its signature if it has one."""
    found = package.read(place, folder)
    signer = signing.check(found.contents, found.signature)
    return _candidate(folder, found.contents, f"package {place.resolve()}", signer)


@contextlib.contextmanager
def _stage() -> Iterator[Path]:
    """A folder of ours beside the installed plugins, which no sweep takes for left over."""
    parent = paths.plugins_dir()
    parent.mkdir(parents=True, exist_ok=True)
    with grants.lock():
        _sweep()
        stage = Path(tempfile.mkdtemp(prefix=_STAGE, dir=parent))
        handle = os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        os.close(handle)


def sweep() -> None:
    """Delete what a command that was killed has left behind, and grants that belong to nothing."""
    if paths.plugins_dir().is_dir():
        with grants.lock():
            _sweep()


def _sweep() -> None:
    """``sweep``, for who holds the lock."""
    for stage in paths.plugins_dir().glob(f"{_STAGE}*"):
        with contextlib.suppress(OSError):
            handle = os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(stage, ignore_errors=True)
            finally:
                os.close(handle)
    found, _ = scan(paths.plugins_dir())
    for name, held in grants.read().plugins.items():
        if name not in found and not (paths.plugins_dir() / name).exists():
            grants.change(name, ())
        elif name in found and len(held) > 1:
            files = contents.tree_hash(found[name].folder)
            grants.change(name, [each for each in held if each.files == files] or held[:1])


def _copied(source: Path, folder: Path) -> contents.Contents:
    """Copy what makes up the plugin in ``source``."""
    found = contents.collect(source, read_plugin(source))
    for name, item in found.files.items():
        with open_regular(source / name) as file:
            contents.write_file(folder, name, item, file, str(source / name))
    return found


def _candidate(folder: Path, found: contents.Contents, source: str, signer: str) -> Candidate:
    """Check what a copy says of itself."""
    try:
        plugin = read_plugin(folder)
    except ClawError as error:  # named by where it came from, not by where its copy lies
        error.message = error.message.replace(str(folder), source)
        raise
    identity = plugin.plugin
    if (identity.name, identity.version) != (found.name, found.version):
        raise ClawError(
            "bad_package",
            f"{source}: plugin.toml says another name or version than {contents.INDEX}",
            got=[identity.name, identity.version],
            allowed=[found.name, found.version],
        )
    return Candidate(plugin, found, folder, source, signer)


def entry_point(name: str) -> tuple[Path, str]:
    """The plugin folder that an installed Python package offers; none of its code is imported.

    Raises:
        ClawError: unknown_plugin, bad_package.
    """
    import importlib.metadata  # here: it is slow to import, and seldom needed

    offered = importlib.metadata.entry_points(group=GROUP)
    named = [each for each in offered if each.name == name]
    if not named:
        raise ClawError(
            "unknown_plugin",
            f"{name[:200]!r} is no file, no folder, and no plugin of an installed Python package",
            allowed=sorted(each.name for each in offered) or None,
            hint="claw plugin install ./FOLDER, or ./NAME-VERSION.clawplugin",
        )
    point, dist = named[0], named[0].dist
    assert dist is not None
    wanted = f"{point.module.replace('.', '/')}/plugin.toml"
    found = [file for file in dist.files or () if file.as_posix() == wanted]
    if len(named) > 1 or not found:
        raise ClawError(
            "bad_package",
            f"the entry point {name!r} leads to no single plugin folder",
            got=[f"{each.value} ({each.dist.name if each.dist else '?'})" for each in named],
            allowed=f"one package that installs {wanted}",
            hint="for one that is installed for development: claw plugin install ./FOLDER",
        )
    folder = Path(str(dist.locate_file(found[0]))).parent
    return folder, f"Python package {dist.name} {dist.version}"


# What is there.


def _installed(name: str) -> Before:
    """What the folder of installed plugins holds under a name; without its grants."""
    found, _ = scan(paths.plugins_dir())
    if name in found and found[name].folder.parent == paths.plugins_dir():
        return Before(found[name].folder, found[name].plugin.plugin.version)
    return Before(paths.plugins_dir() / name)


def before(name: str) -> Before:
    """What is installed under a name.

    Raises:
        ClawError: bad_package: the name is a bundled plugin's; bad_config: something is in its way.
    """
    if (bundled() / name / "plugin.toml").exists():
        raise ClawError("bad_package", f"{name!r} is the name of a bundled plugin")
    there = _installed(name)
    if not there.version and os.path.lexists(there.folder):
        hint = f"look at it, then move it away: {there.folder}"
        raise ClawError("bad_config", f"{there.folder} is in the way", hint=hint)
    return Before(there.folder, there.version, grants.read().plugins.get(name, ()))


def check(candidate: Candidate, there: Before, force: bool, require_signature: bool) -> list[Ask]:
    """What the owner has not granted yet.

    Raises:
        ClawError: not_granted: a downgrade without ``force``, or no trusted signature where the
            configuration requires one; bad_config: another plugin offers one of its operations.
    """
    _refuse_taken(candidate)
    name, version = candidate.name, candidate.plugin.plugin.version
    if require_signature and not (candidate.signer and signing.name_of(candidate.signer)):
        raise ClawError(
            "not_granted",
            f"{name} {version} is not signed by a key that you trust (plugins.require_signature)",
            got=candidate.signer or "no signature",
            allowed=signing.trusted() or None,
            hint="if you trust its key: claw plugin trust KEY --name WHOSE",
        )
    if there.version and version_key(version) < version_key(there.version) and not force:
        raise ClawError(
            "not_granted",
            f"{name} {version} is older than the installed {there.version}",
            got=version,
            allowed=f"{there.version} or newer",
            hint="an older version may have faults that were mended; if you want it: --force",
        )
    return grown(asks(candidate.plugin), there.granted)


def _refuse_taken(candidate: Candidate) -> None:
    """No plugin takes the place of another's operation, whichever name comes first."""
    offered = {entry.name for entry in candidate.plugin.operation}
    for name, other in scan(bundled())[0].items():
        taken = sorted(offered & {entry.name for entry in other.plugin.operation})
        if taken and name != candidate.name:
            raise ClawError(
                "bad_config",
                f"{name} offers {taken[0]} already",
                got=taken,
                hint=f"if you want {candidate.name} instead: claw plugin remove {name}",
            )


# Taking force.


def commit(candidate: Candidate, there: Before) -> Path:
    """Put a candidate in the place of what is there, with its grant; where it lies now.

    Raises:
        ClawError: bad_state: another command has changed what is installed meanwhile.
    """
    name = candidate.name
    contents.open_to_workers(candidate.folder, candidate.contents)
    _compile(candidate.folder, there.folder)
    granted = grants.grant(
        candidate.plugin,
        candidate.folder,
        candidate.source,
        candidate.contents.hash,
        candidate.signer,
    )
    with grants.lock():
        if before(name) != there:
            hint = "run the command again"
            raise ClawError("bad_state", f"{name} was changed meanwhile", hint=hint)
        grants.change(name, (*there.held, granted))
        if there.version:
            _exchange(candidate.folder, there.folder)
        else:
            candidate.folder.rename(there.folder)
        grants.change(name, (granted,))
    return there.folder


def _exchange(one: Path, other: Path) -> None:
    """Let two folders trade places in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        raise OSError(number, os.strerror(number), str(other))
    # A file system without that: killed in between, nothing is installed, and the grants are
    # swept; the same command installs it then.
    old = one.with_name("old")
    other.rename(old)
    one.rename(other)


_COMPILER = """
import compileall, py_compile, resource, sys
source, target, seconds, most = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_AS, (most, most))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
mode = py_compile.PycInvalidationMode.TIMESTAMP
compileall.compile_dir(source, maxlevels=20, quiet=2, stripdir=source, prependdir=target,
                       invalidation_mode=mode)
"""


def _compile(folder: Path, target: Path) -> None:
    """Compile the Python files for where they will lie: a worker cannot write there.

    In a process of its own with limits: what a stranger has written may make the compiler crash.
    What is not compiled is read as source.
    """
    if not any(folder.rglob("*.py")):
        return
    command = [sys.executable, "-I", "-S", "-c", _COMPILER, str(folder), str(target)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [*command, str(_COMPILE_S), str(_COMPILE_BYTES)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_COMPILE_S,
            check=False,
        )
    for parent, folders, names in os.walk(folder):
        for each in (*folders, *names):
            path = Path(parent, each)
            if "__pycache__" in path.parts[-2:]:
                path.chmod(0o755 if path.is_dir() else 0o644)


def remove(name: str, further: tuple[str, ...]) -> bool:
    """Delete an installed plugin and its grants; whether its folder was there.

    Raises:
        ClawError: not_permitted: it is bundled or lies in a folder of the configuration;
            unknown_plugin.
    """
    if (bundled() / name / "plugin.toml").exists():
        raise ClawError("not_permitted", f"{name} is bundled with ClawAI and stays")
    with grants.lock():
        _sweep()
        there = _installed(name)
        if not there.version:
            raise _not_installed(name, further)
        stage = Path(tempfile.mkdtemp(prefix=_STAGE, dir=paths.plugins_dir()))
        there.folder.rename(stage / "plugin")
        grants.change(name, ())
        shutil.rmtree(stage, ignore_errors=True)
    return True


def _not_installed(name: str, further: tuple[str, ...]) -> ClawError:
    found, _ = scan(paths.plugins_dir(), [Path(folder) for folder in further])
    if name in found:
        where = found[name].folder
        hint = f"delete {where} yourself, or take its folder out: claw config set plugin_dirs"
        return ClawError("not_permitted", f"{name} lies in a folder of plugin_dirs", hint=hint)
    return ClawError(
        "unknown_plugin",
        f"no plugin {name[:80]!r} is installed",
        got=name[:80],
        allowed=sorted(found) or None,
        hint="`claw plugin list` shows them",
    )
