"""The means of preemption: what is taken works here, what is refused says why, nothing stays."""

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clawai.kernel.steward import ladder, means
from clawai.kernel.steward.ladder import Effect, Report
from clawai.kernel.steward.means import Means, Refused
from clawai.sandbox import syscalls
from clawai.sandbox.syscalls import takes_slices
from support import no_leak, wait_until

V1 = Path("/sys/fs/cgroup/cpu")
AS_USER = Path(__file__).parents[2] / "sandbox" / "as_user.py"
ROOT = os.geteuid() == 0
STEADY = Effect(bulk_share=0.5, wake_p50_us=80, wake_max_us=200, contended_ms=60)


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def in_child(work) -> str:
    """Run ``work`` in a fork that leads a session, and return what it says."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.write(writing, str(work()).encode())
        except BaseException as error:
            os.write(writing, f"-{error!r}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


@pytest.fixture(scope="module")
def found() -> Report:
    """One probe, as the kernel's start does it."""
    report = ladder.probe()
    ladder.clean(report.means)
    return report


def test_a_probe_leaves_nothing():
    before = children()
    with no_leak():
        report = ladder.probe()
        ladder.clean(report.means)
    assert children() == before
    for base in means._bases():
        assert not (base / f"{means.PREFIX}{os.getpid()}").exists()


def test_what_is_taken_had_its_effect(found: Report):
    assert found.means.kind in (*ladder.ORDER, "none")
    if found.means.kind != "none":
        assert found.effect and found.without
        assert ladder.works(found.effect, found.without)
    assert found.means.kind not in found.refused
    assert all(found.refused.values())
    tried = list(found.refused)
    assert tried == [kind for kind in ladder.ORDER if kind in tried]


def test_a_stop_is_measured(found: Report):
    assert found.stop_us and found.stop_us > 0


def test_a_report_travels_as_plain_values(found: Report):
    assert Report.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    bare = Report(means=Means("none"), rungs=(0,))
    assert Report.from_dict(json.loads(json.dumps(bare.as_dict()))) == bare


@pytest.mark.parametrize(
    ("share", "without", "verdict"),
    [(0.02, 0.5, True), (0.2, 0.5, True), (0.4, 0.5, False), (0.2, 0.3, False)],
)
def test_the_verdict(share: float, without: float, verdict: bool):
    effect = replace(STEADY, bulk_share=share)
    assert ladder.works(effect, replace(STEADY, bulk_share=without)) is verdict
    assert not ladder.works(replace(effect, contended_ms=10), STEADY)


