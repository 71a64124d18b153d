"""Bounds of memory, processes and processor time: by groups of the system, and by the watchdog."""

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawai.kernel.steward.cages import Cages, Ward
from clawai.kernel.steward.log import LogFile
from clawai.sandbox import cgroups, syscalls
from clawai.sandbox.policy import Policy

PYTHON = os.path.realpath(sys.executable)
MIB = 1 << 20


@pytest.fixture(params=["groups", "watchdog"])
def bounded(run_with: Callable[..., str], bpf_file: str, request: Any) -> Callable[..., Any]:
    """Run a worker that is watched: by root with groups, or without any by an ordinary user."""
    groups = request.param == "groups"
    if groups and not cgroups.find().kinds:
        pytest.skip("no groups of the system for this user here, as the prober says")

    def run(target: str, policy: dict[str, Any], **args: Any) -> Any:
        spec = {"target": f"granted:{target}", "policy": policy, "args": args, "groups": groups}
        identity = "root" if groups else "user"
        found = json.loads(run_with(identity, "limit_run.py", "full", bpf_file, json.dumps(spec)))
        assert found["left"] == [], "no group stays behind"
        assert bool(found["groups"]) == groups
        return found

    return run


def test_a_worker_above_its_memory_is_killed_and_told_how_much(bounded: Any) -> None:
    found = bounded("hold_memory", {"resident_bytes": 40 * MIB}, own=90, mib=0)
    numbers = re.fullmatch(r"killed: used (\d+) MiB of 40 MiB of memory", found["words"])
    assert numbers, found["words"]
    assert 90 <= int(numbers[1]) < 150
    assert found["words"] in found["log"]


def test_programs_count_with_their_worker(bounded: Any) -> None:
    policy = {"resident_bytes": 100 * MIB, "programs": [PYTHON]}
    found = bounded("hold_memory", policy, own=0, mib=40, programs=[PYTHON] * 3)
    numbers = re.fullmatch(r"killed: used (\d+) MiB of 100 MiB of memory", found["words"])
    assert numbers, found["words"]
    assert int(numbers[1]) >= 100


def test_a_worker_that_takes_too_much_time_is_slowed_down(bounded: Any) -> None:
    found = bounded("burn", {"resident_bytes": 200 * MIB, "cpu": 0.1}, seconds=600)
    if found["kinds"]["cpu"]:
        assert found["signals"] == [], "the system does it"
        assert found["throttled"] > 0
    else:
        assert found["signals"][:2] == [signal.SIGSTOP, signal.SIGCONT]
        assert "uses more than 0.1 of a second a second: it is slowed down" in found["log"]


def test_a_worker_within_its_bounds_is_left_alone(bounded: Any) -> None:
    found = bounded("burn", {"resident_bytes": 200 * MIB, "cpu": 64}, seconds=0.3)
    assert (found["words"], found["said"], found["signals"]) == ("code 0", '"burnt"\n', [])


def test_a_suspended_worker_goes_on_when_nobody_wants_it_stopped(tmp_path: Path) -> None:
    sent: list[tuple[int, int]] = []
    log = LogFile(tmp_path / "log", "info", MIB, False)
    cages = Cages(log, lambda *told: sent.append(told), os.getpid())
    cages.add(7, "test", Policy(), "main")
    cages.hold(7, "owner", True)
    cages.hold(7, "cpu", True)
    cages.hold(7, "owner", False)
    assert sent == [(7, signal.SIGSTOP)]
    cages.hold(7, "cpu", False)
    cages.hold(7, "cpu", False)
    assert sent == [(7, signal.SIGSTOP), (7, signal.SIGCONT)]
    assert cages.next_timer() is None, "nothing is looked at before a worker lives"


def test_the_hard_bound_holds_where_nobody_looks_in_time() -> None:
    places = cgroups.find()
    if not places.kind("memory"):
        pytest.skip("no memory groups for this user here, as the prober says")
    cage = cgroups.make(places, f"{cgroups.PREFIX}{os.getpid()}-hard", cgroups.Bounds(64 * MIB))
    child = os.fork()
    if child == 0:
        cage.enter(os.getpid())
        bytearray(300 * MIB)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == -9
    assert cage.out_of_memory()
    cgroups.remove_soon([cage])
    assert not cage.folders


def test_groups_of_dead_daemons_are_removed() -> None:
    places = cgroups.find()
    child = os.fork()
    if child == 0:
        os._exit(0)
    stale = cgroups.make(places, f"{cgroups.PREFIX}{child}-1", cgroups.Bounds(64 * MIB, 4, 1.0))
    living = cgroups.make(places, f"{cgroups.PREFIX}{os.getpid()}-1", cgroups.Bounds(64 * MIB))
    folders = list(stale.folders.values())
    os.waitpid(child, 0)
    cgroups.clean_stale(places)
    assert not any(folder.exists() for folder in folders)
    assert all(folder.exists() for folder in living.folders.values())
    assert living.remove()


def test_others_may_remove_theirs_meanwhile(tmp_path: Path) -> None:
    """A whole steward has ended at a folder that was there and then was not."""
    places = cgroups.Places({"pids": tmp_path})
    stop = threading.Event()

    def others() -> None:
        while not stop.is_set():
            for number in range(50):
                (tmp_path / f"{cgroups.PREFIX}{os.getpid()}-{number}").mkdir()
            for number in range(50):
                (tmp_path / f"{cgroups.PREFIX}{os.getpid()}-{number}").rmdir()

    thread = threading.Thread(target=others)
    thread.start()
    try:
        for _ in range(300):
            cgroups.clean_stale(places)
    finally:
        stop.set()
        thread.join()
    cgroups.clean_stale(cgroups.Places({"pids": tmp_path / "gone"}))


