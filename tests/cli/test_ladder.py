"""What `claw doctor` says of preemption: every rung, what was measured, what was refused."""

import pytest

from clawai.sdk.cli import ladder
from clawai.sdk.errors import ClawError

EFFECT = {"bulk_share": 0.02, "wake_p50_us": 70.0, "wake_max_us": 200.0, "contended_ms": 60.0}
FOUND = {
    "means": {"kind": "autogroup", "folder": "", "main": ""},
    "rungs": [0, 1, 2, 3, 4],
    "effect": EFFECT,
    "without": EFFECT | {"bulk_share": 0.5},
    "stop_us": 61.0,
    "refused": {"cgroup2": "not delegated"},
    "advice": ["systemd-run --user --scope -p Delegate=yes claw serve"],
}


def settings(box, text: str) -> None:
    folder = box.home / "config" / "clawai"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(text)


def test_doctor_shows_the_ladder(box):
    check = {each["name"]: each for each in box.json("doctor")}["preemption"]
    assert check["details"]["rungs"] == [0, 1, 2, 3, 4]
    assert "lines" not in check
    kind = check["details"]["means"]["kind"]
    assert check["state"] == ("warn" if kind == "none" else "ok")
    text = box.run("doctor").stdout
    for name in ("0 order", "1 control", "2 weight", "3 stop", "4 kill"):
        assert name in text
    for refused in check["details"]["refused"]:
        assert f"{refused}: " in text
    assert "pressure" in text


def test_rungs_that_are_off_are_shown_as_off(box):
    settings(box, "[preemption]\nrungs = [0, 1, 4]\n")
    check = {each["name"]: each for each in box.json("doctor")}["preemption"]
    assert "switched off" in check["found"]
    assert check["details"]["effect"] is None
    assert check["details"]["stop_us"] is None


def test_the_lines_of_a_report():
    said = ladder.lines(FOUND)
    assert said[2].startswith("2 weight   on ")
    assert "bulk work keeps 2% of a core that urgent work wants (without: 50%)" in said[2]
    assert "stops in 61 us" in said[3]
    assert said[-1] == "  refused      cgroup2: not delegated"
    off = ladder.lines(FOUND | {"rungs": [0, 1], "refused": {}})
    assert off[2:] == ["2 weight   off", "3 stop     off", "4 kill     off"]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "autogroup: bulk work keeps 2%"),
        ({"means": {"kind": "none"}}, "no means of preemption works here"),
        ({"rungs": [0]}, "switched off"),
        ({"effect": None}, "not measured"),
    ],
)
def test_the_summary(changed, text):
    assert text in ladder.summary(FOUND | changed)


def test_a_probe_that_says_nothing(box, monkeypatch):
    monkeypatch.setenv("CLAW_RUNTIME_DIR", str(box.home / "run"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(box.home / "config"))
    monkeypatch.setattr(ladder, "PROBE", ("-c", "raise SystemExit('no such thing')"))
    with pytest.raises(ClawError) as caught:
        ladder.report()
    assert caught.value.code == "worker_failed"
    assert caught.value.got == ["no such thing"]


def test_pressure_files():
    found, advice = ladder.pressure_files()
    assert ("no pressure files" in found) == bool(advice)
