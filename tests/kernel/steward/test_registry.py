"""What runs an operation: lanes, identities and uids."""

from pathlib import Path

import pytest

from clawai.kernel.steward.launching import UID_BASE, UIDS, uid
from clawai.kernel.steward.registry import Registry
from clawai.sdk.errors import ClawError

MANIFEST = """
[plugin]
name = "{name}"
version = "1"
module = "m"
[[operation]]
name = "{name}.op"
idempotent = true
batch = 8
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in ("one", "two"):
        folder = tmp_path / "plugins" / name
        folder.mkdir(parents=True)
        (folder / "plugin.toml").write_text(MANIFEST.format(name=name))
        (folder / "m.py").write_text("")
    return Registry((tmp_path / "plugins",))


def test_only_batch_work_without_a_model_has_a_lane_of_its_own(registry: Registry) -> None:
    found = registry.resolve("one.op", "", True)
    assert (found["spec"].lane, found["idempotent"], found["batch"]) == ("bulk", True, 8)
    assert registry.resolve("one.op", "", False)["spec"].lane == "main"
    assert not found["spec"].cooperative
    with pytest.raises(ClawError) as caught:
        registry.resolve("llm.generate", "", True)
    assert caught.value.code == "bad_params"


def test_a_scan_that_finds_nothing_new_is_no_change(registry: Registry, tmp_path: Path) -> None:
    registry.scan()
    version = registry.version
    registry.scan()
    assert registry.version == version
    (tmp_path / "plugins" / "two" / "plugin.toml").unlink()
    registry.scan()
    assert registry.version == version + 1


def test_the_code_of_a_plugin_is_its_files(registry: Registry, tmp_path: Path) -> None:
    registry.scan()
    one, two = registry.plugins["one"], registry.plugins["two"]
    before = registry.code(one)
    assert before == registry.code(one) != registry.code(two)
    cache = tmp_path / "plugins" / "one" / "__pycache__"
    cache.mkdir()
    (cache / "m.pyc").write_bytes(b"compiled")
    assert registry.code(one) == before
    (tmp_path / "plugins" / "one" / "m.py").write_text("changed = True\n")
    assert registry.code(one, age=3600) == before  # as it was found a moment ago
    assert registry.code(one) != before
    assert registry.code(one, age=3600) != before


def test_an_engine_is_its_drivers_too(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "plugins" / "motor"
    folder.mkdir()
    head = '[plugin]\nname = "motor"\nversion = "1"\nmodule = "m"\nkind = "engine"\n'
    (folder / "plugin.toml").write_text(f'{head}drivers = ["two"]\n')
    registry.scan()
    before = registry.code(registry.plugins["motor"])
    (tmp_path / "plugins" / "two" / "m.py").write_text("changed = True\n")
    assert registry.code(registry.plugins["motor"]) != before


def test_a_plugin_keeps_its_uid_whatever_else_is_installed() -> None:
    alone: dict[str, int] = {}
    among = {f"plugin{number}": 0 for number in range(3)}
    among = {name: uid(name, {}) for name in among}
    assert uid("echo", alone) == uid("echo", among) == uid("echo", alone)
    assert UID_BASE <= uid("echo", {}) < UID_BASE + UIDS


def test_no_two_plugins_share_a_uid() -> None:
    taken: dict[str, int] = {}
    numbers = [uid(f"plugin{number}", taken) for number in range(UIDS)]
    assert len(set(numbers)) == UIDS
    with pytest.raises(ClawError):
        uid("one too many", taken)
