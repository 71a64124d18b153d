"""The distribution: every folder is in it, and a wheel built from the sdist works by itself."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("kernel", "sdk", "sandbox", "plugins", "profiles")


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked() -> list[str]:
    names = run("git", "ls-files", "--", *FOLDERS, cwd=ROOT).splitlines()
    return [name for name in names if (ROOT / name).exists()]


def test_every_python_folder_is_a_listed_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = set(settings["packages"])
    there = {
        "clawai." + str(Path(name).parent).replace("/", ".")
        for name in tracked()
        if name.endswith("__init__.py")
    }
    assert listed == there


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    for name in run("git", "ls-files", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    code = "import setuptools.build_meta as backend, sys;print(backend.build_sdist(sys.argv[1]))"
    run(sys.executable, "-W", "ignore", "-c", code, str(folder), cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", str(folder), str(sdist), cwd=folder)
    return folder


def test_nothing_large_is_tracked() -> None:
    """What a compiler or a benchmark leaves behind is not part of the project."""
    names = run("git", "ls-files", cwd=ROOT).splitlines()
    sizes = {name: (ROOT / name).stat().st_size for name in names if (ROOT / name).is_file()}
    assert {name: size for name, size in sizes.items() if size > 256 * 1024} == {}


def test_sdist_holds_all_sources(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(tracked()) <= names


def test_wheel_holds_all_packages_and_the_extension(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    missing = [name for name in tracked() if f"clawai/{name}" not in names and "/csrc/" not in name]
    assert missing == []
    assert any("accelerator/_ops" in name and name.endswith(".so") for name in names)
    assert (
        "claw = clawai.sdk.cli.main:main"
        in zipfile.ZipFile(wheel)
        .read(next(name for name in names if name.endswith("entry_points.txt")))
        .decode()
    )


def test_installed_wheel_runs_a_kernel(built: Path, tmp_path: Path) -> None:
    """Unpacked beside nothing of the checkout, with the environment's own dependencies."""
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = f"""
import os, subprocess, sys
sys.path[:] = [{str(site)!r}] + sys.path
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
import clawai.kernel.server, clawai.sdk.wire, clawai.plugins.accelerator._ops as ops
from clawai.kernel.steward.registry import Registry
assert clawai.kernel.server.__file__.startswith({str(site)!r}), clawai.kernel.server.__file__
assert ops.__file__.startswith({str(site)!r}), ops.__file__
registry = Registry()
registry.scan()
print(sorted(registry.plugins), registry.problems)
"""
    printed = run(sys.executable, "-c", code, cwd=tmp_path)
    bundled = [
        "accelerator",
        "echo",
        "embedder",
        "engine",
        "gateway",
        "onnx",
        "quantizer",
        "speech",
    ]
    assert printed.split("]")[0] == str(bundled).removesuffix("]")
    assert printed.strip().endswith("{}")
