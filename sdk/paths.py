"""Where ClawAI keeps things: the XDG folders and the kernel's owner-only runtime folder."""

import os
import stat
from pathlib import Path

from clawai.sdk.errors import ClawError


def _xdg(variable: str, fallback: str) -> Path:
    """The XDG base folder; a relative value is ignored, as the XDG specification asks."""
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / fallback


def data_dir() -> Path:
    """Models and plugin data."""
    return _xdg("XDG_DATA_HOME", ".local/share") / "clawai"


def models_dir() -> Path:
    """One folder a pulled model, see ``clawai.sdk.store``."""
    return data_dir() / "models"


def plugins_dir() -> Path:
    """Plugins that the owner installed, one folder each."""
    return data_dir() / "plugins"


def plugin_data_dir(name: str) -> Path:
    """The private data folder of a plugin."""
    return data_dir() / "plugin-data" / name


def plugin_secrets(name: str) -> Path:
    """What the owner has entrusted to a plugin, a file each that only the owner may read."""
    return data_dir() / "plugin-secrets" / name


def plugin_config(name: str) -> Path:
    """What the owner has set for a plugin."""
    return config_dir() / "plugins" / f"{name}.toml"


def config_dir() -> Path:
    """The configuration, what plugins were granted, keys."""
    return _xdg("XDG_CONFIG_HOME", ".config") / "clawai"


def config_file() -> Path:
    """The one configuration file."""
    return config_dir() / "config.toml"


def state_dir() -> Path:
    """Logs."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "clawai"


def cache_dir() -> Path:
    """What can be made again: measurements of this box."""
    return _xdg("XDG_CACHE_HOME", ".cache") / "clawai"


def log_file() -> Path:
    """The kernel's log, the workers' output included."""
    return state_dir() / "kernel.log"


def boxes_dir() -> Path:
    """What other boxes ship here, a folder each."""
    return state_dir() / "boxes"


def runtime_dir() -> Path:
    """The folder of the sockets: ``CLAW_RUNTIME_DIR``, else the XDG one, else one under /tmp."""
    if chosen := os.environ.get("CLAW_RUNTIME_DIR"):
        return Path(chosen)
    if (xdg := os.environ.get("XDG_RUNTIME_DIR", "")).startswith("/"):
        return Path(xdg) / "clawai"
    return Path(f"/tmp/clawai-{os.getuid()}")


def make_private(folder: Path) -> Path:
    """Create ``folder`` for its owner only, and refuse one that another user could have prepared.

    Raises:
        ClawError: not_permitted, if it is a link, another user's, or open to others.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ClawError(
            "not_permitted",
            f"the folder {folder} must be a real folder of yours that nobody else may enter",
            got=f"uid {found.st_uid}, mode {stat.filemode(found.st_mode)}",
            allowed=f"uid {os.getuid()}, mode drwx------",
            hint="set CLAW_RUNTIME_DIR to a new folder of your own, or make this one yours alone",
        )
    return folder


def kernel_socket() -> Path:
    """The ZeroMQ socket of the kernel."""
    return runtime_dir() / "kernel.sock"


def lease_socket() -> Path:
    """The SEQPACKET socket that hands out tokens and segments."""
    return runtime_dir() / "lease.sock"


def pid_file() -> Path:
    """Locked by the running kernel, and holding its process id."""
    return runtime_dir() / "kernel.pid"
