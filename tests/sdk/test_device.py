"""Device profiles: the bundled ones, choosing, the owner's own, hostile files."""

import json
from pathlib import Path

import pytest

from clawai.sdk import device
from clawai.sdk.errors import ClawError

GIB = device.GIB


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = device.folders()[0]
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("gib", "name"), [(2, "small-4"), (7.6, "mini-8"), (15.5, "mini-16"), (24, "large")]
)
def test_a_box_gets_the_smallest_profile_that_describes_it(
    own: Path, gib: float, name: str
) -> None:
    assert device.choose("auto", int(gib * GIB)).name == name


def test_every_bundled_profile_leaves_the_system_its_part(own: Path) -> None:
    for profile in device.every().values():
        for gib in (1, 4, 8, 16, 64):
            memory = gib * GIB
            assert 0 <= profile.budget(memory) <= memory - (profile.reserve_mib << 20) or (
                profile.budget(memory) == 0
            )
        assert profile.cores(1) == 1


def test_a_name_chooses_and_an_unknown_one_is_told(own: Path) -> None:
    assert device.choose("dedicated-16").budget(16 * GIB) > device.choose("mini-16").budget(
        16 * GIB
    )
    with pytest.raises(ClawError) as caught:
        device.choose("toaster")
    assert caught.value.code == "bad_config"
    assert "mini-8" in caught.value.allowed


def test_the_owners_own_goes_first(own: Path) -> None:
    mine = {"name": "mini-8", "description": "mine", "up_to_gib": 9, "budget_percent": 50}
    (own / "mini-8.json").write_text(json.dumps(mine))
    assert device.choose("auto", 8 * GIB).budget(8 * GIB) == 4 * GIB


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"name": "x"}',
        '{"name": "other", "description": "", "up_to_gib": 1}',
        '{"name": "x", "description": "", "up_to_gib": 1, "budget_percent": 200}',
        '{"name": "x", "description": "", "up_to_gib": 1, "typo": 1}',
        "\udcff",
    ],
)
def test_a_wrong_file_is_named(own: Path, text: str) -> None:
    (own / "x.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ClawError, match=r"x\.json") as caught:
        device.choose("x")
    assert caught.value.code == "bad_config"
