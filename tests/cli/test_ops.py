"""`claw ops` on this box: the list, what was measured, overrides, and who may not answer."""

import collections
import json

import pytest

FIELDS = ["family", "op", "dtype", "isa", "state", "chosen"]


@pytest.fixture
def fresh(box):
    """A box that was never measured, and whose owner has a plugin that is named like ours."""
    box.env["XDG_CACHE_HOME"] = str(box.home / "cache")
    folder = box.home / "data" / "clawai" / "plugins" / "accelerator"
    folder.mkdir(parents=True)
    (folder / "plugin.toml").write_text('[plugin]\nname = "accelerator"\nmodule = "listing"\n')
    (folder / "listing.py").write_text(f"open({str(box.home / 'ran')!r}, 'w')\n")
    yield box
    assert not (box.home / "ran").exists(), "a plugin of a stranger was run"


def test_the_list_and_what_a_measurement_adds(fresh):
    before = fresh.json("ops")
    assert all(list(row) == FIELDS for row in before)
    assert {row["state"] for row in before} == {"checked"}
    places = collections.Counter((row["op"], row["isa"]) for row in before)
    assert set(places.values()) == {1}, "an op is counted twice"
    chosen = collections.Counter(row["op"] for row in before if row["chosen"])
    assert set(chosen.values()) == {1} and set(chosen) == {row["op"] for row in before}

    text = fresh.run("ops", "--measure").stdout
    count = sum(row["isa"] not in ("scalar", "rvv") for row in before)
    assert f"{count} ops on x86 and NEON without the scalar references" in text
    assert "tiles of" in text

    after = fresh.json("ops")
    kept = json.loads((fresh.home / "cache" / "clawai" / "ops.json").read_text())
    timed = {(row["op"], row["isa"]) for row in after if row["state"] == "timed"}
    assert timed
    assert timed <= {(op, isa) for isa, ops in kept["profile"]["timed"].items() for op in ops}


def test_the_owner_overrides(fresh):
    fresh.env["CLAW_OPS_PROFILE"] = "gemv_int=scalar tile=2"
    text = fresh.run("ops").stdout
    assert "overridden by CLAW_OPS_PROFILE=gemv_int=scalar tile=2" in text
    assert "not measured" in text
    doctor = {check["name"]: check for check in fresh.json("doctor")}
    assert doctor["ops"]["state"] == "ok" and "overridden" in doctor["ops"]["found"]
    assert doctor["ops"]["details"]["tile"] == 2
    assert doctor["ops"]["details"]["chosen"]["scalar"] >= 4


@pytest.mark.parametrize("line", ["waltz=scalar", "ahead=many"])
def test_a_wrong_override_is_named(fresh, line):
    fresh.env["CLAW_OPS_PROFILE"] = line
    error = fresh.json("ops", code=1)["error"]
    assert error["code"] == "bad_config"
    assert error["got"] and error["allowed"] and error["hint"]