def test_version_2_gets_its_own_files(tmp_path: Path) -> None:
    # This box has the controllers in version 1: what is written is checked, not what it does.
    places = cgroups.Places(
        dict.fromkeys(cgroups.CONTROLLERS, tmp_path), dict.fromkeys(cgroups.CONTROLLERS, "cgroup2")
    )
    names = ("memory.max", "memory.oom.group", "pids.max", "cpu.max", "cpu.idle", "cpu.weight")
    (tmp_path / "one").mkdir()
    for name in names:
        (tmp_path / "one" / name).touch()
    cage = cgroups.make(places, "one", cgroups.Bounds(64 * MIB, 9, 0.25))
    said = {name: (tmp_path / "one" / name).read_text() for name in names}
    assert said == {
        "memory.max": str(64 * MIB),
        "memory.oom.group": "1",
        "pids.max": "9",
        "cpu.max": "25000 100000",
        "cpu.idle": "",
        "cpu.weight": "",
    }
    assert cage.procs() == [str(tmp_path / "one" / "cgroup.procs")]
    (tmp_path / "one" / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    (tmp_path / "one" / "memory.stat").write_text("anon 4096\nfile 8192\n")
    assert cage.out_of_memory()
    assert cage.private_bytes() == 4096


@pytest.mark.parametrize("slices", [True, False])
@pytest.mark.parametrize("idle", ["taken", "missing", "refused"])
def test_a_bulk_worker_of_version_2_stands_back(
    tmp_path: Path, idle: str, slices: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its group stands beside that of its lane, so it has to be light or idle itself."""
    monkeypatch.setattr(syscalls, "takes_slices", lambda: slices)
    places = cgroups.Places({"pids": tmp_path}, {"pids": "cgroup2"})
    folder = tmp_path / "one"
    folder.mkdir()
    for name in ("pids.max", "cpu.weight"):
        (folder / name).touch()
    if idle == "taken":
        (folder / "cpu.idle").touch()
    elif idle == "refused":
        (folder / "cpu.idle").mkdir()  # what refuses a write to everybody, also to root
    cgroups.make(places, "one", cgroups.Bounds(processes=9), bulk=True)
    said = (folder / "cpu.weight").read_text()
    if idle == "taken" and not slices:  # the weight of an idle group cannot be set: EINVAL
        assert ((folder / "cpu.idle").read_text(), said) == ("1", "")
    else:
        assert said == str(cgroups.WEIGHT)


def test_a_bulk_worker_that_cannot_stand_back_gets_no_group(tmp_path: Path) -> None:
    """It stays in that of its lane: bounds are worth less than urgent work."""
    places = cgroups.Places({"pids": tmp_path}, {"pids": "cgroup2"})
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "pids.max").touch()
    with pytest.raises(FileNotFoundError):
        cgroups.make(places, "one", cgroups.Bounds(processes=9), bulk=True)


def test_which_lanes_stand_back(tmp_path: Path) -> None:
    """The steward's own choice: bulk workers do, others do not."""
    log = LogFile(tmp_path / "log", "info", MIB, False)
    cages = Cages(log, lambda *_: None, os.getpid())
    cages.places = cages._bulk = cgroups.Places({"pids": tmp_path}, {"pids": "cgroup2"})
    for worker, lane in enumerate(("main", "bulk")):
        folder = tmp_path / f"{cgroups.PREFIX}{os.getpid()}-{worker}"
        folder.mkdir()
        for name in ("pids.max", "cpu.idle", "cpu.weight"):
            (folder / name).touch()
        assert cages.add(worker, "test", Policy(), lane) == [str(folder / "cgroup.procs")]
        said = (folder / "cpu.idle").read_text() + (folder / "cpu.weight").read_text()
        assert said == ("1" if lane == "bulk" else "")
    log.close()


def test_an_idle_group_takes_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says, where it can be asked: so idle is written first, and alone."""
    monkeypatch.setattr(syscalls, "takes_slices", lambda: False)
    places = cgroups.find()
    base = places.folders.get("cpu")
    if base is None:
        pytest.skip("no cpu groups for this user here, as the prober says")
    name, least = ("cpu.shares", 15) if places.kind("cpu") == "cgroup1" else ("cpu.weight", 1)
    folder = base / f"{cgroups.PREFIX}{os.getpid()}-idle"
    folder.mkdir()
    try:
        if not (folder / "cpu.idle").exists():
            pytest.skip("this system has no idle groups (Linux 5.15)")
        for _ in range(2):  # a second time changes nothing
            cgroups.stand_back(folder, name, least)
        assert (folder / "cpu.idle").read_text() == "1\n"
        with pytest.raises(OSError, match="Invalid argument"):
            (folder / name).write_text(str(least))
    finally:
        folder.rmdir()


def test_shared_memory_that_a_worker_was_given_widens_its_group() -> None:
    ward = Ward("test", Policy(resident_bytes=64 * MIB, tmp_bytes=0))
    before = ward.bound()
    ward.shared += 500 * MIB
    assert ward.bound() == before + 500 * MIB
