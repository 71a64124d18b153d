"""The line of settings, what is kept of a measurement, and what is refused."""

import json
import os
from pathlib import Path

import pytest

from clawai.sdk import tuning
from clawai.sdk.errors import ClawError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "clawai" / "ops.json"


def test_what_stands_later_wins() -> None:
    assert tuning.parse("") == {}
    assert tuning.parse("gemv_int=avx2, ahead=512 ahead=1024") == {
        "gemv_int": "avx2",
        "ahead": 1024,
    }
    assert tuning.parse("gemv_int=avx2 tile=2 isa=scalar") == {"tile": 2, "isa": "scalar"}
    assert tuning.parse("isa=scalar gemv_int=avx2") == {"isa": "scalar", "gemv_int": "avx2"}
    assert tuning.parse("gemv_int=avx2 tile=2 off tile=3") == {"tile": 3}
    line = "isa=scalar gemv_int=avx2 tile=3"
    assert tuning.line(tuning.parse(line)) == line


@pytest.mark.parametrize(
    "word",
    ["ahead", "ahead=", "ahead=-1", "ahead=65537", "tile=0", "tile=²", "=x", "A=b", "a=b=c",
     "gemv_int", "gemv_int=../x", "on", "one_threads=9999999999", "a" * 40 + "=b"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(word: str) -> None:
    with pytest.raises(ClawError) as caught:
        tuning.parse(f"tile=2 {word}")
    assert caught.value.code == "bad_config"
    assert caught.value.allowed and caught.value.hint and str(caught.value.got) in word


def test_the_owner_overrides_what_was_measured() -> None:
    measured = tuning.Profile({"gemv_int": "avx2", "ahead": 1024}, {})
    assert tuning.for_worker(measured, {}) == "gemv_int=avx2 ahead=1024"
    assert tuning.for_worker(measured, {"CLAW_ISA": "scalar"}) == "ahead=1024 isa=scalar"
    assert tuning.for_worker(measured, {tuning.VARIABLE: "ahead=2048"}) == (
        "gemv_int=avx2 ahead=2048"
    )
    assert tuning.for_worker(measured, {tuning.VARIABLE: "off tile=2"}) == "tile=2"
    assert tuning.for_worker(None, {}) == ""


def test_a_profile_is_kept_for_its_box_alone(cache: Path) -> None:
    assert tuning.kept("box") is None
    profile = tuning.Profile({"tile": 2}, {"avx2": {"add": 1.5}}, {"tile": {"2": 1.0}}, 0.5)
    tuning.keep("box", profile)
    assert tuning.kept("box") == profile
    assert tuning.kept("other") is None
    assert tuning.kept("") is None
    assert [path.name for path in cache.parent.iterdir()] == ["ops.json"], "a draft is left"


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1", '{"of": "box"}', '{"of": "box", "profile": {"choices": {"tile": 99}}}',
     '{"of": "box", "profile": {"choices": {"x;y": "z"}, "timed": {}}}',
     '{"of": "box", "profile": {"choices": {"tile": true}, "timed": {}}}',
     '{"of": "box", "profile": {"choices": {"ahead": "1 isa=scalar"}, "timed": {}}}'],
)  # fmt: skip
def test_a_damaged_file_is_as_if_it_were_not_there(cache: Path, text: str) -> None:
    cache.parent.mkdir()
    cache.write_text(text)
    assert tuning.kept("box") is None


def test_a_folder_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clawai").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuning.keep("box", tuning.Profile({}, {}))
    assert tuning.kept("box") is None


def test_what_a_program_says_is_checked() -> None:
    good = {"choices": {"tile": 2}, "timed": {"avx2": {"add": 1.0}}, "trials": {}, "seconds": 0.1}
    said = b"a warning\n" + json.dumps(good).encode() + b"\n"
    assert tuning.check(said).choices == {"tile": 2}
    for bad in (b"", b"Traceback", json.dumps({**good, "choices": {"tile": 7}}).encode(), b"\xff"):
        with pytest.raises(ClawError) as caught:
            tuning.check(bad)
        assert caught.value.code == "worker_failed"


def test_a_box_is_known_again() -> None:
    assert tuning.library() is not None
    assert tuning.box() == tuning.box() != ""
    cores = os.sched_getaffinity(0)
    if len(cores) > 1:
        before = tuning.box()
        try:
            os.sched_setaffinity(0, {min(cores)})
            assert tuning.box() != before
        finally:
            os.sched_setaffinity(0, cores)
