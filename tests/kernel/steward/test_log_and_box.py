"""What can be read of the log, and of the machine."""

from pathlib import Path

import pytest

from clawai.kernel.steward import log as logs
from clawai.kernel.steward.box import box
from clawai.sdk import pieces
from clawai.sdk.errors import ClawError


def texts(found: list[str]) -> list[str]:
    return [line.split(" ", 3)[3] for line in found]


def test_the_log_is_read_forward_and_back_across_its_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE", 300)
    log = logs.LogFile(tmp_path / "kernel.log", "info", 1000, echo=False)
    assert log.read("")["text"] == ""
    written = [f"line {number} {'é' * (number % 7)}" for number in range(60)]
    for text in written:
        log.write("info", text)
    end = log.read("-")
    assert end["end"] == end["last"] and texts(end["text"].splitlines())[-1] == written[-1]
    back, place = list[str](), end["last"]
    while place > end["first"]:
        piece = log.read(f"-{place}")
        assert piece["end"] == place and 0 < piece["end"] - piece["begin"] <= 300
        back[:0] = piece["text"].splitlines()
        place = piece["begin"]
    kept = texts(back)
    assert kept == written[-len(kept) :] and 20 < len(kept) < 60, "two files of bounded size"
    forward, place = list[str](), end["first"]
    while place < end["last"]:
        piece = log.read(str(place))
        forward += piece["text"].splitlines()
        place = piece["end"]
    assert forward == back
    # Places go on when it is started anew, and when another steward takes it over.
    log.write("info", "after")
    while log.read("-")["first"] == end["first"]:
        log.write("info", "more")
    assert texts(log.read(str(end["last"]))["text"].splitlines())[0] == "after"
    log.close()
    again = logs.LogFile(tmp_path / "kernel.log", "info", 1000, echo=False)
    assert again.read("-")["text"] == log.read("-")["text"]


@pytest.mark.parametrize("place", ["x", "--1", "1.5", "9" * 30, "-x", " 1"])
def test_a_place_that_is_none_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(ClawError, match="no such place"):
        logs.LogFile(tmp_path / "kernel.log", "info", 1000, echo=False).read(place)


def test_a_place_beyond_what_is_kept_is_the_nearest(tmp_path: Path) -> None:
    log = logs.LogFile(tmp_path / "kernel.log", "info", 1000, echo=False)
    log.write("info", "only")
    assert log.read("999999")["text"] == "" and log.read("999999")["end"] == log.read("")["last"]
    assert "only" in log.read("-999999")["text"]
    log.close()


def written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_machine_as_proc_and_sys_tell(tmp_path: Path) -> None:
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    written(proc / "stat", "cpu  100 5 50 800 45 0 0 0 0 0\ncpu0 1\n")
    written(proc / "7/stat", "7 (a) b) S " + " ".join(map(str, range(3, 30))))
    written(proc / "meminfo", "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable:  400 kB\n")
    zone = sys / "class/thermal/thermal_zone0"
    written(zone / "temp", "45123\n")
    written(zone / "type", "x86_pkg_temp\n")
    written(sys / "class/thermal/thermal_zone1/temp", "nothing")
    for name in ("intel-rapl:0", "intel-rapl:0:0"):
        written(sys / "class/powercap" / name / "energy_uj", "123\n")
        written(sys / "class/powercap" / name / "name", "package-0\n")
    found = box({3: 7, 4: 0, 5: 99999}, "mini-8", proc, sys)
    assert (found["idle_ticks"], found["total_ticks"]) == (845, 1000)
    assert found["workers"] == {3: 13 + 14, 5: 0}
    assert (found["memory_bytes"], found["available_bytes"]) == (1000 << 10, 400 << 10)
    assert found["temperatures"] == [{"name": "x86_pkg_temp", "celsius": 45.123}]
    assert found["energy"] == [{"name": "package-0", "microjoules": 123}]
    nothing = box({1: 1}, "mini-8", tmp_path / "none", tmp_path / "none")
    assert nothing["total_ticks"] == 0 and not nothing["temperatures"] and not nothing["energy"]
