"""Which places of the box a plugin may ask for: checked with its manifest, and at each start.

``~`` is the owner's home. Refused, whatever the reason given: what would undo the sandbox (``/``,
/proc, /sys, /dev), whole homes, keys and passwords, and the kernel's own folders; for writing also
what runs when the owner logs in, and the system's folders. A place that *contains* a refused one is
refused with it. Asked for through a link, the place behind the link counts.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from clawai.sdk import paths
from clawai.sdk.errors import ClawError

_SYSTEM = ("/proc", "/sys", "/dev")
_SECRETS = ("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/sudoers.d", "/etc/ssh")
_SECRETS_AT_HOME = (
    ".ssh", ".gnupg", ".aws", ".kube", ".docker", ".netrc", ".pgpass", ".pypirc", ".mozilla",
    ".password-store", ".local/share/keyrings", ".config/gh",
)  # fmt: skip
_STARTS_AT_HOME = (
    ".bashrc", ".bash_profile", ".bash_login", ".profile", ".zshrc", ".zprofile", ".zshenv",
    ".xinitrc", ".xprofile", ".local/bin", ".config/autostart", ".config/systemd",
    ".config/fish", ".config/git", ".gitconfig",
)  # fmt: skip
_STARTS = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/boot", "/etc", "/var/spool")
# What is more than a device: memory of others, terminals, keyboards, ways to make new devices.
_DEVICES = (
    "mem", "kmem", "port", "kmsg", "nvram", "tty", "console", "ptmx", "pts", "vcs", "input", "rtc",
    "uinput", "uhid", "fuse", "net", "vhost", "userfaultfd", "snapshot", "mapper", "loop", "vfio",
    "autofs", "cpu", "shm", "hugepages", "mqueue", "bus", "watchdog",
    "nvme", "ng", "sg", "bsg", "raw", "tpm", "tpmrm", "mei", "ipmi", "hidraw", "usbmon", "vcsa",
)  # fmt: skip


def expand(path: str) -> str:
    """``path`` as an absolute one: ``~`` is the owner's home.

    Raises:
        ClawError: bad_config; it is not absolute, or not in its plain form.
    """
    full = str(Path.home()) + path[1:] if path == "~" or path.startswith("~/") else path
    if not full.startswith("/") or os.path.normpath(full) != full or "\0" in full:
        raise ClawError(
            "bad_config",
            f"a permission names the path {path!r}",
            got=path,
            allowed="an absolute path without `.`, `..`, `//` and a `/` at its end, or ~/...",
        )
    return full


def folder(path: str, *, write: bool) -> str:
    """``path`` expanded, if a plugin may be given it.

    Raises:
        ClawError: not_permitted, saying what it would lay open; bad_config.
    """
    full = expand(path)
    for seen in dict.fromkeys((full, os.path.realpath(full))):
        for place, what in _refused(write):
            if _touches(seen, place):
                verb = "write" if write else "read"
                behind = "" if seen == full else f" (a link to {seen})"
                raise ClawError(
                    "not_permitted",
                    f"no plugin may {verb} {path}{behind}: {what}",
                    got=path,
                    allowed="a folder or file that holds nothing of these",
                    hint="name the smallest folder that the plugin needs, such as ~/Documents/in",
                )
    return full


def program(path: str) -> str:
    """``path`` expanded, if it can be a program that a plugin starts: a file, not a whole folder.

    Raises:
        ClawError: not_permitted, bad_config.
    """
    full = expand(path)
    if any(_inside(full, tree) for tree in _SYSTEM) or Path(full).is_dir():
        raise ClawError(
            "not_permitted",
            f"{path} cannot be a program of a plugin",
            got=path,
            allowed="the path of one program, such as /usr/bin/ffmpeg",
        )
    return full


def device(path: str) -> str:
    """``path`` expanded, if a plugin may be given that device.

    Raises:
        ClawError: not_permitted, bad_config.
    """
    full = expand(path)
    for seen in dict.fromkeys((full, os.path.realpath(full))):
        kind = re.match("[a-z]*", seen.removeprefix("/dev/"))
        if not seen.startswith("/dev/") or (kind and kind[0] in _DEVICES):
            raise ClawError(
                "not_permitted",
                f"no plugin may be given {path} as a device",
                got=path,
                allowed="one character device, such as /dev/dri/renderD128, /dev/video0, /dev/kfd",
            )
    return full


def check(
    *,
    read: Iterable[str],
    write: Iterable[str],
    programs: Iterable[str],
    devices: Iterable[str],
) -> None:
    """Check everything that a manifest asks for; see ``folder``, ``program`` and ``device``."""
    for path in read:
        folder(path, write=False)
    for path in write:
        folder(path, write=True)
    for path in programs:
        program(path)
    for path in devices:
        device(path)


def _refused(write: bool) -> Iterator[tuple[str, str]]:
    """Places, and what they hold."""
    home = Path.home()
    for tree in _SYSTEM:
        yield tree, f"{tree} would undo the sandbox"
    for secret in _SECRETS:
        yield secret, f"{secret} holds secrets of the system"
    for name in _SECRETS_AT_HOME:
        yield str(home / name), f"~/{name} holds the owner's keys"
    for kernel in (paths.runtime_dir(), paths.state_dir(), paths.config_file().parent):
        yield str(kernel), f"{kernel} belongs to the kernel"
    yield str(paths.plugins_dir()), f"{paths.plugins_dir()} holds the plugins"
    if write:
        yield str(paths.data_dir()), f"{paths.data_dir()} holds the models and plugins"
        for name in _STARTS_AT_HOME:
            yield str(home / name), f"~/{name} runs when the owner logs in or works"
        for tree in _STARTS:
            yield tree, f"{tree} belongs to the system"


def _touches(path: str, place: str) -> bool:
    """Whether one lies in the other, by name or behind a link; ``path`` may contain ``place``."""
    return any(
        _inside(path, each) or _inside(each, path)
        for each in dict.fromkeys((place, os.path.realpath(place)))
    )


def _inside(path: str, tree: str) -> bool:
    return path == tree or path.startswith(tree.rstrip("/") + "/")
