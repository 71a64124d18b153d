"""``docs/plugin-context.md``: its pieces make one plugin, which answers as the page says."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from clawai.sdk.errors import ClawError
from support import Kernel

PAGE = Path(__file__).parents[2] / "docs" / "plugin-context.md"
PIECES = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.S | re.M)
CODE = "".join(text for kind, text in PIECES if kind == "python" and "# a " not in text[:5])
STEPS = [(kind, text) for kind, text in PIECES if kind == "sh" or text.startswith("# a client")]


@pytest.fixture(scope="module")
def notes() -> Iterator[Kernel]:
    kernel = Kernel()
    folder = kernel.plugins_dir / "notes"
    folder.mkdir()
    kinds = dict(PIECES)
    (folder / "notes.py").write_text(CODE)
    source = kernel.base / "count.c"
    source.write_text(kinds["c"])
    library = str(folder / "count.so")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, str(source)], check=True)
    (folder / "plugin.toml").write_text(kinds["toml"])
    kernel.grant(folder)
    try:
        yield kernel.start()
        assert kernel.stop() == 0
    finally:
        kernel.remove()


def test_every_step_of_the_page(notes: Kernel) -> None:
    claw = str(Path(sys.executable).with_name("claw"))
    with notes.client() as client:
        for kind, text in STEPS:
            if kind == "python":
                exec(compile(text, str(PAGE), "exec"), {"client": client, "ClawError": ClawError})
                continue
            script = text.replace("claw ", f"{shlex.quote(claw)} ")
            done = subprocess.run(
                ["sh", "-ec", script], env=notes.env, capture_output=True, check=False
            )
            assert done.returncode == 0, done
    assert re.search(r"info notes\[\d+\] task \d+ greets Ada\n", notes.log())
    assert "s3cret" not in notes.log()


def test_the_piece_without_a_kernel(tmp_path: Path) -> None:
    (test,) = (text for kind, text in PIECES if text.startswith("# a test"))
    space: dict[str, object] = {"__file__": str(tmp_path / "notes.py"), "__name__": "notes"}
    sys.modules["notes"] = type(sys)("notes")
    sys.modules["notes"].__dict__.update(space)
    try:
        exec(compile(CODE + test, str(PAGE), "exec"), sys.modules["notes"].__dict__)
    finally:
        del sys.modules["notes"]


def test_every_operation_of_the_manifest_is_shown() -> None:
    manifest = tomllib.loads(dict(PIECES)["toml"])
    for entry in manifest["operation"]:
        assert f'"{entry["name"]}"' in "".join(text for _, text in STEPS), entry
