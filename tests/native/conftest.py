"""Shared objects built from the sources beside this, once in a run."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from native_build import CPP, HERE, INCLUDE, ROOT, STRICT, Build, C, compiled


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """``build("faults.c", "-DX", name="x.so", include=folder)``: the path of the shared object."""
    folder = tmp_path_factory.mktemp("native")

    def make(source: str, *flags: str, name: str = "", include: Path = INCLUDE) -> Path:
        target = folder / (name or f"{Path(source).stem}.so")
        if not target.exists():
            compiler = C if source.endswith(".c") else CPP
            file = HERE / source
            compiled(*compiler, "-fPIC", "-shared", f"-I{include}", "-o", target, file, *flags)
        return target

    return make


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of examples/plugin_c and plugin_cpp, built by their own Makefiles."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("plugin_c", "plugin_cpp"):
        ignore = shutil.ignore_patterns("*.so")
        shutil.copytree(ROOT / "examples" / name, folder / name, ignore=ignore)
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        flags = " ".join([*STRICT, "-Wconversion"])
        done = subprocess.run(
            ["make", "-C", folder / name],
            env={"PATH": path, "CFLAGS": flags, "CXXFLAGS": flags},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return folder
