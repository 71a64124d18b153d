"""The key of a box, and those of others."""

from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from clawai.sdk import paths
from clawai.sdk.boxes import identity, keys
from clawai.sdk.errors import ClawError

KEY = "ab" * 32


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_a_box_has_one_key_whose_secret_only_its_owner_reads() -> None:
    public, secret = identity.own()
    assert identity.own() == (public, secret)
    assert z85.decode(zmq.curve_public(z85.encode(secret))) == public
    path = paths.config_dir() / "box.key"
    assert path.stat().st_mode & 0o777 == 0o600 and public.hex() not in path.read_text()
    path.write_text("nonsense\n")
    with pytest.raises(ClawError, match="holds no key"):
        identity.own()
    path.chmod(0o666)
    with pytest.raises(ClawError, match="nobody else may write"):
        identity.own()


def test_boxes_are_added_and_removed_by_name() -> None:
    assert keys.read() == ()
    keys.add("one", KEY)
    keys.add("two", KEY[::-1].upper())
    assert [box.name for box in keys.read()] == ["one", "two"]
    for name, key, why in (
        ("one", "cd" * 32, "has this name"),
        ("three", KEY, "has this key"),
        ("../x", "cd" * 32, "the name of a box"),
        ("Big", "cd" * 32, "the name of a box"),
        ("three", "cd", "no key of a box"),
    ):
        with pytest.raises(ClawError, match=why):
            keys.add(name, key)
    keys.remove("one")
    with pytest.raises(ClawError, match="no such box"):
        keys.remove("one")
    assert [box.name for box in keys.read()] == ["two"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        f'{{"boxes": [{{"name": "../x", "key": "{KEY}"}}]}}',
        '{"boxes": [{"name": "x", "key": "?"}]}',
        '{"boxes": [], "format": 2}',
    ],
)
def test_a_file_that_was_spoiled_is_refused(text: str) -> None:
    keys.add("one", KEY)
    keys.book().write_text(text)
    with pytest.raises(ClawError, match=r"boxes\.json"):
        keys.read()


def test_there_are_no_more_than_there_may_be() -> None:
    for number in range(keys.MOST):
        keys.add(f"box-{number}", f"{number:064x}")
    with pytest.raises(ClawError, match="boxes that may ship here"):
        keys.add("more", KEY)
