"""Which plugins there are: the bundled ones, those that were installed, those of further folders.

Manifests are read, plugin code is not. Of two plugins with one name the first found counts, so that
nothing replaces a bundled plugin, and nothing in a further folder one that was installed.
"""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clawai.sdk import paths
from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import Plugin, read_plugin


@dataclass(frozen=True, slots=True)
class Found:
    """One plugin and where it lies."""

    plugin: Plugin
    folder: Path

    @property
    def name(self) -> str:
        """Of the plugin, which its folder need not have."""
        return self.plugin.plugin.name


def bundled() -> Path:
    """The folder of the plugins that are part of ClawAI; found without importing one."""
    spec = importlib.util.find_spec("clawai.plugins")
    assert spec and spec.submodule_search_locations, "the package clawai.plugins is not there"
    return Path(next(iter(spec.submodule_search_locations)))


def scan(
    first: Path, further: Iterable[Path] = (), developed: Iterable[Path] = ()
) -> tuple[dict[str, Found], dict[str, str]]:
    """All plugins by name, and each folder that cannot be used with the reason.

    Args:
        first: the folder of the bundled plugins.
        further: folders of the configuration.
        developed: of a plugin each, which somebody works at; they come before what is installed.
    """
    found: dict[str, Found] = {}
    problems: dict[str, str] = {}
    for parent in (first, None, paths.plugins_dir(), *further):
        try:
            children = sorted(parent.iterdir() if parent else developed)
        except OSError:
            continue
        for folder in children:
            # A name with a dot: an installation that goes on, or was cut off.
            hidden = parent and folder.name.startswith(".")
            if hidden or not (folder / "plugin.toml").is_file():
                continue
            try:
                plugin = read_plugin(folder)
            except ClawError as error:
                problems[str(folder)] = error.message
                continue
            name = plugin.plugin.name
            if name in found:
                problems[str(folder)] = f"the name {name!r} is taken by {found[name].folder}"
            else:
                found[name] = Found(plugin, folder)
    return found, problems
