"""Signatures read from source: as they are written, and nothing of it runs."""

from pathlib import Path

import pytest

from clawai.sdk import signatures
from clawai.sdk.manifest import read_plugin
from clawai.sdk.signatures import Signature

ROOT = Path(__file__).parents[2]
MANIFEST = '[plugin]\nname = "demo"\nversion = "1"\nmodule = "m"\n'
OPERATIONS = "".join(f'[[operation]]\nname = "demo.{name}"\n' for name in "abcd")
SOURCE = '''
raise SystemExit("this ran")
import clawai.sdk as sdk
from clawai.sdk import Context, Params, batched, operation

@operation("demo.a")
def a(text: str, context: Context, *, times: int = 2, also: "list[str]" = ["x"]) -> str:
    """Say it.

    More.
    """

class Plugin:
    @sdk.operation("demo.b")
    def b(self, name="\\x1b[2J"):
        yield 1

class Picture(sdk.Params):
    pixels: sdk.Tensor
    labels: int = 1

@batched("demo.c")
def c(pictures: list[Picture], batch: sdk.Batch) -> list[dict]:
    """Name what is seen."""

@operation("other.one")
def other(x: int): ...

@unknown("demo.d")
def d(x: int): ...
'''


def read(folder: Path, source: str) -> dict[str, Signature]:
    (folder / "plugin.toml").write_text(MANIFEST + OPERATIONS)
    (folder / "m.py").write_text(source)
    return signatures.read(folder, read_plugin(folder))


def test_what_is_written(tmp_path: Path) -> None:
    assert read(tmp_path, SOURCE) == {
        "demo.a": Signature(
            (("text", "str", ""), ("times", "int", "2"), ("also", "'list[str]'", "['x']")),
            "Say it.",
        ),
        "demo.b": Signature((("name", "", "'\\x1b[2J'"),), ""),
        "demo.c": Signature(
            (("pixels", "sdk.Tensor", ""), ("labels", "int", "1")), "Name what is seen."
        ),
    }


@pytest.mark.parametrize(
    "source",
    [
        "(" * 900_000,
        "-" * 900_000 + "1",
        "a" + ".a" * 400_000,
        "not " * 200_000 + "1",
        "\0",
        "é = (",
    ],
)
def test_sources_that_cannot_be_read_say_nothing(tmp_path: Path, source: str) -> None:
    assert read(tmp_path, source) == {}


def test_a_long_default_is_cut(tmp_path: Path) -> None:
    found = read(tmp_path, f'@operation("demo.a")\ndef a(x: str = "{"y" * 10_000}"): ...\n')
    ((_, _, default),) = found["demo.a"].parameters
    assert len(default) < 200


@pytest.mark.parametrize("name", ["echo", "engine"])
def test_the_bundled_plugins_are_read_whole(name: str) -> None:
    plugin = read_plugin(ROOT / "plugins" / name)
    found = signatures.read(ROOT / "plugins" / name, plugin)
    assert set(found) == {entry.name for entry in plugin.operation}
    assert all(each.summary for each in found.values())
