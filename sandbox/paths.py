"""What an interpreter must see to import the worker's code: found, never configured.

Works for a venv, a system Python, a wheel and an editable install whose sources lie elsewhere.
Library folders only: no ``bin``, no home directory, of /etc only what the loader
and the clock need.
"""

import functools
import importlib.util
import os
import sys
from pathlib import PurePath

_LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64")
_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/usr/share/zoneinfo")
# Of our own packages a worker runs these; the kernel's and the profiles stay outside.
_PACKAGES = ("clawai.sandbox", "clawai.sdk", "clawai.plugins")

# Not /dev/zero: a shared map of it is new shared memory, which no limit counts.
DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
# Copied, not mounted: no real /proc or /sys inside.
STATIC_COPIES = (
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/present",
    "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
)


def runtime_paths(extra: list[str]) -> list[str]:
    """Existing paths, as named, that the interpreter, our packages and ``extra`` are read from."""
    candidates = [*_LIBRARIES, *_FILES, *extra]
    candidates += [f"{prefix}/lib" for prefix in (sys.base_prefix, sys.base_exec_prefix)]
    candidates += [entry for entry in sys.path if entry.startswith("/")]
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None:
            candidates += spec.submodule_search_locations or []
    return outermost([path for path in candidates if os.access(path, os.R_OK)])


def outermost(paths: list[str]) -> list[str]:
    """``paths`` without repeats and without those that lie inside another one."""
    return list(_outermost(tuple(paths)))


@functools.cache  # a forked stage finds the answer of its zygote
def _outermost(paths: tuple[str, ...]) -> tuple[str, ...]:
    kept: list[PurePath] = []
    for path in sorted({PurePath(path) for path in paths}, key=lambda p: len(p.parts)):
        if not any(path.is_relative_to(outer) for outer in kept):
            kept.append(path)
    return tuple(str(path) for path in kept)
