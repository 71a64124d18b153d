"""docs/plugin-c.md and the templates: what they say compiles, and does what they say."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clawai.sdk.testing import FakeKernel
from native_build import CPP, INCLUDE, ROOT, C, compiled
from support import Kernel

GUIDE = (ROOT / "docs" / "plugin-c.md").read_text()
TEMPLATES = ROOT / "sdk" / "templates"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.M | re.S)


@pytest.fixture(scope="module")
def greet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the guide's first plugin, as its blocks say."""
    folder = tmp_path_factory.mktemp("guide") / "greet"
    folder.mkdir()
    (makefile,), (manifest,) = blocks("make"), blocks("toml")
    (folder / "greet.c").write_text(blocks("c")[0])
    (folder / "Makefile").write_text(makefile)
    (folder / "plugin.toml").write_text(manifest)
    return folder


def test_the_first_plugin_runs_by_the_commands_of_the_guide(greet: Path, kernel: Kernel) -> None:
    (commands,) = blocks("sh")
    env = {**kernel.env, "PATH": PATH, "CFLAGS": "-Werror -pedantic"}
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=greet.parent,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r'"greetings": \[\s*"Ada",\s*"Ada"\s*\]', done.stdout)
    (python,) = blocks("python")
    said = subprocess.check_output([sys.executable, "-c", python], cwd=greet.parent, text=True)
    assert said == "{'greetings': ['Ada', 'Ada']}\n"


def test_the_blocks_in_c_compile_and_run(tmp_path: Path) -> None:
    source = tmp_path / "guide.c"
    more = ["scale", "count"]
    ops = [
        f'static const claw_operation {name}_op = CLAW_OPERATION("guide.{name}", "", '
        f"{name}_params, {name});"
        for name in more
    ]
    names = ", ".join(f"&{name}_op" for name in (*more, "squares"))
    text = "\n".join(["#include <clawai.h>", *blocks("c")[1:], *ops, f"CLAW_PLUGIN({names})", ""])
    source.write_text(text)
    compiled(*C, "-fPIC", "-shared", f"-I{INCLUDE}", "-o", tmp_path / "guide.so", source)
    entries = "".join(f'[[operation]]\nname = "guide.{n}"\n' for n in (*more, "square"))
    identity = 'name = "guide"\nversion = "1"\nlanguage = "c"\nmodule = "guide.so"\n'
    (tmp_path / "plugin.toml").write_text(f"[plugin]\n{identity}{entries}")
    kernel = FakeKernel(tmp_path)
    values = np.arange(4, dtype="<f4")
    tensor = {"dtype": "<f4", "shape": [4], "frame": 0}
    scaled = kernel.call("guide.scale", {"values": tensor, "by": 3}, frames=[values.tobytes()])
    assert scaled.frames[0] == (3 * values).tobytes()
    task = kernel.submit("guide.count", {"to": 3})
    assert (task.chunks, task.result().value) == ([1, 2, 3], {"counted": 3})
    assert kernel.call("guide.square", {"of": 12}).value == 144.0


def test_the_block_in_cpp_compiles_and_runs(tmp_path: Path) -> None:
    (source,) = blocks("cpp")
    (tmp_path / "guide.cpp").write_text(source)
    target = tmp_path / "guide.so"
    compiled(*CPP, "-fPIC", "-shared", f"-I{INCLUDE}", "-o", target, tmp_path / "guide.cpp")
    entries = "".join(f'[[operation]]\nname = "guide.{n}"\n' for n in ("statistics", "repeat"))
    identity = 'name = "guide"\nversion = "1"\nlanguage = "cpp"\nmodule = "guide.so"\n'
    (tmp_path / "plugin.toml").write_text(f"[plugin]\n{identity}{entries}")
    kernel = FakeKernel(tmp_path)
    values = np.array([1, 2, 3, 4], dtype="<f4")
    tensor = {"dtype": "<f4", "shape": [4], "frame": 0}
    found = kernel.call("guide.statistics", {"values": tensor}, frames=[values.tobytes()]).value
    assert found == pytest.approx({"mean": 2.5, "deviation": float(values.std())})
    assert kernel.call("guide.repeat", {"text": "ab"}).value == "abab"


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_a_template_works_at_once(language: str, tmp_path: Path) -> None:
    words = {"{{name}}": "my-tool", "{{module}}": "my_tool", "{{prefix}}": "my_tool"}
    folder = tmp_path / "my-tool"
    shutil.copytree(TEMPLATES / language, folder)
    for path in [*folder.iterdir()]:
        text, name = path.read_text(), path.name.removesuffix(".in")
        for word, value in words.items():
            text, name = text.replace(word, value), name.replace(word, value)
        path.unlink()
        (folder / name).write_text(text)
    env = {"PATH": PATH, "CFLAGS": "-Werror -pedantic", "CXXFLAGS": "-Werror -pedantic"}
    subprocess.run(["make", "-C", folder], env=env, check=True, capture_output=True)
    value = FakeKernel(folder).call("my_tool.greet", {"name": "Ada"}).value
    assert value == ({"hello": "Ada"} if language == "c" else "Hello, Ada!")
    compile((folder / "test_my_tool.py").read_text(), "test_my_tool.py", "exec")
    assert len((folder / "Makefile").read_text().splitlines()) == 5
