"""Manifests: what is refused, and that the refusal names the file and the key."""

from pathlib import Path

import pytest

from clawai.sdk.errors import ClawError
from clawai.sdk.manifest import LIMIT, read_model, read_plugin

GOOD = """
[plugin]
name = "good"
version = "1"
module = "good"

[[operation]]
name = "good.op"

[permissions]
profile = "tool"
"""


def refused(folder: Path, text: str | bytes) -> str:
    (folder / "plugin.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ClawError) as caught:
        read_plugin(folder)
    assert caught.value.code == "bad_config"
    assert str(folder / "plugin.toml") in caught.value.message
    return str(caught.value)


def test_a_good_one(tmp_path: Path) -> None:
    (tmp_path / "plugin.toml").write_text(GOOD)
    plugin = read_plugin(tmp_path)
    assert (plugin.plugin.name, plugin.operation[0].name) == ("good", "good.op")
    assert not plugin.operation[0].idempotent


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ('name = "good"\n', 'name = "../good"\n', "plugin.name"),
        ('name = "good"\n', 'name = ""\n', "plugin.name"),
        ('module = "good"', 'module = "os; x"', "plugin.module"),
        ('"good.op"', '"good"', "operation.name"),
        ('"good.op"', '"good.op\\n"', "operation.name"),
        ('"tool"', '"../../../good/own"', "permissions.profile"),
        ('"tool"', '"/etc/profile"', "permissions.profile"),
        ('version = "1"', "version = 1", "version"),
        ("[[operation]]", "[operation]", "operation"),
        ("[plugin]", "[plugin", "plugin.toml"),
        ("[permissions]", "[limits]\nslots = 65\n[permissions]", "slots"),
        ("[permissions]", "[limits]\nmemory_mib = -1\n[permissions]", "memory_mib"),
    ],
)
def test_bad_ones(tmp_path: Path, old: str, new: str, part: str) -> None:
    assert GOOD.count(old) == 1
    assert part in refused(tmp_path, GOOD.replace(old, new))


def test_too_large_and_not_text(tmp_path: Path) -> None:
    assert "too large" in refused(tmp_path, "#" * (LIMIT + 1))
    refused(tmp_path, b"\xff\xfe\x00")


def test_a_model_must_be_that_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for name, file in (("other", "f"), ("m", "../f"), ("m", "/f"), ("m", "")):
        record = f'{{"name":"{name}","file":"{file}","bytes":1,"sha256":"","capability":"llm"}}'
        (folder / "model.json").write_text(record)
        if file:
            with pytest.raises(ClawError, match="those of its own folder"):
                read_model(folder)