def test_a_means_without_effect_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Every file takes its write here, and nothing changes: the probe must notice."""
    monkeypatch.setattr(means, "_lower_session", lambda: None)
    report = ladder.probe(wanted="autogroup", budget_s=1.2)
    assert report.means == Means("none")
    assert "autogroup" in report.refused
    if means._AUTOGROUP.exists():
        assert "no effect" in report.refused["autogroup"]


def test_switches():
    off = ladder.probe(rungs=(0, 1, 4))
    assert (off.means, off.effect, off.stop_us, off.advice) == (Means("none"), None, None, ())
    none = ladder.probe(wanted="none")
    assert none.means == Means("none") and none.effect is None and not none.refused
    one = ladder.probe(wanted="cgroup2")
    assert one.means.kind == "cgroup2" or list(one.refused) == ["cgroup2"]
    ladder.clean(one.means)


def test_an_unknown_means_says_what_is_allowed():
    with pytest.raises(Refused, match="allowed: auto, none, cgroup2"):
        means.make("magic", os.getpid())


def test_realtime_wants_a_grant():
    """Without RLIMIT_RTPRIO nothing is raised, not even by root, unless the configuration asks."""
    code = (
        "import resource, os\n"
        "from clawai.kernel.steward import means\n"
        "resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))\n"
        "try:\n"
        "    print(means.make('realtime', os.getpid()).kind)\n"
        "except means.Refused as why:\n"
        "    print(why)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "not granted: RLIMIT_RTPRIO is 0" in done.stdout


@pytest.mark.parametrize("kind", ["autogroup", "nice"])
def test_bulk_is_lowered_and_main_is_not(kind: str):
    try:
        made = means.make(kind, os.getpid())
    except Refused as why:
        assert "autogroup" in str(why)
        return

    def weight() -> str:
        session = means._read(Path("/proc/self/autogroup")).split()
        return f"{session[-1] if session else ''} {os.getpriority(os.PRIO_PROCESS, 0)}"

    usual = in_child(weight)
    assert in_child(lambda: means.enter("main", made) or weight()) == usual
    lowered = in_child(lambda: means.enter("bulk", made) or weight())
    assert "19" in lowered.split() and lowered != usual


def test_processors_that_run_bulk_work_count_as_idle():
    """As long as the group stands back as a whole; alone the class would do harm."""
    for kind, policy in (("nice", os.SCHED_IDLE), ("none", os.SCHED_OTHER)):
        made = means.make(kind, os.getpid())
        said = in_child(lambda made=made: means.enter("bulk", made) or os.sched_getscheduler(0))
        assert said == str(policy)
        said = in_child(lambda made=made: means.enter("main", made) or os.sched_getscheduler(0))
        assert said == str(os.SCHED_OTHER)


def test_a_limit_of_realtime_that_is_lower_stays():
    """As somebody has who was started by a service that hands out such time."""

    def limit() -> str:
        resource.setrlimit(resource.RLIMIT_RTTIME, (100_000, 200_000))
        means.enter("main", means.make("none", os.getpid()))
        return str(resource.getrlimit(resource.RLIMIT_RTTIME))

    assert in_child(limit) == "(100000, 200000)"


def test_children_inherit_the_group():
    """A launcher enters once; the workers that it forks are where it is."""
    made = means.make("nice", os.getpid())

    def grandchild() -> str:
        means.enter("bulk", made)
        done = subprocess.run(["cat", "/proc/self/stat"], capture_output=True, check=True)
        return done.stdout.rpartition(b")")[2].split()[16].decode()

    assert in_child(grandchild) == "19"


class TestCgroup1:
    """Needs root and a mounted cpu controller of cgroup v1; else `make` has to say so."""

    @pytest.fixture
    def made(self):
        try:
            made = means.make("cgroup1", os.getpid())
        except Refused as why:
            assert "cgroup v1 is not mounted" in str(why) or "may not be written" in str(why)
            pytest.skip(f"this box has no cgroup v1 for us: {why}")
        yield made
        means.clean(made)
        assert not Path(made.folder).exists()

    def test_bulk_has_the_least_weight(self, made: Means):
        idle, shares = Path(made.folder, "cpu.idle"), Path(made.folder, "cpu.shares")
        if takes_slices():  # Linux 6.12
            assert shares.read_text().strip() == str(means.SHARES)
        elif idle.exists():  # Linux 5.15: it weighs still less, and stands back at once
            assert idle.read_text() == "1\n"

        def where() -> str:
            means.enter("bulk", made)
            return Path("/proc/self/cgroup").read_text()

        assert f"/{means.PREFIX}{os.getpid()}\n" in in_child(where)
        said = in_child(lambda: means.enter("bulk", made) or os.sched_getscheduler(0))
        assert said == str(os.SCHED_BATCH if takes_slices() else os.SCHED_IDLE)

    def test_without_slices_it_is_an_idle_group(self, monkeypatch: pytest.MonkeyPatch):
        """Before Linux 6.12."""
        for place in (means, syscalls):
            monkeypatch.setattr(place, "takes_slices", lambda: False)
        try:
            made = means.make("cgroup1", os.getpid())
        except Refused as why:
            pytest.skip(f"this box has no cgroup v1 for us: {why}")
        try:
            if (idle := Path(made.folder, "cpu.idle")).exists():
                assert idle.read_text() == "1\n"
            said = in_child(lambda: means.enter("bulk", made) or os.sched_getscheduler(0))
            assert said == str(os.SCHED_IDLE)
        finally:
            means.clean(made)

    def test_a_busy_group_stays_until_it_is_empty(self, made: Means):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            means.enter("bulk", made)
            os.write(writing, b"+")
            signal.pause()
        assert os.read(reading, 1) == b"+"
        means.clean(made)
        assert Path(made.folder).exists()
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)

    def test_what_a_killed_daemon_left_is_removed(self, made: Means):
        dead = subprocess.Popen(["true"])
        dead.wait()
        left = means.make("cgroup1", dead.pid)
        assert Path(left.folder).exists()
        means.clean_stale()
        assert not Path(left.folder).exists()
        assert Path(made.folder).exists()


KILLED_WHILE_IT_MEASURES = """
import os, signal
from clawai.kernel.steward import ladder
wait = os.waitid
def waitid(*args):
    wait(*args)
    print(args[1], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
os.waitid = waitid
ladder.measure_stop()
"""


def test_a_burner_that_is_stopped_when_its_parent_is_killed_does_not_stay(tmp_path: Path):
    with (tmp_path / "said").open("wb") as said:  # a pipe would be held open by what stays
        command = [sys.executable, "-c", KILLED_WHILE_IT_MEASURES]
        done = subprocess.run(command, stdout=said, check=False)
    assert done.returncode == -signal.SIGKILL
    burner = int((tmp_path / "said").read_text())
    wait_until(lambda: state_of(burner) in "XZ", "the end of the burner", 10)


def state_of(pid: int) -> str:
    """As /proc tells it, T for one that is stopped; X if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


@pytest.mark.skipif(not ROOT, reason="only root can become another user")
def test_as_an_ordinary_user():
    """Whatever works without privilege is found without privilege."""
    command = [sys.executable, str(AS_USER), "1234", sys.executable]
    command += ["-I", "-B", "-m", "clawai.kernel.steward.ladder"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = Report.from_dict(json.loads(done.stdout))
    assert report.stop_us
    assert report.means.kind != "realtime"
    assert "CAP_SYS_NICE" in report.advice[0]
    if report.means.kind != "none":
        assert report.effect and report.without and ladder.works(report.effect, report.without)


def test_a_verdict_is_kept_for_this_very_box(tmp_path: Path, found: Report):
    path = tmp_path / "state" / "preemption.json"
    ladder.remember(path, found, ladder.fingerprint(ladder.RUNGS, "auto"))
    again = ladder.remembered(path, ladder.RUNGS, "auto", os.getpid())
    assert again is not None
    means.clean(again.means)
    assert replace(again, means=found.means) == replace(found, rungs=tuple(again.rungs))
    assert again.means.kind == found.means.kind
    assert ladder.remembered(path, (0, 1), "auto", os.getpid()) is None
    assert ladder.remembered(path, ladder.RUNGS, "nice", os.getpid()) is None
    kept = json.loads(path.read_text())
    kept["for"][4] = "another boot"
    path.write_text(json.dumps(kept))
    assert ladder.remembered(path, ladder.RUNGS, "auto", os.getpid()) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"for": 1}', '{"for": [], "report": 3}'])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, text: str):
    path = tmp_path / "preemption.json"
    path.write_text(text)
    assert ladder.remembered(path, ladder.RUNGS, "auto", os.getpid()) is None
    assert ladder.remembered(tmp_path / "none.json", ladder.RUNGS, "auto", os.getpid()) is None


def test_a_folder_that_takes_nothing_costs_only_the_next_probe(tmp_path: Path):
    (tmp_path / "file").write_text("")
    ladder.remember(tmp_path / "file" / "x.json", Report(Means("none"), (0,)), [])


def run_for(owner: int, memory: Path, *args: str) -> Report:
    command = [sys.executable, "-I", "-B", "-m", "clawai.kernel.steward.ladder", *args]
    command += [str(owner), str(memory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return Report.from_dict(json.loads(done.stdout))


def test_the_program_keeps_what_it_made_for_a_daemon(tmp_path: Path):
    memory = tmp_path / "preemption.json"
    first = run_for(os.getpid(), memory, "auto", "0,1,2,3,4")
    try:
        assert memory.exists() == (first.means.kind != "none")
        if first.means.folder:
            assert Path(first.means.folder).is_dir()
        again = run_for(os.getpid(), memory, "auto", "0,1,2,3,4")
        assert again == first or not memory.exists()
    finally:
        means.clean(first.means)
    assert run_for(os.getpid(), memory, "none", "0,1").means == Means("none")


@pytest.mark.parametrize(
    ("rungs", "wanted", "verdict"),
    [((0, 1, 2), "auto", True), ((0, 1, 2), "none", False), ((0, 1), "auto", False)],
)
def test_who_has_a_session_of_their_own(rungs: tuple[int, ...], wanted: str, verdict: bool):
    assert ladder.apart(rungs, wanted) is verdict
